"""The processes of one installation: which live, since when, and what each has in hand."""

from __future__ import annotations

import msgspec

from sendkit_server.model.instant import Instant
from sendkit_server.store.queries import nodes as queries
from sendkit_server.store.store import Store


class Node(msgspec.Struct, frozen=True):
    """One incarnation of a process.

    state: `alive`; `late` (no heartbeat for longer than its lease: another node is about to take over); `ended`.
    recipients: what it owns now.
    """

    id: int
    hostname: str
    pid: int
    roles: str
    version: str
    state: str
    started_at: Instant
    beat_at: Instant
    ended_at: Instant | None
    recipients: int


async def list_nodes(store: Store, now: Instant) -> list[Node]:
    """Living nodes first, then those that ended lately. On SQLite there is one, and that it answers is its heartbeat."""
    rows = await store.read(queries.list_nodes)
    found = []
    for row in rows:
        if row.ended_at is not None:
            state = "ended"
        elif row.expires_at < now and not store.engine.exclusive:
            state = "late"
        else:
            state = "alive"
        found.append(
            Node(
                row.id,
                row.hostname,
                row.pid,
                row.roles,
                row.version,
                state,
                row.started_at,
                row.beat_at,
                row.ended_at,
                row.recipients,
            )
        )
    return found
