"""The command line's actions on teams and people, as manage/commands.py runs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from sendkit_server.manage import people, teams
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.keys import ManageError
from sendkit_server.manage.passwords import Passwords
from sendkit_server.store.queries import people as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

Json = dict[str, Any]


class Context(Protocol):
    """What these actions need of manage/commands.py Context."""

    @property
    def store(self) -> Store:
        """The database."""

    @property
    def public_url(self) -> str:
        """Where links lead."""

    def actor(self) -> Actor:
        """Whoever may use the command line."""


async def _create_team(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    made = await teams.create_team(context.store, arguments["name"], context.actor())
    return {"id": teams.public_id(made), "name": arguments["name"].strip()}


async def _rename_team(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    await teams.rename_team(context.store, team_id, arguments["name"], context.actor())
    return {"id": teams.public_id(team_id), "name": arguments["name"].strip()}


async def _list_teams(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    return {"data": await teams.list_teams(context.store)}


async def _pause_team(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    reason = (arguments.get("reason") or "").strip()
    told = await teams.pause_team(context.store, team_id, reason, context.actor())
    return {"id": teams.public_id(team_id), "paused": True, "reason": told}


async def _resume_team(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    await teams.resume_team(context.store, team_id, context.actor())
    return {"id": teams.public_id(team_id), "paused": False}


async def _create_user(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    role = people.role_of(arguments["role"])
    email = people.email_of(arguments["email"])
    if (password := arguments.get("password")) is not None:
        passwords = Passwords()
        try:
            made = await people.add(context.store, passwords, team_id, email, role, password, context.actor())
        finally:
            passwords.close()
        return {"id": made, "email": email, "role": role, "link": None}
    link = await people.invite(context.store, team_id, email, role, context.actor())
    return {"email": email, "role": role, "link": link.worded(context.public_url)}


async def _reset_user(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    link = await people.reset_link(context.store, arguments["email"], context.actor())
    return {"email": people.email_of(arguments["email"]), "link": link.worded(context.public_url)}


async def _list_users(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    rows, _ = await people.members(context.store, team_id)
    return {"data": [people.worded(row) for row in rows]}


async def _remove_user(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    known = await _account(context, arguments["email"])
    if await people.remove(context.store, team_id, known.id, context.actor()) is None:
        raise ManageError(f"{known.email} does not belong to this team; `sendkit users list` shows who does")
    return {"id": known.id, "email": known.email, "deleted": True}


async def _set_role(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    known, role = await _account(context, arguments["email"]), people.role_of(arguments["role"])
    if not await people.set_role(context.store, team_id, known.id, role, context.actor()):
        raise ManageError(f"{known.email} does not belong to this team; `sendkit users list` shows who does")
    return {"id": known.id, "email": known.email, "role": role}


async def _account(context: Context, email: str) -> AnyRow:
    address = people.email_of(email)
    known = await context.store.read(lambda connection: queries.find_account(connection, address))
    if known is None:
        raise ManageError(f"there is no user {address}; `sendkit users list` shows all")
    return known


ACTIONS: dict[str, Callable[[Context, int, Mapping[str, Any]], Awaitable[Json]]] = {
    "teams.create": _create_team,
    "teams.rename": _rename_team,
    "teams.list": _list_teams,
    "teams.pause": _pause_team,
    "teams.resume": _resume_team,
    "users.create": _create_user,
    "users.reset": _reset_user,
    "users.list": _list_users,
    "users.remove": _remove_user,
    "users.role": _set_role,
}
