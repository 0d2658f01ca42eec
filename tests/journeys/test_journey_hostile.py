"""A farm of hostile servers around one that is not: each gets the outcome it deserves, told with its transcript, in bounded
time, and the healthy one's mail is not held up by any of them."""

from __future__ import annotations

import asyncio
import base64
import datetime
import itertools
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from clients import missing
from server import Server, until
from sinks import DROP, DnsServer, Fault, SmtpSink, hostile, own_addresses
from sinks.hostile import RawServer

pytestmark = pytest.mark.engine("sqlite")
HEALTHY_MAILS = 50
HEALTHY_S = 10.0  # on a machine that has much else to do
FIRST_PLACE = 20  # among the loopback addresses of this process; tests beside use the first ones
OPENING_S, MESSAGE_S = 300, 900  # deadlines: until mail may be sent, and (with its size) for the message of the test
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def part_refusal(session: object, argument: str) -> str | None:
    """Refuses by name."""
    if "gone@" in argument:
        return "550 5.1.1 no such user"
    return "452 4.2.2 mailbox full" if "full@" in argument else None


# What SmtpSink plays: the answers; then the recipient's status, the reason of its first try, and words of its transcript.
TALKS: dict[str, tuple[dict[str, object], str, str, str]] = {
    "greylist": ({"RCPT": ["451 4.7.1 greylisted, come back", None]}, "delivered", "policy", "451 4.7.1 greylisted"),
    "storm-greeting": ({"greeting": "421 4.3.2 too busy"}, "delivery_delayed", "host_refused", "421 4.3.2 too busy"),
    "storm-mail": ({"MAIL": "421 4.3.2 going down"}, "delivery_delayed", "system_refused", "421 4.3.2 going down"),
    "banner": ({"greeting": "554 5.7.1 go away"}, "delivery_delayed", "host_refused", "554 5.7.1 go away"),
    "escapes": (
        {"greeting": b"554 5.7.1 \x1b[31m<script>\x00\xff\r\n"},
        "delivery_delayed",
        "host_refused",
        "<script>",
    ),
    "after-dot": ({"dot": [DROP, "250 2.0.0 once more"]}, "delivered", "no_reply_after_dot", "."),
    "in-data": ({"content": DROP}, "delivery_delayed", "no_reply_after_dot", "354"),
    "nonsense": ({"dot": "25 whatever"}, "delivery_delayed", "protocol_error", "25 whatever"),
    "wrong-code": ({"dot": "299 perhaps"}, "delivery_delayed", "protocol_error", "299 perhaps"),
    "takes-data": ({"DATA": "250 thanks"}, "delivery_delayed", "protocol_error", "250 thanks"),
    "spam": ({"dot": "550 5.7.1 looks like spam"}, "bounced", "policy", "550 5.7.1 looks like spam"),
    "no-user": ({"RCPT": "550 5.1.1 no such user"}, "bounced", "mailbox_unavailable", "550 5.1.1 no such user"),
    "full": ({"RCPT": "452 4.2.2 full"}, "delivery_delayed", "mailbox_full", "452 4.2.2 full"),
    "broken-starttls": ({"STARTTLS": "454 4.7.0 no TLS today"}, "delivered", "delivered", "454 4.7.0 no TLS today"),
}
RAW: dict[str, tuple[hostile.Handler, str, str, str]] = {
    # A reset that comes while we are still connecting is told as such.
    "reset": (hostile.reset, "delivery_delayed", "connection_lost connect_failed", "mx.reset.test"),
    "reset-at-mail": (hostile.reset_at_mail, "delivery_delayed", "connection_lost", "MAIL FROM"),
    "endless-lines": (hostile.endless_lines, "delivery_delayed", "protocol_error", "more than 100 lines"),
    "endless-line": (hostile.endless_line, "delivery_delayed", "protocol_error", "line longer than"),
    "garbage-tls": (hostile.garbage_for_tls, "delivered", "delivered", "asked again in clear"),
}
# What DNS says, with which servers: the first and the second one that the program is told of.
NAMES: dict[str, tuple[object, object, str, str]] = {
    "no-such": (None, None, "bounced", "no_such_domain"),
    "null-mx": ({"MX": ["0 ."]}, {"MX": ["0 ."]}, "bounced", "null_mx"),
    "one-says-no": (None, Fault.SERVFAIL, "delivery_delayed", "dns_unavailable"),
    "one-says-null": ({"MX": ["0 ."]}, Fault.SERVFAIL, "delivery_delayed", "dns_unavailable"),
    "other-knows": (None, {"MX": ["10 mx.there.test."]}, "delivered", "delivered"),
    "servfail": (Fault.SERVFAIL, Fault.SERVFAIL, "delivery_delayed", "dns_unavailable"),
    "one-is-broken": (Fault.SERVFAIL, {"MX": ["10 mx.there.test."]}, "delivered", "delivered"),
    "alias": ({"CNAME": ["a1.test."]}, {}, "delivered", "delivered"),
    "alias-loop": (Fault.LOOP, Fault.LOOP, "delivery_delayed", "dns_unavailable"),
    "mx-alias": ({"MX": ["10 a2.test."]}, {}, "delivered", "delivered"),
    "dangling": ({"MX": ["10 nowhere.test."]}, {}, "delivery_delayed", "no_mail_host"),
    "private-10": ({"MX": ["10 private-10-host.test."]}, {}, "delivery_delayed", "address_refused"),
    "private-127": ({"MX": ["10 private-127-host.test."]}, {}, "delivery_delayed", "address_refused"),
    "private-link": ({"MX": ["10 private-link-host.test."]}, {}, "delivery_delayed", "address_refused"),
    "private-v6": ({"MX": ["10 private-v6-host.test."]}, {}, "delivery_delayed", "address_refused"),
    "first-dead": ({"MX": ["10 dead.test.", "20 mx.there.test."]}, {}, "delivered", "delivered"),
    "first-babbles": ({"MX": ["10 mx.endless-lines.test.", "20 mx.there.test."]}, {}, "delivered", "delivered"),
    "fifty-dead": ({"MX": [f"{n} dead.test." for n in range(50)]}, {}, "delivery_delayed", "connect_failed"),
    "fifty-hosts": ({"MX": [f"{n} dead{n}.test." for n in range(50)]}, {}, "delivery_delayed", "connect_failed"),
}
HOSTS: dict[str, dict[str, list[str]]] = {
    "a1.test": {"CNAME": ["a2.test."], "MX": ["10 mx.there.test."]},
    "private-10-host.test": {"A": ["10.0.0.1", "192.168.1.1"]},
    "private-127-host.test": {"A": ["127.0.0.1"]},
    "private-link-host.test": {"A": ["169.254.169.254", "0.0.0.0"]},
    "private-v6-host.test": {"AAAA": ["::1", "fd00::1", "fe80::1"]},
}


