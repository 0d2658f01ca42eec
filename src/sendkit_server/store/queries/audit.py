"""The audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import audit


def insert_row(connection: Connection, row: dict[str, Any]) -> None:
    """Adds a row."""
    connection.execute(insert(audit).values(row))


def last_detail(connection: Connection, team_id: int, action: str, target: str) -> str | None:
    """What a target became when this was last done to it; None: it never was."""
    mine = (audit.c.team_id == team_id, audit.c.target == target, audit.c.action == action)
    return connection.execute(select(audit.c.detail).where(*mine).order_by(audit.c.id.desc()).limit(1)).scalar()


def list_rows(connection: Connection, team_id: int, offset: int, limit: int) -> tuple[Sequence[AnyRow], int]:
    """A page of a team's changes, newest first, and how many there are."""
    mine = audit.c.team_id == team_id
    total = connection.execute(select(func.count()).select_from(audit).where(mine)).scalar_one()
    query = select(audit).where(mine).order_by(audit.c.id.desc()).offset(offset).limit(limit)
    return connection.execute(query).all(), total
