"""A deliverer with everything around it: a store in memory, DNS, sinks, and a clock that tests move."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any, cast

import msgspec
from sinks import PATIENT_S, DnsServer
from structlog.typing import FilteringBoundLogger

from sendkit_server.deliver import Deliverer, DeliverySettings, LaneView, Timeouts
from sendkit_server.deliver.room import Bounds, Load
from sendkit_server.deliver.tls_policy import TlsPolicies
from sendkit_server.deliver.warm_up import Sent
from sendkit_server.model.address import Mailbox, parse_address
from sendkit_server.model.mail import Content, Door, Message, PartsContent, Priority, Recipient, Role
from sendkit_server.model.retry import RetryPolicy
from sendkit_server.model.status import UNSETTLED
from sendkit_server.net.resolver import Resolver
from sendkit_server.store.values import Completion, Job, RecipientUpdate
from sendkit_server.wire.dkim import DkimKey

LOOPBACK = (ip_network("127.0.0.0/8"),)
FAST = Timeouts(connect_s=2.0, opening_s=2.0, handshake_s=2.0, envelope_s=2.0, message_s=2.0, idle_s=1.0)
_numbers = itertools.count(1)


class MemoryStore:
    """What the real store promises delivery, without a disk."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.completions: list[Completion] = []
        self.recipients: dict[tuple[str, int], tuple[Job, Recipient, RecipientUpdate | None]] = {}
        self.keys: tuple[DkimKey, ...] = ()
        self.warm_up: Counter[Sent] = Counter()
        self.fails = 0  # how many writes raise before one succeeds
        self.claims: list[frozenset[str]] = []
        self.bounds: list[Bounds] = []
        self._clock = clock
        self._unowned: dict[tuple[str, int], int] = {}
        self._changed = asyncio.Event()

    def add(self, job: Job, *, unowned_from: int | None = None) -> Job:
        for recipient in job.recipients:
            key = (job.message.id, recipient.n)
            self.recipients[key] = (job, recipient, None)
            if unowned_from is not None:
                self._unowned[key] = unowned_from
        return job

    async def claim(self, *, exclude_sites: frozenset[str], urgent_only: frozenset[str], bounds: Bounds) -> list[Job]:
        self.claims.append(exclude_sites)
        self.bounds.append(bounds)
        found: dict[str, list[Recipient]] = {}
        at_site: Counter[str] = Counter()
        in_all, jobs_at_site = 0, Counter[str]()
        for key, due in sorted(self._unowned.items(), key=lambda one: self.recipients[one[0]][0].message.priority):
            job, recipient, update = self.recipients[key]
            least = Priority.URGENT if job.site in urgent_only else bounds.least
            if due > self._clock() or job.site in exclude_sites or job.message.priority > least:
                continue
            if job.message.id not in found:
                if len(found) >= bounds.limit or in_all >= bounds.room_bytes:
                    break
                if jobs_at_site[job.site] >= bounds.per_site or at_site[job.site] >= bounds.site_bytes:
                    continue
                jobs_at_site[job.site] += 1
                at_site[job.site] += job.size_bytes
                in_all += job.size_bytes
            if update is not None:
                recipient = msgspec.structs.replace(recipient, status=update.status, attempts=update.attempts)
                self.recipients[key] = (job, recipient, update)
            del self._unowned[key]
            found.setdefault(job.message.id, []).append(recipient)
        return [
            msgspec.structs.replace(self.recipients[(message, group[0].n)][0], recipients=tuple(group), content=None)
            for message, group in found.items()
        ]

    async def content(self, team_id: int, content_id: str) -> Content:
        return TEXT

    async def add_warm_up(self, sent: Mapping[Sent, int], day: int) -> dict[Sent, int]:
        self.warm_up.update(sent)
        return {key: count for key, count in self.warm_up.items() if key[2] == day}

    async def signing_keys(self, team_id: int, domain: str) -> tuple[DkimKey, ...]:
        return self.keys

    async def complete(self, completion: Completion) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("the disk is full")
        self.completions.append(completion)
        for update in completion.updates:
            key = (completion.job.message.id, update.n)
            job, recipient, _ = self.recipients[key]
            self.recipients[key] = (job, recipient, update)
            if update.next_attempt_at is not None:
                self._unowned[key] = update.next_attempt_at
        self._changed.set()

    async def next_due(self) -> int | None:
        return min(self._unowned.values(), default=None)

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for what completions bring about."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_settled(self) -> None:
        await self.until(
            lambda: all(u is not None and u.status not in UNSETTLED for _, _, u in self.recipients.values())
        )

    def waits(self, job: Job, n: int = 0) -> bool:
        """Whether nobody owns it."""
        return (job.message.id, n) in self._unowned

    def update(self, job: Job, n: int = 0) -> RecipientUpdate:
        found = self.recipients[(job.message.id, n)][2]
        assert found is not None
        return found

    def events(self, job: Job, n: int = 0) -> list[str]:
        return [
            str(event.type)
            for completion in self.completions
            if completion.job.message.id == job.message.id
            for event in completion.events
            if event.n == n
        ]


TEXT = PartsContent("Hello", None, "Hello there.\r\n.a dot at the start\r\n")


