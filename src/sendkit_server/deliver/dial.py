"""From a site's hosts to a connection that takes mail, or one reason why there is none.

Hosts by preference, random within equals, at most five addresses, IPv4 and IPv6 mixed. A host that cannot be
connected to, or takes the connection but no mail, gives way to the next one within the same try. When an opportunistic
handshake fails the same address is asked again in clear, because the alternative is no mail at all (RFC 7435).

What is asked of each host is decided before any is connected to: by its TLSA records, else by the site (tls_policy).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from sendkit_server.deliver.connection import Connection, Greeter, MailConnection
from sendkit_server.deliver.outcome import (
    DANE_FAILED,
    MTA_STS_FAILED,
    host_name_trouble,
    host_trouble,
    no_common_family,
    policy_trouble,
    relay_not_found,
    unreachable,
)
from sendkit_server.deliver.settings import Timeouts
from sendkit_server.deliver.tls_counts import Session, SessionResult
from sendkit_server.deliver.tls_policy import Security
from sendkit_server.model.instant import Instant
from sendkit_server.model.outcome import Exchange, Outcome
from sendkit_server.net.connect import Failure, Target, choose_targets, connect
from sendkit_server.net.dnssec import Dnssec, HostTlsa
from sendkit_server.net.guard import Guard
from sendkit_server.net.resolver import MAX_ADDRESSES, DnsProblem, DnsTrouble, Resolver
from sendkit_server.net.tls_client import TlsClient, Trouble
from sendkit_server.wire.smtp_client import Step, TlsWish, Verdict
from sendkit_server.wire.tlsa import usable

REMEMBERED_SITES = 1_000  # of those that could not be reached


class Site(msgspec.Struct, frozen=True):
    """Where a lane leads. hosts: gives the names, best first, anew for each connection.

    security: what is asked of them beside what greeter says; None of a relay, whose sessions nobody counts.  sources: our
    own addresses to connect from, at most one of each family; none: the system's choice.
    """

    name: str
    port: int
    hosts: Callable[[], list[str]]
    greeter: Greeter
    security: Security | None = None
    sources: tuple[str, ...] = ()


class NoConnection(msgspec.Struct, frozen=True):
    """A try to reach a site that came to nothing. sessions: with hosts that took the connection."""

    outcome: Outcome
    transcript: tuple[Exchange, ...]
    started_at: Instant
    milliseconds: int
    host: str | None = None
    address: str | None = None
    sessions: tuple[Session, ...] = ()


class Demand(msgspec.Struct, frozen=True):
    """What is asked of one host. tlsa: it has TLSA records; they decide if any is usable (greeter.dane)."""

    greeter: Greeter
    tlsa: bool = False


class Dials(Protocol):
    """What a lane needs: connections to its site."""

    async def dial(self, site: Site, guard: Guard) -> Connection | NoConnection:
        """A connection that takes mail."""


class Dialer:
    """Opens connections to mail servers."""

    def __init__(
        self,
        resolver: Resolver,
        tls: TlsClient,
        timeouts: Timeouts,
        clock: Callable[[], Instant],
        may_send: Callable[[], bool],
        dnssec: Dnssec | None = None,
    ) -> None:
        """dnssec: who is asked for TLSA records; None: nobody."""
        self._resolver = resolver
        self._tls = tls
        self._timeouts = timeouts
        self._clock = clock
        self._may_send = may_send
        self._dnssec = dnssec
        self._in_vain: OrderedDict[str, int] = OrderedDict()  # tries in a row that came to nothing, by site

    async def dial(self, site: Site, guard: Guard) -> MailConnection | NoConnection:
        """A connection that takes mail."""
        in_vain = self._in_vain.get(site.name, 0)
        found = await _Try(self, site, guard, in_vain).run()
        if isinstance(found, NoConnection):
            self._in_vain[site.name] = in_vain + 1
            self._in_vain.move_to_end(site.name)
            if len(self._in_vain) > REMEMBERED_SITES:
                self._in_vain.popitem(last=False)
        elif in_vain:
            self._in_vain.pop(site.name, None)
        return found

    def connection(self) -> MailConnection:
        """A new one, not connected yet."""
        return MailConnection(self._clock, self._timeouts, self._may_send)

    async def demand(self, site: Site, host: str) -> Demand | Outcome:
        """What a host must show, or why it may not have the mail."""
        security = site.security or Security()
        found = None
        if security.authentic and self._dnssec is not None:
            found = await self._dnssec.tlsa(host, site.port)
        if isinstance(found, DnsProblem):
            return policy_trouble(DANE_FAILED, host, found.text, enhanced="4.7.0")
        greeter = site.greeter
        if found is not None:
            greeter = msgspec.structs.replace(greeter, wish=TlsWish.REQUIRED)
            if records := usable(found.records):
                dane = HostTlsa(records, found.names)
                return Demand(msgspec.structs.replace(greeter, verified=False, dane=dane), tlsa=True)
        if security.allowed is not None and host not in security.allowed:
            return policy_trouble(MTA_STS_FAILED, host, "the policy does not name it", enhanced="4.7.0")
        return Demand(greeter, tlsa=found is not None)

    async def addresses(self, host: str) -> tuple[str, ...] | DnsProblem:
        """A host's addresses."""
        return await self._resolver.host_addresses(host)

    @property
    def tls(self) -> TlsClient:
        """The contexts."""
        return self._tls

    @property
    def connect_s(self) -> float:
        """How long connecting may take."""
        return self._timeouts.connect_s

    def now(self) -> Instant:
        """The time."""
        return self._clock()


