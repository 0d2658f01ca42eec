"""API keys and teams: management writes and reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from sendkit_server.model.instant import Instant
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import api_key, team


def team_id(connection: Connection, name: str) -> int | None:
    """The number of a team."""
    return connection.execute(select(team.c.id).where(team.c.name == name)).scalar()


def insert_key(connection: Connection, values: dict[str, Any]) -> None:
    """Adds a key's row."""
    connection.execute(insert(api_key).values(**values))


def list_keys(connection: Connection, of_team: int) -> Sequence[AnyRow]:
    """A team's keys that are not revoked, newest first."""
    query = select(api_key).where(api_key.c.team_id == of_team, api_key.c.revoked_at.is_(None))
    return connection.execute(query.order_by(api_key.c.id.desc())).all()


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
