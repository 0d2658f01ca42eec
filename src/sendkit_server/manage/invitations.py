"""Invitations that nobody has taken yet. Making one is in manage/people.py; its link is shown then, and never again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from sendkit_server.manage import links
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.ids import instant_of
from sendkit_server.model.instant import Instant, api_time
from sendkit_server.model.roles import Manager, Role
from sendkit_server.store.queries import people as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store


async def invitations(
    store: Store, team_id: int, now: Instant, offset: int = 0, limit: int | None = None
) -> tuple[Sequence[AnyRow], int]:
    """A page of a team's open invitations, newest first, and how many there are. limit: None: all."""
    return await store.read(lambda connection: queries.list_invitations(connection, team_id, now, offset, limit))


async def invitation(store: Store, team_id: int, invitation_id: str, now: Instant) -> AnyRow | None:
    """An open invitation of a team."""
    return await store.read(lambda connection: _found(connection, team_id, invitation_id, now))


async def withdraw(store: Store, team_id: int, invitation_id: str, by: Actor, manager: Manager | None = None) -> bool:
    """Makes an invitation's link work no more. manager: None: the operator. False: the team has no such open one. ManageError."""

    def write(connection: Connection) -> bool:
        found = _found(connection, team_id, invitation_id, by.now)
        if found is None:
            return False
        if manager is not None and not manager.may_manage(Role(found.role)):
            raise ManageError(f"{manager.who} cannot withdraw the invitation of one who is to be {found.role}.")
        queries.delete_link(connection, found.id)
        by.record(connection, team_id, "members.uninvite", found.email, {"role": found.role})
        return True

    return await store.write(write)


def worded(row: AnyRow) -> dict[str, Any]:
    """An invitation as JSON, without its link."""
    return {
        "id": links.public_id(row.created_at, row.id),
        "email": row.email,
        "role": row.role,
        "created_at": api_time(row.created_at),
        "expires_at": api_time(row.expires_at),
    }


def _found(connection: Connection, team_id: int, invitation_id: str, now: Instant) -> AnyRow | None:
    if links.PUBLIC_ID.fullmatch(invitation_id) is None:
        return None
    made_then = queries.invitations_made_at(connection, team_id, instant_of(invitation_id), now)
    return next((row for row in made_then if links.public_id(row.created_at, row.id) == invitation_id), None)