class _Try:
    """One call of dial()."""

    def __init__(self, dialer: Dialer, site: Site, guard: Guard, in_vain: int) -> None:
        self._dialer = dialer
        self._turn = in_vain
        self._site = site
        self._guard = guard
        self._started_at = dialer.now()
        self._log: list[Exchange] = []
        self._demands: dict[str, Demand] = {}
        self._sessions: list[Session] = []
        # For this connection only: a handshake that failed once must not cost the next one its encryption.
        self._in_clear: set[str] = set()
        self._outcome: Outcome | None = None
        self._host: Target | None = None

    async def run(self) -> MailConnection | NoConnection:
        targets = await self._targets()
        while targets:
            failed: list[Failure] = []
            found = await connect(
                self._dialer.connection,
                targets,
                self._guard,
                sources=self._site.sources,
                deadline_s=self._dialer.connect_s,
                on_failure=failed.append,
            )
            for failure in failed:
                self._not_connected(failure)
            if found is None:
                break
            connection, target = found
            if await self._is_open(connection, target):
                return connection
            left_out = {failure.target for failure in failed} | {target}
            targets = [t for t in targets if t not in left_out]
            if connection.handshake_failed and self._may_go_in_clear(target.host):
                self._in_clear.add(target.host)
                self._note(f"{target.host} is asked again in clear")
                targets.insert(0, target)
        return self._came_to_nothing()

    def _came_to_nothing(self) -> NoConnection:
        assert self._outcome is not None
        return NoConnection(
            self._outcome,
            tuple(self._log),
            self._started_at,
            self._dialer.now() - self._started_at,
            self._host.host if self._host else None,
            self._host.address if self._host else None,
            tuple(self._sessions),
        )

    def _note(self, text: str) -> None:
        self._log.append(Exchange(self._dialer.now() - self._started_at, "*", text))

    def _not_connected(self, failure: Failure) -> None:
        at = f"{failure.target.host} [{failure.target.address}]:{failure.target.port}"
        self._note(f"not connected to {at}: {failure.text}")
        # What a host said weighs more than that another could not be reached.
        if self._outcome is None or self._host is None:
            self._outcome = unreachable(f"{at}: {failure.text}", refused_by_us=failure.refused_by_us)

    def _may_go_in_clear(self, host: str) -> bool:
        return host not in self._in_clear and self._demands[host].greeter.wish is TlsWish.OFFERED

    async def _is_open(self, connection: MailConnection, target: Target) -> bool:
        demand = self._demands[target.host]
        greeter = demand.greeter
        again = target.host in self._in_clear
        if again:
            greeter = msgspec.structs.replace(greeter, wish=TlsWish.NEVER)
        verdict = await connection.open(target, greeter, self._dialer.tls)
        session = session_of(connection, target.host, verdict, demand)
        if self._site.security is not None and session is not None and not again:
            self._sessions.append(session)
        if verdict is None:
            connection.before = tuple(self._log)
            connection.sessions = tuple(self._sessions)
            return True
        self._host = target
        self._outcome = self._refused(connection, target.host, verdict, demand)
        self._log.extend(connection.transcript)
        return False

    def _refused(self, connection: MailConnection, host: str, verdict: Verdict, demand: Demand) -> Outcome:
        security = self._site.security or Security()
        by_dane = demand.greeter.dane is not None or (demand.tlsa and not security.verified)
        if verdict.step is not Step.STARTTLS or not (by_dane or security.allowed is not None):
            return host_trouble(verdict, host)
        reason = DANE_FAILED if by_dane else MTA_STS_FAILED
        if connection.certificate is not None:
            return policy_trouble(reason, host, connection.certificate.text)
        said = f"it said {verdict.reply.code} {verdict.reply.text}" if verdict.reply is not None else verdict.text
        return policy_trouble(reason, host, said, enhanced="4.7.4")

    async def _targets(self) -> list[Target]:
        """Where to connect to. Empty: nowhere, and the outcome says why."""
        hosts = await self._permitted(self._site.hosts())
        found = await asyncio.gather(*(self._dialer.addresses(host) for host in hosts))
        known = [() if isinstance(each, DnsProblem) else each for each in found]
        sources = self._site.sources
        targets = choose_targets(hosts, [reachable_from(sources, each) for each in known], self._site.port)
        if not targets and hosts:
            problems = [each for each in found if isinstance(each, DnsProblem)]
            self._outcome = no_common_family(sources) if any(known) else self._no_address(problems)
            self._note(self._outcome.text)
        return targets

    def _no_address(self, problems: Sequence[DnsProblem]) -> Outcome:
        if self._site.security is not None:
            return _no_address(problems)
        known = all(each.trouble is not DnsTrouble.UNAVAILABLE for each in problems)
        return relay_not_found(self._site.name, "; ".join(each.text for each in problems), is_known=known)

    async def _permitted(self, hosts: list[str]) -> list[str]:
        security = self._site.security or Security()
        if security.allowed is not None and not security.authentic:
            # However many others DNS names before them: those that the policy names are among the few that are tried.
            allowed = security.allowed
            hosts = sorted(hosts, key=lambda host: host not in allowed)
        hosts = of_this_turn(hosts, self._turn)
        for host, demand in zip(hosts, await self._asked(hosts), strict=True):
            if isinstance(demand, Demand):
                self._demands[host] = demand
                continue
            self._outcome = demand
            self._note(demand.text)
            dane = demand.reason == DANE_FAILED
            result = SessionResult.DNSSEC_INVALID if dane else Trouble.VALIDATION
            self._sessions.append(Session(host, result, dane=dane))
        return list(self._demands)

    async def _asked(self, hosts: Sequence[str]) -> list[Demand | Outcome]:
        if self._site.security is None or self._site.security == Security():
            return [Demand(self._site.greeter)] * len(hosts)
        return await asyncio.gather(*(self._dialer.demand(self._site, host) for host in hosts))


