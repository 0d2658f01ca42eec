"""Postfix as our client: what it tries again because a connection broke behind the dot goes out once all the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cutting import Cutting, cutting
from relay import Relay
from server import Server, until
from sinks import SmtpSink, own_addresses

pytestmark = pytest.mark.engine("sqlite")
SMTP = "SMTP, STARTTLS"
PLAIN = {"SENDKIT_SMTP_PLAIN_AUTH": "loopback"}
RETRIES_S = 60.0
UNHEARD = "while sending end of data -- message may be sent more than once"


@pytest.fixture
def make_relay() -> Iterator[Callable[..., Relay]]:
    """Makes one running relay."""
    made: list[Relay] = []

    def make(host: str, key: str, **more: Any) -> Relay:
        made.append(Relay(list(own_addresses())[243], host, key, **more))
        return made[0]

    yield make
    for relay in made:
        relay.close()


def mail(name: str, *, message_id: bool = True) -> bytes:
    """A mail of this subject, with a line that begins with a dot and bytes over 127."""
    head = ["From: app@sender.test", "To: all@there.test", f"Subject: {name}", "Date: Tue, 24 Nov 2026 16:00:00 +0000"]
    head += ["MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit"]
    head += [f"Message-ID: <{name}@app.sender.test>"] if message_id else []
    return "\r\n".join([*head, "", "Grüße", ".dot", ""]).encode()


def arrived(sink: SmtpSink, name: str) -> list[str]:
    """The recipients that a mail has come to, each as often as it has."""
    mails = [one for one in sink.mails if f"\r\nSubject: {name}\r\n".encode() in one.raw]
    return sorted(recipient for one in mails for recipient in one.recipients)


async def everything_sent(relay: Relay) -> None:
    try:
        await until(lambda: relay.is_done, RETRIES_S)
    except AssertionError:
        raise AssertionError(f"still in Postfix's queue: {relay.queue()}\n{relay.log}") from None
    assert relay.queue() == []


async def once_each(server: Server, key: str, proxy: Cutting, count: int) -> None:
    """Whatever the server took was cut behind the dot, came again, and is there once; then it is delivered."""
    listed = (await server.call("GET", "/emails?per_page=100", key)).json
    assert listed["meta"]["total"] == count
    assert {one["id"] for one in listed["data"]} == proxy.cut.keys()
    for message_id in proxy.cut:
        assert (await server.settled(key, message_id, "delivered"))["deduplicated"] is True


async def test_what_postfix_sends_again_after_cuts_behind_the_dot_arrives_once(
    make_server: Callable[..., Server], make_relay: Callable[..., Relay], sink: SmtpSink
) -> None:
    server = await make_server(**PLAIN).start()
    key = await server.live_key()
    mails = {
        f"cut-{n}": [f"ann{n}@there.test", f"bob{n}@elsewhere.test", f"cy{n}@there.test"][: 1 + n % 3] for n in range(6)
    }
    async with cutting(server.port(SMTP), times=2) as proxy:
        relay = make_relay(f"[127.0.0.1]:{proxy.port}", key)
        await asyncio.gather(*(asyncio.to_thread(relay.take, mail(name), to) for name, to in mails.items()))
        await everything_sent(relay)
        assert set(proxy.cut.values()) == {2}
        await once_each(server, key, proxy, len(mails))
    assert relay.log.count(UNHEARD) >= 2 * len(mails)
    assert {name: arrived(sink, name) for name in mails} == {name: sorted(to) for name, to in mails.items()}
    # Three tries each, and not a byte of them differs: Postfix writes its Received line into the queue file.
    assert sorted(Counter(proxy.contents).values()) == [3] * len(mails)


async def test_more_recipients_than_one_transaction_takes_come_again_in_the_same_portions(
    make_server: Callable[..., Server], make_relay: Callable[..., Relay], sink: SmtpSink
) -> None:
    server = await make_server(**PLAIN).start()
    key = await server.live_key()
    to = [f"user{n}@{domain}.test" for n in range(60) for domain in ("there", "elsewhere")]
    async with cutting(server.port(SMTP), times=1) as proxy:
        relay = make_relay(f"[127.0.0.1]:{proxy.port}", key)
        await asyncio.to_thread(relay.take, mail("many"), to)
        await everything_sent(relay)
        await once_each(server, key, proxy, 3)
    assert arrived(sink, "many") == sorted(to)


async def test_a_mail_without_a_message_id_is_known_again_by_the_line_of_the_relay(
    make_server: Callable[..., Server], make_relay: Callable[..., Relay], sink: SmtpSink
) -> None:
    server = await make_server(**PLAIN).start()
    key = await server.live_key()
    async with cutting(server.port(SMTP), times=1) as proxy:
        relay = make_relay(f"[127.0.0.1]:{proxy.port}", key)
        # The same words to the same person, twice: these are two mails.
        for _ in range(2):
            await asyncio.to_thread(relay.take, mail("nameless", message_id=False), ["ann@there.test"])
        await everything_sent(relay)
        await once_each(server, key, proxy, 2)
        assert all(b"Message-ID" not in content for content in proxy.contents)
    assert arrived(sink, "nameless") == ["ann@there.test"] * 2


async def test_a_mail_that_is_requeued_after_a_cut_arrives_once(
    make_server: Callable[..., Server], make_relay: Callable[..., Relay], sink: SmtpSink
) -> None:
    server = await make_server(**PLAIN).start()
    key = await server.live_key()
    async with cutting(server.port(SMTP), times=1) as proxy:
        relay = make_relay(f"[127.0.0.1]:{proxy.port}", key, again="1h")
        await asyncio.to_thread(relay.take, mail("requeued"), ["ann@there.test", "bob@elsewhere.test"])
        await until(lambda: "status=deferred" in relay.log, what="the cut to be heard of")
        relay.requeue()
        await until(lambda: relay.flush() or relay.is_done, RETRIES_S, "Postfix's empty queue")
        await once_each(server, key, proxy, 1)
    first, again = proxy.contents
    assert (first.count(b"Received:"), again.count(b"Received:")) == (1, 2)
    assert arrived(sink, "requeued") == ["ann@there.test", "bob@elsewhere.test"]


async def test_postfix_logs_in_over_verified_tls(
    make_server: Callable[..., Server], make_relay: Callable[..., Relay], sink: SmtpSink
) -> None:
    server = await make_server().start()
    key = await server.live_key()
    relay = make_relay(f"[localhost]:{server.port(SMTP)}", key, ca_file=server.ca_file)
    await asyncio.to_thread(relay.take, mail("secret"), ["ann@there.test"])
    await everything_sent(relay)
    assert "Verified TLS connection established to localhost[127.0.0.1]" in relay.log
    await until(lambda: arrived(sink, "secret") == ["ann@there.test"], what="the mail")