class Farm:
    """The hosts, and what DNS says of them."""

    def __init__(self, stack: AsyncExitStack, dns: DnsServer, port: int) -> None:
        self.dns = dns
        self.port = port
        self.sinks: dict[str, SmtpSink] = {}
        self.raws: dict[str, RawServer] = {}
        self._stack = stack
        self._addresses: Iterator[str] = itertools.islice(own_addresses(), FIRST_PLACE, None)

    def free_address(self) -> str:
        """One that nobody listens at."""
        return next(self._addresses)

    def _name(self, site: str) -> str:
        address = self.free_address()
        self.dns.zone[f"{site}.test"] = {"MX": [f"10 mx.{site}.test."]}
        self.dns.zone[f"mx.{site}.test"] = {"A": [address]}
        return address

    async def talk(self, site: str, answers: dict[str, object], **more: Any) -> None:
        """A sink for a site of its own."""
        sink = SmtpSink(self._name(site), self.port, answers=answers, **more)  # type: ignore[arg-type]
        self.sinks[site] = await self._stack.enter_async_context(sink)

    async def raw(self, site: str, handler: hostile.Handler, receive_bytes: int | None = None) -> None:
        """Something else for a site of its own."""
        server = RawServer(self._name(site), self.port, handler, receive_bytes=receive_bytes)
        self.raws[site] = await self._stack.enter_async_context(server)


@pytest.fixture
async def farm(dns: DnsServer, sink: SmtpSink) -> AsyncIterator[Farm]:
    """An empty one; the healthy host is there.test's."""
    async with AsyncExitStack() as stack:
        yield Farm(stack, dns, sink.port)


