"""The pages by which people come in: set-up, sign-in, invitation, reset, and sign-out."""

from __future__ import annotations

import os
from collections.abc import Callable
from urllib.parse import unquote

from sendkit_server.dashboard.pages import Page, Templates, redirect, waiting, with_headers
from sendkit_server.dashboard.visit import Visit, no_session_cookie, session_cookie
from sendkit_server.manage import links, people, sessions
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.guesses import Guesses, TooManyGuesses
from sendkit_server.manage.keys import ManageError
from sendkit_server.manage.links import Kind, LinkGone
from sendkit_server.manage.passwords import MIN_CHARACTERS, Passwords
from sendkit_server.model.instant import Instant
from sendkit_server.store.queries import people as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

WRONG = "The address or the password is wrong."


class SignInPages:
    """Everything under `/ui` that needs no session."""

    def __init__(
        self, store: Store, templates: Templates, passwords: Passwords, guesses: Guesses, clock: Callable[[], Instant]
    ) -> None:
        self._store = store
        self._templates = templates
        self._passwords = passwords
        self._guesses = guesses
        self._clock = clock

    async def page(self, visit: Visit, path: str) -> Page | None:
        """The page of a path below `/ui/`; None when it is none of these. ManageError never leaves."""
        step, _, secret = path.partition("/")
        secret = unquote(secret)
        if step == "sign-in" and not secret:
            return await self._sign_in(visit)
        if step == "sign-out" and not secret and visit.method == "POST":
            return await self._sign_out(visit)
        if step in ("setup", "invite", "reset") and secret and "/" not in secret:
            return await self._by_link(visit, Kind(step), secret)
        return None

    async def front(self, visit: Visit, status: int = 200, error: str | None = None, email: str = "") -> Page:
        """The sign-in form; before the set-up, how to begin."""
        if not await self._store.read(queries.has_accounts):
            return self._templates.page("front.html", status)
        return self._templates.page("sign_in.html", status, token=visit.token, error=error, email=email)

    # -- sign-in -------------------------------------------------------------------------------------------------

    async def _sign_in(self, visit: Visit) -> Page:
        if visit.method != "POST":
            return redirect("/ui") if visit.visitor is not None else await self.front(visit)
        if not visit.is_ours:
            return self.not_ours()
        email = visit.form.get("email", "").strip()
        try:
            account_id = await self._account(visit, email, visit.form.get("password", ""))
        except TooManyGuesses as error:
            return waiting(await self.front(visit, 429, str(error), email), error.wait)
        if account_id is None:
            return await self.front(visit, 401, WRONG, email)
        return await self.signed_in(visit, account_id)

    async def _account(self, visit: Visit, email: str, password: str) -> str | None:
        try:
            address = people.email_of(email)
        except ManageError:
            address = email  # no account has it; it takes as long all the same
        return await sessions.sign_in(self._store, self._passwords, self._guesses, address, password, visit.host)

    async def signed_in(self, visit: Visit, account_id: str, team_id: int | None = None) -> Page:
        """A new session, whatever the browser had before, and on to the team."""
        if visit.secret is not None:
            await sessions.end_session(self._store, visit.secret)
        by = Actor(account_id, self._clock(), os.urandom)
        secret = await sessions.open_session(self._store, account_id, by, team_id)
        return with_headers(redirect("/ui"), session_cookie(secret, secure=visit.secure))

    async def _sign_out(self, visit: Visit) -> Page:
        if not visit.is_ours:
            return self.not_ours()
        if visit.secret is not None:
            await sessions.end_session(self._store, visit.secret)
        return with_headers(redirect("/ui/sign-in"), no_session_cookie(secure=visit.secure))

    # -- links ---------------------------------------------------------------------------------------------------

    async def _by_link(self, visit: Visit, kind: Kind, secret: str) -> Page:
        link = await links.find(self._store, kind, secret, self._clock())
        if link is None:
            return self._gone()
        if visit.method != "POST":
            return await self._form(visit, kind, link)
        if not visit.is_ours:
            return self.not_ours()
        try:
            account_id = await self._done(visit, kind, link, secret)
        except LinkGone:
            return self._gone()
        except TooManyGuesses as error:
            return waiting(await self._form(visit, kind, link, 429, str(error)), error.wait)
        except ManageError as error:
            return await self._form(visit, kind, link, 422, str(error))
        if account_id is None:
            return await self._form(visit, kind, link, 401, "The password is wrong.")
        return await self.signed_in(visit, account_id, link.team_id or None)

    async def _done(self, visit: Visit, kind: Kind, link: AnyRow, secret: str) -> str | None:
        """Does what the link is for; None: the password of the account that is there is wrong."""
        form = visit.form
        name, password = form.get("name", ""), form.get("password", "")
        newcomer = Actor(people.NEWCOMER, self._clock(), os.urandom)
        if kind is Kind.SETUP:
            email = form.get("email", "")
            return await people.set_up(self._store, self._passwords, secret, email, name, password, newcomer)
        if kind is Kind.RESET:
            return await people.reset(self._store, self._passwords, secret, password, newcomer)
        account_id = None
        if await self._has_account(link):
            if visit.visitor is not None and visit.visitor.email == link.email:
                account_id = visit.visitor.account_id
            else:
                account_id = await self._account(visit, link.email, password)
                if account_id is None:
                    return None
        return await people.join(self._store, self._passwords, secret, name, password, newcomer, account_id=account_id)

    async def _has_account(self, link: AnyRow) -> bool:
        return await self._store.read(lambda connection: queries.find_account(connection, link.email)) is not None

    async def _form(self, visit: Visit, kind: Kind, link: AnyRow, status: int = 200, error: str | None = None) -> Page:
        team = await self._store.read(lambda connection: queries.find_team(connection, int(link.team_id)))
        known = kind is Kind.INVITE and await self._has_account(link)
        return self._templates.page(
            f"{kind}.html",
            status,
            token=visit.token,
            error=error,
            team=team.name if team is not None else "",
            role=link.role,
            email=link.email or visit.form.get("email", ""),
            name=visit.form.get("name", ""),
            known=known,
            here=known and visit.visitor is not None and visit.visitor.email == link.email,
            least=MIN_CHARACTERS,
        )

    # -- refusals ------------------------------------------------------------------------------------------------

    def _gone(self) -> Page:
        text = "It was used, has expired, or is not whole. Whoever sent it can make a new one; a restart prints a new set-up link."
        return self._templates.page("problem.html", 404, title="This link does not work (any more)", text=text)

    def not_ours(self) -> Page:
        """A form that did not come from a page of ours, or not to this browser."""
        text = "Cookies may be off, or the page was open for too long: load it again, and send it once more."
        return self._templates.page("problem.html", 403, title="This form did not come from here", text=text)
