"""From a site's hosts to a connection that takes mail, or one reason why there is none.

Hosts by preference, random within equals, at most five addresses, IPv4 and IPv6 mixed. A host that cannot be
connected to, or takes the connection but no mail, gives way to the next one within the same try. When an opportunistic
handshake fails the same address is asked again in clear, because the alternative is no mail at all (RFC 7435).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

import msgspec

from sendkit_server.deliver.connection import Greeter, MailConnection
from sendkit_server.deliver.outcome import host_name_trouble, host_trouble, unreachable
from sendkit_server.deliver.settings import Timeouts
from sendkit_server.model.instant import Instant
from sendkit_server.model.outcome import Exchange, Outcome
from sendkit_server.net.connect import Failure, Target, choose_targets, connect
from sendkit_server.net.guard import Guard
from sendkit_server.net.resolver import MAX_ADDRESSES, DnsProblem, DnsTrouble, Resolver
from sendkit_server.net.tls_client import TlsClient
from sendkit_server.wire.smtp_client import TlsWish


class Site(msgspec.Struct, frozen=True):
    """Where a lane leads. hosts: gives the names, best first, anew for each connection."""

    name: str
    port: int
    hosts: Callable[[], list[str]]
    greeter: Greeter


class NoConnection(msgspec.Struct, frozen=True):
    """A try to reach a site that came to nothing."""

    outcome: Outcome
    transcript: tuple[Exchange, ...]
    started_at: Instant
    milliseconds: int
    host: str | None = None
    address: str | None = None


class Dialer:
    """Opens connections."""

    def __init__(
        self,
        resolver: Resolver,
        tls: TlsClient,
        timeouts: Timeouts,
        clock: Callable[[], Instant],
        may_send: Callable[[], bool],
    ) -> None:
        self._resolver = resolver
        self._tls = tls
        self._timeouts = timeouts
        self._clock = clock
        self._may_send = may_send

    async def dial(self, site: Site, guard: Guard) -> MailConnection | NoConnection:
        """A connection that takes mail."""
        started_at = self._clock()
        log: list[Exchange] = []

        def note(text: str) -> None:
            log.append(Exchange(self._clock() - started_at, "*", text))

        targets = await self._targets(site)
        if isinstance(targets, Outcome):
            note(targets.text)
            return NoConnection(targets, tuple(log), started_at, self._clock() - started_at)
        # For this connection only: a handshake that failed once must not cost the next one its encryption.
        in_clear: set[str] = set()
        outcome: Outcome | None = None
        host: Target | None = None
        while targets:
            failed: list[Failure] = []
            found = await connect(
                lambda: MailConnection(self._clock, self._timeouts, self._may_send),
                targets,
                guard,
                deadline_s=self._timeouts.connect_s,
                on_failure=failed.append,
            )
            for failure in failed:
                at = f"{failure.target.host} [{failure.target.address}]:{failure.target.port}"
                note(f"not connected to {at}: {failure.text}")
                # What a host said weighs more than that another could not be reached.
                if outcome is None or host is None:
                    outcome = unreachable(f"{at}: {failure.text}", refused_by_us=failure.refused_by_us)
            if found is None:
                break
            connection, target = found
            trouble = await self._open(connection, target, site.greeter, in_clear)
            if trouble is None:
                connection.before = tuple(log)
                return connection
            host, outcome = target, trouble
            log.extend(connection.transcript)
            if connection.handshake_failed and target.host not in in_clear and not site.greeter.verified:
                in_clear.add(target.host)
                note(f"{target.host} is asked again in clear")
                tried = {failure.target for failure in failed}
                targets = [target, *(t for t in targets if t not in tried and t != target)]
                continue
            tried = {failure.target for failure in failed} | {target}
            targets = [t for t in targets if t not in tried]
        assert outcome is not None
        return NoConnection(
            outcome,
            tuple(log),
            started_at,
            self._clock() - started_at,
            host.host if host else None,
            host.address if host else None,
        )

    async def _open(
        self, connection: MailConnection, target: Target, greeter: Greeter, in_clear: set[str]
    ) -> Outcome | None:
        if target.host in in_clear and greeter.wish is TlsWish.OFFERED:
            greeter = msgspec.structs.replace(greeter, wish=TlsWish.NEVER)
        verdict = await connection.open(target, greeter, self._tls)
        return None if verdict is None else host_trouble(verdict, target.host)

    async def _targets(self, site: Site) -> list[Target] | Outcome:
        hosts = site.hosts()
        found = await asyncio.gather(*(self._addresses(host) for host in hosts[:MAX_ADDRESSES]))
        targets = choose_targets(hosts, [() if isinstance(each, DnsProblem) else each for each in found], site.port)
        if targets:
            return targets
        problems = [each for each in found if isinstance(each, DnsProblem)]
        unavailable = [each for each in problems if each.trouble is DnsTrouble.UNAVAILABLE]
        if unavailable:
            return msgspec.structs.replace(
                host_name_trouble(unavailable[0].text), reason=DnsTrouble.UNAVAILABLE.value, enhanced="4.4.3"
            )
        return host_name_trouble("; ".join(each.text for each in problems))

    async def _addresses(self, host: str) -> tuple[str, ...] | DnsProblem:
        if host == "localhost":
            return ("127.0.0.1", "::1")  # RFC 6761 6.3: not a question for DNS
        try:
            return (str(ipaddress.ip_address(host)),)
        except ValueError:
            return await self._resolver.addresses(host)
