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
from typing import Any, Protocol

import msgspec
from structlog.typing import FilteringBoundLogger

from sendkit_server.deliver.desk import BUSY_DOORS, Desk, Sources
from sendkit_server.deliver.dial import NoConnection
from sendkit_server.deliver.lane import Lane
from sendkit_server.deliver.lanes import Lanes
from sendkit_server.deliver.ledger import Ledger, Writer
from sendkit_server.deliver.line import Line
from sendkit_server.deliver.office import LaneView, Tried
from sendkit_server.deliver.outcome import (
    CAPTURED,
    EXPIRED,
    LOOPS_BACK,
    SMARTHOST_AUTH_FAILED,
    domain_trouble,
    warm_up_cap,
)
from sendkit_server.deliver.ownership import Alone, Ownership, Share
from sendkit_server.deliver.parcel import Parcel
from sendkit_server.deliver.plan import Plans, Way
from sendkit_server.deliver.promises import Promises
from sendkit_server.deliver.room import Bounds, Load, Room
from sendkit_server.deliver.route import Capture, Direct, Smarthost
from sendkit_server.deliver.settings import DeliverySettings
from sendkit_server.deliver.stops import Nobody, Stops, SuppressedAddresses
from sendkit_server.deliver.tls_counts import Session
from sendkit_server.deliver.tls_policy import NO_POLICY, POLICY_REASONS, Policy, TlsPolicies
from sendkit_server.deliver.warm_up import WarmUps, WarmUpStore
from sendkit_server.deliver.way_view import described
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Message, Priority
from sendkit_server.model.outcome import Attempt, Exchange, Outcome, Result
from sendkit_server.net.probe import ProbeResult, probe
from sendkit_server.net.resolver import DnsProblem, DnsTrouble, MailHosts, Resolver
from sendkit_server.store.errors import StoreError, StoreUnavailable
from sendkit_server.store.values import Job

IDLE_LOOK_S = 30.0  # even when nothing is due: another node may have died
LOOK_GAP_S = 0.02  # between two looks, however often it is woken
BLOCKED_LOOK_S = 1.0  # something is due that cannot be taken now
SUSPENDED_LOOK_S = 0.2  # the lease does not hold
KNOWN_DOMAINS = 20_000
SHUTTING_DOWN = "The server is restarting."
ELSEWHERE = "It is handed to another node of this installation."

_ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


