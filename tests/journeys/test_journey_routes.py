"""Which way a mail leaves, and what becomes of it when the way is closed, slow or wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from dkim_checks import both_verify, publish
from server import Server, until
from sinks import SILENCE, DnsServer, SmtpSink, own_addresses

USER, PASSWORD = "relay user", "p@ss,wörd/:"
CREDENTIALS = "relay%20user:p%40ss%2Cw%C3%B6rd%2F%3A"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that only SENDKIT_CA_FILE makes known."""
    return trustme.CA()


@pytest.fixture
def relay_tls(authority: trustme.CA) -> ssl.SSLContext:
    """The relay's certificate, for relay.test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("relay.test").configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "relay-ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def other_address() -> str:
    """A loopback address beside the sink's."""
    addresses: Iterator[str] = own_addresses()
    next(addresses)
    return next(addresses)


def closed_port(host: str) -> int:
    with socket.create_server((host, 0)) as held:
        return int(held.getsockname()[1])


async def attempts(server: Server, key: str, message_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.call("GET", f"/emails/{message_id}/attempts", key)).json["data"]
    return found


async def tried(server: Server, key: str, message_id: str) -> dict[str, Any]:
    """The mail once every recipient has been tried."""
    async with asyncio.timeout(20):
        while True:
            found: dict[str, Any] = await server.email(key, message_id)
            if all(one["status"] != "queued" for one in found["recipients"]):
                return found
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("scheme", ["smarthost", "smarthosts"])
async def test_the_relay_takes_over_when_no_host_can_be_connected_with_a_login_over_verified_tls(
    make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer, relay_tls: ssl.SSLContext, ca_file: str,
    other_address: str, scheme: str,
) -> None:  # fmt: skip
    dns.zone["relay.test"] = {"A": [other_address]}
    extensions = ("PIPELINING", "8BITMIME", "SMTPUTF8", "AUTH PLAIN LOGIN")
    async with SmtpSink(
        other_address, tls=relay_tls, tls_from_start=scheme == "smarthosts", extensions=extensions
    ) as relay:
        server = await make_server(
            SENDKIT_ROUTE=f"direct,{scheme}://{CREDENTIALS}@relay.test:{relay.port}",
            SENDKIT_MX_PORT=str(closed_port(sink.host)),
            SENDKIT_CA_FILE=ca_file,
        ).start()
        key = await server.live_key()
        await publish(server, dns)
        message_id = await server.send(key, to="Ännchen <ann@bücher.test>")
        await server.settled(key, message_id, "delivered")
        (mail,) = relay.mails
        assert mail.tls and mail.recipients == ["ann@xn--bcher-kva.test"]
        token = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
        assert f"AUTH PLAIN {token}" in relay.commands
        made = await attempts(server, key, message_id)
        assert (made[-1]["route"], made[-1]["host"], made[-1]["outcome"]) == ("smarthost", "relay.test", "delivered")
        assert made[-1]["tls"]
        secrets = (PASSWORD, token, CREDENTIALS)
        told = json.dumps(made, ensure_ascii=False) + server.log
        assert not any(secret in told for secret in secrets)
        await both_verify([mail.raw], dns)
        assert await server.stop() == 0
        assert not any(secret in server.log for secret in secrets)
    assert sink.sessions == []


async def test_the_relays_password_is_never_said_to_an_unverified_host(
    make_server: Callable[..., Server], dns: DnsServer, relay_tls: ssl.SSLContext, other_address: str,
    new_database: Callable[..., str | None],
) -> None:  # fmt: skip
    dns.zone["relay.test"] = {"A": [other_address]}
    extensions = ("PIPELINING", "AUTH PLAIN LOGIN")
    async with (
        SmtpSink(other_address, tls=relay_tls, extensions=extensions) as unverified,
        SmtpSink(other_address, extensions=extensions) as plain,
    ):
        for relay in (unverified, plain):
            route = f"smarthost://{CREDENTIALS}@relay.test:{relay.port}"
            server = await make_server(new_database(), SENDKIT_ROUTE=route).start()
            key = await server.live_key()
            message_id = await server.send(key)
            found = await server.settled(key, message_id, "delivery_delayed")
            assert found["next_attempt_at"] is not None and found["reason"]
            assert relay.mails == []
            assert not any(command.startswith("AUTH") for command in relay.commands)


async def test_the_first_route_that_connects_keeps_the_mail(
    make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer, other_address: str
) -> None:
    sink.answers["RCPT"] = "550 5.1.1 No such user"
    async with SmtpSink(other_address) as relay:
        server = await make_server(SENDKIT_ROUTE=f"direct,smarthost://{other_address}:{relay.port}").start()
        key = await server.live_key()
        found = await server.settled(key, await server.send(key), "bounced")
        assert "No such user" in found["reason"]
        assert relay.sessions == []


async def test_the_capture_route_keeps_live_mail_here(make_server: Callable[..., Server], sink: SmtpSink) -> None:
    server = await make_server(SENDKIT_ROUTE="capture").start()
    key = await server.live_key()
    message_id = await server.send(key)
    await server.settled(key, message_id, "delivered")
    assert [mail["id"] for mail in (await server.act("inbox.list"))["data"]] == [message_id]
    assert sink.sessions == []


