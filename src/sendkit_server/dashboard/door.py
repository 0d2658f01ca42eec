"""Pages for people, in front of the API: sign-in, the team, and the inbox.

The inbox is served without sign-in only under --dev and only when both the peer and the Host are
loopback: a page of another site whose name was made to resolve here (DNS rebinding) carries its own Host.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import structlog

from sendkit_server.dashboard.inbox import Guest, InboxPages
from sendkit_server.dashboard.pages import Page, Templates, redirect, with_headers
from sendkit_server.dashboard.sign_in import SignInPages
from sendkit_server.dashboard.team import TeamPages
from sendkit_server.dashboard.visit import (
    FORM_COOKIE_BYTES,
    MAX_FORM_BYTES,
    Visit,
    cookies,
    fields,
    form_cookie,
    form_cookie_name,
    new_form_secret,
    session_cookie_name,
)
from sendkit_server.events.refusals import Entry, Note
from sendkit_server.manage import sessions
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.guesses import Guesses
from sendkit_server.manage.links import Kind
from sendkit_server.manage.passwords import Passwords
from sendkit_server.model.instant import Instant
from sendkit_server.model.roles import CHANGES
from sendkit_server.store.errors import StoreError
from sendkit_server.store.queries import keys as key_queries
from sendkit_server.store.store import Store

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PROXY_HEADERS = (b"x-forwarded-for", b"x-forwarded-host", b"forwarded")
METHODS = ("GET", "HEAD", "POST")
SIGNED_IN = ("inbox", "invite", "invitations", "members", "team", "password")
FORM_S = 30.0
MAX_AGENT_CHARACTERS = 300

log = structlog.get_logger("dashboard")


class Pages:
    """An ASGI application that serves `/` and `/ui…` and hands everything else on.

    guesses: who was wrong about passwords.  note_refusal: takes refused requests for the log.
    """

    def __init__(
        self,
        api: Application,
        store: Store,
        *,
        dev: bool,
        clock: Callable[[], Instant],
        public_url: str,
        guesses: Guesses,
        note_refusal: Note = lambda entry: None,
    ) -> None:
        self._api = api
        self._dev = dev
        self._store = store
        self._clock = clock
        self._public_url = public_url
        self._note_refusal = note_refusal
        self._passwords = Passwords()
        self._templates = Templates()
        self._inbox = InboxPages(store, self._templates)
        self._sign_in = SignInPages(store, self._templates, self._passwords, guesses, clock)
        self._team = TeamPages(store, self._templates, self._passwords, guesses, clock, public_url)

    def close(self) -> None:
        """Ends the threads."""
        self._passwords.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path: str = scope["path"].rstrip("/") or "/"
        if path != "/" and path != "/ui" and not path.startswith("/ui/"):
            await self._api(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            page = await self._page(scope, receive, headers, path)
        except StoreError as error:
            log.warning("dashboard.store_unavailable", error=str(error))
            page = self._templates.page("problem.html", 503, title="The store does not answer", text=str(error))
        except Exception:
            log.exception("dashboard.fault", path=_without_secret(path))
            page = self._templates.page("problem.html", 500, title="Something went wrong", text="The log tells what.")
        if page is None and path != "/" and is_browser(headers):
            text = "The address may be mistyped, or what was here is gone."
            page = self._templates.page("problem.html", 404, title="There is no such page", text=text)
        if page is None:
            await self._api(scope, receive, send)
            return
        if page.status >= 400 and not page.is_repeated:
            self._note(scope, headers, path, page.status)
        await send_page(send, page, head=scope["method"] == "HEAD")

    async def _page(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes], path: str) -> Page | None:
        """The page; None when there is none of this path and method."""
        if scope["method"] not in METHODS or "\0" in path:
            return None
        if path == "/":
            return redirect("/ui") if is_browser(headers) else None
        if path.startswith("/ui/static/"):
            return self._templates.static(path.removeprefix("/ui/static/"))
        visit = await self._visit(scope, receive, headers)
        page = await self._for(visit, scope, headers, path.removeprefix("/ui").removeprefix("/"))
        if page is None or visit.form_cookie is None or page.status == 303:
            return page
        return with_headers(page, visit.form_cookie)

    async def _for(self, visit: Visit, scope: Scope, headers: dict[bytes, bytes], path: str) -> Page | None:
        step, _, rest = path.partition("/")
        if step == "inbox" and (guest := await self._guest(visit, scope, headers)) is not None:
            return await self._inbox.page(visit, guest, [part for part in rest.split("/") if part])
        page = await self._sign_in.page(visit, path)
        if page is not None:
            return page
        if visit.visitor is not None:
            if visit.method == "POST" and not visit.is_ours:
                return self._sign_in.not_ours()
            return await self._team.page(visit, visit.visitor, path)
        if path == "":
            return redirect("/ui/inbox") if self._may_see_inbox(scope, headers) else await self._sign_in.front(visit)
        # Whoever was signed in, and is no more, comes back by the sign-in.
        return redirect("/ui/sign-in") if step in SIGNED_IN else None

    async def _guest(self, visit: Visit, scope: Scope, headers: dict[bytes, bytes]) -> Guest | None:
        """Who looks at the inbox, and whose it is; None: nobody who may."""
        who = visit.visitor
        if who is not None:
            actor = Actor(who.account_id, self._clock(), os.urandom)
            return Guest(who.team_id, actor, visit.token, may_change=who.role in CHANGES, is_ours=visit.is_ours)
        if not self._may_see_inbox(scope, headers):
            return None
        first = await self._store.read(lambda connection: key_queries.team_id(connection, key_queries.FIRST_TEAM))
        assert first is not None
        actor = Actor("dev", self._clock(), os.urandom)
        return Guest(first, actor, visit.token, may_change=True, is_ours=visit.same_site)

    async def _visit(self, scope: Scope, receive: Receive, headers: dict[bytes, bytes]) -> Visit:
        secure = self._public_url.startswith("https://") or scope.get("scheme") == "https"
        given = cookies(headers)
        secret: str | None = given.get(session_cookie_name(secure=secure))
        visitor = await sessions.visitor(self._store, secret, self._clock()) if secret else None
        known = given.get(form_cookie_name(secure=secure))
        form_secret = known or new_form_secret(os.urandom(FORM_COOKIE_BYTES))
        return Visit(
            method="GET" if scope["method"] == "HEAD" else scope["method"],
            host=(scope.get("client") or ("", 0))[0],
            secure=secure,
            same_site=_is_same_site(headers, self._public_url),
            visitor=visitor,
            secret=secret if visitor is not None else None,
            form_secret=form_secret,
            form_cookie=None if known or visitor is not None else form_cookie(form_secret, secure=secure),
            form=fields(await _read(receive)) if scope["method"] == "POST" else {},
        )

    def _note(self, scope: Scope, headers: dict[bytes, bytes], path: str, status: int) -> None:
        agent = headers.get(b"user-agent", b"").decode("latin-1")[:MAX_AGENT_CHARACTERS] or None
        step = f"{scope['method']} {_without_secret(path)}"
        address = (scope.get("client") or ("", 0))[0]
        self._note_refusal(Entry("http", address, step, str(status), {"status": status, "user_agent": agent}))

    def _may_see_inbox(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        peer = (scope.get("client") or ("", 0))[0]
        proxied = any(name in headers for name in PROXY_HEADERS)
        return self._dev and not proxied and _is_loopback(peer) and _is_loopback(_host_name(headers))


def _without_secret(path: str) -> str:
    """A path as it may stand in logs: a link's secret is not for others."""
    parts = path.split("/")
    return "/".join([*parts[:3], "[hidden]"]) if parts[2:3] and parts[2] in set(Kind) else path


