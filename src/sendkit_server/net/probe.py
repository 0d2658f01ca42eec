"""Whether mail can leave this machine at all: many clouds close port 25, and nothing else tells so early."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from sendkit_server.net.connect import Failure, choose_targets, connect
from sendkit_server.net.guard import Guard
from sendkit_server.net.resolver import MAX_ADDRESSES, DnsProblem, Resolver


class ProbeResult(msgspec.Struct, frozen=True):
    """reachable: True when any host took a connection, False when all were silent, None when DNS told no host.

    lines: what was tried, for people.
    """

    reachable: bool | None
    lines: tuple[str, ...]


async def probe(
    domains: Sequence[str], resolver: Resolver, guard: Guard, port: int, *, timeout_s: float = 10.0
) -> ProbeResult:
    """Connect to a mail host of each domain, all at once, within the time; nothing is said over the connections."""
    results = await asyncio.gather(*(_probe_one(domain, resolver, guard, port, timeout_s) for domain in domains))
    known = [result for result in results if result.reachable is not None]
    return ProbeResult(
        any(result.reachable for result in known) if known else None,
        tuple(line for result in results for line in result.lines),
    )


async def _probe_one(domain: str, resolver: Resolver, guard: Guard, port: int, timeout_s: float) -> ProbeResult:
    hosts = await resolver.mail_hosts(domain)
    if isinstance(hosts, DnsProblem):
        return ProbeResult(None, (f"{domain}: {hosts.text}",))
    names = [mx.host for mx in hosts[:MAX_ADDRESSES]]
    found = [await resolver.addresses(name) for name in names]
    targets = choose_targets(names, [() if isinstance(each, DnsProblem) else each for each in found], port)
    if not targets:
        return ProbeResult(None, (f"{domain}: its mail hosts have no address",))
    failures: list[Failure] = []
    connected = await connect(asyncio.Protocol, targets, guard, deadline_s=timeout_s, on_failure=failures.append)
    if connected is None:
        lines = [f"{domain}: {each.target.host} port {port}: {each.text}" for each in failures]
        return ProbeResult(False, tuple(lines))
    return ProbeResult(True, (f"{domain}: {connected[1].host} port {port} answers",))
