"""Which way mail leaves: straight to the recipients' servers, through a relay or a provider, or not at all."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.wire.providers import Provider
from sendkit_server.wire.smtp_client import Login

STARTTLS_PORT = 587
TLS_PORT = 465
# Recipients a day at one big receiver, from the first day on. Behind the last day there is no cap.
WARM_UP_CAPS = (50, 100, 200, 400, 800, 1_500, 3_000, 6_000, 12_000, 25_000, 50_000, 100_000, 200_000, 400_000)


class WarmUp(msgspec.Struct, frozen=True):
    """How a new address gets known. since: the first day's first moment, UTC.  caps: recipients at one big receiver by day."""

    since: Instant
    caps: tuple[int, ...] = WARM_UP_CAPS

    def cap(self, now: Instant) -> int | None:
        """Recipients that one receiver may get on this day; None when there is no cap (any more), 0 before the first day."""
        day = (now - self.since) // DAY_MS
        if day < 0:
            return 0
        return self.caps[day] if day < len(self.caps) else None


class Source(msgspec.Struct, frozen=True):
    """Where connections come from. addresses: at most one IPv4 and one IPv6; none: whatever the system takes.

    ehlo: our name in EHLO; None: SENDKIT_HOSTNAME.  weight: its share of its route's mail.
    """

    addresses: tuple[str, ...] = ()
    ehlo: str | None = None
    weight: int = 1
    warm_up: WarmUp | None = None


ANY_SOURCE = Source()


class Direct(msgspec.Struct, frozen=True):
    """To the hosts that DNS names for the recipient's domain. name: as attempts and metrics call it.  sources: a pool."""

    name: str = "direct"
    sources: tuple[Source, ...] = (ANY_SOURCE,)


class Smarthost(msgspec.Struct, frozen=True):
    """Through a relay. tls_from_start: `smarthosts://`.  login None: it knows us by our address."""

    host: str
    port: int = STARTTLS_PORT
    login: Login | None = None
    tls_from_start: bool = False
    name: str = "smarthost"
    source: Source = ANY_SOURCE

    @property
    def needs_tls(self) -> bool:
        """A password, or a wish for TLS from the start, is worth nothing towards just anybody."""
        return self.login is not None or self.tls_from_start


class Hosted(msgspec.Struct, frozen=True):
    """Through a provider's HTTP API."""

    name: str
    provider: Provider


class Capture(msgspec.Struct, frozen=True):
    """Kept for the inbox; never leaves."""

    name: str = "capture"


Route: TypeAlias = Direct | Smarthost | Hosted | Capture
