"""Instants are whole milliseconds since 1970-01-01 UTC; this module words them.

Two spellings leave the program: the API's (`2026-03-11 14:30:05`, UTC, no zone), and RFC 5322 for the Date header.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import TypeAlias

Instant: TypeAlias = int
"""Milliseconds since the epoch, UTC."""

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

FIRST: Instant = round(datetime.min.replace(tzinfo=UTC).timestamp()) * SECOND_MS
LAST: Instant = round(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()) * SECOND_MS + 999
"""Between these, the years 1 to 9999, an instant can be worded."""


def to_datetime(at: Instant) -> datetime:
    """The instant as an aware datetime in UTC."""
    return datetime.fromtimestamp(at / 1000, UTC)


def api_time(at: Instant | None) -> str | None:
    """The API's form, `YYYY-MM-DD HH:MM:SS` in UTC; None stays None."""
    return None if at is None else to_datetime(at).strftime("%Y-%m-%d %H:%M:%S")


def header_date(at: Instant) -> str:
    """RFC 5322 3.3 date-time, in UTC (`+0000`)."""
    return _header_date(at // SECOND_MS)


@lru_cache(maxsize=1024)  # the mails of one second share it
def _header_date(second: int) -> str:
    return format_datetime(datetime.fromtimestamp(second, UTC))


def day_of(at: Instant) -> Instant:
    """The first moment of an instant's day in UTC."""
    return at - at % DAY_MS


def from_text(text: str) -> Instant:
    """ISO 8601 or `YYYY-MM-DD HH:MM:SS`, UTC without a zone. ValueError when it is no time, or one that cannot be worded."""
    given = datetime.fromisoformat(text)
    at = round((given if given.tzinfo is not None else given.replace(tzinfo=UTC)).timestamp() * 1000)
    if not FIRST <= at <= LAST:
        # Its zone takes it out of the years that there are.
        raise ValueError(f"not in the years 1 to 9999: {text!r}")
    return at


def day_start(day: str) -> Instant:
    """The first instant of a `YYYY-MM-DD` day in UTC. ValueError when it is no such day."""
    if len(day) != 10:
        raise ValueError(f"not a day: {day!r}")
    return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
