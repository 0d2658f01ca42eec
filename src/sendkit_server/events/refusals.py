"""The log of what the doors refused: requests and sessions, written beside the way of the mail.

A door hands in an entry and goes on; once a second what has come is written. A door is never slowed down: the queue is bounded,
and of a flood from one address only the first rows of each minute are written, the rest is counted.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from sendkit_server.events.metrics import Metrics
from sendkit_server.model.ids import ENTROPY_BYTES, make_id
from sendkit_server.model.instant import MINUTE_MS, Instant, api_time
from sendkit_server.model.mail import ApiKey
from sendkit_server.store.directory import hash_secret
from sendkit_server.store.errors import StoreError
from sendkit_server.store.queries import refusals as queries
from sendkit_server.store.store import Store

WRITE_S = 1.0
TIDY_MS = MINUTE_MS
MAX_WAITING = 10_000
ROWS_A_WRITE = 200
ROWS_A_MINUTE = 100  # from one address, of one team
MAX_SOURCES = 10_000  # of the current minute
MAX_CHARACTERS = 500  # of a step, a reply, an address
NOBODY = 0
"""The team of what belongs to no key that is known."""

_SECRET = re.compile(r"(sk_(?:live|test)_[0-9A-Za-z]{4})[0-9A-Za-z]+")
_SHOWN = re.compile(r"sk_(?:live|test)_[0-9A-Za-z]{4}")

log = structlog.get_logger("refusals")


class Entry(msgspec.Struct, frozen=True):
    """A request or a session that was refused, or failed.

    step: `POST /emails`, `RCPT`.  reply: what we said.  detail: JSON, the redacted rest.  key: None when it is not known;
    secret: then what was given for one.
    """

    door: str
    address: str
    step: str
    reply: str
    detail: Mapping[str, Any]
    key: ApiKey | None = None
    secret: str | None = None


Note = Callable[[Entry], None]
"""Takes an entry, at once."""


class _Waiting(msgspec.Struct):
    team_id: int
    secret_hash: bytes | None
    row: dict[str, Any]


class RefusalLog:
    """Entries on their way to the database. entropy: n random bytes.  source: what counts as one address."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], Instant],
        entropy: Callable[[int], bytes],
        source: Callable[[str], str],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._entropy = entropy
        self._source = source
        self._waiting: list[_Waiting] = []
        self._minute: Instant = 0
        self._seen: dict[tuple[str, int], int] = {}
        self._tidied_at: Instant = 0

    def note(self, entry: Entry) -> None:
        """Takes an entry; written within WRITE_S, or only counted."""
        now = self._clock()
        team_id = NOBODY if entry.key is None else entry.key.team_id
        if not self._has_room(entry, team_id, now):
            return
        self._waiting.append(_Waiting(team_id, _hash_of(entry), self._row(entry, team_id, now)))

    def _has_room(self, entry: Entry, team_id: int, now: Instant) -> bool:
        if now - self._minute >= MINUTE_MS:
            self._end_minute(now)
        source = self._source(entry.address), team_id
        count = self._seen.get(source, 0)
        if count == 0 and len(self._seen) >= MAX_SOURCES:
            source, count = ("", NOBODY), self._seen.get(("", NOBODY), ROWS_A_MINUTE)
        self._seen[source] = count + 1
        if count >= ROWS_A_MINUTE:
            self._metrics.refusals_unlogged.labels("flood").inc()
        elif len(self._waiting) >= MAX_WAITING:
            self._metrics.refusals_unlogged.labels("queue_full").inc()
        else:
            return True
        return False

    def _end_minute(self, now: Instant) -> None:
        """Says of each flood how much of it was only counted, and begins to count anew."""
        for (source, team_id), count in self._seen.items():
            if count > ROWS_A_MINUTE:
                more = count - ROWS_A_MINUTE
                reply = f"{more} more refusals from here in the minute of {api_time(self._minute)} were only counted."
                entry = Entry("", source or "many addresses", "flood", reply, {"count": more})
                self._waiting.append(_Waiting(team_id, None, self._row(entry, team_id, now)))
        self._minute, self._seen = now, {}

    def _row(self, entry: Entry, team_id: int, now: Instant) -> dict[str, Any]:
        return {
            "team_id": team_id,
            "id": make_id("log", now, self._entropy(ENTROPY_BYTES)),
            "at": now,
            "door": entry.door,
            "address": _clean(entry.address),
            "key_prefix": entry.key.prefix if entry.key is not None else key_prefix(entry.secret),
            "step": _clean(entry.step),
            "reply": _clean(entry.reply),
            "detail": _SECRET.sub(r"\1…", _storable(json.dumps(entry.detail, ensure_ascii=False))),
        }

    async def run(self) -> None:
        """For ever: writes, and keeps the log in its bounds."""
        while True:
            await asyncio.sleep(WRITE_S)
            try:
                if self._seen and self._clock() - self._minute >= MINUTE_MS:
                    self._end_minute(self._clock())
                await self.flush()
                if self._clock() - self._tidied_at >= TIDY_MS:
                    self._tidied_at = self._clock()
                    await self.tidy()
            except Exception as error:
                # What was taken out of the queue is lost: a log must not pile up while the database is away, and whatever
                # a row is that cannot be written, mail goes on.
                trace = None if isinstance(error, StoreError) else error
                log.warning("refusals.not_written", error=str(error), exc_info=trace)

    async def flush(self) -> None:
        """Writes what waits."""
        while self._waiting:
            batch, self._waiting = self._waiting[:ROWS_A_WRITE], self._waiting[ROWS_A_WRITE:]
            await self._store.write_quietly(_writing(batch))

    async def tidy(self) -> None:
        """Removes what is old, and what is too much."""
        now = self._clock()
        cut = await self._store.read(lambda connection: queries.oldest_kept(connection, now))
        while await self._store.write_quietly(lambda connection: queries.remove_slice(connection, cut)):
            pass


def _writing(batch: list[_Waiting]) -> Callable[[Connection], None]:
    def write(connection: Connection) -> None:
        # A key that is revoked or expired is no key for the doors, but its team wants to read why it fails.
        teams = queries.teams_of(connection, {one.secret_hash for one in batch if one.secret_hash is not None})
        for one in batch:
            if one.secret_hash is not None:
                one.row["team_id"] = teams.get(one.secret_hash, NOBODY)
        queries.insert_rows(connection, [one.row for one in batch])

    return write


def _hash_of(entry: Entry) -> bytes | None:
    secret = entry.secret
    return hash_secret(secret) if secret is not None and entry.key is None and key_prefix(secret) else None


def key_prefix(secret: str | None) -> str | None:
    """What is shown of a key. What does not look like one may be somebody's password."""
    found = _SHOWN.match(secret) if secret else None
    return found[0] if found else None


def _clean(text: str) -> str:
    """Short, storable on both engines, and without a whole key."""
    return _SECRET.sub(r"\1…", _storable(text[:MAX_CHARACTERS]).replace("\0", ""))


def _storable(text: str) -> str:
    """Without what is no text in UTF-8: half a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