class DeliveryStore(Sources, Writer, WarmUpStore, Protocol):
    """What delivery needs of the store, beside contents, keys and completions."""

    async def claim(self, *, exclude_sites: frozenset[str], urgent_only: frozenset[str], bounds: Bounds) -> list[Job]:
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
        return_path: Callable[[Message, int | None], str],
        clock: Callable[[], Instant],
        random: Callable[[], float],
        log: FilteringBoundLogger,
        on_attempt: Callable[[Job, Attempt], None] | None = None,
        doors: Callable[[], int] = lambda: 0,
        ownership: Ownership | None = None,
        suppressed: SuppressedAddresses | None = None,
        idle_look_s: float = IDLE_LOOK_S,
        tls: TlsPolicies | None = None,
    ) -> None:
        """tls: what recipients' domains demand; None: nothing.

        return_path: of a message and its recipient n; None: of any of them.

        idle_look_s: how often the store is looked at when nothing is due and nobody said so.
        """
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
        self._room = Room(settings)
        self._promises = Promises(self._room.promised)
        self._ledger = Ledger(
            settings,
            self._room,
            store,
            clock=clock,
            random=random,
            log=log,
            start=self.start,
            planned=self._look_by,
            eased=self.eased,
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
        self._policies = tls or TlsPolicies()
        self._plans = Plans(settings.routing, settings.own_addresses)
        self._warm_up = WarmUps(
            store,
            needed=any(way.source.warm_up is not None for way in self._plans.ways),
            clock=clock,
            fault=self.fault,
        )
        self._lanes = Lanes(settings, self, self._desk, resolver, self._policies, self._ownership, random)
        self._resolving: dict[str, Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0
        self._wanting: dict[Lane, None] = {}  # in the order in which they asked
        self._woken = asyncio.Event()
        self._eased = asyncio.Event()
        self._planned_look: Instant | None = None
        self._draining = False
        self._claiming: asyncio.Task[None] | None = None

    # The public face.

    def has_room(self, site: str, size_bytes: int, priority: Priority = Priority.NORMAL) -> bool:
        """Whether one more job for this domain can go straight to delivery; cheap, for each accepted message.

        Urgent mail is let into a lane that is full for the rest.
        """
        if self._draining or not self._may_take() or site in self._stops.held:
            return False
        lane = self._lanes.known(self._plans.usual, site)
        if lane is not None and lane.is_elsewhere:
            return False
        there = None if lane is None else lane.in_memory
        if site in self._resolving:
            there = self._resolving[site].load
        promised = self._promises.at(lane or site)
        return self._room.lets_in(size_bytes, there, promised, urgent=priority is Priority.URGENT)

    def foresee(self, job: Job) -> None:
        """A job that there was room for and that will be offered once it is durable: it counts from now on, and is composed
        meanwhile, which hides most of that time."""
        if self._draining:
            return
        parcel = self._parcel(job)
        self._promises.make(parcel, self._lanes.known(self._plans.usual, job.site) or job.site)
        if job.message.capture or self._doors() >= BUSY_DOORS:
            parcel.prepared = True  # as far as it will be
        else:
            self._desk.add(parcel, self._prepared)

    def forget(self, job: Job) -> None:
        """A foreseen job that never became durable."""
        self._promises.end(job)

    def offer(self, job: Job) -> None:
        """Take a job that this node already owns; one that its last incarnation owned is left to whoever claims it."""
        parcel = self._promises.end(job)
        if job.owner != self._ownership.owner:
            return
        self._ledger.take_in(job)
        if parcel is None:
            self._dispatch(self._parcel(job))
        elif parcel.prepared:
            self._dispatch(parcel)
        else:
            parcel.offered = True

    def _prepared(self, parcel: Parcel, refused: Outcome | None) -> None:
        # What could not be composed early takes the usual way, which says why.
        parcel.prepared = True
        if parcel.offered:
            self._dispatch(parcel)

    def _parcel(self, job: Job) -> Parcel:
        return Parcel(job, self._plans.of(job.message, job.site))

    def wake(self) -> None:
        """Something without an owner may be due."""
        self._woken.set()

    async def run(self) -> None:
        """Claim and deliver until cancelled."""
        self._claiming = asyncio.current_task()
        self.start(self._warm_up.run())
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
        for lane in self._lanes:
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
            for lane in self._lanes:
                for parcel in lane.withdraw(self._stops.is_held):
                    self._dispatch(parcel)
        if before - held:
            self.wake()

    def lift(self, site: str) -> None:
        """Ask a site again now, though it is paused; "": every site."""
        for lane in self._lanes.leading_to(site) if site else self._lanes:
            lane.lift()
        self.wake()

    def drop(self) -> None:
        """Forget everything in memory, and send nothing more of it: it is not this node's own any more."""
        for lane in self._lanes:
            for parcel in lane.release():
                self._ledger.drop(parcel)
            lane.abort()
        for parcels in self._resolving.values():
            for parcel in parcels:
                self._ledger.drop(parcel)
        # Whoever is still being composed or resolved comes back to a list that nobody reads, or to a closed lane.
        self._resolving.clear()
        self._promises.clear()
        self._lanes.clear()
        self._wanting.clear()

    async def drain(self, seconds: float) -> None:
        """Take nothing new, hand back what waits, let what is on the wire end within the time, then cut it."""
        self._draining = True
        if self._claiming is not None:
            self._claiming.cancel()
        waiting = [parcel for lane in self._lanes for parcel in lane.release()]
        waiting += [parcel for parcels in self._resolving.values() for parcel in parcels]
        self._resolving.clear()
        for parcel in waiting:
            self._ledger.hand_back(parcel, SHUTTING_DOWN)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ledger.until_empty()
        for lane in self._lanes:
            lane.abort()
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._warm_up.close()
        # What was cut has an outcome now, too, and deserves to be written.
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._ledger.until_empty()
        await self._stop()

    def lanes(self) -> list[LaneView]:
        """Each lane there is: at work, idle for a short while, or paused."""
        return [lane.view() for lane in self._lanes]

    def turn(self, site: str, message_id: str) -> str:
        """How it stands with a mail that is in this process's memory, for people."""
        if any(lane.carries(message_id) for lane in self._lanes.leading_to(site)):
            return "It is being delivered now."
        why = self.delay(site)
        return f"It waits for its turn at {site}" + (f": {why.rstrip('.')}." if why else ".")

    def delay(self, site: str) -> str | None:
        """Why mail for a site waits in memory; None when nothing is known to keep it."""
        if site in self._resolving:
            return "DNS is being asked for its mail hosts"
        return next(filter(None, (lane.delay() for lane in self._lanes.leading_to(site) if lane.parcels)), None)

    def ways(self) -> list[dict[str, Any]]:
        """Each way that mail can take, and how it is, as JSON values."""
        return described(self._plans.ways, self._warm_up, self._clock())

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
        return await probe(domains, self._resolver, self._lanes.guard, self._settings.mx_port, timeout_s=timeout_s)

    # Claiming.

    async def _claim_for_ever(self) -> None:
        while True:
            self._woken.clear()
            self._eased.clear()
            # What is planned from here on may not be in the answers that follow: each wakes, whenever the last look was for.
            self._planned_look = None
            try:
                found = await self._claim_once()
                pause_s = 0.0 if found else await self._until_next_look()
            except Exception as error:
                self.fault("delivery.claim_failed", error)
                pause_s = BLOCKED_LOOK_S
            if pause_s > 0:
                looked_at = asyncio.get_running_loop().time()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._woken.wait()
                await self._leave_gap(looked_at)

    async def _leave_gap(self, looked_at: float) -> None:
        """While its lane is full each accepted mail wakes the loop, and a look costs more than a mail's delivery. While only
        urgent mail is looked for, at all sites there are, it costs most: then it waits for more room or for a second."""
        await asyncio.sleep(LOOK_GAP_S)
        if self._room.least is not Priority.BULK:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(looked_at + BLOCKED_LOOK_S):
                    await self._eased.wait()

    async def _claim_once(self) -> bool:
        self._lanes.forget()
        bounds = self._room.next_claim()
        if bounds is None or not self._may_take():
            return False
        closed = self._stops.held.union(self._resolving)
        full: set[str] = set()
        for lane in self._lanes:
            # A paused lane with a way behind it is passed by, so it holds up nothing.
            if lane.is_elsewhere or (lane.is_paused() and lane.way is self._plans.only_last):
                closed |= lane.domains
            elif lane.turns_away():
                if lane.turns_all_away():
                    closed |= lane.domains
                else:
                    full.update(lane.domains)
        jobs = await self._store.claim(exclude_sites=closed, urgent_only=frozenset(full), bounds=bounds)
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
        return self._share is not None and self._ownership.holds() and self._warm_up.is_ready

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
        way = parcel.way
        if way.health.is_down(self._clock()) and self._take_next_way(
            parcel, _happened(f"route {way.name} is down: {way.health.reason}")
        ):
            return
        match way.route:
            case Capture():
                self._desk.add(parcel, self._captured)
            case Direct():
                self._dispatch_direct(parcel)
            case _:
                self._lanes.relay(way, strict=parcel.message.require_tls).put(parcel)

    def _take_next_way(self, parcel: Parcel, why: tuple[Exchange, ...], *, siblings: bool = False) -> bool:
        """Lets a parcel take the next of its ways; False when there is none.

        why: what came of this one, for the transcript.  siblings: another address of the same pool counts, too. Where a site
        is out of reach it would not help.
        """
        route = parcel.way.route
        for place in range(parcel.place + 1, len(parcel.ways)):
            if siblings or parcel.ways[place].route != route:
                parcel.place = place
                parcel.before += why
                self._dispatch(parcel)
                return True
        return False

    def _needs_signature(self, parcel: Parcel) -> bool:
        return self._settings.dkim_required and not isinstance(parcel.way.route, Capture)

    def _dispatch_direct(self, parcel: Parcel) -> None:
        domain = parcel.jobs[0].site
        hosts, policy = self._resolver.known_mail_hosts(domain), self._policies.known(domain)
        if hosts is not None and policy is not None:
            self._lead(parcel, domain, hosts, policy)
            return
        waiting = self._resolving.get(domain)
        if waiting is None:
            waiting = self._resolving[domain] = Line()
            self.start(self._resolve(domain))
        waiting.append(parcel)

    async def _resolve(self, domain: str) -> None:
        hosts: MailHosts | DnsProblem
        policy = NO_POLICY
        try:
            hosts = await self._resolver.mail_hosts(domain)
            if not isinstance(hosts, DnsProblem):
                policy = await self._policies.of(domain)
        except Exception as error:
            self.fault("delivery.fault", error)
            hosts = DnsProblem(DnsTrouble.UNAVAILABLE, f"looking up {domain} failed on this server")
        for parcel in self._resolving.pop(domain, ()):
            self._lead(parcel, domain, hosts, policy)

    def _lead(self, parcel: Parcel, domain: str, hosts: MailHosts | DnsProblem, policy: Policy) -> None:
        if isinstance(hosts, DnsProblem):
            self._no_way(parcel, domain_trouble(hosts))
            return
        if policy.trouble is not None:
            self._no_way(parcel, policy.trouble)
            return
        if parcel.way.source.warm_up is not None and self._is_over_cap(parcel, hosts):
            return
        parcel.notes = policy.notes
        lane = self._lanes.lead(parcel.way, domain, hosts, policy, strict=parcel.message.require_tls)
        if lane is None:
            self._no_way(parcel, LOOPS_BACK)
        else:
            lane.put(parcel)

    def _is_over_cap(self, parcel: Parcel, hosts: MailHosts) -> bool:
        """Whether its way's address has sent the receiver what it may today. Then the next way has it, or it waits."""
        way = parcel.way
        receiver = self._lanes.receiver_of(hosts)
        if receiver is None:
            return False
        cap = self._warm_up.take(way, receiver, len(parcel.addresses))
        if cap is None:
            return False
        why = warm_up_cap(", ".join(way.source.addresses), receiver, cap)
        if not self._take_next_way(parcel, _happened(why.text), siblings=True):
            self._ledger.let_wait(parcel, why, self._warm_up.next_day())
        return True

    def _captured(self, parcel: Parcel, refused: Outcome | None) -> None:
        outcome = refused or CAPTURED
        host = None if refused else "capture"
        tried = Tried(host, None, None, self._clock(), 0, (Exchange(0, "*", outcome.text),))
        raw = parcel.composed.raw if parcel.composed else None
        self._ledger.settle(parcel, parcel.way, tried, [outcome] * len(parcel.addresses), captured=raw)

    # What lanes report (lane.Office).

    def settle(self, parcel: Parcel, way: Way, tried: Tried, outcomes: list[Outcome]) -> None:
        """Write down what became of a parcel."""
        if tried.host is not None:
            way.health.worked()
        self._ledger.settle(parcel, way, tried, outcomes)

    def unreachable(self, parcel: Parcel, way: Way, none: NoConnection, pause_ends: Instant, *, tried: bool) -> None:
        """A lane's site takes no connection: the next way takes over, or the parcel waits and says why.

        No other way takes over what a policy about TLS keeps here: it might say the same thing in clear.
        """
        is_policy = none.outcome.reason in POLICY_REASONS
        if is_policy:
            outcome = self._policies.explained(parcel.jobs[0].site, none.outcome)
            none = msgspec.structs.replace(none, outcome=outcome)
        if tried:
            self._note_health(parcel, way, none)
        passed = none.transcript if tried else _happened(f"route {way.name} is paused: {none.outcome.text}")
        if not is_policy and self._take_next_way(parcel, parcel.notes + passed):
            return
        if tried or self._clock() >= parcel.message.created_at + self._settings.retry.window_ms:
            what = Tried(none.host, none.address, None, none.started_at, none.milliseconds, none.transcript)
            self._ledger.settle(parcel, way, what, [none.outcome] * len(parcel.addresses), not_before=pause_ends)
            return
        self._ledger.let_wait(parcel, none.outcome, pause_ends)

    def _note_health(self, parcel: Parcel, way: Way, none: NoConnection) -> None:
        why = none.outcome
        if not isinstance(way.route, Direct):
            self._note_one_place(parcel, way, none)
        elif none.host is not None:
            way.health.worked()  # a host has answered, though it takes no mail
        elif why.reason == "connect_failed" and way.health.failed(parcel.jobs[0].site, why.text, self._clock()):
            self._tell_down(way, why)

    def _note_one_place(self, parcel: Parcel, way: Way, none: NoConnection) -> None:
        """A relay or a provider: whatever keeps mail from it is about the way, but for what one mail asks for."""
        why = none.outcome
        if none.host is not None and parcel.message.require_tls and not _needs_tls(way):
            return
        refuses_login = why.reason == SMARTHOST_AUTH_FAILED and (why.code is None or why.code >= 500)
        health, now = way.health, self._clock()
        if health.broken(why.text, now) if refuses_login else health.failed(None, why.text, now):
            self._tell_down(way, why)

    def _tell_down(self, way: Way, why: Outcome) -> None:
        self._log.warning("route.down", route=way.name, source=way.source.addresses, reason=why.text)

    def passed_on(self, parcel: Parcel, way: Way, tried: Tried, why: Outcome, *, is_broken: bool) -> None:
        """The way is not for this mail (is_broken: for none): the next way, or it has been tried and waits."""
        if is_broken and way.health.broken(why.text, self._clock()):
            self._tell_down(way, why)
        if not self._take_next_way(parcel, tried.transcript):
            self._ledger.settle(parcel, way, tried, [why] * len(parcel.addresses))

    def hand_back(self, parcel: Parcel) -> None:
        """Give it up untried: the server shuts down, or the site is another node's."""
        self._ledger.hand_back(parcel, SHUTTING_DOWN if self._draining else ELSEWHERE)

    def site_limit(self, site: str, limit: int) -> int:
        """This node's share of a limit of a site; 0 when others have it all."""
        return 0 if self._share is None else self._share.of(limit, site)

    def nodes(self) -> int:
        """Among how many nodes limits are shared."""
        return 1 if self._share is None else self._share.count

    def is_full(self, lane: Load, *, urgent: bool) -> bool:
        """Whether a lane with this load has its fair part of the memory. urgent: even of urgent mail."""
        return self._room.is_full(lane, urgent=urgent)

    def eased(self) -> None:
        """A lane that turned mail away has room again, or all of them have."""
        self._eased.set()
        self._woken.set()

    def is_stopped(self, parcel: Parcel) -> bool:
        """Whether it must not be sent just now. Then it has ended, or Stops has it. It may lose some of its recipients."""
        return self._is_too_late(parcel) or self._stops.takes(parcel)

    def _is_too_late(self, parcel: Parcel) -> bool:
        """Whether the mail's own deadline is over; then it has ended."""
        expires_at = parcel.message.expires_at
        if expires_at is None or (now := self._clock()) < expires_at:
            return False
        tried = Tried(None, None, None, now, 0, (Exchange(0, "*", EXPIRED.text),))
        self._ledger.settle(parcel, parcel.way, tried, [EXPIRED] * len(parcel.addresses))
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
        any(other.close_idle() for other in self._lanes)
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

    def count_sessions(self, domain: str, sessions: Sequence[Session]) -> None:
        """How connections for a domain's mail were secured."""
        self._policies.count(domain, sessions)

    def return_path(self, parcel: Parcel) -> str:
        """The envelope's sender.

        It names the first recipient where all are at one domain, so that nobody elsewhere can report on them. The same
        recipients have the same one at each try, which greylisting looks at.
        """
        alone = len({job.site for job in parcel.jobs}) == 1
        n = min(one.n for job in parcel.jobs for one in job.recipients) if alone else None
        return self._return_path(parcel.message, n)

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
            self.unreachable(parcel, parcel.way, none, self._clock(), tried=True)
            return
        tried = Tried(None, None, None, none.started_at, 0, none.transcript)
        self._ledger.settle(parcel, parcel.way, tried, [outcome] * len(parcel.addresses))

    # Ending.

    async def _stop(self) -> None:
        self._draining = True
        for lane in self._lanes:
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


def _needs_tls(way: Way) -> bool:
    return not isinstance(way.route, Smarthost) or way.route.needs_tls


def _happened(text: str) -> tuple[Exchange, ...]:
    return (Exchange(0, "*", text),)
