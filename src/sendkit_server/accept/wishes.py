"""How a mail wants to travel: its priority, its deadline, whether only over verified TLS, and its stream.

The API has members for it, SMTP has headers, and the same headers mean the same among the API's `headers`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sendkit_server.model.instant import Instant, from_text
from sendkit_server.model.mail import DEFAULT_STREAM, STREAM, Priority
from sendkit_server.model.refusal import Refused, invalid

BROADCAST = "broadcast"
MANY_ITEMS = 20  # a call of more than that is bulk unless it says otherwise
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}

_HEADER_OF = {
    "priority": "X-Sendkit-Priority",
    "expires_at": "X-Sendkit-Expires-At",
    "require_tls": "X-Sendkit-Require-TLS",
    "stream": "X-Sendkit-Stream",
}
HEADERS = {header.lower(): member for member, header in _HEADER_OF.items()}
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


def with_headers(wishes: Wishes, headers: Iterable[tuple[str, str]]) -> Wishes:
    """Adds what those of HEADERS say where no member has said it. Refused: one that contradicts a member or itself, for
    nobody can tell which of the two was meant."""
    found: dict[str, str | bool] = {}
    for name, text in headers:
        member = HEADERS.get(name.lower())
        if member is None:
            continue
        value = _yes_or_no(text) if member == "require_tls" else text.strip()
        if not _same(member, found.setdefault(member, value), value):
            raise Refused(
                invalid(f"The {_HEADER_OF[member]} header is given more than once, with different values.", member)
            )
    for member, value in list(found.items()):
        own = getattr(wishes, member)
        if own is None or own == "":
            continue
        if not _same(member, own, value):
            raise Refused(invalid(f"The {_HEADER_OF[member]} header contradicts the {member} field.", member))
        del found[member]
    return msgspec.structs.replace(wishes, **found)


def _yes_or_no(text: str) -> bool:
    found = _YES.get(text.strip().lower())
    if found is None:
        raise Refused(invalid("The X-Sendkit-Require-TLS header must be yes or no.", "require_tls"))
    return found


def _same(member: str, one: str | bool, other: str | bool) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or member == "stream":
        return one == other
    if member == "priority":
        return one.lower() == other.lower()
    try:
        return from_text(one) == from_text(other)
    except ValueError:
        return one == other  # whatever it is, it is refused by its own words


def checked(wishes: Wishes, now: Instant, items: int = 1) -> Travel:
    """The wishes as values. items: mails that the call makes. Refused."""
    stream = wishes.stream if wishes.stream is not None else DEFAULT_STREAM
    if not STREAM.fullmatch(stream):
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
