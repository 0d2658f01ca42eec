"""Delivery as a whole: what is due is claimed, led into lanes by route and site, and its outcome written down.

A job is in memory only while there is room; the rest waits in the store, and the claim loop fetches it when it is due
and its lane can take it. A site that is paused or full is left out of the claim, so it can hold up nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from ipaddress import ip_network
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from sendkit_server.deliver.connection import Greeter
from sendkit_server.deliver.desk import BUSY_DOORS, Desk, Parcel, Sources
from sendkit_server.deliver.dial import Dialer, NoConnection, Site
from sendkit_server.deliver.lane import Lane
from sendkit_server.deliver.ledger import Ledger, Writer
from sendkit_server.deliver.office import LaneView, Tried
from sendkit_server.deliver.outcome import CAPTURED, EXPIRED, LOOPS_BACK, domain_trouble
from sendkit_server.deliver.ownership import Alone, Ownership, Share
from sendkit_server.deliver.pace import Limits
from sendkit_server.deliver.receivers import Receivers
from sendkit_server.deliver.route import Capture, Direct, Route, Smarthost
from sendkit_server.deliver.settings import DeliverySettings
from sendkit_server.deliver.stops import Nobody, Stops, SuppressedAddresses
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Message, Priority
from sendkit_server.model.outcome import Attempt, Exchange, Outcome, Result
from sendkit_server.net.guard import Guard
from sendkit_server.net.probe import ProbeResult, probe
from sendkit_server.net.resolver import DnsProblem, DnsTrouble, MailHosts, Resolver, in_order
from sendkit_server.net.tls_client import TlsClient
from sendkit_server.store.errors import StoreUnavailable
from sendkit_server.store.values import Job
from sendkit_server.wire.smtp_client import TlsWish

CLAIM_SIZE = 500
IDLE_LOOK_S = 30.0  # even when nothing is due: another node may have died
LOOK_GAP_S = 0.02  # between two looks, however often it is woken
BLOCKED_LOOK_S = 1.0  # something is due that cannot be taken now
SUSPENDED_LOOK_S = 0.2  # the lease does not hold
KNOWN_DOMAINS = 20_000
SHUTTING_DOWN = "The server is restarting."
ELSEWHERE = "It is handed to another node of this installation."

_CAPTURE = Capture()
_ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


class DeliveryStore(Sources, Writer, Protocol):
    """What delivery needs of the store, beside contents, keys and completions."""

    async def claim(
        self, *, exclude_sites: frozenset[str], urgent_only: frozenset[str], per_site: int, limit: int
    ) -> list[Job]:
        """Jobs that are due, now owned by this node. urgent_only: sites of which only urgent mail is wanted now."""

    async def next_due(self) -> Instant | None:
        """The earliest next_attempt_at of recipients without an owner; it may be past."""


class Deliverer:
    """Everything is handed in. offer(), wake() and has_room() belong to the loop that runs run()."""

    def __init__(
        self,
        settings: DeliverySettings,
        store: DeliveryStore,
        resolver: Resolver,
        compose_pool: Executor,
        *,
        return_path: Callable[[Message, Job], str],
        clock: Callable[[], Instant],
        random: Callable[[], float],
        log: FilteringBoundLogger,
        on_attempt: Callable[[Job, Attempt], None] | None = None,
        doors: Callable[[], int] = lambda: 0,
        ownership: Ownership | None = None,
        suppressed: SuppressedAddresses | None = None,
        idle_look_s: float = IDLE_LOOK_S,
    ) -> None:
        """idle_look_s: how often the store is looked at when nothing is due and nobody said so."""
        self._ownership: Ownership = ownership or Alone()
        self._idle_look_s = idle_look_s
        self._share: Share | None = Share()
        self._settings = settings
        self._store = store
        self._resolver = resolver
        self._return_path = return_path
        self._clock = clock
        self._random = random
        # Bound once: a lazy logger would put itself together anew for each line.
        self._doors = doors
        self._log = log = log.bind()
        self._ledger = Ledger(
            settings,
            store,
            clock=clock,
            random=random,
            log=log,
            start=self.start,
            planned=self._look_by,
            eased=self.wake,
            on_attempt=on_attempt,
        )
        self._stops = Stops(
            suppressed or Nobody(),
            self._ledger,
            clock=clock,
            start=self.start,
            fault=self.fault,
            go_on=self._dispatch,
        )
        self._default_limits = Limits(settings.connections_per_site, settings.messages_per_connection)
        self._receivers = Receivers(settings.receivers, self._default_limits)
        self._guard = Guard(settings.allow_private, settings.own)
        # The operator has named the relay, so it may be anywhere but here.
        self._relay_guard = Guard(_ANYWHERE, settings.own)
        self._desk = Desk(
            store,
            compose_pool,
            settings.hostname,
            workers=settings.composers,
            dkim_required=self._needs_signature,
            start=self.start,
            fault=self.fault,
            doors=doors,
        )
        self._dialer = Dialer(resolver, TlsClient(settings.ca_file), settings.timeouts, clock, self._ownership.holds)
        self._lanes: dict[object, Lane] = {}
        self._lane_of: dict[str, tuple[MailHosts, Lane]] = {}  # of mail that takes whatever TLS it gets
        self._resolving: dict[str, list[Parcel]] = {}
        self._foreseen: dict[tuple[str, str], Parcel] = {}  # not offered yet, by message and site
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0
        self._wanting: dict[Lane, None] = {}  # in the order in which they asked
        self._woken = asyncio.Event()
        self._planned_look: Instant | None = None
        self._draining = False
        self._claiming: asyncio.Task[None] | None = None

    # The public face.

    def has_room(self, site: str, size_bytes: int, priority: Priority = Priority.NORMAL) -> bool:
        """Whether one more job for this domain can go straight to delivery; cheap, for each accepted message.

        Urgent mail is let into a lane that is full for the rest.
        """
        urgent = priority is Priority.URGENT
        if self._draining or not self._ledger.has_room(size_bytes, urgent=urgent) or not self._may_take():
            return False
        if site in self._stops.held:
            return False
        if site in self._resolving:
            return urgent or len(self._resolving[site]) < self._ledger.lane_limit
        known = self._lane_of.get(site)
        if known is None:
            return True
        return not known[1].is_elsewhere and (urgent or not known[1].is_full)

    def foresee(self, job: Job) -> None:
        """A job that will be offered once it is durable: it is composed meanwhile, which hides most of that time."""
        if self._draining or job.message.capture or self._doors() >= BUSY_DOORS:
            return
        parcel = self._foreseen[job.message.id, job.site] = Parcel(job)
        self._desk.add(parcel, self._prepared)

    def forget(self, job: Job) -> None:
        """A foreseen job that never became durable."""
        self._foreseen.pop((job.message.id, job.site), None)

    def offer(self, job: Job) -> None:
        """Take a job that this node already owns; one that its last incarnation owned is left to whoever claims it."""
        parcel = self._foreseen.pop((job.message.id, job.site), None)
        if job.owner != self._ownership.owner:
            return
        self._ledger.take_in(job)
        if parcel is None:
            self._dispatch(Parcel(job))
        elif parcel.prepared:
            self._go_on(parcel)
        else:
            parcel.offered = True

    def _prepared(self, parcel: Parcel, refused: Outcome | None) -> None:
        parcel.prepared = True
        if parcel.offered:
            self._go_on(parcel)

    def _go_on(self, parcel: Parcel) -> None:
        # What could not be composed early takes the usual way, which says why.
        self._dispatch(parcel if parcel.composed is not None else Parcel(parcel.jobs[0]))

    def wake(self) -> None:
        """Something without an owner may be due."""
        self._woken.set()

    async def run(self) -> None:
        """Claim and deliver until cancelled."""
        self._claiming = asyncio.current_task()
        try:
            await self._claim_for_ever()
        finally:
            if not self._draining:
                await self._stop()

    def set_share(self, share: Share | None) -> None:
        """What is this node's part of every site's connections from now on; None: nothing yet."""
        if share == self._share:
            return
        self._share = share
        for lane in list(self._lanes.values()):
            lane.share_changed()
        self.wake()

    def resume(self) -> None:
        """The lease holds again: what was held up goes on."""
        self._let_open()
        self.wake()

    def set_held(self, held: frozenset[str]) -> None:
        """The sites, and ids of messages, that nothing is sent of from now on: what waits here goes back to the store."""
        before, self._stops.held = self._stops.held, held
        if held:
            for lane in list(self._lanes.values()):
                for parcel in lane.withdraw(self._stops.is_held):
                    self._dispatch(parcel)
        if before - held:
            self.wake()

    def lift(self, site: str) -> None:
        """Ask a site again now, though it is paused; "": every site."""
        hosts = self._resolver.known_mail_hosts(site) if site else None
        for key, lane in list(self._lanes.items()):
            if not site or isinstance(lane.route, Smarthost) or site in lane.domains or _leads_to(key, hosts):
                lane.lift()
        self.wake()

    def drop(self) -> None:
        """Forget everything in memory, and send nothing more of it: it is not this node's own any more."""
        for lane in self._lanes.values():
            for parcel in lane.release():
                self._ledger.drop(parcel)
            lane.abort()
        for parcels in self._resolving.values():
            for parcel in parcels:
                self._ledger.drop(parcel)
        # Whoever is still being composed or resolved comes back to a list that nobody reads, or to a closed lane.
        self._resolving.clear()
        self._foreseen.clear()
        self._lanes.clear()
        self._lane_of.clear()
        self._wanting.clear()

    async def drain(self, seconds: float) -> None:
        """Take nothing new, hand back what waits, let what is on the wire end within the time, then cut it."""
        self._draining = True
        if self._claiming is not None:
            self._claiming.cancel()
        waiting = [parcel for lane in self._lanes.values() for parcel in lane.release()]
        waiting += [parcel for parcels in self._resolving.values() for parcel in parcels]
        self._resolving.clear()
        for parcel in waiting:
            self._ledger.hand_back(parcel, SHUTTING_DOWN)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ledger.until_empty()
        for lane in self._lanes.values():
            lane.abort()
        # What was cut has an outcome now, too, and deserves to be written.
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._ledger.until_empty()
        await self._stop()

    def lanes(self) -> list[LaneView]:
        """Each lane there is: at work, idle for a short while, or paused."""
        return [lane.view() for lane in self._lanes.values()]

    @property
    def delivered(self) -> int:
        """Recipients whose server took the mail, since the start."""
        return self._ledger.delivered

    @property
    def any_delivery(self) -> bool:
        """Whether any mail has left this server since its start."""
        return self._ledger.has_left

    async def probe(self, domains: Sequence[str], timeout_s: float = 10.0) -> ProbeResult:
        """Whether outgoing mail can connect at all."""
        return await probe(domains, self._resolver, self._guard, self._settings.mx_port, timeout_s=timeout_s)

    # Claiming.

    async def _claim_for_ever(self) -> None:
        while True:
            self._woken.clear()
            # What is planned from here on may not be in the answers that follow: each wakes, whenever the last look was for.
            self._planned_look = None
            try:
                found = await self._claim_once()
                pause_s = 0.0 if found else await self._until_next_look()
            except Exception as error:
                self.fault("delivery.claim_failed", error)
                pause_s = BLOCKED_LOOK_S
            if pause_s > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._woken.wait()
                # While its lane is full each accepted mail wakes this loop, and a look costs more than a mail's delivery.
                await asyncio.sleep(LOOK_GAP_S)

    async def _claim_once(self) -> bool:
        self._forget_lanes()
        if self._ledger.is_tight or not self._may_take():
            return False
        settings = self._settings
        closed = self._stops.held.union(self._resolving)
        full: set[str] = set()
        for lane in self._lanes.values():
            # A paused lane with a route behind it is passed by, so it holds up nothing.
            if lane.is_elsewhere or (lane.is_paused() and lane.route == settings.routes[-1]):
                closed |= lane.domains
            elif lane.turns_away():
                full.update(lane.domains)
        jobs = await self._store.claim(
            exclude_sites=closed,
            urgent_only=frozenset(full),
            per_site=self._ledger.lane_limit,
            limit=min(CLAIM_SIZE, settings.room_jobs // 10 or 1),
        )
        for job in jobs:
            self.offer(job)
        return bool(jobs)

    async def _until_next_look(self) -> float:
        due = await self._store.next_due()
        now = self._clock()
        # A due time that is past means: excluded, or no room. Looking again at once would spin.
        pause_s = self._idle_look_s if due is None else (due - now) / 1000 if due > now else BLOCKED_LOOK_S
        pause_s = min(pause_s, self._idle_look_s)
        self._planned_look = now + round(pause_s * 1000)
        return pause_s

    def _may_take(self) -> bool:
        return self._share is not None and self._ownership.holds()

    def _look_by(self, at: Instant) -> None:
        if self._planned_look is None or at < self._planned_look:
            self._woken.set()

    # Leading a parcel into its lane.

    def _dispatch(self, parcel: Parcel) -> None:
        if parcel.jobs[0].owner != self._ownership.owner:
            self._ledger.drop(parcel)
            return
        if self._draining:
            self._ledger.hand_back(parcel, SHUTTING_DOWN)
            return
        if self.is_stopped(parcel):
            return
        route = self._route_of(parcel)
        if isinstance(route, Capture):
            self._desk.add(parcel, self._captured)
        elif isinstance(route, Smarthost):
            self._smarthost_lane(route).put(parcel)
        else:
            self._dispatch_direct(parcel)

    def _route_of(self, parcel: Parcel) -> Route:
        return _CAPTURE if parcel.message.capture else self._settings.routes[parcel.route]

    def _needs_signature(self, parcel: Parcel) -> bool:
        return self._settings.dkim_required and not isinstance(self._route_of(parcel), Capture)

    def _dispatch_direct(self, parcel: Parcel) -> None:
        domain = parcel.jobs[0].site
        hosts = self._resolver.known_mail_hosts(domain)
        if hosts is not None:
            self._lead(parcel, domain, hosts)
            return
        waiting = self._resolving.get(domain)
        if waiting is not None:
            waiting.append(parcel)
            return
        self._resolving[domain] = [parcel]
        self.start(self._resolve(domain))

    async def _resolve(self, domain: str) -> None:
        hosts: MailHosts | DnsProblem
        try:
            hosts = await self._resolver.mail_hosts(domain)
        except Exception as error:
            self.fault("delivery.fault", error)
            hosts = DnsProblem(DnsTrouble.UNAVAILABLE, f"looking up {domain} failed on this server")
        for parcel in self._resolving.pop(domain, ()):
            self._lead(parcel, domain, hosts)

    def _lead(self, parcel: Parcel, domain: str, hosts: MailHosts | DnsProblem) -> None:
        if isinstance(hosts, DnsProblem):
            self._no_way(parcel, domain_trouble(hosts))
            return
        strict = parcel.message.require_tls
        known = self._lane_of.get(domain)
        if known is not None and known[0] is hosts and not strict:
            known[1].put(parcel)
            return
        others = before_ourselves(hosts, self._settings.hostname)
        if not others:
            self._no_way(parcel, LOOPS_BACK)
            return
        if strict:
            self._direct_lane(others, strict=True).put(parcel)
            return
        lane = self._direct_lane(others, strict=False)
        if len(self._lane_of) >= KNOWN_DOMAINS:
            self._forget_domains()
        lane.domains.add(domain)
        self._lane_of[domain] = (hosts, lane)
        lane.put(parcel)

    def _direct_lane(self, hosts: MailHosts, *, strict: bool) -> Lane:
        """strict: only over TLS with a certificate that proves the host's name. Such mail has lanes of its own, so that a
        host which cannot prove its name holds up only what asks for that."""
        key = frozenset(hosts), strict
        lane = self._lanes.get(key)
        if lane is None:
            wish = TlsWish.REQUIRED if strict else TlsWish.OFFERED
            greeter = Greeter(self._settings.hostname, wish, verified=strict)
            # Named alike on every node, however DNS shuffles hosts of one preference: a site's shares go by its name.
            name = min((mx.preference, mx.host) for mx in hosts)[1]
            site = Site(name, self._settings.mx_port, lambda: in_order(hosts, self._random), greeter)
            lane = self._lanes[key] = self._new_lane(site, Direct(), self._guard, self._receivers.of(name))
        return lane

    def _smarthost_lane(self, route: Smarthost) -> Lane:
        lane = self._lanes.get(route)
        if lane is None:
            # A password, or a wish for TLS from the start, is worth nothing towards just anybody.
            strict = route.login is not None or route.tls_from_start
            greeter = Greeter(
                self._settings.hostname,
                TlsWish.REQUIRED if strict else TlsWish.OFFERED,
                route.login,
                route.tls_from_start,
                verified=strict,
            )
            site = Site(f"{route.host}:{route.port}", route.port, lambda: [route.host], greeter)
            lane = self._lanes[route] = self._new_lane(site, route, self._relay_guard, self._default_limits)
        return lane

    def _new_lane(self, site: Site, route: Route, guard: Guard, limits: Limits) -> Lane:
        return Lane(site, route, guard, self._settings, self, self._desk, self._dialer, limits)

    def _forget_lanes(self) -> None:
        for key, lane in list(self._lanes.items()):
            if lane.is_forgettable:
                del self._lanes[key]
                for domain in lane.domains:
                    if domain in self._lane_of and self._lane_of[domain][1] is lane:
                        del self._lane_of[domain]

    def _forget_domains(self) -> None:
        """Only a shortcut is lost: whose mail leads where is found again with the next parcel."""
        self._lane_of.clear()
        for lane in self._lanes.values():
            lane.domains.clear()

    def _captured(self, parcel: Parcel, refused: Outcome | None) -> None:
        outcome = refused or CAPTURED
        host = None if refused else "capture"
        tried = Tried(host, None, None, self._clock(), 0, (Exchange(0, "*", outcome.text),))
        raw = parcel.composed.raw if parcel.composed else None
        self._ledger.settle(parcel, _CAPTURE, tried, [outcome] * len(parcel.addresses), captured=raw)

    # What lanes report (lane.Office).

    def settle(self, parcel: Parcel, route: Route, tried: Tried, outcomes: list[Outcome]) -> None:
        """Write down what became of a parcel."""
        self._ledger.settle(parcel, route, tried, outcomes)

    def unreachable(
        self, parcel: Parcel, route: Route, none: NoConnection, pause_ends: Instant, *, tried: bool
    ) -> None:
        """A lane's site takes no connection: the next route takes over, or the parcel waits and says why."""
        if not parcel.message.capture and parcel.route + 1 < len(self._settings.routes):
            parcel.route += 1
            parcel.before += none.transcript if tried else (Exchange(0, "*", _passed_over(route, none)),)
            self._dispatch(parcel)
            return
        if tried or self._clock() >= parcel.message.created_at + self._settings.retry.window_ms:
            what = Tried(none.host, none.address, None, none.started_at, none.milliseconds, none.transcript)
            self._ledger.settle(parcel, route, what, [none.outcome] * len(parcel.addresses), not_before=pause_ends)
            return
        self._ledger.let_wait(parcel, none.outcome, pause_ends)

    def hand_back(self, parcel: Parcel) -> None:
        """Give it up untried: the server shuts down, or the site is another node's."""
        self._ledger.hand_back(parcel, SHUTTING_DOWN if self._draining else ELSEWHERE)

    def site_limit(self, site: str, limit: int) -> int:
        """This node's share of a limit of a site; 0 when others have it all."""
        return 0 if self._share is None else self._share.of(limit, site)

    def nodes(self) -> int:
        """Among how many nodes limits are shared."""
        return 1 if self._share is None else self._share.count

    def lane_limit(self) -> int:
        """How many jobs a lane may hold now."""
        return self._ledger.lane_limit

    def eased(self) -> None:
        """A lane that turned mail away has room again."""
        self._woken.set()

    def is_stopped(self, parcel: Parcel) -> bool:
        """Whether it must not be sent just now. Then it has ended, or Stops has it. It may lose some of its recipients."""
        return self._is_too_late(parcel) or self._stops.takes(parcel)

    def _is_too_late(self, parcel: Parcel) -> bool:
        """Whether the mail's own deadline is over; then it has ended."""
        expires_at, now = parcel.message.expires_at, self._clock()
        if expires_at is None or now < expires_at:
            return False
        tried = Tried(None, None, None, now, 0, (Exchange(0, "*", EXPIRED.text),))
        self._ledger.settle(parcel, self._route_of(parcel), tried, [EXPIRED] * len(parcel.addresses))
        return True

    def may_open(self, lane: Lane) -> bool:
        """Whether one more connection may be opened now; if not, the lane is told when it may."""
        if not self._ownership.holds():
            self._wanting[lane] = None
            return False
        if self._open < self._settings.connections:
            self._open += 1
            return True
        self._wanting[lane] = None
        # Somebody's idle connection is worth less than one that is needed.
        any(other.close_idle() for other in self._lanes.values())
        return False

    def is_crowded(self) -> bool:
        """Whether another lane waits for a connection."""
        return bool(self._wanting)

    def closed(self) -> None:
        """A connection that was allowed is no more."""
        self._open -= 1
        self._let_open()

    def _let_open(self) -> None:
        while (
            self._wanting and not self._draining and self._open < self._settings.connections and self._ownership.holds()
        ):
            lane = next(iter(self._wanting))
            del self._wanting[lane]
            lane.go_on()

    async def may_go_on(self) -> None:
        """Wait while too many outcomes are not written yet (what is delivered and unwritten may go twice), or while
        this node does not know whether its mail is still its own."""
        await self._ledger.may_go_on()
        while not self._ownership.holds():  # noqa: ASYNC110 - nobody tells when a lease has run out
            await asyncio.sleep(SUSPENDED_LOOK_S)

    def pause_ms(self, failures: int) -> int:
        """As the retry schedule, but never so long that new mail waits for hours on an old failure."""
        delays = self._settings.retry.delays_ms
        pause = min(delays[min(failures, len(delays)) - 1], self._settings.longest_lane_pause_ms)
        return round(pause * (0.9 + 0.1 * self._random()))

    def return_path(self, parcel: Parcel) -> str:
        """The envelope's sender."""
        return self._return_path(parcel.message, parcel.jobs[0])

    def now(self) -> Instant:
        """The time."""
        return self._clock()

    def fault(self, event: str, error: BaseException) -> None:
        """Log a fault of ours."""
        # A store that is away is no fault of the code's: a line says it.
        trace = None if isinstance(error, StoreUnavailable) else error
        self._log.error(event, error=repr(error), exc_info=trace)

    def start(self, work: Coroutine[None, None, None]) -> object:
        """Run it as a task; a fault in it is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _no_way(self, parcel: Parcel, outcome: Outcome) -> None:
        """The route has no lane for this parcel's domain. Only trouble with DNS is a reason to take the next route."""
        none = NoConnection(outcome, (Exchange(0, "*", outcome.text),), self._clock(), 0)
        if outcome.result is Result.DEFERRED:
            self.unreachable(parcel, self._route_of(parcel), none, self._clock(), tried=True)
            return
        tried = Tried(None, None, None, none.started_at, 0, none.transcript)
        self._ledger.settle(parcel, self._route_of(parcel), tried, [outcome] * len(parcel.addresses))

    # Ending.

    async def _stop(self) -> None:
        self._draining = True
        for lane in self._lanes.values():
            lane.release()
            lane.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fault("delivery.fault", error)


def before_ourselves(hosts: MailHosts, hostname: str) -> MailHosts:
    """The hosts that are better than this server itself, when it is one of them (RFC 5321 5.1): else mail would loop."""
    own = [mx.preference for mx in hosts if mx.host == hostname.lower()]
    return tuple([mx for mx in hosts if mx.preference < min(own)]) if own else hosts


def _leads_to(key: object, hosts: MailHosts | DnsProblem | None) -> bool:
    """Whether a direct lane's key is made of these hosts."""
    return isinstance(key, tuple) and isinstance(hosts, tuple) and key[0] <= frozenset(hosts)


def _passed_over(route: Route, none: NoConnection) -> str:
    return f"route {route.name} is paused: {none.outcome.text}"
