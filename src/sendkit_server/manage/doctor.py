"""The doctor: one look at everything that decides whether mail arrives, each thing with what to do about it.

`sendkit doctor` looks when it is asked to. The server looks each hour by itself, keeps what it found, and tells what
has changed since the last time, once. Everything is asked at once, and the whole look is bounded (WHOLE_S): what has not
answered by then is unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import structlog

from sendkit_server.manage import doctor_here as here
from sendkit_server.manage import doctor_outside as outside
from sendkit_server.manage import verification
from sendkit_server.manage.dns_checks import RecordCheck
from sendkit_server.manage.doctor_domains import look_at_domain
from sendkit_server.manage.domains import Domain, list_domains
from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.model.finding import Finding, FindingStatus
from sendkit_server.model.instant import Instant
from sendkit_server.net.resolver import Resolver
from sendkit_server.store.errors import StoreError
from sendkit_server.store.files import instance_name
from sendkit_server.store.queries import findings as queries
from sendkit_server.store.queries.pages import Window
from sendkit_server.store.queries.retention import team_ids
from sendkit_server.store.store import Store

WHOLE_S = 25.0
DOMAINS_AT_ONCE = 20
DOMAINS_A_PAGE = 100
KEY = "dkim"  # the finding that tells whether our key is in DNS

Look = Coroutine[Any, Any, list[Finding]]

log = structlog.get_logger("doctor")


class DomainLook(msgspec.Struct, frozen=True):
    """What was found about one domain."""

    domain: Domain
    checks: tuple[RecordCheck, ...]
    findings: tuple[Finding, ...]


class Doctor:
    """Looks, and remembers in the store and in `findings` what it found last."""

    def __init__(self, store: Store, around: Surroundings, clock: Callable[[], Instant]) -> None:
        self.around = around
        self.findings: dict[tuple[str | None, str], Finding] = {}
        self._store = store
        self._clock = clock

    async def examine(self, domains: Sequence[Domain]) -> list[Finding]:
        """The server and these domains, now. A running server keeps what it finds."""
        resolver = self.around.resolver()
        server, looks = await asyncio.gather(self._server(resolver), self._domains(domains, resolver))
        if self.around.serving:
            await self._keep(instance_name(self._store.data_dir), server)
            for look in filter(_is_whole, looks):
                await self._keep(look.domain.row.id, look.findings)
        return [*server, *(finding for look in looks for finding in look.findings)]

    async def look(self, not_since: Instant) -> None:
        """What the server does each hour: this machine, and the domains that nobody has looked at since then."""
        await self._keep(instance_name(self._store.data_dir), await self._server(self.around.resolver()))
        for team_id in await self._store.read(team_ids):
            window = Window(DOMAINS_A_PAGE)
            while True:
                page, part = await list_domains(self._store, team_id, self.around.names, window)
                await self._look_at_page(page, not_since)
                if not part.more:
                    break
                window = Window(DOMAINS_A_PAGE, after=page[-1].row.id)

    def remember(self, findings: Sequence[Finding]) -> None:
        """As what stands now, in place of what was known of the same server or domains."""
        domains = {finding.domain for finding in findings}
        kept = {key: finding for key, finding in self.findings.items() if key[0] not in domains}
        self.findings = {**kept, **{(finding.domain, finding.key): finding for finding in findings}}

    async def _look_at_page(self, page: Sequence[Domain], not_since: Instant) -> None:
        ids = [str(domain.row.id) for domain in page]
        at = await self._store.read(lambda connection: queries.looked_at(connection, ids))
        due = [domain for domain in page if at.get(domain.row.id, 0) <= not_since]
        others = [str(domain.row.id) for domain in page if domain not in due]
        self.remember(await self._store.read(lambda connection: queries.kept(connection, others)))
        for look in filter(_is_whole, await self._domains(due, self.around.resolver())):
            domain = look.domain
            await self._keep(domain.row.id, look.findings)
            await verification.follow(
                self._store, domain, look.checks, await self._key_gone_since(domain), self.around.names, self._clock()
            )

    async def _key_gone_since(self, domain: Domain) -> Instant | None:
        scope = str(domain.row.id)
        found = await self._store.read(lambda connection: queries.standing(connection, scope, KEY))
        return found[1] if found is not None and found[0] == FindingStatus.ERROR else None

    async def _keep(self, scope: str, findings: Sequence[Finding]) -> None:
        now = self._clock()
        changes = await self._store.write_quietly(lambda connection: queries.keep(connection, scope, findings, now))
        self.remember(findings)
        for change in changes:
            _tell(change)

    async def _server(self, resolver: Resolver) -> list[Finding]:
        around, store = self.around, self._store
        wall = self._clock()
        looks: dict[str, Look] = {
            "database": here.look_at_database(store, self._clock),
            "secret_key": here.look_at_secret_key(store),
            "disk": here.look_at_disk(store, around),
            "clock": here.look_at_clock(store, self._clock),
            "queue": here.look_at_queue(store, self._clock),
            "certificate": here.look_at_certificate(around, wall),
            "hostname": outside.look_at_hostname(around, resolver),
            "reverse_dns": outside.look_at_addresses(around, resolver),
            "port_25": outside.look_at_port_25(around, resolver),
        }
        if around.direct or around.relays:
            looks["inbound"] = _one(outside.look_at_inbound(around.names.hostname, around, resolver, None))
        return await _within(WHOLE_S, looks)

    async def _domains(self, domains: Sequence[Domain], resolver: Resolver) -> list[DomainLook]:
        """Those that could be looked at in time, and the others with nothing but that."""
        turn = asyncio.Semaphore(DOMAINS_AT_ONCE)

        async def look(domain: Domain) -> DomainLook:
            async with turn:
                checks, findings = await look_at_domain(domain, self.around, resolver)
                return DomainLook(domain, checks, tuple(findings))

        tasks = [asyncio.create_task(look(domain)) for domain in domains]
        await _ended(tasks, WHOLE_S)
        return [
            task.result() if not task.cancelled() else DomainLook(domain, (), (_in_vain("records", domain.row.name),))
            for task, domain in zip(tasks, domains, strict=True)
        ]


def _is_whole(look: DomainLook) -> bool:
    return bool(look.checks)


async def _one(look: Coroutine[Any, Any, Finding]) -> list[Finding]:
    return [await look]


async def _within(seconds: float, looks: dict[str, Look]) -> list[Finding]:
    tasks = [asyncio.create_task(look, name=name) for name, look in looks.items()]
    await _ended(tasks, seconds)
    return [finding for task in tasks for finding in _outcome(task)]


def _outcome(task: asyncio.Task[list[Finding]]) -> list[Finding]:
    if task.cancelled():
        return [_in_vain(task.get_name())]
    if isinstance(error := task.exception(), StoreError):
        # The finding `database` says the same as an error.
        return [Finding(task.get_name(), FindingStatus.UNKNOWN, f"the database could not be asked: {error}")]
    return task.result()


async def _ended(tasks: Sequence[asyncio.Task[Any]], seconds: float) -> None:
    """Every task has ended: by itself, or because the time is over."""
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _in_vain(name: str, domain: str | None = None) -> Finding:
    text = f"not found out within {WHOLE_S:g} s"
    return Finding(name, FindingStatus.UNKNOWN, text, "DNS or the network is slow; look again.", domain=domain)


def _tell(change: queries.Change) -> None:
    finding = change.finding
    if change.before is None and finding.status in (FindingStatus.OK, FindingStatus.UNKNOWN):
        return
    tell = log.info if finding.status is FindingStatus.OK else log.warning
    tell(
        "doctor.changed",
        **{
            "name": finding.key,
            "domain": finding.domain,
            "from": change.before,
            "to": str(finding.status),
            "found": finding.found,
            "fix": finding.fix,
        },
    )
