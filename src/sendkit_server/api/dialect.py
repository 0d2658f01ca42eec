"""The second dialect, Resend's: where the same paths answer in other words, and how a client is known to speak it.

Replies are supersets of both wherever they can be; here is what has to be one or the other. Which one it is: the client's name,
`User-Agent: resend-node:6.38.0`, or a key that begins with `re_`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from sendkit_server.model.instant import Instant, api_time, to_datetime
from sendkit_server.model.refusal import DOMAIN_NOT_VERIFIED, INVALID_KEY, QUOTA_EXCEEDED, Refusal

REGIONS = ("us-east-1", "eu-west-1", "sa-east-1", "ap-northeast-1")
DEFAULT_REGION = REGIONS[0]


class Dialect(StrEnum):
    """Whose words a reply is in."""

    SENDKIT = "sendkit"
    RESEND = "resend"


def dialect_of(headers: Mapping[bytes, bytes], secret: str | None) -> Dialect:
    """headers: their names in lower case.  secret: the key as it was sent, None without one."""
    speaks_resend = headers.get(b"user-agent", b"")[:7].lower() == b"resend-" or (secret or "").startswith("re_")
    return Dialect.RESEND if speaks_resend else Dialect.SENDKIT


def page_size(dialect: Dialect) -> int:
    """Of a list, when nobody says how long it is to be."""
    return 20 if dialect is Dialect.RESEND else 25


def time_in(dialect: Dialect, at: Instant | None) -> str | None:
    """A moment in UTC: `2026-11-24 12:00:00`, or `2026-11-24 12:00:00.123000+00`."""
    if at is None or dialect is Dialect.SENDKIT:
        return api_time(at)
    return to_datetime(at).strftime("%Y-%m-%d %H:%M:%S.%f+00")


def refusal_in(dialect: Dialect, refusal: Refusal) -> Refusal:
    """The refusal as clients of a dialect know it: the Python SDK chooses its exception by status and name, PHP's throws only
    for names that it knows."""
    if dialect is Dialect.SENDKIT:
        return refusal
    if refusal.is_missing:
        text = f"Missing `{refusal.field}` field."
        return msgspec.structs.replace(refusal, name="missing_required_field", message=text)
    if refusal.message in (INVALID_KEY.message, DOMAIN_NOT_VERIFIED.message):
        return msgspec.structs.replace(refusal, http_status=403)
    if refusal.message == QUOTA_EXCEEDED.message:
        return msgspec.structs.replace(refusal, name="monthly_quota_exceeded", http_status=429)
    if refusal.name == "warmup_limit":
        return msgspec.structs.replace(refusal, name="daily_quota_exceeded")
    return refusal
