"""The parts, joined: the only module that knows them all. It starts the roles, watches over them, and ends them in order.

Start: store → delivery → doors. End: doors stop taking, and what is in flight is finished or handed back → store closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import secrets
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from sendkit_server.accept import Acceptor, AcceptSettings
from sendkit_server.accept.limits import Limits
from sendkit_server.api.acme import ChallengeDoor
from sendkit_server.api.control import ControlDoor
from sendkit_server.api.door import HttpDoor
from sendkit_server.api.server import HttpServer
from sendkit_server.api.service import Service
from sendkit_server.compose.signing import Signers
from sendkit_server.config import (
    PREFIX,
    Address,
    ConfigError,
    Settings,
    limits_of,
    routing_of,
)
from sendkit_server.dashboard.door import Pages
from sendkit_server.deliver.deliverer import Deliverer
from sendkit_server.deliver.mta_sts import PolicyWeb, StsPolicies
from sendkit_server.deliver.ownership import Share
from sendkit_server.deliver.route import Capture, Route
from sendkit_server.deliver.settings import DeliverySettings
from sendkit_server.deliver.stored import DeliveryView, TlsView
from sendkit_server.deliver.tls_counts import TlsCounts
from sendkit_server.deliver.tls_policy import TlsPolicies
from sendkit_server.events.metrics import Metrics
from sendkit_server.events.refusals import RefusalLog
from sendkit_server.manage import certificate_view, commands, installation, people
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.certificates import local_certificate
from sendkit_server.manage.context import Context
from sendkit_server.manage.doctor import Doctor
from sendkit_server.manage.guess_exchange import GuessExchange
from sendkit_server.manage.guesses import Guesses
from sendkit_server.manage.rotation import open_installation
from sendkit_server.model import refusal
from sendkit_server.model.certificate import certifiable
from sendkit_server.model.clock import SteadyClock
from sendkit_server.model.finding import FindingStatus
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import ApiKey, Message, Priority, Warning_
from sendkit_server.model.outcome import Attempt, Result
from sendkit_server.model.peer import address_group
from sendkit_server.model.retry import RetryPolicy
from sendkit_server.net.dnssec import Dnssec, trusted_servers
from sendkit_server.net.guard import Guard
from sendkit_server.net.listen import can_bind, listen, source_addresses
from sendkit_server.net.proxied import Proxies
from sendkit_server.net.resolver import Resolver
from sendkit_server.net.tls_client import TlsClient
from sendkit_server.net.tls_server import ServerTls
from sendkit_server.smtp.door import SubmissionDoor
from sendkit_server.smtp.inbound import InboundDoor
from sendkit_server.smtp.keys import StoredKeys
from sendkit_server.smtp.listener import Listener
from sendkit_server.smtp.submission import SubmissionSettings
from sendkit_server.standing import ALGORITHMS, certificates_wanted, dns_names, named_sources, surroundings
from sendkit_server.store import seal
from sendkit_server.store.errors import StoreError
from sendkit_server.store.files import write_file
from sendkit_server.store.membership import Membership
from sendkit_server.store.queries import emails as email_queries
from sendkit_server.store.store import elapsed_s
from sendkit_server.store.usage import Usage
from sendkit_server.store.values import Job
from sendkit_server.watch import PORT_25_BLOCKED, DoctorWatch, PlansWatch, Port25Watch, QueueWatch, Watch, routes_down
from sendkit_server.wire import return_path

if TYPE_CHECKING:
    from sendkit_server.manage.acme import Certifier

SIGNING_THREADS = 2
DEV_SMTP_BIND = Address("127.0.0.1", 1025)
IDLE_LOOK_ALONE_S = 30.0
IDLE_LOOK_AMONG_OTHERS_S = 1.0  # without notifications; it is one look into an index
OVERTIME_S = 6.0  # beyond drain_seconds
LEAVE_S = 1.0  # for what is to be written at the end, and the goodbye; a database that is away is not waited for
CAPTURE_ROUTE = Capture().name

log = structlog.get_logger("app")


def now_ms() -> Instant:
    """The wall clock, for what lives too shortly to see it jump."""
    return time.time_ns() // 1_000_000


def _elapsed_ns() -> int:
    """The monotonic clock; where there is one that goes on while the machine sleeps, that one."""
    sleepless = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(sleepless)


class Entropy:
    """Random bytes from the kernel, asked for by the page: one call for a few hundred ids instead of one each."""

    def __init__(self) -> None:
        self._page = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """count random bytes that nobody was given before."""
        if self._at + count > len(self._page):
            self._page, self._at = os.urandom(4096), 0
        self._at += count
        return self._page[self._at - count : self._at]


class Later:
    """The hand-over of a process that does not deliver: everything is left to one that does."""

    def has_room(self, site: str, size_bytes: int, priority: Priority) -> bool:
        """Never."""
        return False

    def foresee(self, job: Job) -> None:
        """Not called, as there is never room."""

    def forget(self, job: Job) -> None:
        """Not called."""

    def offer(self, job: Job) -> None:
        """Not called."""

    def wake(self) -> None:
        """Whoever delivers looks by itself."""


class Bound(msgspec.Struct, frozen=True):
    """Where the doors really listen, by the setting that put them there."""

    http_bind: list[Address] = []
    https_bind: list[Address] = []
    smtp_bind: list[Address] = []
    smtps_bind: list[Address] = []
    dev_smtp_bind: list[Address] = []
    inbound_bind: list[Address] = []
    acme_http_bind: list[Address] = []


class App:
    """One running server."""

    def __init__(self, settings: Settings, *, dev: bool) -> None:
        self.settings = settings
        self.dev = dev
        self.bound = Bound()
        self._sockets: dict[str, list[socket.socket]] = {}
        self.data_dir: Path = settings.data_dir
        self.metrics = Metrics()
        self._tasks: set[asyncio.Task[None]] = set()
        self._smtp_doors: list[Listener] = []
        self._draining = False
        self._deafen: Callable[[], None] | None = None
        self._tls: ServerTls | None = None
        self._certifier: Certifier | None = None
        self._challenges: HttpServer | None = None
        self.dev_secret: str | None = None
        self.public_url: str = settings.public_url
        self.setup_url: str | None = None

    # -- start ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts every role. ConfigError, PortTaken, StoreError, CertificateError say what keeps it from that."""
        self._prepare_store()
        try:
            await self._prepare_dev()
            self._bind()
            self._prepare_delivery()
            self._prepare_accept()
            await self._queue_watch.look()
            await self._guess_exchange.hear()
            await self._open_doors()
        except BaseException:
            for sockets in self._sockets.values():
                for sock in sockets:
                    sock.close()
            self.store.close()
            raise
        if "deliver" in self.settings.roles:
            self._spawn(self.deliverer.run(), "delivery")
            self._spawn(self._queue_watch.run(), "queue")
            self._spawn(self._plans_watch.run(), "plans")
            self._spawn(self._port_25.run(), "probe")
            self._spawn(self._sts.run(), "policies")
            self._spawn(self._tls_counts.run(), "tls counts")
            self._spawn(self._doctor_watch.run(), "doctor")
        if self._certifier is not None:
            self._spawn(self._certifier.run(), "certificates")
        self._spawn(self._watch.run(), "watch")
        self._spawn(self._usage.run(), "usage")
        if self.settings.roles & {"http", "smtp"}:
            self._spawn(self._guess_exchange.run(), "guesses")
        self._spawn(self._membership.run(), "membership")
        self._spawn(self.refusals.run(), "refusals")
        for name in self.settings.not_obeyed:
            log.warning("setting.not_supported_yet", setting=PREFIX + name.upper())

    def _prepare_store(self) -> None:
        installation.prepare_data_dir(self.data_dir)
        settings = self.settings
        self.store = open_installation(self.data_dir, settings.secret_key, "sendkit serve", settings.database_url)
        self._roles = ",".join(sorted(self.settings.roles))
        self.store.start(now_ms(), self._roles)
        # Only now is it known whose time it is.
        self._clock = SteadyClock(self.store.wall_ns, _elapsed_ns)
        self._now = self._clock.now
        self.metrics.nodes.set(1)
        log.info("node.started", node=self.store.owner, engine=self.store.engine.name, roles=self._roles)

    async def _prepare_dev(self) -> None:
        self._dev_key: ApiKey | None = None
        if self.dev:
            self.dev_secret = await installation.dev_key(self.store, self.data_dir / "dev-key", self._now(), os.urandom)
            self._dev_key = await self.store.key(self.dev_secret, self._now())

    def _bind(self) -> None:
        """Binds every listener, so that a taken port is told before anything runs and delivery knows our own addresses."""
        settings = self.settings
        dev_smtp = settings.dev_smtp_bind
        if self.dev and settings.sources["dev_smtp_bind"] == "default":
            dev_smtp = (DEV_SMTP_BIND,)
        if dev_smtp and not self.dev:
            raise ConfigError("dev_smtp_bind needs `sendkit serve --dev`, whose key its mails belong to")
        http, smtp = "http" in settings.roles, "smtp" in settings.roles
        for name, binds in (
            ("http_bind", settings.http_bind if http else ()),
            ("https_bind", settings.https_bind if http else ()),
            ("smtp_bind", settings.smtp_bind if smtp else ()),
            ("smtps_bind", settings.smtps_bind if smtp else ()),
            ("dev_smtp_bind", dev_smtp if smtp else ()),
            ("inbound_bind", settings.inbound_bind if "inbound" in settings.roles else ()),
            ("acme_http_bind", settings.acme_http_bind if settings.acme_email else ()),
        ):
            variable = PREFIX + name.upper()
            self._sockets[name] = [listen(bind.host, bind.port, variable, next_free=self.dev) for bind in binds]
        self.bound = Bound(**{name: [_address_of(sock) for sock in found] for name, found in self._sockets.items()})

    def _own_listeners(self) -> frozenset[tuple[str, int]]:
        """Where mail would only come back to this server; a listener on every address is one on each of ours."""
        mine = ("127.0.0.1", "::1", *source_addresses(), *self.settings.send_addresses)
        return frozenset(
            (host, address.port)
            for found in msgspec.structs.astuple(self.bound)
            for address in found
            for host in (mine if address.host in ("0.0.0.0", "::") else (address.host,))  # noqa: S104 - compared, not bound
        )

    def _prepare_delivery(self) -> None:
        settings = self.settings
        routing = routing_of(settings)
        self._routes = routes = routing.routes
        self.dns_names = dns_names(settings, routes)
        self._signers = Signers(self.store, [ALGORITHMS[name] for name in settings.dkim])
        self._resolver = Resolver(settings.dns_servers)
        self._pool = ThreadPoolExecutor(SIGNING_THREADS, "compose")
        retry = RetryPolicy(settings.retry_schedule, settings.retry_window)
        token_key = seal.derived_key(self.store.secret_key, seal.RETURN_PATH_PURPOSE)

        def envelope_from(message: Message, n: int | None) -> str:
            at = self._signers.return_path(message.team_id, message.from_.domain) or settings.hostname
            return f"{return_path.make(message.id, n, token_key)}@{at}"

        self.deliverer = Deliverer(
            DeliverySettings(
                hostname=settings.hostname,
                routing=routing,
                own_addresses=self._own_addresses(routes),
                mx_port=settings.mx_port,
                allow_private=settings.allow_private_networks,
                own=self._own_listeners(),
                retry=retry,
                ca_file=Path(settings.ca_file) if settings.ca_file else None,
                connections_per_site=settings.connections_per_site,
                receivers=settings.receivers,
                # What a kill may repeat: mails whose dot was answered and whose outcome is not on the disk yet.
                unwritten_completions=2 * settings.connections_per_site,
            ),
            DeliveryView(self.store, self._signers, self._now),
            self._resolver,
            self._pool,
            return_path=envelope_from,
            clock=self._now,
            random=Random().random,  # noqa: S311 - spreads retries, guards nothing
            log=structlog.get_logger("delivery"),
            on_attempt=self._count_attempt,
            doors=lambda: self.acceptor.storing,
            ownership=self.store.lease,
            suppressed=self.store.suppressed,
            idle_look_s=IDLE_LOOK_ALONE_S if self.store.engine.exclusive else IDLE_LOOK_AMONG_OTHERS_S,
            tls=self._tls_policies(),
        )
        self._port_25 = Port25Watch(settings, routes, self.deliverer)
        self._queue_watch = QueueWatch(self.store, self.deliverer, self._now)
        around = msgspec.structs.replace(surroundings(settings, routes, serving=True), down=self._down)
        self.doctor = Doctor(self.store, around, self._now)
        self._doctor_watch = DoctorWatch(settings.doctor_interval, self.doctor, self._now)
        self._plans_watch = PlansWatch(self.store, self.deliverer, self._now, retry.longest_ms)
        self._prepare_membership()

    @staticmethod
    def _own_addresses(routes: Sequence[Route]) -> tuple[str, ...]:
        """Which of the routes' source addresses this machine has; all nodes may share one file that names them all."""
        named = named_sources(routes)
        own = tuple(address for address in named if can_bind(address))
        if missing := [address for address in named if address not in own]:
            log.warning("route.addresses_missing", addresses=missing, why="this machine cannot connect from them")
        return own

    def _tls_policies(self) -> TlsPolicies:
        """What recipients' domains demand of TLS, and how often it was had."""
        settings, view = self.settings, TlsView(self.store)
        ca_file = Path(settings.ca_file) if settings.ca_file else None
        guard = Guard(settings.allow_private_networks, self._own_listeners())
        web = PolicyWeb(self._resolver, TlsClient(ca_file), guard, settings.mta_sts_port)
        random = Random().random  # noqa: S311 - spreads refreshes, guards nothing
        self._sts = StsPolicies(self._resolver, web.fetch, view, clock=self._now, random=random)
        self._tls_counts = TlsCounts(view.add_counts, self._now)
        validating = trusted_servers(settings.dnssec_resolvers, settings.dns_servers)
        dnssec = Dnssec(validating) if validating else None
        return TlsPolicies(self._sts, dnssec, self._tls_counts, clock=self._now)

    def _prepare_membership(self) -> None:
        deliverer = self.deliverer

        def peers(owners: Sequence[int] | None) -> None:
            me = self.store.lease.owner
            self.metrics.nodes.set(1 if owners is None else len(owners))
            if owners is None or me not in owners:
                deliverer.set_share(None)
            else:
                deliverer.set_share(Share(owners.index(me), len(owners)))

        self._membership = Membership(
            self.store, self._roles, self._now, on_peers=peers, on_lost=deliverer.drop, on_kept=deliverer.resume
        )
        loop = asyncio.get_running_loop()
        if "deliver" in self.settings.roles:
            self._deafen = self.store.engine.listen(lambda: _call(loop, deliverer.wake))

    def _prepare_accept(self) -> None:
        self._guesses = Guesses(elapsed_s)
        self._guess_exchange = GuessExchange(self.store, self._guesses, self._now)
        self._usage = Usage(self.store, self._now)
        self.acceptor = Acceptor(
            AcceptSettings(
                self.settings.max_message_bytes,
                self.settings.smtp_max_recipients,
                self.settings.strict_test,
                self.settings.dedupe_message_id,
            ),
            self.store,
            self.deliverer if "deliver" in self.settings.roles else Later(),
            self.metrics,
            clock=self._now,
            entropy=Entropy().take,
            warnings=lambda: (PORT_25_BLOCKED,) if self._port_25.blocked else (),
            limits=Limits(limits_of(self.settings), self._usage),
        )
        self._watch = Watch(self.settings, self.store, self.acceptor, self._clock, lambda: self._tls)

    # -- doors ---------------------------------------------------------------------------------------------------

    async def _open_doors(self) -> None:
        if self.bound.https_bind or self.bound.smtp_bind or self.bound.smtps_bind or self.bound.inbound_bind:
            self._tls = self._server_tls()
        self.refusals = RefusalLog(self.store, self.metrics, self._now, Entropy().take, address_group)
        if self.settings.acme_email is not None and self._tls is not None:
            await self._prepare_certifier(self._tls)
        await self._open_challenges()
        if "http" in self.settings.roles:
            await self._open_http()
        self._open_smtp()
        self._open_inbound()
        await self._open_control()

    async def _open_http(self) -> None:
        if self.bound.http_bind and self.settings.sources["public_url"] == "default":
            self.public_url = f"http://{self.bound.http_bind[0]}"
        service = Service(
            self.store,
            self.acceptor,
            self.metrics,
            self,
            public_url=self.public_url,
            around=self.doctor.around,
            clock=self._now,
            used=self._watch.key_used,
            refresh_metrics=self._refresh_metrics,
            guesses=self._guesses,
            note_refusal=self.refusals.note,
            delivery=self.deliverer,
        )
        self._pages = pages = Pages(
            HttpDoor(service),
            self.store,
            dev=self.dev,
            clock=self._now,
            public_url=self.public_url,
            guesses=self._guesses,
            note_refusal=self.refusals.note,
        )
        first = await people.setup_link(self.store, Actor("server", self._now(), os.urandom))
        self.setup_url = None if first is None else self.public_url + first.path
        self._http = HttpServer(pages, f"{self.public_url}/docs", self.refusals.note, self._proxies())
        for sock in self._sockets["http_bind"]:
            await self._http.listen(sock)
        for sock in self._sockets["https_bind"]:
            await self._http.listen(sock, self._tls_context())

    def _proxies(self) -> Proxies:
        return Proxies(self.settings.trusted_proxies)

    def _open_smtp(self) -> None:
        settings = self.settings
        limits = SubmissionSettings(
            hostname=settings.hostname,
            max_message_bytes=settings.max_message_bytes,
            max_recipients=settings.smtp_max_recipients,
            idle_s=settings.smtp_idle / 1000,
            proxies=self._proxies(),
        )
        for name, mode in (("smtp_bind", "starttls"), ("smtps_bind", "tls"), ("dev_smtp_bind", "dev")):
            if not self._sockets[name]:
                continue
            is_dev = mode == "dev"
            door = SubmissionDoor(
                limits,
                StoredKeys(self.store, self._watch.key_used, self._now),
                self.acceptor,
                self._guesses,
                tls=None if is_dev else self._tls_context,
                mode=mode,
                dev_key=self._dev_key if is_dev else None,
                plain_auth_loopback=settings.smtp_plain_auth == "loopback",
                on_error=lambda name: self.metrics.errors.labels(name, "smtp").inc(),
                note_refusal=self.refusals.note,
            )
            self._smtp_doors.append(door)
            for sock in self._sockets[name]:
                door.serve(sock)

    def _open_inbound(self) -> None:
        settings = self.settings
        inbound = commands.inbound_of(self.store, self._now, os.urandom, self._count_inbound)
        door = InboundDoor(
            SubmissionSettings(
                hostname=settings.hostname,
                max_message_bytes=settings.max_message_bytes,
                idle_s=settings.smtp_idle / 1000,
                proxies=self._proxies(),
            ),
            inbound.takes,
            inbound.take,
            tls=self._tls_context,
            on_error=lambda name: self.metrics.errors.labels(name, "inbound").inc(),
            note_refusal=self.refusals.note,
        )
        self._smtp_doors.append(door)
        for sock in self._sockets["inbound_bind"]:
            door.serve(sock)

    def _count_inbound(self, kind: str) -> None:
        self.metrics.inbound.labels(kind).inc()

    async def _open_control(self) -> None:
        """Opens the port that `sendkit` commands talk to, and tells them where it is."""
        token = secrets.token_urlsafe(32)
        context = Context(
            self.store,
            self.doctor,
            self._now,
            os.urandom,
            self.deliverer.ways,
            self.deliverer.delay,
            self._count_inbound,
            self.public_url,
            certificates_wanted(self.settings),
        )
        sock = listen("127.0.0.1", 0, "control")
        self._control = HttpServer(ControlDoor(context, token), "")
        await self._control.listen(sock)
        write_file(
            self.data_dir / "control",
            msgspec.json.encode({"port": sock.getsockname()[1], "token": token, "pid": os.getpid()}),
        )

    def _server_tls(self) -> ServerTls:
        settings = self.settings
        if settings.tls_cert is not None:
            return ServerTls(Path(settings.tls_cert), Path(settings.tls_key))
        main = next(iter(certifiable([settings.hostname])), None)
        now = datetime.datetime.now(datetime.UTC)
        return ServerTls(*local_certificate(self.data_dir / "tls", settings.hostname, now), main)

    async def _prepare_certifier(self, tls: ServerTls) -> None:
        """What orders our certificates; those that are there are shown from the first connection on."""
        # The library beneath takes a third of a second to load, which only those wait for who use it.
        from sendkit_server.manage.acme import Certifier
        from sendkit_server.net.acme import Authority

        settings = self.settings
        authority = Authority(settings.acme_directory, Path(settings.ca_file) if settings.ca_file else None)
        wanted = certificates_wanted(settings)
        self._certifier = Certifier(self.store, wanted, authority, tls, self.data_dir, self._now)
        await self._certifier.show()

    async def _open_challenges(self) -> None:
        for sock in self._sockets["acme_http_bind"]:
            if self._challenges is None:
                self._challenges = HttpServer(ChallengeDoor(self.store), f"{self.public_url}/docs")
            await self._challenges.listen(sock)

    def _tls_context(self) -> ssl.SSLContext:
        assert self._tls is not None
        return self._tls.context

    # -- while it runs -------------------------------------------------------------------------------------------

    async def problems(self) -> list[str]:
        """Why this process cannot serve now."""
        found = []
        if self._draining:
            found.append("shutting down")
        try:
            await self.store.prove(self._now())
        except StoreError as error:
            found.append(f"database: {error}")
        return found

    def warnings(self) -> list[dict[str, str]]:
        """What an operator should mend."""
        found = [PORT_25_BLOCKED] if self._port_25.blocked else []
        found += routes_down(self.deliverer.ways())
        found += self._watch.warnings()
        found += self._doctor_watch.warnings()
        found += self._certificate_warnings()
        return [{"name": one.name, "message": one.message, "fix": one.fix} for one in found]

    def _down(self) -> dict[str, str]:
        return {way["to"]: way["reason"] for way in self.deliverer.ways() if way["status"] == "down"}

    def _certificate_warnings(self) -> list[Warning_]:
        given = certificate_view.file_standing(certificates_wanted(self.settings), self._now())
        of_file = None if given is None or given.source == "local" else certificate_view.warning_of(given)
        ordered = [] if self._certifier is None else self._certifier.warnings()
        return ordered if of_file is None else [of_file, *ordered]

    def _count_attempt(self, job: Job, attempt: Attempt) -> None:
        for outcome in attempt.outcomes:
            if outcome.result is Result.DELIVERED:
                if attempt.route != CAPTURE_ROUTE:
                    self._port_25.mail_left()
                self.metrics.delivered.inc()
                self.metrics.delivery_seconds.observe((self._now() - job.message.created_at) / 1000)
            elif outcome.result is Result.DEFERRED:
                self.metrics.deferred.inc()
            else:
                self.metrics.failed.inc()

    async def _refresh_metrics(self) -> None:
        # While the database is away the other figures are wanted most.
        with contextlib.suppress(StoreError):
            waiting, owned = await self.store.read(email_queries.unsettled_count)
            self.metrics.queue.labels("waiting").set(waiting)
            self.metrics.queue.labels("in_flight").set(owned)
        statuses = [finding.status for finding in self.doctor.findings.values()]
        for status in FindingStatus:
            self.metrics.findings.labels(status).set(statuses.count(status))
        self.metrics.wal_bytes.set(self.store.log_bytes())
        self.metrics.free_disk_bytes.set(self.store.free_disk_bytes())
        self.metrics.commits.set(self.store.commits)
        self.metrics.lease.set(self.store.lease.holds())
        for way in self.deliverer.ways():
            self.metrics.route_up.labels(way["route"], way["to"], ",".join(way["addresses"])).set(way["status"] == "up")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # A part that dies must not leave a server behind that takes mail and never sends it.
            log.critical("part.died", part=task.get_name(), exc_info=task.exception())
            os.kill(os.getpid(), signal.SIGTERM)

    # -- end -----------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Ends in bounded time: doors and deliveries side by side, then the store."""
        self._draining = True
        seconds: float = self.settings.drain_seconds
        # The same time for both: a receiver whose answer to the dot is not waited for gets the mail once more. What the
        # doors still take meanwhile is left in the store, for delivery has no room any more. A tenth is for writing down
        # what became of it, before whoever has told us to end loses patience.
        most_s = seconds * 0.9
        await asyncio.gather(self._close_doors(most_s), self.deliverer.drain(most_s))
        tasks = list(self._tasks)
        for task in tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sts.close()
        if self._certifier is not None:
            self._certifier.close()
        await _in_time(
            self._tls_counts.flush(), self._usage.write(), self.refusals.flush(), self._guess_exchange.tell()
        )
        # Only when the heart has stopped: a beat after the farewell would begin a new incarnation.
        await _in_time(self._membership.leave())
        with contextlib.suppress(OSError):
            (self.data_dir / "control").unlink()
        if "http" in self.settings.roles:
            self._pages.close()
        if self._deafen is not None:
            await asyncio.to_thread(self._deafen)
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.store.close)

    async def _close_doors(self, seconds: float) -> None:
        ending: list[Awaitable[None]] = [door.close(seconds) for door in self._smtp_doors]
        ending += [server.close(seconds) for server in self._http_servers()]
        await asyncio.gather(*ending)
        # Only now: a mail whose DATA or request had begun is still taken (the doors begin no new one).
        self.acceptor.closed = refusal.SHUTTING_DOWN

    def _http_servers(self) -> list[HttpServer]:
        servers = [self._control] if self._challenges is None else [self._control, self._challenges]
        return [*servers, self._http] if "http" in self.settings.roles else servers


