"""A mail that brings a report: which part of it is one, and what it says.

DMARC's comes as zip, gzip or plain XML (RFC 7489 7.2.1.1), TLS-RPT's as JSON, mostly gzipped (RFC 8460 5.3). Senders
name the media types as they like, so the bytes decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import msgspec

from sendkit_server.wire.compressed import GZIP_MAGIC, ZIP_MAGIC, CannotOpen, pieces
from sendkit_server.wire.dmarc_report import MAX_XML_BYTES, DmarcReport, NotAReport, read_dmarc_report
from sendkit_server.wire.parts import Part, parts_of
from sendkit_server.wire.tls_report import MAX_JSON_BYTES, TlsReport, read_tls_report

MAX_MAIL_BYTES = 4 * 1024 * 1024  # as it came; the largest that are known have one
MAX_TRIED = 5  # parts of a mail
_MARKUP = ("application/xml", "text/xml")


class ReportMail(msgspec.Struct, frozen=True):
    """report: None when there is none that can be read; why says why."""

    report: DmarcReport | TlsReport | None
    why: str = ""


def read_report_mail(raw: bytes) -> ReportMail:
    """The first part that is a report. Never raises, whatever the mail is made of."""
    if len(raw) > MAX_MAIL_BYTES:
        return ReportMail(None, f"the mail is larger than {MAX_MAIL_BYTES} bytes")
    why = "it holds no report"
    for data in _candidates(parts_of(raw, MAX_MAIL_BYTES)):
        try:
            return ReportMail(_read(data))
        except (CannotOpen, NotAReport) as error:
            why = str(error)
    return ReportMail(None, why)


def _candidates(parts: Sequence[Part]) -> list[bytes]:
    found = []
    for part in parts:
        if part.media_type.startswith("multipart/"):
            continue
        data = part.data()
        is_packed = data.startswith((GZIP_MAGIC, ZIP_MAGIC))
        if is_packed or part.media_type in _MARKUP or "tlsrpt" in part.media_type or _is_named(part):
            found.append(data)
    return found[:MAX_TRIED]


def _is_named(part: Part) -> bool:
    """Whether its name says what its type does not."""
    named = (part.parameters.get("name", "") + part.field("content-disposition")).lower()
    return part.media_type == "application/octet-stream" and (".xml" in named or ".json" in named)


def _read(data: bytes) -> DmarcReport | TlsReport:
    opened = pieces(data, max(MAX_XML_BYTES, MAX_JSON_BYTES))
    first = next(opened, b"")
    if first.lstrip().startswith(b"{"):
        return read_tls_report(b"".join([first, *opened]))
    return read_dmarc_report(chain([first], opened))
