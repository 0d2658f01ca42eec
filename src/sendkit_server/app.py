"""The parts, joined: the only module that knows them all. It starts the roles, watches over them, and ends them in order.

Start: store → delivery → doors. End: doors stop taking → what is in flight is finished or handed back → store closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import structlog

from sendkit_server.accept import Acceptor, AcceptSettings
from sendkit_server.api.control import ControlDoor
from sendkit_server.api.door import HttpDoor
from sendkit_server.api.server import HttpServer
from sendkit_server.api.service import Service
from sendkit_server.compose.signing import Signers
from sendkit_server.config import PREFIX, Address, ConfigError, Settings
from sendkit_server.dashboard.door import Pages
from sendkit_server.deliver.deliverer import Deliverer
from sendkit_server.deliver.probe import ProbeResult
from sendkit_server.deliver.route import Capture, Direct, Route, Smarthost, parse_routes
from sendkit_server.deliver.settings import DeliverySettings
from sendkit_server.deliver.stored import DeliveryView
from sendkit_server.events.metrics import Metrics
from sendkit_server.manage import commands, inbox, installation
from sendkit_server.manage.certificates import local_certificate
from sendkit_server.manage.domains import DnsNames
from sendkit_server.model import refusal
from sendkit_server.model.clock import SteadyClock
from sendkit_server.model.instant import MINUTE_MS, Instant
from sendkit_server.model.mail import ApiKey, Message, Warning_
from sendkit_server.model.outcome import Attempt, Result
from sendkit_server.model.retry import RetryPolicy
from sendkit_server.net.listen import listen, source_addresses
from sendkit_server.net.resolver import Resolver
from sendkit_server.net.tls_server import ServerTls
from sendkit_server.smtp.door import SubmissionDoor
from sendkit_server.smtp.keys import StoredKeys
from sendkit_server.smtp.submission import SubmissionSettings
from sendkit_server.store import seal
from sendkit_server.store.errors import StoreError
from sendkit_server.store.files import write_file
from sendkit_server.store.queries import emails as email_queries
from sendkit_server.store.queries import keys as key_queries
from sendkit_server.store.store import open_store
from sendkit_server.store.values import Job
from sendkit_server.wire import return_path

SIGNING_THREADS = 2
DEV_SMTP_BIND = Address("127.0.0.1", 1025)
WATCH_S = 5.0
JUMP_MS = 10 * MINUTE_MS  # which takes two hours to follow
PROBE_AGAIN_S = 60.0
CAPTURE_ROUTE = Capture().name
ALGORITHMS = {"rsa": "rsa-sha256", "ed25519": "ed25519-sha256"}

PORT_25_BLOCKED = Warning_(
    "port_25_blocked",
    "This server cannot connect to port 25 of other mail servers, so nothing is being delivered directly.",
    "Ask the hosting provider to open outgoing port 25, or set SENDKIT_ROUTE to a relay: "
    "smarthost://user:password@relay.example:587",
)

CLOCK_JUMPED = Warning_(
    "clock_jumped",
    "The system's clock was set while this server ran: mail keeps to its plan, and this server to its own time.",
    "Restart it once the system's clock is right.",
)

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

    def has_room(self, site: str, size_bytes: int) -> bool:
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


class App:
    """One running server."""

    def __init__(self, settings: Settings, *, dev: bool) -> None:
        self.settings = settings
        self.dev = dev
        self.bound = Bound()
        self._sockets: dict[str, list[socket.socket]] = {}
        self.data_dir: Path = settings.data_dir
        self.metrics = Metrics()
        self._clock = SteadyClock(time.time_ns, _elapsed_ns)
        self._now = self._clock.now
        self._clock_jumped = False
        self.port_25_blocked = False
        self._has_left = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._smtp_doors: list[SubmissionDoor] = []
        self._used_keys: dict[tuple[int, str], Instant] = {}
        self._draining = False
        self._tls: ServerTls | None = None
        self.dev_secret: str | None = None
        self.public_url: str = settings.public_url

    # -- start ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts every role. ConfigError, PortTaken, StoreError, CertificateError say what keeps it from that."""
        self._prepare_store()
        try:
            await self._prepare_dev()
            self._bind()
            self._prepare_delivery()
            self._prepare_accept()
            await self._open_doors()
        except BaseException:
            for sockets in self._sockets.values():
                for sock in sockets:
                    sock.close()
            self.store.close()
            raise
        if "deliver" in self.settings.roles:
            self._spawn(self.deliverer.run(), "delivery")
            self._spawn(self._watch_port_25(), "probe")
        self._spawn(self._watch(), "watch")
        for name in self.settings.not_obeyed:
            log.warning("setting.not_supported_yet", setting=PREFIX + name.upper())

    def _prepare_store(self) -> None:
        installation.prepare_data_dir(self.data_dir)
        self.secret_key = installation.secret_key(self.data_dir, self.settings.secret_key)
        self.store = open_store(self.data_dir, self.secret_key, "sendkit serve")
        self.store.start(self._now())

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
        routes = parsed_routes(settings)
        self._routes = routes
        self.dns_names = dns_names(settings, routes)
        self._signers = Signers(self.store, [ALGORITHMS[name] for name in settings.dkim])
        self._resolver = Resolver(settings.dns_servers)
        self._pool = ThreadPoolExecutor(SIGNING_THREADS, "compose")
        token_key = seal.derived_key(self.secret_key, seal.RETURN_PATH_PURPOSE)

        def envelope_from(message: Message, job: Job) -> str:
            return f"{return_path.make(message.id, None, token_key)}@{settings.hostname}"

        self.deliverer = Deliverer(
            DeliverySettings(
                hostname=settings.hostname,
                routes=routes,
                mx_port=settings.mx_port,
                allow_private=settings.allow_private_networks,
                own=self._own_listeners(),
                retry=RetryPolicy(settings.retry_schedule, settings.retry_window),
                ca_file=Path(settings.ca_file) if settings.ca_file else None,
                connections_per_site=settings.connections_per_site,
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
        )

    def _prepare_accept(self) -> None:
        self.acceptor = Acceptor(
            AcceptSettings(self.settings.max_message_bytes, self.settings.smtp_max_recipients),
            self.store,
            self.deliverer if "deliver" in self.settings.roles else Later(),
            self.metrics,
            clock=self._now,
            entropy=Entropy().take,
            warnings=lambda: (PORT_25_BLOCKED,) if self.port_25_blocked else (),
        )

    # -- doors ---------------------------------------------------------------------------------------------------

    async def _open_doors(self) -> None:
        if self.bound.https_bind or self.bound.smtp_bind or self.bound.smtps_bind:
            self._tls = self._server_tls()
        if "http" in self.settings.roles:
            await self._open_http()
        self._open_smtp()
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
            dns_names=self.dns_names,
            clock=self._now,
            used=self._key_used,
            refresh_metrics=self._refresh_metrics,
        )
        pages = Pages(HttpDoor(service), self.store, dev=self.dev)
        self._http = HttpServer(pages, f"{self.public_url}/docs")
        for sock in self._sockets["http_bind"]:
            await self._http.listen(sock)
        for sock in self._sockets["https_bind"]:
            await self._http.listen(sock, self._tls_context())

    def _open_smtp(self) -> None:
        settings = self.settings
        limits = SubmissionSettings(
            hostname=settings.hostname,
            max_message_bytes=settings.max_message_bytes,
            max_recipients=settings.smtp_max_recipients,
            idle_s=settings.smtp_idle / 1000,
        )
        for name, mode in (("smtp_bind", "starttls"), ("smtps_bind", "tls"), ("dev_smtp_bind", "dev")):
            if not self._sockets[name]:
                continue
            is_dev = mode == "dev"
            door = SubmissionDoor(
                limits,
                StoredKeys(self.store, self._key_used, self._now),
                self.acceptor,
                tls=None if is_dev else self._tls_context,
                mode=mode,
                dev_key=self._dev_key if is_dev else None,
                plain_auth_loopback=settings.smtp_plain_auth == "loopback",
                on_error=lambda name: self.metrics.errors.labels(name, "smtp").inc(),
            )
            self._smtp_doors.append(door)
            for sock in self._sockets[name]:
                door.serve(sock)

    async def _open_control(self) -> None:
        """Opens the port that `sendkit` commands talk to, and tells them where it is."""
        token = secrets.token_urlsafe(32)
        context = commands.Context(self.store, self.dns_names, self._now, os.urandom)
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
        now = datetime.datetime.now(datetime.UTC)
        return ServerTls(*local_certificate(self.data_dir / "tls", settings.hostname, now))

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
        found = [PORT_25_BLOCKED] if self.port_25_blocked else []
        if self.acceptor.closed is refusal.DISK_FULL:
            found.append(
                Warning_(
                    "disk_full",
                    "There is less free disk than SENDKIT_MIN_FREE_DISK: mail is refused, delivery goes on.",
                    f"Free space at {self.data_dir}.",
                )
            )
        if self._clock_jumped:
            found.append(CLOCK_JUMPED)
        return [{"name": one.name, "message": one.message, "fix": one.fix} for one in found]

    def _key_used(self, key: ApiKey) -> None:
        self._used_keys[key.team_id, key.id] = self._now()

    def _count_attempt(self, job: Job, attempt: Attempt) -> None:
        for outcome in attempt.outcomes:
            if outcome.result is Result.DELIVERED:
                if attempt.route != CAPTURE_ROUTE:
                    # What left by whatever route proves that mail can leave.
                    self._has_left, self.port_25_blocked = True, False
                self.metrics.delivered.inc()
                self.metrics.delivery_seconds.observe((self._now() - job.message.created_at) / 1000)
            elif outcome.result is Result.DEFERRED:
                self.metrics.deferred.inc()
            else:
                self.metrics.failed.inc()

    async def _refresh_metrics(self) -> None:
        waiting, owned = await self.store.read(email_queries.unsettled_count)
        self.metrics.queue.labels("waiting").set(waiting)
        self.metrics.queue.labels("in_flight").set(owned)
        self.metrics.wal_bytes.set(self.store.wal_bytes())
        self.metrics.free_disk_bytes.set(self.store.free_disk_bytes())
        self.metrics.commits.set(self.store.commits)

    async def _watch(self) -> None:
        """Every few seconds: disk, changed certificates, last-used times, the inbox's retention."""
        while True:
            try:
                self._watch_disk()
                self._watch_clock()
                if self._tls is not None:
                    self._tls.reload_if_changed()
                used, self._used_keys = self._used_keys, {}
                if used:
                    await self.store.write_quietly(
                        lambda connection, used=used: key_queries.touch_keys(connection, used)  # type: ignore[misc]  # a default binds it now
                    )
                await inbox.expire_inbox(self.store, self._now() - self.settings.capture_retention)
            except StoreError as error:
                log.warning("watch.store_unavailable", error=str(error))
            await asyncio.sleep(WATCH_S)

    def _watch_disk(self) -> None:
        free = self.store.free_disk_bytes()
        short = free < self.settings.min_free_disk
        if short and self.acceptor.closed is None:
            self.acceptor.closed = refusal.DISK_FULL
            log.error("disk.low", free_bytes=free, data_dir=str(self.data_dir))
        elif not short and self.acceptor.closed is refusal.DISK_FULL:
            self.acceptor.closed = None
            log.info("disk.recovered", free_bytes=free)

    def _watch_clock(self) -> None:
        ahead_ms = self._clock.behind_ms()
        jumped = abs(ahead_ms) >= JUMP_MS
        if jumped != self._clock_jumped:
            self._clock_jumped = jumped
            log.warning("clock.jumped" if jumped else "clock.agrees_again", ahead_ms=ahead_ms)

    async def _watch_port_25(self) -> None:
        """Tells early what a user of a cloud otherwise learns days later: outgoing port 25 is closed."""
        domains = self._probe_domains()
        known: bool | None = True
        while domains and not self._has_left:
            result = await self.deliverer.probe(domains)
            self.port_25_blocked = result.reachable is False and not self._has_left
            if result.reachable is not known:
                known = result.reachable
                _tell_of_port_25(result)
            await asyncio.sleep(PROBE_AGAIN_S)
        self.port_25_blocked = False

    def _probe_domains(self) -> tuple[str, ...]:
        settings = self.settings
        only_direct = all(isinstance(route, Direct) for route in self._routes)
        is_default = settings.sources["probe_domains"] == "default"
        if not only_direct or (is_default and settings.mx_port != 25):
            return ()
        domains: tuple[str, ...] = settings.probe_domains
        return domains

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
        """Ends in bounded time: doors first, then delivery, then the store."""
        self._draining = True
        seconds: float = self.settings.drain_seconds
        ending: list[Awaitable[None]] = [door.close(seconds * 0.4) for door in self._smtp_doors]
        ending += [server.close(seconds * 0.4) for server in self._http_servers()]
        await asyncio.gather(*ending)
        # Only now: a mail whose DATA or request had begun is still taken (the doors begin no new one).
        self.acceptor.closed = refusal.SHUTTING_DOWN
        await self.deliverer.drain(seconds * 0.4)
        tasks = list(self._tasks)
        for task in tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            (self.data_dir / "control").unlink()
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.store.close)

    def _http_servers(self) -> list[HttpServer]:
        servers = [self._control]
        return [*servers, self._http] if "http" in self.settings.roles else servers


