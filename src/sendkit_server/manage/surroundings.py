"""What a look at the outside depends on: who we say we are, where we send from, whom we may ask. App makes it of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from sendkit_server.manage.domains import DnsNames
from sendkit_server.net.guard import Guard, Network
from sendkit_server.net.resolver import Resolver

DNS_S = 5.0  # one question, all servers and repetitions


class Surroundings(msgspec.Struct, frozen=True):
    """names: what the published records depend on.

    addresses: those that direct mail leaves from, as far as they are known.  direct: whether any does.  relays: host and
    port of each.  probe_domains: whose mail hosts tell whether port 25 is open; none: not looked at.  blocklists: DNS
    zones.  certificate: of our listeners; None when none has been made yet.  own_authority: it was made here, so nobody
    else can check it.  reachable: a listener can be reached from other machines.  serving: this process is the server.
    down: of routes that are down, by where they lead, why; as far as this process delivers.
    """

    names: DnsNames
    addresses: tuple[str, ...] = ()
    direct: bool = True
    relays: tuple[tuple[str, int], ...] = ()
    dns_servers: tuple[str, ...] = ()
    mx_port: int = 25
    allowed: tuple[Network, ...] = ()
    probe_domains: tuple[str, ...] = ()
    blocklists: tuple[str, ...] = ()
    min_free_disk: int = 0
    certificate: Path | None = None
    own_authority: bool = True
    reachable: bool = False
    serving: bool = False
    down: Callable[[], Mapping[str, str]] = dict
    make_resolver: Callable[[tuple[str, ...]], Resolver] = lambda servers: Resolver(servers, deadline_s=DNS_S)

    def resolver(self) -> Resolver:
        """A new one for each look: what has been published a minute ago shall be seen."""
        return self.make_resolver(self.dns_servers)

    @property
    def guard(self) -> Guard:
        """Connections may also lead to ourselves: that is what some of them are to find out."""
        return Guard(self.allowed)