def server_tls(**validity: Any) -> ssl.SSLContext:
    """A certificate for nobody's eyes: of an authority that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("mx.expired.test", **validity).configure_cert(context)
    return context


async def attempts(server: Server, key: str, message_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.call("GET", f"/emails/{message_id}/attempts", key)).json["data"]
    return found


def lines(attempt: dict[str, Any]) -> str:
    return "\n".join(f"{line['side']} {line['text']}" for line in attempt["transcript"])


async def healthy_within(server: Server, key: str, sink: SmtpSink, seconds: float) -> None:
    """A burst for the healthy host is there in time, whatever else goes on."""
    began = time.monotonic()
    await asyncio.gather(*(server.send(key, to=f"healthy{n}@there.test") for n in range(HEALTHY_MAILS)))
    left = began + seconds - time.monotonic()
    await until(lambda: sum("healthy" in str(mail.recipients) for mail in sink.mails) == HEALTHY_MAILS, left)


def ours(address: str) -> str:
    """The network of this process's loopback addresses: what the operator lists, and nothing of the rest."""
    return address.rpartition(".")[0] + ".0/24"


async def test_each_hostile_site_has_its_own_end_and_none_holds_up_the_healthy_one(
    make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer, farm: Farm
) -> None:
    for site, (answers, *_) in TALKS.items():
        await farm.talk(site, answers, tls=server_tls() if "STARTTLS" in answers else None)
    for site, (handler, *_) in RAW.items():
        await farm.raw(site, handler)
    await farm.talk("expired", {}, tls=server_tls(not_after=datetime.datetime(2020, 1, 1)))
    await farm.talk("small", {}, extensions=("SIZE 200",))
    dead = farm.free_address()
    dns.zone |= {f"{site}.test": first for site, (first, *_) in NAMES.items() if first is not None}  # type: ignore[misc]
    dns.zone |= {**HOSTS, "a2.test": {"MX": ["10 mx.there.test."], "A": [sink.host]}, "dead.test": {"A": [dead]}}
    dns.zone |= {f"dead{n}.test": {"A": [dead]} for n in range(50)}
    second = {**dns.zone, **{f"{site}.test": said for site, (_, said, *_) in NAMES.items() if said}}
    expected = {site: case[-3:] for site, case in {**TALKS, **RAW}.items()}
    expected |= {site: (status, reason, "") for site, (_, _, status, reason) in NAMES.items()}
    expected |= {"expired": ("delivered", "delivered", "unverified"), "small": ("failed", "message_too_large", "200")}

    async with DnsServer(second) as other_dns, SmtpSink("127.0.0.1", sink.port) as forbidden:
        server = await make_server(
            SENDKIT_DNS_SERVERS=f"{dns.address},{other_dns.address}",
            SENDKIT_ALLOW_PRIVATE_NETWORKS=ours(sink.host),
            SENDKIT_RETRY_SCHEDULE="2s,1h",
        ).start()
        key = await server.live_key()
        ids = {site: await server.send(key, to=f"ann@{site}.test") for site in expected}
        await healthy_within(server, key, sink, HEALTHY_S)
        for site, (status, reason, words) in expected.items():
            found = await server.settled(key, ids[site], status)
            assert found["reason"] or status == "delivered", site
            assert (found["next_attempt_at"] is not None) == (status == "delivery_delayed"), site
            first = (await attempts(server, key, ids[site]))[0]
            assert first["recipients"][0]["reason"] in reason.split(), (site, first)
            assert words in lines(first), (site, lines(first))
        assert forbidden.sessions == []
        await tells_what_happened(server, key, ids, farm)


async def tells_what_happened(server: Server, key: str, ids: dict[str, str], farm: Farm) -> None:
    """What the table has no column for."""
    told = {site: await attempts(server, key, message_id) for site, message_id in ids.items()}
    # The same bytes twice, and marked: the first may have arrived.
    first, again = told["after-dot"][:2]
    assert first["recipients"][0]["possible_duplicate"] and again["outcome"] == "delivered"
    assert len(set(farm.sinks["after-dot"].bodies)) == 1 and len(farm.sinks["after-dot"].bodies) == 2
    # In clear only because the alternative was no mail at all.
    assert told["garbage-tls"][-1]["tls"] is None and "TLS handshake failed" in lines(told["garbage-tls"][-1])
    assert told["expired"][-1]["tls"].split()[2] == "unverified"
    # However many hosts there are, five addresses a try.
    assert lines(told["fifty-hosts"][0]).count("not connected to") <= 5
    assert "not connected to dead.test" in lines(told["first-dead"][-1])
    assert told["first-dead"][-1]["host"] == told["first-babbles"][-1]["host"] == "mx.there.test"
    # Nobody's endless words are kept without end, and what a terminal would obey is text.
    for site in ("endless-lines", "endless-line", "escapes"):
        assert len(lines(told[site][0])) < 1000
        assert not set("\x1b\x00\r") & set(lines(told[site][0]))
    assert "SENDKIT_ALLOW_PRIVATE_NETWORKS" in (await server.email(key, ids["private-10"]))["reason"]