def _tell_of_port_25(result: ProbeResult) -> None:
    if result.reachable:
        log.info("port_25_open", tried=list(result.lines))
    elif result.reachable is False:
        log.warning("port_25_blocked", tried=list(result.lines), fix=PORT_25_BLOCKED.fix)
    else:
        log.warning("port_25_unknown", tried=list(result.lines), why="DNS named no mail host to connect to")


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
    await app.stop()
    log.info("server.stopped")


def parsed_routes(settings: Settings) -> tuple[Route, ...]:
    """The route chain. ConfigError when it cannot be read."""
    try:
        return tuple(parse_routes(settings.route))
    except ValueError as error:
        raise ConfigError(f"route = {settings.route!r}: {error}") from None


def dns_names(settings: Settings, routes: tuple[Route, ...]) -> DnsNames:
    """What the DNS records depend on: our addresses where we deliver ourselves, the relays' where they do."""
    mechanisms: list[str] = []
    if any(isinstance(route, Direct) for route in routes):
        detected = (address for address in source_addresses() if ipaddress.ip_address(address).is_global)
        addresses = settings.send_addresses or tuple(detected)
        mechanisms += [f"ip6:{address}" if ":" in address else f"ip4:{address}" for address in addresses]
        if not addresses:
            # Behind address translation the machine does not know its public address; its name's A record does.
            mechanisms.append(f"a:{settings.hostname}")
    mechanisms += [f"include:{route.host}" for route in routes if isinstance(route, Smarthost)]
    algorithms = tuple(ALGORITHMS[name] for name in settings.dkim)
    return DnsNames(settings.hostname, tuple(mechanisms), algorithms)  # type: ignore[arg-type]  # the names of ALGORITHMS


def _address_of(sock: Any) -> Address:
    name = sock.getsockname()
    return Address(name[0], name[1])