def of_this_turn(hosts: list[str], turn: int) -> list[str]:
    """The few that one try asks: the best one, and of the others in each turn the next ones, so that dead hosts do not hide
    for ever what stands behind them."""
    if len(hosts) <= MAX_ADDRESSES:
        return hosts
    best, *others = hosts
    first = turn * (MAX_ADDRESSES - 1) % len(others)
    return [best, *(others[first:] + others[:first])[: MAX_ADDRESSES - 1]]


def session_of(connection: MailConnection, host: str, verdict: Verdict | None, demand: Demand) -> Session | None:
    """How a connection was secured, for the counts; None when it ended before that was the question.

    verdict: why it is of no use, None when it takes mail.
    """
    encrypted = connection.tls is not None
    result: SessionResult | Trouble
    if connection.certificate is not None:
        result = connection.certificate.trouble
    elif encrypted:
        result = SessionResult.SUCCESS
    elif verdict is None or verdict.step is Step.STARTTLS:
        result = SessionResult.STARTTLS_NOT_SUPPORTED
    else:
        return None
    if encrypted and demand.tlsa and demand.greeter.dane is None:
        result = SessionResult.TLSA_INVALID
    return Session(host, result, encrypted, demand.tlsa)


def _no_address(problems: Sequence[DnsProblem]) -> Outcome:
    unavailable = [each for each in problems if each.trouble is DnsTrouble.UNAVAILABLE]
    if unavailable:
        return msgspec.structs.replace(
            host_name_trouble(unavailable[0].text), reason=DnsTrouble.UNAVAILABLE.value, enhanced="4.4.3"
        )
    return host_name_trouble("; ".join(each.text for each in problems))


def reachable_from(sources: Sequence[str], addresses: Sequence[str]) -> Sequence[str]:
    """Those addresses that one of our own is of the same family as."""
    if not sources:
        return addresses
    families = {":" in source for source in sources}
    return [address for address in addresses if (":" in address) in families]
