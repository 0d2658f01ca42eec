"""Captured mails: list, read, clear."""

from __future__ import annotations

from sqlalchemy import Connection

from sendkit_server.manage.audit import Actor
from sendkit_server.store import rows
from sendkit_server.store.queries import emails as queries
from sendkit_server.store.queries.emails import Email
from sendkit_server.store.store import Store


async def list_inbox(store: Store, team_id: int, limit: int = 200) -> list[Email]:
    """The newest captured mails of a team."""
    return await store.read(lambda connection: queries.list_captured(connection, team_id, limit))


async def read_inbox(store: Store, team_id: int, message_id: str) -> tuple[Email, bytes] | None:
    """One captured mail with its bytes as they would have left."""
    found = await store.read(lambda connection: queries.find_captured(connection, team_id, message_id))
    return None if found is None else (found[0], rows.decompressed(found[1]))


async def clear_inbox(store: Store, team_id: int, by: Actor) -> int:
    """Empties the inbox; how many mails were in it. What became of the mails stays on record."""

    def write(connection: Connection) -> int:
        removed = queries.clear_captured(connection, team_id)
        if removed:
            by.record(connection, team_id, "inbox.clear", "inbox", {"removed": removed})
        return removed

    return await store.write_quietly(write)
