"""The local CA and the leaf of our own listeners, for installations without an operator's certificate.

The first start makes a small CA and a leaf for the host's name, `localhost` and the loopback addresses. Both pass
OpenSSL's strict checks (X509_V_FLAG_X509_STRICT), which Python 3.13 and current Node use: key usage, basic
constraints and key identifiers are where RFC 5280 wants them.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sendkit_server.store.files import write_file

CA_DAYS = 3650
LEAF_DAYS = 390
RENEW_BEFORE_DAYS = 30

log = structlog.get_logger("tls")


def local_certificate(directory: Path, hostname: str, now: datetime.datetime) -> tuple[Path, Path]:
    """Paths of a leaf and its key under `directory`, made when missing, near its end, or for another host name."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_key, ca = _local_ca(directory, now)
    cert_path, key_path = directory / "cert.pem", directory / "key.pem"
    if not (cert_path.exists() and key_path.exists() and _is_good(cert_path, ca, hostname, now)):
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _leaf(key.public_key(), hostname, ca, ca_key, now)
        write_file(key_path, _pem(key))
        write_file(cert_path, leaf.public_bytes(serialization.Encoding.PEM), 0o644)
    return cert_path, key_path


def _local_ca(directory: Path, now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    cert_path, key_path = directory / "ca.pem", directory / "ca-key.pem"
    if cert_path.exists() and key_path.exists():
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key, x509.load_pem_x509_certificate(cert_path.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Sendkit local CA")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_file(key_path, _pem(key))
    write_file(cert_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return key, certificate


def _leaf(
    public: ec.EllipticCurvePublicKey,
    hostname: str,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.Certificate:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys([hostname, "localhost"])]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    ca_identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])]))
        .issuer_name(ca.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=LEAF_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identifier), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    """Key usage of a CA (signs certificates) or of a leaf (signs handshakes)."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_good(path: Path, ca: x509.Certificate, hostname: str, now: datetime.datetime) -> bool:
    try:
        leaf = x509.load_pem_x509_certificate(path.read_bytes())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        leaf.verify_directly_issued_by(ca)
    except Exception:
        log.info("tls.leaf_replaced", cert=str(path))
        return False
    ends = leaf.not_valid_after_utc - datetime.timedelta(days=RENEW_BEFORE_DAYS)
    return hostname in names.get_values_for_type(x509.DNSName) and now < ends


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
