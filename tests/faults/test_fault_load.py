"""Much at once: writers, a dead site's backlog, and memory that does not grow with what has passed through."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
from load import Load
from senders import all_arrived, by_http, by_smtp, tokens
from server import Server, until
from sinks import SILENCE, DnsServer, SmtpSink, own_addresses

from sendkit_server.manage import installation
from sendkit_server.model.address import parse_mailbox
from sendkit_server.model.mail import Door, Message, PartsContent, Recipient, Role
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.values import NewMail, NewMessage

READY_S = 10.0
LIVE_S = 5.0
QUIET = {"SENDKIT_SMTP_PLAIN_AUTH": "loopback", "SENDKIT_LOG_LEVEL": "warning"}


async def test_many_writers_are_all_served_and_none_is_lost(make_server: Callable[..., Server], sink: SmtpSink) -> None:
    await many_writers(make_server, sink, 1500)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_many_writers_for_a_minute_are_all_served(make_server: Callable[..., Server], sink: SmtpSink) -> None:
    await many_writers(make_server, sink, 40_000)


async def many_writers(make_server: Callable[..., Server], sink: SmtpSink, most: int) -> None:
    """64 HTTP clients and 20 SMTP clients, each on a connection of its own."""
    server = await make_server(**QUIET).start()
    key = await server.live_key()
    load = Load(server, key, http_threads=64, smtp_threads=20, most=most)
    load.start()
    await until(lambda: len(load.acknowledged) == most, 250, "every mail's acknowledgement")
    served = time.monotonic()
    await asyncio.to_thread(load.stop)
    assert time.monotonic() - served < LIVE_S, "some client still waits for its turn"
    await all_arrived(sink, load.acknowledged, 120)
    assert Counter(tokens(sink)) == Counter(load.acknowledged)
    assert server.log == ""


@pytest.fixture
async def dead(dns: DnsServer) -> AsyncIterator[SmtpSink]:
    """refusing.test, where nothing listens, and silent.test, which takes connections and says nothing."""
    hosts = own_addresses()
    next(hosts)
    async with SmtpSink(next(hosts), answers={"greeting": SILENCE}) as silent:
        dns.zone["refusing.test"] = {"MX": ["10 mx.refusing.test."]}
        dns.zone["mx.refusing.test"] = {"A": [next(hosts)]}
        dns.zone["silent.test"] = {"MX": ["10 mx.silent.test."]}
        dns.zone["mx.silent.test"] = {"A": [silent.host]}
        yield silent


@pytest.mark.parametrize("site", ["refusing.test", "silent.test"])
async def test_a_dead_sites_backlog_holds_up_neither_the_start_nor_other_mail(
    make_server: Callable[..., Server], sink: SmtpSink, dead: SmtpSink, site: str
) -> None:
    await backlog(make_server, sink, site, 20_000)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("site", ["refusing.test", "silent.test"])
async def test_a_backlog_of_a_hundred_thousand_holds_up_neither_the_start_nor_other_mail(
    make_server: Callable[..., Server], sink: SmtpSink, dead: SmtpSink, site: str
) -> None:
    await backlog(make_server, sink, site, 100_000)


async def backlog(make_server: Callable[..., Server], sink: SmtpSink, site: str, count: int) -> None:
    """Mail for a dead site waits; a mail for a living one passes it, right after the start and a while later."""
    server = await make_server(**QUIET).start()
    key = await server.live_key()
    await server.stop()
    secret = installation.secret_key(server.data_dir, server.settings.get("SENDKIT_SECRET_KEY"))
    store = open_store(server.data_dir, secret, "tests", server.settings.get("SENDKIT_DATABASE_URL"))
    store.start(now := time.time_ns() // 1_000_000)
    try:
        for start in range(0, count, 500):
            await asyncio.gather(*(store.accept(waiting(store, start + n, site, now)) for n in range(500)))
    finally:
        store.close()
    started = time.monotonic()
    await server.start()
    assert time.monotonic() - started < READY_S
    for n in range(5):
        accepted = time.monotonic()
        assert await by_http(server, key, f"live-http-{n}") == 200
        assert await by_smtp(server, key, f"live-smtp-{n}") == 250
        assert await by_http(server, key, f"dead-{n}", site) == 200
        await until(lambda n=n: len(sink.mails) == 2 * (n + 1), LIVE_S, "the living site's mail")  # type: ignore[misc]
        assert time.monotonic() - accepted < LIVE_S
    lanes = {lane["site"]: lane for lane in (await server.call("GET", "/queue", key)).json["data"]}
    lane = lanes[site]
    assert lane["waiting"] + lane["in_flight"] == count + 5
    stopped = time.monotonic()
    assert await server.stop() == 0
    assert time.monotonic() - stopped < READY_S + 2


def waiting(store: Store, number: int, site: str, now: int) -> NewMail:
    """A mail that nobody owns, due since it was accepted."""
    to, sender = parse_mailbox(f"a{number}@{site}"), parse_mailbox("a@sender.test")
    message = Message(
        id=f"msg_{number:026d}", team_id=1, content_id=f"con_{number:026d}", door=Door.HTTP, key_id="key_1", from_=sender,
        to=(to,), cc=(), subject="waits", message_id=f"<{number}@sender.test>", created_at=now,
    )  # fmt: skip
    return NewMail(
        parent_id="req_1", owner=store.owner, content=PartsContent("waits", None, "text"), size_bytes=100,
        messages=(NewMessage(message, (Recipient(0, to, Role.TO),), frozenset()),),
    )  # fmt: skip


@pytest.mark.engine("sqlite")
async def test_memory_does_not_grow_with_the_mails_that_have_passed(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    assert await growth(make_server, sink, 1_000, 3_000) < 40_000_000


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_memory_stays_bounded_over_twenty_thousand_mails(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    assert await growth(make_server, sink, 5_000, 20_000) < 60_000_000


async def growth(make_server: Callable[..., Server], sink: SmtpSink, before: int, after: int) -> int:
    """By how many bytes the server is bigger after that many delivered mails than it was after some."""
    server = await make_server(**QUIET).start()
    key = await server.live_key()
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    sizes = []
    done = 0
    for most in (before, after - before):
        load = Load(server, key, most=most)
        load.start()
        await until(lambda load=load, most=most: len(load.acknowledged) == most, 250)  # type: ignore[misc]
        await asyncio.to_thread(load.stop)
        done += most
        await until(lambda done=done: len(sink.mails) == done, 120, "every mail")  # type: ignore[misc]
        sizes.append(process.memory_info().rss)
    return sizes[1] - sizes[0]
