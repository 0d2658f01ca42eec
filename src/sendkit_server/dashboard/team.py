"""The pages of who is signed in: the team, its people and their roles, invitations, the own password."""

from __future__ import annotations

import os
from collections.abc import Callable

from sendkit_server.dashboard.pages import Page, Templates, redirect, waiting, with_headers
from sendkit_server.dashboard.visit import Visit, session_cookie
from sendkit_server.manage import invitations, people, sessions
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.guesses import Guesses, TooManyGuesses
from sendkit_server.manage.keys import ManageError
from sendkit_server.manage.passwords import MIN_CHARACTERS, Passwords
from sendkit_server.manage.sessions import Visitor
from sendkit_server.model.instant import Instant, api_time
from sendkit_server.model.roles import MANAGES, Role, manager_of
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store


class TeamPages:
    """`/ui` of somebody who is signed in, and the forms on it."""

    def __init__(
        self,
        store: Store,
        templates: Templates,
        passwords: Passwords,
        guesses: Guesses,
        clock: Callable[[], Instant],
        public_url: str,
    ) -> None:
        self._store = store
        self._templates = templates
        self._passwords = passwords
        self._guesses = guesses
        self._clock = clock
        self._public_url = public_url

    async def page(self, visit: Visit, who: Visitor, path: str) -> Page | None:
        """The page of a path below `/ui/`, or what became of a form; None when there is none of these."""
        if visit.method != "POST":
            return await self._team(visit, who) if path == "" else None
        try:
            return await self._changed(visit, who, path.split("/"))
        except TooManyGuesses as error:
            return waiting(await self._team(visit, who, 429, str(error)), error.wait)
        except ManageError as error:
            return await self._team(visit, who, 422, str(error))

    async def _changed(self, visit: Visit, who: Visitor, parts: list[str]) -> Page | None:
        by, manager = Actor(who.account_id, self._clock(), os.urandom), manager_of(who.role)
        match parts:
            case ["invite"]:
                return await self._invite(visit, who, by)
            case ["members", account_id, "role"]:
                role = people.role_of(visit.form.get("role", ""))
                found = await people.set_role(self._store, who.team_id, account_id, role, by, manager)
                return redirect("/ui") if found else self._nobody()
            case ["members", account_id, "remove"]:
                removed = await people.remove(self._store, who.team_id, account_id, by, manager)
                return self._nobody() if removed is None else redirect("/ui")
            case ["invitations", invitation_id, "withdraw"]:
                await invitations.withdraw(self._store, who.team_id, invitation_id, by, manager)
                return redirect("/ui")  # what has been taken meanwhile is on that page, too
            case ["team"]:
                return await self._other_team(visit, who)
            case ["password"]:
                return await self._password(visit, who, by)
        return None

    async def _invite(self, visit: Visit, who: Visitor, by: Actor) -> Page:
        role = people.role_of(visit.form.get("role", ""))
        email = visit.form.get("email", "")
        link = await people.invite(self._store, who.team_id, email, role, by, manager_of(who.role))
        return self._templates.page(
            "invited.html",
            who=who,
            token=visit.token,
            email=people.email_of(email),
            role=role,
            url=self._public_url + link.path,
            until=api_time(link.expires_at),
        )

    async def _other_team(self, visit: Visit, who: Visitor) -> Page:
        wanted = visit.form.get("team", "")
        mine = next((number for number, _ in who.teams if str(number) == wanted), None)
        if mine is None or visit.secret is None:
            raise ManageError("You do not belong to that team.")
        await sessions.look_at(self._store, visit.secret, mine)
        return redirect("/ui")

    async def _password(self, visit: Visit, who: Visitor, by: Actor) -> Page:
        old, new = visit.form.get("old", ""), visit.form.get("new", "")
        if await sessions.sign_in(self._store, self._passwords, self._guesses, who.email, old, visit.host) is None:
            raise ManageError("The old password is wrong.")
        await people.change_password(self._store, self._passwords, who.account_id, new, by)
        secret = await sessions.open_session(self._store, who.account_id, by, who.team_id)
        return with_headers(redirect("/ui"), session_cookie(secret, secure=visit.secure))

    async def _team(self, visit: Visit, who: Visitor, status: int = 200, error: str | None = None) -> Page:
        rows, _ = await people.members(self._store, who.team_id)
        owners = sum(row.role == Role.OWNER for row in rows)
        invites = [role for role in Role if role in MANAGES[who.role]]
        waiting_for = await self._invitations(who) if invites else []
        return self._templates.page(
            "team.html",
            status,
            who=who,
            token=visit.token,
            error=error,
            members=[_shown(row, who, owners) for row in rows],
            invites=invites,
            invitations=waiting_for,
            least=MIN_CHARACTERS,
        )

    async def _invitations(self, who: Visitor) -> list[dict[str, object]]:
        rows, _ = await invitations.invitations(self._store, who.team_id, self._clock())
        manager = manager_of(who.role)
        return [{**invitations.worded(row), "withdrawable": manager.may_manage(Role(row.role))} for row in rows]

    def _nobody(self) -> Page:
        return self._templates.page(
            "problem.html", 404, title="No such person", text="Nobody of this id belongs to the team (any more)."
        )


def _shown(row: AnyRow, who: Visitor, owners: int) -> dict[str, object]:
    """A person, and what the visitor may do about it: nothing that would be refused."""
    role, manager = Role(row.role), manager_of(who.role)
    is_you = row.id == who.account_id
    stays = role is Role.OWNER and owners == 1
    manages = manager.may_manage(role) and not stays
    return {
        **people.worded(row),
        "you": is_you,
        "roles": [one for one in Role if manages and manager.may_manage(one)],
        "removable": (manages or is_you) and not stays,
    }
