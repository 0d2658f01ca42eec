"""Which way mail leaves: straight to the recipients' servers, through a relay, or not at all.

A chain is tried from the left; the next route is taken when no host of the one before would take a connection.
"""

from __future__ import annotations

from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec

from sendkit_server.wire.smtp_client import Login

STARTTLS_PORT = 587
TLS_PORT = 465


class Direct(msgspec.Struct, frozen=True):
    """To the hosts that DNS names for the recipient's domain."""

    @property
    def name(self) -> str:
        """As attempts and metrics call it."""
        return "direct"


class Smarthost(msgspec.Struct, frozen=True):
    """Through a relay. tls_from_start: `smarthosts://`.  login None: it knows us by our address."""

    host: str
    port: int = STARTTLS_PORT
    login: Login | None = None
    tls_from_start: bool = False

    @property
    def name(self) -> str:
        """As attempts and metrics call it."""
        return "smarthost"


class Capture(msgspec.Struct, frozen=True):
    """Kept for the inbox; never leaves."""

    @property
    def name(self) -> str:
        """As attempts and metrics call it."""
        return "capture"


Route: TypeAlias = Direct | Smarthost | Capture


def parse_routes(text: str) -> tuple[Route, ...]:
    """`direct`, `capture`, `smarthost://user:pass@host:port`, `smarthosts://…`, or several, comma between.

    User and password are percent-decoded (a comma in them is `%2C`). ValueError says what is wrong, without secrets.
    """
    routes = tuple(_parse_route(part.strip()) for part in text.split(",") if part.strip())
    if not routes:
        raise ValueError("no route: say direct, capture, or smarthost://user:pass@host:port")
    if any(isinstance(route, Capture) for route in routes[:-1]):
        raise ValueError("nothing can follow 'capture' in a route chain: it takes every mail")
    return routes


def _parse_route(text: str) -> Route:
    if text == "direct":
        return Direct()
    if text == "capture":
        return Capture()
    scheme = text.partition("://")[0]
    if scheme not in ("smarthost", "smarthosts"):
        raise ValueError(f"unknown route '{scheme[:40]}': known are direct, capture, smarthost:// and smarthosts://")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ValueError(f"the {scheme}:// route has no valid host and port: {error}") from None
    if not host or url.path.strip("/") or url.query or url.fragment:
        raise ValueError(f"the {scheme}:// route must be {scheme}://user:pass@host:port")
    login = None
    if url.username is not None:
        if url.password is None:
            raise ValueError(f"the {scheme}:// route names a user without a password")
        login = Login(unquote(url.username), unquote(url.password))
    tls = scheme == "smarthosts"
    return Smarthost(host, port or (TLS_PORT if tls else STARTTLS_PORT), login, tls)
