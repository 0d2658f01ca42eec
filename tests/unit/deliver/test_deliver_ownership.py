"""A deliverer among others: nothing is sent that may be another node's by now, and a site's connections are shared."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import cast

import msgspec
import pytest
import trustme
from delivery_world import FAST, LOOPBACK, Log, MemoryStore, World, mx
from hypothesis import given
from hypothesis import strategies as st
from sinks import PATIENT_S, DnsServer, SmtpSink
from sinks.smtp import EXTENSIONS, Session
from structlog.typing import FilteringBoundLogger

from sendkit_server.deliver import Deliverer, DeliverySettings
from sendkit_server.deliver.ownership import Alone, Share
from sendkit_server.deliver.room import Bounds
from sendkit_server.model.mail import Content, PartsContent
from sendkit_server.model.retry import RetryPolicy
from sendkit_server.model.status import Status
from sendkit_server.net.resolver import Resolver
from sendkit_server.store.values import Completion, Job

SMALL = PartsContent("Hello", None, "Hello.")
BIG = PartsContent("Big", None, ("x" * 70 + "\r\n") * 30_000)
CHUNKING = (*EXTENSIONS, "CHUNKING")
SITE = "mx.there.test"  # how the lane of mx() is named


class Held:
    """An incarnation as the test wants it."""

    owner = 1

    def __init__(self) -> None:
        self.holding = True

    def holds(self) -> bool:
        return self.holding


class OwnersStore(MemoryStore):
    """Gives mail to the incarnation that claims it, and lets nobody else write. gate: what `content` waits for."""

    def __init__(self, clock: Callable[[], int], held: Held) -> None:
        super().__init__(clock)
        self.held = held
        self.refused: list[Completion] = []
        self.gate: asyncio.Event | None = None
        self.asked = 0

    async def claim(self, *, exclude_sites: frozenset[str], urgent_only: frozenset[str], bounds: Bounds) -> list[Job]:
        jobs = await super().claim(exclude_sites=exclude_sites, urgent_only=urgent_only, bounds=bounds)
        return [msgspec.structs.replace(job, owner=self.held.owner) for job in jobs]

    async def content(self, team_id: int, content_id: str) -> Content:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        return await super().content(team_id, content_id)

    async def complete(self, completion: Completion) -> None:
        if completion.job.owner == self.held.owner:
            await super().complete(completion)
        else:
            self.refused.append(completion)

    def unowned(self) -> int:
        return len(self._unowned)


class Node(World):
    """A world whose deliverer is one of several nodes."""

    def __init__(self, dns: DnsServer, settings: DeliverySettings, pool: ThreadPoolExecutor) -> None:
        self.now = 1_800_000_000_000
        self.held = Held()
        self.log = Log()
        self.store: OwnersStore = OwnersStore(lambda: self.now, self.held)
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
            ownership=self.held,
        )

    def job(self, *addresses: str, content: Content | None = SMALL, capture: bool = False) -> Job:
        job = super().job(*addresses, content=cast("Content", content), capture=capture)
        return self.store.add(msgspec.structs.replace(job, owner=self.held.owner))

    def lose(self) -> None:
        """Others have ended this incarnation; the process goes on as the next one."""
        self.held.owner += 1
        self.deliverer.drop()

    async def store_asked(self, times: int) -> None:
        async with asyncio.timeout(30):
            while self.store.asked < times:
                await asyncio.sleep(0.005)

    async def until_memory_is_empty(self) -> None:
        async with asyncio.timeout(30):
            await self.deliverer._ledger.until_empty()
        assert self.deliverer._ledger.size_bytes == 0


@asynccontextmanager
async def node(mx_port: int, zone: dict[str, object] | None = None, **settings: object) -> AsyncIterator[Node]:
    arguments: dict[str, object] = {
        "hostname": "out.test",
        "mx_port": mx_port,
        "allow_private": LOOPBACK,
        "dkim_required": False,
        "timeouts": FAST,
        "retry": RetryPolicy((60_000, 300_000), 3_600_000),
        **settings,
    }
    with ThreadPoolExecutor(2) as pool:
        async with DnsServer(zone or mx()) as dns:  # type: ignore[arg-type]
            made = Node(dns, DeliverySettings(**arguments), pool)  # type: ignore[arg-type]
            running = asyncio.create_task(made.deliverer.run())
            try:
                yield made
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                for _, fault in made.log.faults:
                    raise fault


class Line:
    """A slow line in front of a sink: while `stalled`, nothing of what clients say is taken off the wire.

    The window is small, so that most of a big mail waits in its sender. stuck: connections with unread bytes.
    """

    def __init__(self, sink: SmtpSink) -> None:
        self.port = 0
        self.stalled = False
        self.connections = 0
        self._sink = sink
        self._open = asyncio.Event()
        self._clients: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = socket.socket()

    async def __aenter__(self) -> Line:
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        # As on the Internet: with the segments of loopback the kernel takes megabytes at once.
        self._listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(64)
        self._listening.setblocking(False)
        self.port = self._listening.getsockname()[1]
        self._start(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listening.close()

    def stall(self) -> None:
        self.stalled = True
        self._open.clear()

    def release(self) -> None:
        self.stalled = False
        self._open.set()

    def stuck(self) -> int:
        found = 0
        for client in self._clients:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                found += bool(client.recv(1, socket.MSG_PEEK))
        return found

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._listening)
            client.setblocking(False)
            self.connections += 1
            self._start(self._carry(client))

    async def _carry(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(self._sink.host, self._sink.port)
        self._clients.add(client)

        async def answers() -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    await loop.sock_sendall(client, data)

        answering = asyncio.ensure_future(answers())
        try:
            with contextlib.suppress(OSError):
                while True:
                    # Looked at before it is taken, so that `stall` holds for what is about to come.
                    await _readable(client)
                    if self.stalled:
                        await self._open.wait()
                    data = await loop.sock_recv(client, 65536)
                    if not data:
                        break
                    writer.write(data)
                    await writer.drain()
        finally:
            self._clients.discard(client)
            answering.cancel()
            writer.transport.abort()
            client.close()


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(sock)


@asynccontextmanager
async def behind_a_line(sink: SmtpSink, **settings: object) -> AsyncIterator[tuple[Node, Line]]:
    async with sink, Line(sink) as line, node(line.port, **settings) as here:
        yield here, line


def test_alone_everything_is_ones_own() -> None:
    assert (Alone().owner, Alone().holds()) == (0, True)
    assert Share().of(7, "a.test") == 7


@given(st.integers(0, 500), st.integers(1, 40), st.text(max_size=20))
def test_the_shares_of_all_nodes_add_up_to_the_limit(limit: int, count: int, site: str) -> None:
    shares = [Share(rank, count).of(limit, site) for rank in range(count)]
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1


@given(st.integers(2, 10), st.integers(1, 100))
def test_the_odd_connections_of_different_sites_are_different_nodes(count: int, limit: int) -> None:
    with_more = [
        {rank for rank in range(count) if Share(rank, count).of(limit, f"mx{n}.test") > limit // count}
        for n in range(200)
    ]
    assert all(len(more) == limit % count for more in with_more)
    if limit % count:
        assert set.union(*with_more) == set(range(count))


@pytest.mark.parametrize("extensions", [EXTENSIONS, CHUNKING])
async def test_without_a_lease_the_end_of_a_mail_is_not_sent_and_the_mail_goes_again_with_it(
    extensions: tuple[str, ...],
) -> None:
    async with SmtpSink(extensions=extensions) as sink, node(sink.port) as here:

        def lapse(session: Session, _: str) -> str:
            here.held.holding = len(sink.sessions) > 1
            return "250 2.1.5 recipient ok"

        sink.answers["RCPT"] = lapse
        job = here.send("ann@there.test")
        await until_closed(sink)
        assert len(sink.sessions) == 1
        assert not sink.bodies and not here.store.completions
        here.held.holding = True
        here.deliverer.resume()
        await here.store.until_settled()
        assert len(sink.bodies) == 1
        assert (here.store.update(job).status, here.store.update(job).attempts) == (Status.DELIVERED, 1)
        assert here.store.events(job) == ["sent", "delivered"]


async def until_closed(sink: SmtpSink) -> None:
    async with asyncio.timeout(30):
        while not sink.sessions or sink.open_now:
            await asyncio.sleep(0.005)


async def test_while_the_lease_does_not_hold_no_connection_is_opened_and_nothing_claimed() -> None:
    async with SmtpSink() as sink, node(sink.port) as here:
        await here.resolver.mail_hosts("there.test")
        here.held.holding = False
        looks = len(here.store.claims)
        waiting = here.send("ann@there.test")
        due = here.store.add(here.job("bob@there.test"), unowned_from=here.now)
        assert not here.deliverer.has_room("elsewhere.test", 1)
        here.deliverer.wake()
        await asyncio.sleep(0.1)
        assert len(here.store.claims) == looks and not sink.sessions
        here.held.holding = True
        here.deliverer.resume()
        await here.store.until_settled()
        assert {here.store.update(waiting).attempts, here.store.update(due).attempts} == {1}


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("mx.there.test").configure_cert(context)
    return context


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "starttls"])
@pytest.mark.parametrize("extensions", [EXTENSIONS, CHUNKING], ids=["data", "bdat"])
async def test_of_a_big_mail_that_is_still_buffered_when_the_lease_ends_the_end_never_leaves(
    extensions: tuple[str, ...], tls: bool
) -> None:
    sink = SmtpSink(extensions=extensions, tls=server_context() if tls else None)
    async with behind_a_line(sink) as (here, line):

        def stall(session: Session, _: str) -> str:
            if session.number == 0:
                line.stall()
            return "250 2.1.5 recipient ok"

        # The answer to RCPT goes back, and what comes after it gets stuck: "BDAT" with the mail, or first "DATA".
        sink.answers["BDAT" if "CHUNKING" in extensions else "DATA"] = None
        if "CHUNKING" in extensions:
            sink.answers["RCPT"] = stall
        else:
            sink.answers["DATA"] = lambda session, _: (stall(session, ""), "354 go ahead")[1]
        job = here.send("ann@there.test", content=BIG)
        await line.until(lambda: line.stalled and line.stuck())
        here.held.holding = False
        line.release()
        await line.until(lambda: sink.bodies or not sink.open_now)
        assert not sink.bodies
        here.held.holding = True
        here.deliverer.resume()
        await here.store.until_settled()
        assert len(sink.bodies) == 1 and len(sink.bodies[0]) > 2_000_000
        assert (here.store.update(job).status, here.store.update(job).attempts) == (Status.DELIVERED, 1)


async def test_a_big_mail_arrives_whole_over_a_line_that_was_stuck_for_a_while() -> None:
    sink = SmtpSink()
    patient = msgspec.structs.replace(FAST, message_s=60.0)  # the narrow line takes its time on a busy machine
    async with behind_a_line(sink, timeouts=patient) as (here, line):
        sink.answers["DATA"] = lambda *_: (line.stall(), "354 go ahead")[1]
        here.send("ann@there.test", content=BIG)
        await line.until(lambda: line.stuck())
        line.release()
        await here.store.until_settled()
        assert len(sink.bodies) == 1 and sink.bodies[0].endswith(b"x\r\n")


async def only_what_is_sent_after_the_loss_arrives(here: Node, sink: SmtpSink) -> None:
    here.deliverer.set_share(Share())
    after = here.send("after@there.test")
    await here.store.until(lambda: here.store.recipients[(after.message.id, 0)][2] is not None)
    await here.until_memory_is_empty()
    assert [mail.recipients for mail in sink.mails] == [["after@there.test"]]
    assert len(here.store.completions) == 1


async def test_what_waits_for_a_connection_is_forgotten_with_the_incarnation() -> None:
    sink = SmtpSink()
    async with behind_a_line(sink) as (here, line):
        line.stall()
        for n in range(5):
            here.send(f"u{n}@there.test")
        await line.until(lambda: line.connections)
        here.lose()
        line.release()
        await only_what_is_sent_after_the_loss_arrives(here, sink)


async def test_what_is_being_composed_is_forgotten_with_the_incarnation() -> None:
    async with SmtpSink() as sink, node(sink.port) as here:
        here.store.gate = asyncio.Event()
        for n in range(5):
            here.send(f"u{n}@there.test", content=cast("Content", None))
        await here.store_asked(1)
        here.lose()
        here.store.gate.set()
        await only_what_is_sent_after_the_loss_arrives(here, sink)


async def test_what_was_foreseen_and_offered_is_forgotten_with_the_incarnation() -> None:
    async with SmtpSink() as sink, node(sink.port) as here:
        here.store.gate = asyncio.Event()
        offered, coming = (here.job(f"{name}@there.test", content=None) for name in ("ann", "bob"))
        here.deliverer.foresee(offered)
        here.deliverer.foresee(coming)
        here.deliverer.offer(offered)
        await here.store_asked(1)
        here.lose()
        # Its commit was under way when the incarnation ended: it belongs to the old one.
        here.deliverer.offer(coming)
        here.store.gate.set()
        await only_what_is_sent_after_the_loss_arrives(here, sink)


async def test_what_waits_for_dns_is_forgotten_with_the_incarnation() -> None:
    async with SmtpSink() as sink, node(sink.port) as here:
        resolve, gate = here.resolver.mail_hosts, asyncio.Event()

        async def slowly(domain: str) -> object:
            await gate.wait()
            return await resolve(domain)

        here.resolver.mail_hosts = slowly  # type: ignore[method-assign,assignment]
        for n in range(3):
            here.send(f"u{n}@there.test")
        await asyncio.sleep(0)
        here.lose()
        gate.set()
        await only_what_is_sent_after_the_loss_arrives(here, sink)


async def test_what_is_ready_or_on_the_wire_before_its_end_is_forgotten_with_the_incarnation() -> None:
    sink = SmtpSink()
    async with behind_a_line(sink, connections_per_site=1) as (here, line):
        sink.answers["DATA"] = lambda *_: (sink.answers.pop("DATA"), line.stall(), "354 go ahead")[2]
        here.send("big@there.test", content=BIG)
        await line.until(lambda: line.stuck())
        for n in range(20):
            here.send(f"u{n}@there.test")
        here.lose()
        line.release()
        await only_what_is_sent_after_the_loss_arrives(here, sink)
        assert not [mail for mail in sink.bodies if len(mail) > 1_000_000]


async def test_what_the_claim_brings_after_the_incarnation_has_ended_is_left_to_others() -> None:
    async with SmtpSink() as sink, node(sink.port) as here:
        claim, gate, asked = here.store.claim, asyncio.Event(), asyncio.Event()

        async def slowly(**wanted: object) -> list[Job]:
            jobs = await claim(**wanted)  # type: ignore[arg-type]
            if jobs:
                asked.set()
                await gate.wait()
            return jobs

        here.store.claim = slowly  # type: ignore[method-assign,assignment]
        here.store.add(here.job("ann@there.test"), unowned_from=here.now)
        here.deliverer.wake()
        await asyncio.wait_for(asked.wait(), 5)
        here.lose()
        gate.set()
        await only_what_is_sent_after_the_loss_arrives(here, sink)


def rank_without_share(limit: int, count: int) -> Share:
    return next(share for share in (Share(rank, count) for rank in range(count)) if share.of(limit, SITE) == 0)


async def test_a_site_that_is_other_nodes_is_handed_back_and_not_claimed_until_it_is_ones_own() -> None:
    async with SmtpSink() as sink, node(sink.port, connections_per_site=1) as here:
        here.deliverer.set_share(rank_without_share(1, 2))
        jobs = [here.send(f"u{n}@there.test") for n in range(3)]
        await here.store.until(lambda: here.store.unowned() == 3)
        for job in jobs:
            update = here.store.update(job)
            assert (update.status, update.attempts, update.next_attempt_at) == (Status.QUEUED, 0, here.now)
            assert here.store.events(job) == []
        assert not here.deliverer.has_room("there.test", 1)
        looks = len(here.store.claims)
        while len(here.store.claims) < looks + 2:
            here.deliverer.wake()
            await asyncio.sleep(0.01)
        assert here.store.unowned() == 3
        assert "there.test" in here.store.claims[-1]
        assert not sink.sessions
        await here.until_memory_is_empty()
        here.deliverer.set_share(Share())
        await here.store.until_settled()
        assert sorted(mail.recipients[0] for mail in sink.mails) == [f"u{n}@there.test" for n in range(3)]


async def test_a_newcomer_takes_nothing_until_it_is_told_its_share() -> None:
    async with SmtpSink() as sink, node(sink.port) as here:
        here.deliverer.set_share(None)
        here.store.add(here.job("ann@there.test"), unowned_from=here.now)
        here.deliverer.wake()
        await asyncio.sleep(0.1)
        assert here.store.unowned() == 1 and not here.deliverer.has_room("there.test", 1)
        here.deliverer.set_share(Share(1, 2))
        await here.store.until_settled()
        assert len(sink.mails) == 1


async def test_a_share_that_shrinks_and_grows_is_kept_to_after_the_current_mails() -> None:
    sink = SmtpSink()
    async with behind_a_line(sink, connections_per_site=6) as (here, line):

        def stall_at_six(session: Session, _: str) -> str:
            if sink.open_now == 6 and len(here.store.completions) < 100:
                line.stall()
            return "354 go ahead"

        sink.answers["DATA"] = stall_at_six
        for n in range(100):
            here.send(f"u{n}@there.test")
        await line.until(lambda: line.stalled and line.stuck() == 6)
        sent = {session.number: session.mails for session in sink.sessions}
        here.deliverer.set_share(Share(0, 3))
        sink.answers.clear()
        line.release()
        await here.store.until_settled()
        assert len(sink.mails) == 100
        went_on = [session for session in sink.sessions if session.mails > sent.get(session.number, 0) + 1]
        assert len(went_on) <= 2
        assert here.deliverer.lanes()[0].connections <= 2
        # The others have gone: all six are its own again.
        here.deliverer.set_share(Share())
        sink.answers["DATA"] = stall_at_six
        here.store.completions.clear()
        for n in range(100):
            here.send(f"v{n}@there.test")
        await line.until(lambda: line.stalled and line.stuck() == 6)
        sink.answers.clear()
        line.release()
        await here.store.until_settled()
        assert len(sink.mails) == 200 and sink.most_open == 6


async def test_idle_connections_beyond_a_smaller_share_are_closed_at_once() -> None:
    long_idle = msgspec.structs.replace(FAST, idle_s=60.0)
    sink = SmtpSink()
    async with behind_a_line(sink, connections_per_site=6, timeouts=long_idle) as (here, line):
        sink.answers["DATA"] = lambda *_: line.stall() if sink.open_now == 6 else None
        for n in range(100):
            here.send(f"u{n}@there.test")
        await line.until(lambda: line.stalled and line.stuck() == 6)
        sink.answers.clear()
        line.release()
        await here.store.until_settled()
        assert sink.open_now == 6
        here.deliverer.set_share(Share(0, 3))
        await line.until(lambda: sink.open_now == 2)
