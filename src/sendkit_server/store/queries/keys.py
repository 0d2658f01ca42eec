"""API keys and teams: management writes and reads."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from sendkit_server.model.instant import Instant
from sendkit_server.store.queries.pages import Part, Window, part_of
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import api_key, team

FIRST_TEAM = "default"
"""What commands call the first team, whatever its name is by now; no other team gets this name."""


def team_id(connection: Connection, name: str) -> int | None:
    """The number of a team."""
    if name == FIRST_TEAM:
        return connection.execute(select(func.min(team.c.id))).scalar()
    return connection.execute(select(team.c.id).where(team.c.name == name)).scalar()


def insert_key(connection: Connection, values: dict[str, Any]) -> None:
    """Adds a key's row."""
    connection.execute(insert(api_key).values(**values))


def list_keys(connection: Connection, of_team: int, window: Window) -> Part:
    """A team's keys that are not revoked."""
    living = select(api_key).where(api_key.c.team_id == of_team, api_key.c.revoked_at.is_(None))
    return part_of(connection, living, api_key.c.id, window)


def find_key(connection: Connection, of_team: int, key_id: str) -> AnyRow | None:
    """A key that is not revoked."""
    query = select(api_key).where(api_key.c.team_id == of_team, api_key.c.id == key_id, api_key.c.revoked_at.is_(None))
    return connection.execute(query).one_or_none()


def rename_key(connection: Connection, of_team: int, key_id: str, name: str) -> bool:
    """False when the team has no such living key."""
    living = (api_key.c.team_id == of_team, api_key.c.id == key_id, api_key.c.revoked_at.is_(None))
    return connection.execute(update(api_key).where(*living).values(name=name)).rowcount == 1


def end_key(connection: Connection, of_team: int, key_id: str, at: Instant) -> None:
    """Lets a key expire."""
    connection.execute(
        update(api_key).where(api_key.c.team_id == of_team, api_key.c.id == key_id).values(expires_at=at)
    )


def revoke_key(connection: Connection, of_team: int, key_id: str, at: Instant) -> bool:
    """Revokes a key by its id; False when the team has no such living key."""
    statement = (
        update(api_key)
        .where(api_key.c.team_id == of_team, api_key.c.id == key_id, api_key.c.revoked_at.is_(None))
        .values(revoked_at=at)
    )
    return connection.execute(statement).rowcount == 1


def touch_keys(connection: Connection, used: dict[tuple[int, str], Instant]) -> None:
    """Writes when keys were last used."""
    for (of_team, key_id), at in used.items():
        connection.execute(
            update(api_key).where(api_key.c.team_id == of_team, api_key.c.id == key_id).values(last_used_at=at)
        )
