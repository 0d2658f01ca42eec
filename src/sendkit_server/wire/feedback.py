"""Complaints: abuse reports in the Abuse Reporting Format (RFC 5965, 6650), as mailbox providers send them.

Some redact the recipient's address, some leave fields out, some send several parts. What stays is our own return path,
which names the message: in the report's Original-Mail-From, or in the header of the mail that is returned.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sendkit_server.wire.dsn import addresses_in, name_of
from sendkit_server.wire.parts import Fields, Part, fields_of

FEEDBACK_TYPE = "message/feedback-report"
RETURNED_TYPES = frozenset({"message/rfc822", "message/global", "text/rfc822-headers", "message/rfc822-headers"})

# RFC 5965 3.1, RFC 6650 and what is in use. An auth-failure (RFC 6591) is about our DNS, not-spam takes one back.
_COMPLAINTS = frozenset({"abuse", "fraud", "virus", "opt-out", "opt-out-list", "other", "complaint", "spam", ""})
_RECIPIENT_FIELDS = ("original-rcpt-to", "removal-recipient", "redacted-address")
_HEADER_FIELDS = ("x-original-to", "delivered-to", "to")


class Complaint(msgspec.Struct, frozen=True):
    """What a feedback report says. feedback_type: `abuse`, …  is_complaint: False for the kinds that are none.

    addresses: whose complaint it may be, the report's own first; empty or wrong where they are redacted.
    return_paths: addresses that may be the mail's return path.
    """

    feedback_type: str
    is_complaint: bool
    addresses: tuple[str, ...]
    return_paths: tuple[str, ...]
    user_agent: str | None
    reporting_mta: str | None


def read_complaint(parts: Sequence[Part]) -> Complaint | None:
    """The first feedback report among a mail's parts; None when there is none."""
    report = next((part for part in parts if part.media_type == FEEDBACK_TYPE), None)
    if report is None:
        return None
    fields = fields_of(report.text())
    original = returned_header(parts)
    said = _first(fields, "feedback-type").lower()
    named = [value for name in _RECIPIENT_FIELDS for found, value in fields if found == name]
    named += [value for name in _HEADER_FIELDS for found, value in original if found == name]
    sent_from = [_first(fields, "original-mail-from"), _first(original, "return-path"), _first(original, "x-sender")]
    return Complaint(
        said or "abuse",
        said in _COMPLAINTS,
        tuple(dict.fromkeys(address for value in named for address in addresses_in(value)))[:100],
        tuple(dict.fromkeys(address for value in sent_from for address in addresses_in(value)))[:10],
        _first(fields, "user-agent")[:255] or None,
        name_of(_first(fields, "reporting-mta")),
    )


def returned_header(parts: Sequence[Part]) -> Fields:
    """The header of the mail that a report returns; empty when it returns none."""
    part = next((part for part in parts if part.media_type in RETURNED_TYPES), None)
    return () if part is None else fields_of(part.text().lstrip("\n").partition("\n\n")[0])


def _first(fields: Fields, wanted: str) -> str:
    return next((value for name, value in fields if name == wanted), "")
