"""DANE (RFC 7672 3.2): whether the certificates that a mail server has shown are those that its TLSA records mean.

Python's ssl knows no DANE, so the handshake is made without verification, and this is asked before a word of mail is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from sendkit_server.net.tls_client import CertificateProblem, Trouble, chain_problem
from sendkit_server.wire.tlsa import Tlsa, Usage


def dane_problem(
    records: Sequence[Tlsa], chain: Sequence[bytes], names: Sequence[str], now: datetime
) -> CertificateProblem | None:
    """Why the chain (DER, leaf first) satisfies none of the usable records; None when it satisfies one.

    names: the host's; an issuer's record needs the certificate to be for one of them. The server's own record needs neither
    that nor a date: DNS says both (RFC 7672 3.1.1).
    """
    certificates = _loaded(chain)
    if not certificates:
        return CertificateProblem(Trouble.VALIDATION, "no certificate that can be read")
    leaf, *issuers = certificates
    if any(record.matches(leaf) for record in records if record.usage == Usage.DANE_EE):
        return None
    by_issuer = [record for record in records if record.usage == Usage.DANE_TA]
    if not by_issuer:
        return CertificateProblem(Trouble.VALIDATION, "its certificate is not the one in its TLSA records")
    anchors = [issuer for issuer in issuers if any(record.matches(issuer) for record in by_issuer)]
    anchors += [whole for record in by_issuer if (whole := record.certificate) is not None]
    if not anchors:
        return CertificateProblem(Trouble.VALIDATION, "no certificate that it has sent is one in its TLSA records")
    problems = [chain_problem(leaf, issuers, anchors, name, now) for name in names]
    return None if None in problems else problems[0]


def _loaded(chain: Sequence[bytes]) -> list[x509.Certificate]:
    """Up to the first that cannot be read."""
    found: list[x509.Certificate] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        for der in chain:
            try:
                found.append(x509.load_der_x509_certificate(der))
            except ValueError:
                break
    return found