class Log:
    """Keeps what is logged. faults: what a test did not foresee fails it."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.faults: list[tuple[str, BaseException]] = []

    def bind(self) -> Log:
        return self

    def is_enabled_for(self, level: int) -> bool:
        return True

    def info(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    def error(self, event: str, *, exc_info: BaseException, **fields: object) -> None:
        self.faults.append((event, exc_info))


class SuppressedList:
    """Addresses that are not sent to. fails: how many questions raise before one is answered."""

    def __init__(self) -> None:
        self.addresses: set[str] = set()
        self.fails = 0

    def clear(self, team_id: int, mailboxes: Iterable[Mailbox]) -> bool:
        return not self.fails and not any(one.matching in self.addresses for one in mailboxes)

    async def among(self, team_id: int, mailboxes: Iterable[Mailbox]) -> dict[str, str]:
        if self.fails:
            self.fails -= 1
            raise OSError("the database is away")
        return {one.matching: "manual" for one in mailboxes if one.matching in self.addresses}


class World:
    """Everything at hand. now: the clock, in milliseconds."""

    def __init__(
        self,
        dns: DnsServer,
        settings: DeliverySettings,
        pool: ThreadPoolExecutor,
        policies: Callable[[World], TlsPolicies] | None = None,
    ) -> None:
        self.now = 1_800_000_000_000
        self.dns = dns
        self.log = Log()
        self.store = MemoryStore(lambda: self.now)
        self.suppressed = SuppressedList()
        self.resolver = Resolver([dns.address], deadline_s=PATIENT_S)
        self.deliverer = Deliverer(
            settings,
            self.store,
            self.resolver,
            pool,
            return_path=lambda message, n: f"bounce-{n}@out.test",
            clock=lambda: self.now,
            random=lambda: 0.5,
            log=cast("FilteringBoundLogger", self.log),
            suppressed=self.suppressed,
            tls=policies(self) if policies else None,
        )

    def job(
        self, *addresses: str, content: Content = TEXT, capture: bool = False, size_bytes: int = 1000, **wishes: Any
    ) -> Job:
        """A job for recipients at one domain, known to the store. size_bytes: what it counts as.  wishes: as Message has them."""
        number = next(_numbers)
        recipients = tuple(Recipient(n, parse_address(address), Role.TO) for n, address in enumerate(addresses))
        message = Message(
            id=f"msg_{number:026d}",
            team_id=1,
            content_id=f"cnt_{number}",
            door=Door.HTTP,
            key_id="key_1",
            from_=parse_address("shop@here.test"),
            to=tuple(recipient.mailbox for recipient in recipients),
            cc=(),
            subject="Hello",
            message_id=f"<{number}@here.test>",
            created_at=self.now,
            capture=capture,
            **wishes,
        )
        return self.store.add(Job(message, recipients, recipients[0].mailbox.domain, size_bytes, 1, content))

    def send(self, *addresses: str, **more: Any) -> Job:
        """Make a job and offer it."""
        job = self.job(*addresses, **more)
        self.deliverer.offer(job)
        return job

    def wait_in_store(self, *addresses: str, **more: Any) -> Job:
        """Make a job that is due and nobody's."""
        return self.store.add(self.job(*addresses, **more), unowned_from=self.now)

    async def until_lanes(self, so: Callable[[LaneView], bool]) -> None:
        """Wait until there are lanes, and each is so."""
        async with asyncio.timeout(30):
            while not (found := self.deliverer.lanes()) or not all(so(lane) for lane in found):
                await asyncio.sleep(0.01)

    def loads(self) -> list[Load]:
        """All that the deliverer counts."""
        room = self.deliverer._room
        return [room.in_memory, room.promised, *(lane.in_memory for lane in self.deliverer._lanes)]

    async def until_nothing_is_left(self, *more: Load) -> None:
        """Wait until nothing is in memory; then every count says so. more: loads of lanes that may be gone."""
        await self.deliverer._ledger.until_empty()
        for load in (*self.loads(), *more):
            assert (load.jobs, load.size_bytes, load.urgent_jobs, load.urgent_bytes) == (0, 0, 0, 0)

    def move_on(self, seconds: float) -> None:
        """Let time pass, and have the deliverer look what is due."""
        self.now += round(seconds * 1000)
        self.deliverer.wake()


@asynccontextmanager
async def world(
    zone: dict[str, object],
    mx_port: int = 25,
    *,
    timeouts: Timeouts = FAST,
    authentic: Iterable[str] = (),
    policies: Callable[[World], TlsPolicies] | None = None,
    **settings: object,
) -> AsyncIterator[World]:
    """A running deliverer. authentic: as in DnsServer.  policies: makes what it knows of TLS, from its resolver and clock.
    Further settings as in DeliverySettings."""
    arguments: dict[str, object] = {
        "hostname": "out.test",
        "mx_port": mx_port,
        "allow_private": LOOPBACK,
        "dkim_required": False,
        "timeouts": timeouts,
        "retry": RetryPolicy((60_000, 300_000), 3_600_000),
        **settings,
    }
    with ThreadPoolExecutor(2) as pool:
        async with DnsServer(zone, authentic=authentic) as dns:  # type: ignore[arg-type]
            made = World(dns, DeliverySettings(**arguments), pool, policies)  # type: ignore[arg-type]
            running = asyncio.create_task(made.deliverer.run())
            try:
                yield made
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                for _, fault in made.log.faults:
                    raise fault


def mx(address: str = "127.0.0.1", domain: str = "there.test") -> dict[str, object]:
    """A zone with one domain and one mail host."""
    return {domain: {"MX": [f"10 mx.{domain}."]}, f"mx.{domain}": {"A": [address]}}


def said(attempt_texts: Sequence[str], text: str) -> bool:
    """Whether a transcript holds a text."""
    return any(text in line for line in attempt_texts)
