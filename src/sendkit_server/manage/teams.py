"""Teams: every row belongs to one, and nothing of one can be seen or changed from another."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from sendkit_server.manage.audit import Actor
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.instant import api_time
from sendkit_server.store.queries import people as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

MAX_NAME_CHARACTERS = 255
MAX_REASON_CHARACTERS = 500


async def create_team(store: Store, name: str, by: Actor) -> int:
    """A new team's number. ManageError: the name is taken, or none."""
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise ManageError(f"A team needs a name of 1 to {MAX_NAME_CHARACTERS} printable characters.", "name")

    def write(connection: Connection) -> int:
        if queries.find_team(connection, name) is not None:
            raise ManageError(f"there is a team {name!r} already", "name")
        team_id = queries.insert_team(connection, name, by.now)
        by.record(connection, team_id, "teams.create", name)
        return team_id

    return await store.write(write)


async def list_teams(store: Store) -> list[dict[str, Any]]:
    """All teams, as JSON."""
    return [worded(row) for row in await store.read(queries.list_teams)]


async def pause_team(store: Store, team_id: int, reason: str, by: Actor) -> None:
    """From now on nothing of the team is accepted, on every door, and the reason is told; what waits is still sent."""
    if len(reason) > MAX_REASON_CHARACTERS or not reason.isprintable():
        raise ManageError(f"The reason has at most {MAX_REASON_CHARACTERS} characters, on one line.", "reason")

    def write(connection: Connection) -> None:
        queries.pause_team(connection, team_id, by.now, reason)
        by.record(connection, team_id, "teams.pause", str(team_id), {"reason": reason})

    await store.write(write)


async def resume_team(store: Store, team_id: int, by: Actor) -> None:
    """Lets a team send again. ManageError: it is not paused."""

    def write(connection: Connection) -> None:
        found = queries.find_team(connection, team_id)
        if found is None or found.paused_at is None:
            raise ManageError("the team is not paused")
        queries.pause_team(connection, team_id, None, None)
        by.record(connection, team_id, "teams.resume", str(team_id))

    await store.write(write)


def worded(row: AnyRow) -> dict[str, Any]:
    """A team as JSON."""
    return {
        "id": row.id,
        "name": row.name,
        "people": row.people,
        "paused_at": api_time(row.paused_at),
        "paused_reason": row.paused_reason,
        "created_at": api_time(row.created_at) if row.created_at else None,
    }
