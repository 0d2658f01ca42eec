"""Sealing of secrets at rest: DKIM private keys, certificates and their keys.

AES-256-GCM under a key derived from SENDKIT_SECRET_KEY by HKDF, one derived key a purpose, so that a sealed value of
one kind never opens as another.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12

DKIM_PURPOSE = "dkim"
RETURN_PATH_PURPOSE = "return-path"
ACME_PURPOSE = "acme"


class SealBroken(Exception):
    """The sealed value was made with another secret key, or is damaged."""


def derived_key(secret_key: str, purpose: str) -> bytes:
    """32 bytes for one purpose from the installation's secret key."""
    kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=b"sendkit", info=purpose.encode())
    return kdf.derive(secret_key.encode())


def fingerprint(secret_key: str) -> str:
    """What the database remembers of the secret key, to notice another one."""
    return hashlib.sha256(derived_key(secret_key, "fingerprint")).hexdigest()[:32]


def seal(secret_key: str, purpose: str, plain: bytes) -> bytes:
    """nonce ‖ ciphertext ‖ tag"""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(derived_key(secret_key, purpose)).encrypt(nonce, plain, purpose.encode())


def unseal(secret_key: str, purpose: str, sealed: bytes) -> bytes:
    """What `seal` was given. SealBroken for a wrong key, purpose, or damaged bytes."""
    try:
        return AESGCM(derived_key(secret_key, purpose)).decrypt(
            sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose.encode()
        )
    except (InvalidTag, ValueError) as error:
        raise SealBroken("a sealed value does not open: was SENDKIT_SECRET_KEY changed?") from error
