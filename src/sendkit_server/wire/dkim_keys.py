"""DKIM keys: made, loaded, and published as a DNS record.

RSA keys have 2048 bits: the longest that every receiver checks and that fits a DNS answer without trouble (RFC 8301
3.2). Ed25519 keys (RFC 8463) sign ten times as fast, but not every receiver knows them, so they come in addition.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from sendkit_server.wire.dkim import Algorithm, DkimKey

RSA_BITS = 2048


def generate(algorithm: Algorithm) -> bytes:
    """A new private key as PKCS #8 DER, unencrypted: whoever stores it seals it."""
    key: RSAPrivateKey | Ed25519PrivateKey
    if algorithm == "rsa-sha256":
        key = generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    else:
        key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def load(private_key: bytes, *, domain: str, selector: str) -> DkimKey:
    """A key to sign with, from PEM or DER. ValueError when it is neither RSA nor Ed25519."""
    is_rsa = isinstance(_parsed(private_key), RSAPrivateKey)
    return DkimKey(domain, selector, "rsa-sha256" if is_rsa else "ed25519-sha256", Signer(private_key))


class Signer(msgspec.Struct, frozen=True):
    """Signs with a private key. A value, so that it can be handed to another process, which reads the key once."""

    private_key: bytes

    def __call__(self, data: bytes) -> bytes:
        """The signature of the data."""
        return _signing(self.private_key)(data)


@lru_cache(maxsize=4096)  # reading a key checks it, which takes longer than signing
def _signing(private_key: bytes) -> Callable[[bytes], bytes]:
    key = _parsed(private_key)
    if isinstance(key, RSAPrivateKey):
        padding, algorithm = PKCS1v15(), SHA256()
        return lambda data: key.sign(data, padding, algorithm)
    # RFC 8463 3: what Ed25519 signs is the SHA-256 digest, not the data.
    return lambda data: key.sign(hashlib.sha256(data).digest())


def public_record(private_key: bytes) -> str:
    """The TXT record to publish at `<selector>._domainkey.<domain>`: `v=DKIM1; k=…; p=…` (RFC 6376 3.6.1)."""
    key = _parsed(private_key)
    if isinstance(key, RSAPrivateKey):
        kind = "rsa"
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        kind = "ed25519"
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return f"v=DKIM1; k={kind}; p={b64encode(public).decode('ascii')}"


def _parsed(private_key: bytes) -> RSAPrivateKey | Ed25519PrivateKey:
    load_key = load_pem_private_key if private_key.lstrip().startswith(b"-----") else load_der_private_key
    key = load_key(private_key, password=None)
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise ValueError("a DKIM key is RSA or Ed25519")
    return key
