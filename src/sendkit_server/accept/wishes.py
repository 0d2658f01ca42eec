"""How a mail wants to travel: its priority, its deadline, whether only over verified TLS, and its stream.

The API has members for it, SMTP has headers, and the same headers mean the same among the API's `headers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from sendkit_server.model.instant import Instant, from_text
from sendkit_server.model.mail import DEFAULT_STREAM, Priority
from sendkit_server.model.refusal import Refused, invalid

BROADCAST = "broadcast"
MANY_ITEMS = 20  # a call of more than that is bulk unless it says otherwise
_STREAM = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}

HEADERS = {
    "x-sendkit-priority": "priority",
    "x-sendkit-expires-at": "expires_at",
    "x-sendkit-require-tls": "require_tls",
    "x-sendkit-stream": "stream",
}
"""Headers that are obeyed and never leave, by lower-cased name, and the member that each stands for."""


class Wishes(msgspec.Struct, frozen=True):
    """What was asked for, still as text; None: nothing was said."""

    priority: str | None = None
    expires_at: str | None = None
    require_tls: bool | None = None
    stream: str | None = None


class Travel(msgspec.Struct, frozen=True):
    """What that comes to."""

    priority: Priority = Priority.NORMAL
    expires_at: Instant | None = None
    require_tls: bool = False
    stream: str = DEFAULT_STREAM


def with_headers(wishes: Wishes, headers: Mapping[str, str]) -> Wishes:
    """Adds what headers say (lower-cased names of HEADERS) where no member has said it. Refused."""
    found = {member: headers[name].strip() for name, member in HEADERS.items() if name in headers}
    require_tls = wishes.require_tls
    if require_tls is None and "require_tls" in found:
        require_tls = _YES.get(found["require_tls"].lower())
        if require_tls is None:
            raise Refused(invalid("The X-Sendkit-Require-TLS header must be yes or no.", "require_tls"))
    return Wishes(
        wishes.priority or found.get("priority"),
        wishes.expires_at or found.get("expires_at"),
        require_tls,
        wishes.stream or found.get("stream"),
    )


def checked(wishes: Wishes, now: Instant, items: int = 1) -> Travel:
    """The wishes as values. items: mails that the call makes. Refused."""
    stream = wishes.stream if wishes.stream is not None else DEFAULT_STREAM
    if not _STREAM.fullmatch(stream):
        raise Refused(
            invalid("The stream field must be 1 to 64 lower-case letters, digits, hyphens or underscores.", "stream")
        )
    if wishes.priority is None:
        priority = Priority.BULK if items > MANY_ITEMS or stream == BROADCAST else Priority.NORMAL
    else:
        known = _PRIORITIES.get(wishes.priority.lower())
        if known is None:
            raise Refused(invalid("The priority field must be urgent, normal or bulk.", "priority"))
        priority = known
    expires_at = None if wishes.expires_at is None else _future(wishes.expires_at, now)
    return Travel(priority, expires_at, bool(wishes.require_tls), stream)


def _future(text: str, now: Instant) -> Instant:
    try:
        instant = from_text(text)
    except ValueError:
        raise Refused(
            invalid(
                "The expires_at field must be a time such as 2026-12-01T09:00:00Z (UTC without a zone).", "expires_at"
            )
        ) from None
    if instant <= now:
        raise Refused(invalid("The expires_at field must be a time in the future.", "expires_at"))
    return instant
