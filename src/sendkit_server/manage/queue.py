"""What waits, by destination: how much, since when, until when, and why."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from sendkit_server.model.instant import Instant
from sendkit_server.store.queries import emails as queries
from sendkit_server.store.store import Store

MAX_LANES = 200


class Waiting(msgspec.Struct, frozen=True):
    """A team's unsettled recipients at one site. in_flight: handed to delivery; waiting: the rest.

    oldest: when the oldest of their mails was accepted.  last_answer, reason: of the last try, None before the first.
    """

    site: str
    waiting: int
    in_flight: int
    oldest: Instant | None
    next_attempt_at: Instant
    last_answer: str | None
    reason: str | None


async def waiting(store: Store, team_id: int) -> list[Waiting]:
    """The sites with most waiting first, at most MAX_LANES."""
    return await store.read(lambda connection: _read(connection, team_id))


def _read(connection: Connection, team_id: int) -> list[Waiting]:
    found = []
    for row in queries.waiting_by_site(connection, team_id, MAX_LANES):
        words = queries.last_words(connection, team_id, row.site)
        found.append(
            Waiting(
                site=row.site,
                waiting=row.recipients - row.owned,
                in_flight=row.owned,
                oldest=queries.created_at(connection, team_id, row.oldest_message),
                next_attempt_at=row.next_attempt_at,
                last_answer=words.explanation if words else None,
                reason=words.reason if words else None,
            )
        )
    return found