async def test_of_several_recipients_each_has_its_own_end_and_only_the_deferred_one_goes_again(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    sink.answers["RCPT"] = part_refusal
    server = await make_server(SENDKIT_RETRY_SCHEDULE="1s").start()
    key = await server.live_key()
    raw = b"From: a@sender.test\r\nSubject: s\r\n\r\nx\r\n"
    recipients = [f"{name}@there.test" for name in ("ann", "gone", "full", "bob")]
    message_id = await asyncio.to_thread(server.smtp_send, key, recipients, raw)
    await until(lambda: [c for c in sink.commands if "full@" in c][1:], what="the deferred one's second try")
    ends = {one["email"].partition("@")[0]: one for one in (await server.email(key, message_id))["recipients"]}
    assert {name: one["status"] for name, one in ends.items()} == {
        "ann": "delivered", "bob": "delivered", "gone": "bounced", "full": "delivery_delayed",
    }  # fmt: skip
    assert [mail.recipients for mail in sink.mails] == [["ann@there.test", "bob@there.test"]]
    tried = [command.partition("<")[2].partition("@")[0] for command in sink.commands if command.startswith("RCPT")]
    assert tried[:4] == ["ann", "gone", "full", "bob"] and set(tried[4:]) == {"full"}


async def later(server: Server, wall: Path, seconds: int) -> None:
    """So much time has passed for the program, by every clock that it has; it looks at the file once a second."""
    wall.write_text(f"+{seconds}s")
    async with asyncio.timeout(20):
        while True:
            told = parsedate_to_datetime((await server.call("GET", "/health")).headers["date"]).timestamp()
            if told >= time.time() + seconds - 5:
                return
            await asyncio.sleep(0.05)


async def test_who_is_silent_or_endlessly_slow_is_given_up_at_the_deadline_and_holds_up_nobody(
    make_server: Callable[..., Server], sink: SmtpSink, farm: Farm, tmp_path: Path
) -> None:
    if not LIBRARIES:
        missing("libfaketime")
    await farm.raw("silent", hostile.silent)
    await farm.raw("tarpit", hostile.tarpit(0.05))
    await farm.raw("deaf", hostile.slow_reader, receive_bytes=4096)
    wall = tmp_path / "wall"
    wall.write_text("+0s")
    server = await make_server(
        SENDKIT_RETRY_SCHEDULE="12h",
        LD_PRELOAD=str(LIBRARIES[0]),
        FAKETIME_TIMESTAMP_FILE=str(wall),
        FAKETIME_CACHE_DURATION="1",
    ).start()
    key = await server.live_key()
    ids = {site: await server.send(key, to=f"ann@{site}.test") for site in ("silent", "tarpit")}
    blob = base64.b64encode(os.urandom(3_000_000)).decode()  # more than the kernel takes for a host that does not read
    ids["deaf"] = await server.send(key, to="ann@deaf.test", attachments=[{"filename": "a", "content": blob}])
    await until(lambda: all(raw.connections for raw in farm.raws.values()), what="a connection to each of them")
    await healthy_within(server, key, sink, HEALTHY_S)
    await later(server, wall, OPENING_S - 60)
    assert [(await server.email(key, message_id))["status"] for message_id in ids.values()] == ["queued"] * 3
    # Each deadline is of a phase as a whole: a byte now and then does not extend it.
    await later(server, wall, OPENING_S + 60)
    for site in ("silent", "tarpit"):
        await given_up(server, key, ids[site], site, "timeout", OPENING_S)
    assert (await server.email(key, ids["deaf"]))["status"] == "queued"
    await later(server, wall, OPENING_S + MESSAGE_S)
    await given_up(server, key, ids["deaf"], "deaf", "no_reply_after_dot", MESSAGE_S)


async def given_up(server: Server, key: str, message_id: str, site: str, reason: str, after_s: int) -> None:
    """A mail waits because of a deadline, and says so."""
    found = await server.settled(key, message_id, "delivery_delayed")
    assert found["next_attempt_at"] is not None and f"mx.{site}.test" in found["reason"]
    (attempt,) = await attempts(server, key, message_id)
    assert [one["reason"] for one in attempt["recipients"]] == [reason], attempt
    assert attempt["milliseconds"] >= after_s * 1000
