"""Aggregate reports of DMARC (RFC 7489 7.2 and appendix C): what a receiver saw of a domain's mail in a day.

Read by a stream parser that builds no tree. A document type, entities, and anything deeper, longer or more than a
report is, end the reading; what real reports add or leave out does not. Texts come from strangers: they are cut to
length, and nothing but figures is believed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any
from xml.parsers import expat

import msgspec

MAX_XML_BYTES = 10 * 1024 * 1024
MAX_RECORDS = 10_000
MAX_KEPT = 1_000  # rows
MAX_DEPTH = 12
MAX_ELEMENTS = 1_000_000
MAX_TAG_BYTES = 64 * 1024
MAX_TEXT_CHARACTERS = 2_000
MAX_WORDS = 255  # of a text that is kept
MAX_COUNT = 10**12
MAX_TIME_S = 10**10
MAX_DAYS = 32  # of one report

_DOMAIN = re.compile(r"[a-z0-9_.-]{1,253}")

# Where the texts that count stand, below <feedback>.
_META = {
    ("report_metadata", "org_name"): "organization",
    ("report_metadata", "email"): "email",
    ("report_metadata", "report_id"): "report_id",
    ("report_metadata", "date_range", "begin"): "begin",
    ("report_metadata", "date_range", "end"): "end",
    ("policy_published", "domain"): "domain",
    ("policy_published", "p"): "policy",
    ("policy_published", "sp"): "subdomain_policy",
    ("policy_published", "pct"): "percent",
}
_RECORD = {
    ("record", "row", "source_ip"): "source",
    ("record", "row", "count"): "count",
    ("record", "row", "policy_evaluated", "disposition"): "disposition",
    ("record", "row", "policy_evaluated", "dkim"): "dkim",
    ("record", "row", "policy_evaluated", "spf"): "spf",
    ("record", "row", "policy_evaluated", "reason", "type"): "reason",
    ("record", "identifiers", "header_from"): "header_from",
}


class NotAReport(ValueError):
    """It cannot be read as a report, or goes beyond what one may be; the text says why."""


class DmarcRow(msgspec.Struct, frozen=True):
    """Mails from one address that fared alike. dkim, spf: whether it passed and was aligned, as the receiver judged.
    header_from: lower case."""

    source: str
    count: int
    disposition: str
    dkim: bool
    spf: bool
    header_from: str
    reason: str = ""


class DmarcReport(msgspec.Struct, frozen=True):
    """begins_at, ends_at: milliseconds. domain: where the policy was published, lower case."""

    organization: str
    report_id: str
    begins_at: int
    ends_at: int
    domain: str
    policy: str
    rows: tuple[DmarcRow, ...]
    email: str = ""


def merged(rows: Iterable[DmarcRow]) -> tuple[DmarcRow, ...]:
    """Rows that differ only in their count as one, the largest first; those beyond MAX_KEPT without their addresses."""
    alike: dict[DmarcRow, int] = {}
    for row in rows:
        key = msgspec.structs.replace(row, count=0)
        alike[key] = alike.get(key, 0) + row.count
    largest = sorted(alike.items(), key=lambda item: -item[1])
    kept = [msgspec.structs.replace(row, count=count) for row, count in largest[:MAX_KEPT]]
    others: dict[DmarcRow, int] = {}
    for row, count in largest[MAX_KEPT:]:
        key = DmarcRow("", 0, row.disposition, row.dkim, row.spf, row.header_from)
        others[key] = others.get(key, 0) + count
    # From names are few where they are ours; of a report that makes them up no more is kept than of others.
    return (*kept, *(msgspec.structs.replace(row, count=count) for row, count in list(others.items())[:MAX_KEPT]))


def read_dmarc_report(xml: Iterable[bytes]) -> DmarcReport:
    """A report, from its XML in pieces. NotAReport."""
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    fed = 0
    for piece in xml:
        _feed(parser, piece)
        fed += len(piece)
        # What expat still holds is one tag; with a million attributes it would keep everybody waiting.
        if fed - parser.CurrentByteIndex > MAX_TAG_BYTES + len(piece):
            raise NotAReport("the XML has a tag that is longer than those of a report")
    _feed(parser, b"", is_last=True)
    return _report(reader.meta, reader.rows)


def _feed(parser: expat.XMLParserType, piece: bytes, *, is_last: bool = False) -> None:
    try:
        parser.Parse(piece, is_last)
    except NotAReport:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:
        # LookupError and ValueError: an encoding that nobody knows, or that expat cannot read.
        raise NotAReport(f"the XML cannot be read: {error}") from None


def _refuse(*_: object) -> None:
    raise NotAReport("the XML declares a document type or entities, which no report needs")


class _Reader:
    """Takes note of the texts that count, by where they stand."""

    def __init__(self) -> None:
        self.meta: dict[str, str] = {}
        self.rows: list[DmarcRow] = []
        self._path: list[str] = []
        self._text: list[str] = []
        self._length = 0
        self._elements = 0
        self._row: dict[str, str] = {}

    def start(self, name: str, _attributes: dict[str, Any]) -> None:
        self._elements += 1
        # Some reports put the elements into a namespace, most into none.
        name = name.rpartition(" ")[2]
        if not self._path and name != "feedback":
            raise NotAReport(f"the XML is a <{name[:40]}>, not a <feedback>")
        if len(self._path) >= MAX_DEPTH or self._elements > MAX_ELEMENTS:
            raise NotAReport("the XML is deeper or longer than a report")
        self._path.append(name)
        self._text, self._length = [], 0
        if self._path[1:] == ["record"]:
            self._row = {}

    def text(self, text: str) -> None:
        self._length += len(text)
        if self._length <= MAX_TEXT_CHARACTERS:
            self._text.append(text)

    def end(self, _name: str) -> None:
        where = tuple(self._path[1:])
        if where in _META:
            self.meta.setdefault(_META[where], "".join(self._text).strip())
        elif where in _RECORD:
            self._row.setdefault(_RECORD[where], "".join(self._text).strip())
        elif where == ("record",):
            if len(self.rows) >= MAX_RECORDS:
                raise NotAReport(f"there are more than {MAX_RECORDS} records")
            self.rows.append(_row(self._row))
        self._path.pop()
        self._text, self._length = [], 0


def _row(texts: dict[str, str]) -> DmarcRow:
    try:
        source = str(ipaddress.ip_address(texts.get("source", "")))
    except ValueError:
        raise NotAReport(f"{texts.get('source', '')[:60]!r} is no address") from None
    return DmarcRow(
        source,
        whole_number(texts.get("count", ""), MAX_COUNT),
        texts.get("disposition", "").lower()[:20],
        texts.get("dkim", "").lower() == "pass",
        texts.get("spf", "").lower() == "pass",
        domain_of(texts.get("header_from", "")),
        texts.get("reason", "")[:40],
    )


def _report(meta: dict[str, str], rows: list[DmarcRow]) -> DmarcReport:
    # Who writes no name has at least an address.
    meta = {**meta, "organization": meta.get("organization") or meta.get("email", "")}
    missing = [name for name in ("organization", "report_id", "begin", "end", "domain") if not meta.get(name)]
    if missing:
        raise NotAReport(f"the report has no {', '.join(missing)}")
    begins_at, ends_at = (whole_number(meta[name], MAX_TIME_S) * 1000 for name in ("begin", "end"))
    check_days(begins_at, ends_at)
    return DmarcReport(
        meta["organization"][:MAX_WORDS],
        meta["report_id"][:MAX_WORDS],
        begins_at,
        ends_at,
        domain_of(meta["domain"]),
        meta.get("policy", "").lower()[:20],
        tuple(rows),
        meta.get("email", "")[:MAX_WORDS],
    )


def whole_number(text: str, most: int) -> int:
    """A count or a time as reports write it. NotAReport."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= most):
        raise NotAReport(f"{text[:40]!r} is no number that may stand there")
    return int(text)


def check_days(begins_at: int, ends_at: int) -> None:
    """Whether a report is about one stretch of days, in milliseconds. NotAReport."""
    if not 0 <= begins_at <= ends_at <= begins_at + MAX_DAYS * 86_400_000:
        raise NotAReport("its time range is none that a report may have")


def domain_of(text: str) -> str:
    """A domain as it is looked up: lower case, without the last dot; "" for what is none."""
    name = text.strip().rstrip(".").lower()
    return name if _DOMAIN.fullmatch(name) else ""
