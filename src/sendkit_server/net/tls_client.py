"""TLS towards servers: opportunistic (against listeners only) and verified (where something must be kept secret).

Opportunistic TLS takes any certificate: refusing it would send the mail in clear instead (RFC 7435). Whether the
certificate would have been good is still worth knowing, so it is checked after the handshake and kept with the
attempt; OpenSSL itself does not tell when it was asked not to verify.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import cast

import msgspec
from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

# Where distributions keep the bundle when OpenSSL knows only a directory of hashed links.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


def _may_issue(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("signed by a certificate that may not sign others")


# What OpenSSL asks for, and not the browsers' stricter profile: a name, and issuers that may issue.
_ISSUER = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _may_issue)
_SERVER = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)


class Trouble(StrEnum):
    """What is wrong with a server's certificate, in the words of RFC 8460 4.3.2."""

    HOST_MISMATCH = "certificate-host-mismatch"
    EXPIRED = "certificate-expired"
    NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION = "validation-failure"


class CertificateProblem(msgspec.Struct, frozen=True):
    """Why a certificate proves nothing. text: for people."""

    trouble: Trouble
    text: str


class TlsClient:
    """The contexts for outgoing connections. ca_file: further roots beside the system's, PEM."""

    def __init__(self, ca_file: Path | None = None) -> None:
        self._ca_file = ca_file

    @cached_property
    def opportunistic(self) -> ssl.SSLContext:
        """Encrypts with whoever answers; TLS 1.2 at least."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @cached_property
    def verified(self) -> ssl.SSLContext:
        """Only with a server that proves its name; TLS 1.2 at least."""
        context = ssl.create_default_context()
        if self._ca_file is not None:
            context.load_verify_locations(cafile=self._ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @cached_property
    def _roots(self) -> Store | None:
        system = ssl.get_default_verify_paths().cafile
        bundle = next((path for path in (system, *_BUNDLES) if path and Path(path).is_file()), None)
        roots = [root for path in (bundle, self._ca_file) if path is not None for root in _certificates(Path(path))]
        return Store(roots) if roots else None

    def problem(self, connection: ssl.SSLObject, host: str) -> CertificateProblem | None:
        """Why the server has not proved the host's name; None when it has."""
        if connection.context.verify_mode is ssl.CERT_REQUIRED:
            return None
        return self.certificate_problem(chain_of(connection), host)

    def certificate_problem(self, chain: Sequence[bytes], host: str) -> CertificateProblem | None:
        """Why a chain (DER, leaf first) does not prove the host's name now; None when it does."""
        if not chain:
            return CertificateProblem(Trouble.VALIDATION, "no certificate")
        if self._roots is None:
            return CertificateProblem(Trouble.NOT_TRUSTED, "no trust roots on this machine")
        try:
            leaf, *intermediates = [x509.load_der_x509_certificate(der) for der in chain]
        except ValueError as error:
            return CertificateProblem(Trouble.VALIDATION, _first_line(error))
        return chain_problem(leaf, intermediates, self._roots, host, datetime.now(UTC))


def described(connection: ssl.SSLObject, problem: CertificateProblem | None) -> str:
    """`TLSv1.3 TLS_AES_256_GCM_SHA384 verified`, or `… unverified` and why."""
    return (
        f"{cipher_of(connection)} verified"
        if problem is None
        else f"{cipher_of(connection)} unverified ({problem.text})"
    )


def cipher_of(connection: ssl.SSLObject) -> str:
    """`TLSv1.3 TLS_AES_256_GCM_SHA384`."""
    cipher = connection.cipher()
    return f"{connection.version()} {cipher[0] if cipher else '?'}"


def chain_problem(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Store | Sequence[x509.Certificate],
    host: str,
    now: datetime,
) -> CertificateProblem | None:
    """Why the leaf is not valid for the host up to one of the anchors; None when it is. An anchor need not be a root."""
    store = anchors if isinstance(anchors, Store) else Store(list(anchors))
    try:
        verifier = (
            PolicyBuilder()
            .store(store)
            .time(now)
            .extension_policies(ca_policy=_ISSUER, ee_policy=_SERVER)
            .build_server_verifier(_subject(host))
        )
        verifier.verify(leaf, list(intermediates))
    except (VerificationError, ValueError) as error:
        text = _first_line(error)
        for trouble, word in ((Trouble.HOST_MISMATCH, "subjectAltName"), (Trouble.EXPIRED, "at validation time")):
            if word in text:
                return CertificateProblem(trouble, text)
        return CertificateProblem(Trouble.NOT_TRUSTED, text)
    return None


_PROCESSED = re.compile(r" \(encountered processing .*", re.DOTALL)
# X509_V_ERR_… of OpenSSL's x509_vfy.h.
_BY_VERIFY_CODE = {9: Trouble.EXPIRED, 10: Trouble.EXPIRED, 62: Trouble.HOST_MISMATCH, 64: Trouble.HOST_MISMATCH}


def handshake_problem(error: Exception) -> CertificateProblem:
    """What a handshake failed of."""
    text = str(
        getattr(error, "verify_message", None) or getattr(error, "reason", None) or error or type(error).__name__
    )
    if not isinstance(error, ssl.SSLCertVerificationError):
        return CertificateProblem(Trouble.VALIDATION, text)
    return CertificateProblem(_BY_VERIFY_CODE.get(error.verify_code, Trouble.NOT_TRUSTED), text)


def _first_line(error: Exception) -> str:
    # The library adds how it prints the certificate, which tells nobody anything.
    text = _PROCESSED.sub("", str(error))
    return text.splitlines()[0][:200] if text else type(error).__name__


def _subject(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _certificates(path: Path) -> list[x509.Certificate]:
    """All that can be read of a bundle: a single odd root must not cost the others."""
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", path.read_bytes(), re.DOTALL)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        for block in blocks:
            with suppress(ValueError):
                found.append(x509.load_pem_x509_certificate(block))
    return found


def chain_of(connection: ssl.SSLObject) -> list[bytes]:
    """The certificates the server sent, DER. Public from Python 3.13 on; before, only the object beneath has it."""
    if hasattr(connection, "get_unverified_chain"):
        return list(connection.get_unverified_chain())
    certificates = connection._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]  # see above
    return [cast("bytes", certificate.public_bytes(2)) for certificate in certificates]  # 2: DER