async def test_at_the_end_of_the_retry_window_a_mail_has_failed_with_the_last_reason(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    sink.answers["RCPT"] = "451 4.3.2 not now"
    server = await make_server(SENDKIT_RETRY_SCHEDULE="1s", SENDKIT_RETRY_WINDOW="3s").start()
    key = await server.live_key()
    message_id = await server.send(key)
    found = await server.settled(key, message_id, "failed")
    assert found["next_attempt_at"] is None
    assert "not now" in found["reason"]
    assert found["last_event"] == "failed"
    assert 2 <= len(await attempts(server, key, message_id)) <= 6
    assert [event["type"] for event in found["events"]].count("delivery_delayed") == 1


async def test_what_dns_says_decides_and_the_reason_is_told(
    server: Server, key: str, dns: DnsServer, sink: SmtpSink
) -> None:
    dns.zone |= {
        "nomail.test": {"MX": ["0 ."]},
        "plain.test": {"A": [sink.host]},
        "empty.test": {"TXT": ['"nothing"']},
        "dangling.test": {"MX": ["10 gone.test."]},
    }
    expected = {"plain.test": "delivered", "nomail.test": "bounced", "gone.test": "bounced", "there.test": "delivered"}
    for domain, status in expected.items():
        found = await server.settled(key, await server.send(key, to=f"ann@{domain}"), status)
        assert status == "delivered" or domain in found["reason"].lower()
    for domain in ("empty.test", "dangling.test"):
        message_id = await server.send(key, to=f"ann@{domain}")
        found = await tried(server, key, message_id)
        reason = found["reason"].lower()
        assert domain in reason or "gone.test" in reason
    assert ("nomail.test", "A") not in dns.questions
    assert len(sink.mails) == 2


async def test_private_addresses_are_not_delivered_to_unless_listed(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server(SENDKIT_ALLOW_PRIVATE_NETWORKS="none").start()
    key = await server.live_key()
    message_id = await server.send(key)
    found = await tried(server, key, message_id)
    assert "SENDKIT_ALLOW_PRIVATE_NETWORKS" in found["reason"] or "private" in found["reason"]
    assert sink.sessions == []


async def test_a_slow_destination_holds_nobody_else(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer, other_address: str
) -> None:
    dns.zone["slow.test"] = {"MX": ["10 mx.slow.test."]}
    dns.zone["mx.slow.test"] = {"A": [other_address]}
    async with SmtpSink(other_address, sink.port, answers={"greeting": SILENCE}) as slow:
        await asyncio.gather(*(server.send(key, to=f"u{n}@slow.test") for n in range(200)))
        await until(lambda: slow.sessions)
        started = time.monotonic()
        ids = await asyncio.gather(*(server.send(key, to=f"u{n}@there.test") for n in range(50)))
        await until(lambda: sum(len(mail.recipients) for mail in sink.mails) == 50)
        assert time.monotonic() - started < 5
        await server.settled(key, ids[-1], "delivered")
        assert slow.most_open <= 20
        (lane,) = (await server.call("GET", "/queue", key)).json["data"]
        assert (lane["site"], lane["waiting"] + lane["in_flight"] >= 200) == ("slow.test", True)


async def test_the_next_mx_takes_over_from_one_that_is_down(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer, other_address: str
) -> None:
    dns.zone["two.test"] = {"MX": ["10 down.test.", "20 mx.there.test."]}
    dns.zone["down.test"] = {"A": [other_address]}
    message_id = await server.send(key, to="ann@two.test")
    await server.settled(key, message_id, "delivered")
    assert sink.mails[0].recipients == ["ann@two.test"]
    made = await attempts(server, key, message_id)
    assert made[-1]["host"] == "mx.there.test"


async def test_each_of_several_recipients_has_its_own_end(server: Server, key: str, sink: SmtpSink) -> None:
    def answer(session: object, argument: str) -> str | None:
        if "gone@" in argument:
            return "550 5.1.1 no such user"
        return "452 4.2.2 mailbox full" if "full@" in argument else None

    sink.answers["RCPT"] = answer
    raw = b"From: a@sender.test\r\nSubject: s\r\n\r\nx\r\n"
    recipients = [f"{name}@there.test" for name in ("ann", "gone", "full")]
    message_id = await asyncio.to_thread(server.smtp_send, key, recipients, raw)
    await until(lambda: sink.mails)
    found = await tried(server, key, message_id)
    ends = {one["email"].partition("@")[0]: one["status"] for one in found["recipients"]}
    assert ends == {"ann": "delivered", "gone": "bounced", "full": "delivery_delayed"}
    assert [mail.recipients for mail in sink.mails] == [["ann@there.test"]]
    (full,) = (one for one in found["recipients"] if one["email"].startswith("full@"))
    assert "mailbox full" in full["reason"] and full["next_attempt_at"] is not None