async def serve(settings: Settings, *, dev: bool, started: Callable[[App], None]) -> None:
    """Runs a server until SIGTERM or SIGINT. started: called once it serves."""
    app = App(settings, dev=dev)
    await app.start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    started(app)
    await stopping.wait()
    log.info("server.stopping", drain_seconds=settings.drain_seconds)
    # Whatever hangs (a database that does not answer), the process ends: what is not written is as after kill -9, not lost.
    deadline = threading.Timer(settings.drain_seconds + OVERTIME_S, _end_now)
    deadline.daemon = True
    deadline.start()
    await app.stop()
    log.info("server.stopped")
    # Who tells us once more while the interpreter cleans up must not make a killed process of one that has ended in order.
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(name)
        signal.signal(name, signal.SIG_IGN)


async def _in_time(*works: Awaitable[None]) -> None:
    """Last writes, side by side: none of them may keep the process from ending, nor the others from being tried."""

    async def within(work: Awaitable[None]) -> None:
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await work

    await asyncio.gather(*(within(work) for work in works))


def _end_now() -> None:
    log.error("server.ended_by_deadline", why="something did not end in time, such as a database that does not answer")
    sys.stderr.flush()
    os._exit(1)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """From another thread; a loop that has just ended needs nothing any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


def _address_of(sock: Any) -> Address:
    name = sock.getsockname()
    return Address(name[0], name[1])
