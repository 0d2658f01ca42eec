"""Pages for people, in front of the API: a front page, and under `--dev` the inbox.

The inbox is served without sign-in, and therefore only under --dev and only when both the peer and the Host are
loopback: a page of another site whose name was made to resolve here (DNS rebinding) carries its own Host.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import structlog

from sendkit_server.dashboard.inbox import InboxPages
from sendkit_server.dashboard.pages import Page, Templates, redirect
from sendkit_server.manage.audit import Actor
from sendkit_server.model.instant import Instant
from sendkit_server.store.errors import StoreError
from sendkit_server.store.store import Store

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PROXY_HEADERS = (b"x-forwarded-for", b"x-forwarded-host", b"forwarded")
METHODS = ("GET", "HEAD", "POST")

log = structlog.get_logger("dashboard")


class Pages:
    """An ASGI application that serves `/` and `/ui…` and hands everything else on."""

    def __init__(self, api: Application, store: Store, *, dev: bool, clock: Callable[[], Instant]) -> None:
        self._api = api
        self._dev = dev
        self._templates = Templates()
        self._inbox = InboxPages(store, self._templates, lambda name: Actor(name, clock(), os.urandom))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path: str = scope["path"].rstrip("/") or "/"
        if path != "/" and path != "/ui" and not path.startswith("/ui/"):
            await self._api(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            page = await self._page(scope, headers, path)
        except StoreError as error:
            log.warning("dashboard.store_unavailable", error=str(error))
            page = self._templates.page("problem.html", 503, title="The store does not answer", text=str(error))
        except Exception:
            log.exception("dashboard.fault", path=path)
            page = self._templates.page("problem.html", 500, title="Something went wrong", text="The log tells what.")
        if page is None:
            await self._api(scope, receive, send)
            return
        await send_page(send, page, head=scope["method"] == "HEAD")

    async def _page(self, scope: Scope, headers: dict[bytes, bytes], path: str) -> Page | None:
        """The page, or None: the API's 404 and 405 answer."""
        if scope["method"] not in METHODS:
            return None
        if path == "/":
            return redirect("/ui") if b"text/html" in headers.get(b"accept", b"") else None
        if path == "/ui":
            return redirect("/ui/inbox") if self._may_see_inbox(scope, headers) else self._templates.page("front.html")
        if path.startswith("/ui/static/"):
            return self._templates.static(path.removeprefix("/ui/static/"))
        if path.partition("/ui/inbox")[1] and self._may_see_inbox(scope, headers):
            parts = [part for part in path.removeprefix("/ui/inbox").split("/") if part]
            return await self._inbox.page(scope["method"], parts, same_site=_is_same_site(headers))
        return None

    def _may_see_inbox(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        peer = (scope.get("client") or ("", 0))[0]
        proxied = any(name in headers for name in PROXY_HEADERS)
        return self._dev and not proxied and _is_loopback(peer) and _is_loopback(_host_name(headers))


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


def _is_same_site(headers: dict[bytes, bytes]) -> bool:
    """Whether a change is asked for by one of our own pages, by what browsers cannot be made to lie about."""
    origin = headers.get(b"origin", b"")
    if origin:
        return origin.partition(b"://")[2] == headers.get(b"host")
    return headers.get(b"sec-fetch-site", b"none") in (b"same-origin", b"none")


async def send_page(send: Send, page: Page, *, head: bool) -> None:
    """Writes a page with the headers that keep it from doing harm."""
    headers = [
        (b"content-type", page.content_type.encode()),
        (b"content-length", str(len(page.body)).encode()),
        (b"content-security-policy", page.policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"SAMEORIGIN"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
        *page.headers,
    ]
    await send({"type": "http.response.start", "status": page.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else page.body})
