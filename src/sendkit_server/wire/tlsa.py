"""TLSA records for SMTP (RFC 6698, 7671, 7672): which can be used, and whether a certificate is the one they mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Usage(IntEnum):
    """What a record says of its certificate: an issuer to trust, or the server's own. SMTP knows no other (RFC 7672 3.1.3)."""

    DANE_TA = 2
    DANE_EE = 3


_FULL = 0  # matching type: the data itself
_DIGESTS = {1: (hashlib.sha256, 32), 2: (hashlib.sha512, 64)}
_SELECTORS = (0, 1)  # the certificate, its public key


class Tlsa(msgspec.Struct, frozen=True):
    """One record, numbers as they stand in DNS."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @property
    def is_usable(self) -> bool:
        """Whether an SMTP client can go by it. One that is not still says that the host speaks TLS."""
        if self.usage not in (Usage.DANE_TA, Usage.DANE_EE) or self.selector not in _SELECTORS:
            return False
        if self.matching == _FULL:
            return bool(self.data)
        return self.matching in _DIGESTS and len(self.data) == _DIGESTS[self.matching][1]

    def matches(self, certificate: x509.Certificate) -> bool:
        """Whether the certificate, or its key, is the one that the record means."""
        try:
            selected = (
                certificate.public_bytes(Encoding.DER)
                if self.selector == 0
                else certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            )
        except ValueError:
            return False  # a key of a kind that cannot be read is not the one that somebody has published
        digest = _DIGESTS.get(self.matching)
        return self.data == (digest[0](selected).digest() if digest else selected)

    @property
    def certificate(self) -> x509.Certificate | None:
        """The issuer that a `2 0 0` record holds whole: the server need not send it (RFC 7671 5.2)."""
        if (self.usage, self.selector, self.matching) != (Usage.DANE_TA, 0, _FULL):
            return None
        try:
            return x509.load_der_x509_certificate(self.data)
        except ValueError:
            return None


def usable(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """Those to go by. Beside a strong digest of the same usage and selector a weaker one is not looked at (RFC 7671 9)."""
    good = [record for record in records if record.is_usable]
    strongest: dict[tuple[int, int], int] = {}
    for record in good:
        kind = record.usage, record.selector
        strongest[kind] = max(strongest.get(kind, 0), record.matching)
    return tuple(record for record in good if record.matching in (_FULL, strongest[record.usage, record.selector]))
