"""Teams: every row belongs to one, and nothing of one can be seen or changed from another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from sendkit_server.manage.audit import Actor
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.instant import api_time
from sendkit_server.model.roles import Role
from sendkit_server.store.queries import keys as key_queries
from sendkit_server.store.queries import people as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

MAX_NAME_CHARACTERS = 255
MAX_REASON_CHARACTERS = 500

T = TypeVar("T")


async def create_team(store: Store, name: str, by: Actor) -> int:
    """A new team's number. ManageError: the name is taken, or none."""
    name = _name(name)

    def write(connection: Connection) -> int:
        _check_free(connection, name, None)
        team_id = queries.insert_team(connection, name, by.now)
        by.record(connection, team_id, "teams.create", name)
        return team_id

    return await _written(store, write)


async def rename_team(store: Store, team_id: int, name: str, by: Actor) -> None:
    """Gives a team another name. ManageError: the name is taken, or none."""
    name = _name(name)

    def write(connection: Connection) -> None:
        _check_free(connection, name, team_id)
        if queries.rename_team(connection, team_id, name):
            by.record(connection, team_id, "teams.rename", public_id(team_id), {"name": name})

    await _written(store, write)


async def _written(store: Store, write: Callable[[Connection], T]) -> T:
    """Two that take a name at the same moment both find it free; the database lets one of them have it."""
    try:
        return await store.write(write)
    except IntegrityError:
        raise _taken() from None


def _name(text: str) -> str:
    name = text.strip()
    if not name:
        raise ManageError("The name field is required.", "name")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ManageError(f"The name field must not be greater than {MAX_NAME_CHARACTERS} characters.", "name")
    if not name.isprintable():
        raise ManageError("The name field must be one line of text.", "name")
    return name


def _check_free(connection: Connection, name: str, team_id: int | None) -> None:
    # `default` is the first team's for ever, whatever it is called now: commands that name none act for it.
    other = queries.find_team(connection, name)
    first = key_queries.team_id(connection, key_queries.FIRST_TEAM)
    if (other is not None and other.id != team_id) or (name == key_queries.FIRST_TEAM and team_id != first):
        raise _taken()


def _taken() -> ManageError:
    return ManageError("The name has already been taken.", "name")


async def show_team(store: Store, team_id: int) -> dict[str, Any]:
    """A team as JSON, with how many people have each role."""

    def read(connection: Connection) -> dict[str, Any]:
        row, counts = queries.find_team(connection, team_id), queries.count_roles(connection, team_id)
        assert row is not None
        return {**_described(row), "members": {role: counts.get(role, 0) for role in Role}}

    return await store.read(read)


async def list_teams(store: Store) -> list[dict[str, Any]]:
    """All teams, as JSON."""
    return [worded(row) for row in await store.read(queries.list_teams)]


async def pause_team(store: Store, team_id: int, reason: str, by: Actor) -> str:
    """From now on nothing of the team is accepted, on every door, and the reason is told; what waits is still sent.

    The reason as it is told now: without a new one a team that is paused already keeps the first.
    """
    if len(reason) > MAX_REASON_CHARACTERS or not reason.isprintable():
        raise ManageError(f"The reason has at most {MAX_REASON_CHARACTERS} characters, on one line.", "reason")

    def write(connection: Connection) -> str:
        found = queries.find_team(connection, team_id)
        assert found is not None
        told: str = reason or found.paused_reason or ""
        since = by.now if found.paused_at is None else found.paused_at
        queries.pause_team(connection, team_id, since, told)
        by.record(connection, team_id, "teams.pause", public_id(team_id), {"reason": told})
        return told

    return await store.write(write)


async def resume_team(store: Store, team_id: int, by: Actor) -> None:
    """Lets a team send again. ManageError: it is not paused."""

    def write(connection: Connection) -> None:
        found = queries.find_team(connection, team_id)
        if found is None or found.paused_at is None:
            raise ManageError("the team is not paused")
        queries.pause_team(connection, team_id, None, None)
        by.record(connection, team_id, "teams.resume", public_id(team_id))

    await store.write(write)


def public_id(team_id: int) -> str:
    """A team's number as others see it."""
    return f"team_{team_id}"


def worded(row: AnyRow) -> dict[str, Any]:
    """A team as JSON, with how many people it has."""
    return {**_described(row), "people": row.people}


def _described(row: AnyRow) -> dict[str, Any]:
    return {
        "id": public_id(row.id),
        "name": row.name,
        "paused": row.paused_at is not None,
        "paused_at": api_time(row.paused_at),
        "paused_reason": row.paused_reason,
        "created_at": api_time(row.created_at) if row.created_at else None,
    }
