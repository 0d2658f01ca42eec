"""Delivery status notifications (RFC 3464), as they come: several recipients, missing fields, wrong order, any charset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from sendkit_server.model.bounce import codes_in
from sendkit_server.wire.parts import MAX_FIELD_CHARACTERS, Part

MAX_RECIPIENTS = 100
MAX_DIAGNOSTIC_CHARACTERS = 1_000
STATUS_TYPES = frozenset({"message/delivery-status", "message/global-delivery-status"})

_OF_A_RECIPIENT = frozenset(
    {"final-recipient", "original-recipient", "action", "status", "diagnostic-code", "remote-mta", "x-actual-recipient"}
)
_TYPED = re.compile(r"\s*[A-Za-z0-9_-]{1,20}\s*;\s*")
_ADDRESS = re.compile(r"[^\s<>\"'(),;:\[\]]{1,128}@[\w.-]{1,253}")
_STATUS = re.compile(r"(?<!\d)([245])\.(\d{1,3})\.(\d{1,3})")
_FIELDS = re.compile(r"^final-recipient[ \t]*:", re.IGNORECASE | re.MULTILINE)
_ACTION = re.compile(r"^action[ \t]*:[ \t]*\w", re.IGNORECASE | re.MULTILINE)
_NOT_SAID = re.compile(r"[245]\.0\.0")


class Action(StrEnum):
    """What the reporting server did (RFC 3464 2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


class RecipientReport(msgspec.Struct, frozen=True):
    """What a report says of one recipient. addresses: the final and the original one, as far as given, lower case."""

    action: Action
    addresses: tuple[str, ...] = ()
    code: int | None = None
    enhanced: str | None = None
    diagnostic: str = ""
    remote_mta: str | None = None


class StatusReport(msgspec.Struct, frozen=True):
    """A whole notification. reporting_mta: the name of the server that made it."""

    reporting_mta: str | None
    recipients: tuple[RecipientReport, ...]


def read_status(text: str) -> StatusReport:
    """The fields of a message/delivery-status part's text; no recipients when it says nothing that can be used."""
    whole: dict[str, str] = {}
    recipients: list[dict[str, str]] = []
    current: dict[str, str] = {}
    for name, value in _lines(text):
        complete = "action" in current and ("final-recipient" in current or "original-recipient" in current)
        if (not name and complete) or name in current:
            recipients.append(current)
            current = {}
        if name in _OF_A_RECIPIENT:
            current[name] = value
        elif name:
            whole.setdefault(name, value)
    recipients.append(current)
    reports = (_recipient(fields) for fields in recipients[:MAX_RECIPIENTS])
    return StatusReport(
        name_of(whole.get("reporting-mta", "")), tuple(report for report in reports if report is not None)
    )


def addresses_in(text: str) -> tuple[str, ...]:
    """The addresses in a text, lower case, in order, each once."""
    return tuple(dict.fromkeys(found.strip(".-").lower() for found in _ADDRESS.findall(text)))


def name_of(value: str) -> str | None:
    """`dns; mx.example.com` without its type; None for nothing."""
    return _TYPED.sub("", value, count=1).strip()[:255] or None


def better_enhanced(status: str | None, diagnostic: str) -> tuple[int | None, str | None]:
    """Reply code and enhanced code: the words of the server that refused say more than the status made from them."""
    code, said = codes_in(diagnostic)
    return code, said if said is not None and (status is None or not _NOT_SAID.fullmatch(said)) else status


def _lines(text: str) -> Iterable[tuple[str, str]]:
    """Name and value of each field; ("", "") for a blank line."""
    unfolded = re.sub(r"\n[ \t]+(?=\S)", " ", text)
    for line in unfolded.split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip().lower(), value[:MAX_FIELD_CHARACTERS].strip()
        elif not line.strip():
            yield "", ""


def _recipient(fields: dict[str, str]) -> RecipientReport | None:
    found = _STATUS.search(fields.get("status", ""))
    status = found[0] if found else None
    diagnostic = _TYPED.sub("", fields.get("diagnostic-code", ""), count=1)[:MAX_DIAGNOSTIC_CHARACTERS]
    action = _action(fields.get("action", ""), status)
    if action is None:
        return None
    code, enhanced = better_enhanced(status, diagnostic)
    named = (fields.get(name, "") for name in ("final-recipient", "original-recipient", "x-actual-recipient"))
    return RecipientReport(
        action,
        tuple(dict.fromkeys(address for value in named for address in addresses_in(value)[:1])),
        code,
        enhanced,
        diagnostic,
        name_of(fields.get("remote-mta", "")),
    )


def _action(said: str, status: str | None) -> Action | None:
    """Many servers do not spell it as the standard does; without it the status' class tells."""
    word = said.strip().lower()
    for action in Action:
        if word.startswith(action[:4]):
            return action
    if status is None:
        return None
    return {"2": Action.DELIVERED, "4": Action.DELAYED, "5": Action.FAILED}[status[0]]


def status_of(parts: Sequence[Part]) -> str | None:
    """The text that holds the notification: a part of its own, or fields among other text where the parts are broken."""
    for part in parts:
        if part.media_type in STATUS_TYPES:
            return part.text()
    for part in parts:
        if part.media_type.startswith(("text/plain", "multipart/")):
            text = part.text()
            if _FIELDS.search(text) and _ACTION.search(text):
                return text
    return None
