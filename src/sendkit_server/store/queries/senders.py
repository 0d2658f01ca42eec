"""Senders: names and addresses that mail is sent as, each at a domain of its team."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from sendkit_server.store.queries.pages import Part, Window, part_of
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import sender


def insert_sender(connection: Connection, values: dict[str, Any]) -> None:
    """Adds a sender's row."""
    connection.execute(insert(sender).values(**values))


def update_sender(connection: Connection, team_id: int, sender_id: str, values: dict[str, Any]) -> None:
    """Changes columns of a sender."""
    connection.execute(update(sender).where(sender.c.team_id == team_id, sender.c.id == sender_id).values(**values))


def delete_sender(connection: Connection, team_id: int, sender_id: str) -> bool:
    """False when the team has no such sender."""
    return connection.execute(delete(sender).where(sender.c.team_id == team_id, sender.c.id == sender_id)).rowcount == 1


def find_sender(connection: Connection, team_id: int, sender_id: str) -> AnyRow | None:
    """A sender by its id."""
    return connection.execute(select(sender).where(sender.c.team_id == team_id, sender.c.id == sender_id)).one_or_none()


def id_at(connection: Connection, team_id: int, domain_id: str, username: str) -> str | None:
    """Whose the name before the @ is at a domain, in whatever case it is written."""
    query = select(sender.c.id).where(
        sender.c.team_id == team_id, sender.c.domain_id == domain_id, func.lower(sender.c.username) == username.lower()
    )
    return connection.execute(query).scalar()


def list_senders(connection: Connection, team_id: int, window: Window) -> Part:
    """A team's senders."""
    return part_of(connection, select(sender).where(sender.c.team_id == team_id), sender.c.id, window)