async def _read(receive: Receive) -> bytes:
    """A form's body; nothing when it is longer than any of ours, or does not come."""
    body: bytes = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FORM_S):
            while True:
                event = await receive()
                body += event.get("body", b"")
                if event["type"] == "http.disconnect" or len(body) > MAX_FORM_BYTES:
                    return b""
                if not event.get("more_body"):
                    return body
    return b""


def is_browser(headers: dict[bytes, bytes]) -> bool:
    """Whether a person reads the answer; programs get the API's."""
    return b"text/html" in headers.get(b"accept", b"")


def _host_name(headers: dict[bytes, bytes]) -> str:
    try:
        return urlsplit("//" + headers.get(b"host", b"").decode("latin-1")).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_same_site(headers: dict[bytes, bytes], public_url: str) -> bool:
    """Whether a change is asked for by one of our own pages, by what browsers cannot be made to lie about."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    if origin is None:
        return True  # no browser of the last years; the form's token decides
    return origin.partition(b"://")[2] == headers.get(b"host") or origin.decode("latin-1") == _origin(public_url)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def send_page(send: Send, page: Page, *, head: bool) -> None:
    """Writes a page with the headers that keep it from doing harm."""
    headers = [
        (b"content-type", page.content_type.encode()),
        (b"content-length", str(len(page.body)).encode()),
        (b"content-security-policy", page.policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"SAMEORIGIN"),
        # Not no-referrer: then a browser says `Origin: null` with our own forms, too.
        (b"referrer-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
        *page.headers,
    ]
    await send({"type": "http.response.start", "status": page.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else page.body})
