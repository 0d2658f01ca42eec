"""Priorities, deadlines, required TLS, streams and pace, from either door to the recipient's server."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from server import Server, until
from sinks import DnsServer, SmtpSink, hostile, own_addresses
from sinks.hostile import RawServer

WISHES = "X-Sendkit-Priority: urgent\r\nX-Sendkit-Stream: alerts\r\nX-Sendkit-Expires-At: 2099-01-01T00:00:00Z\r\n"


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def test_members_and_headers_are_obeyed_on_both_doors_and_never_leave(
    server: Server, key: str, sink: SmtpSink
) -> None:
    by_api = await server.send(key, priority="urgent", stream="alerts", expires_at="2099-01-01T00:00:00Z")
    raw = f"From: app@sender.test\r\nTo: ann@there.test\r\nSubject: x\r\n{WISHES}\r\nx\r\n".encode()
    by_smtp = await asyncio.to_thread(server.smtp_send, key, ["ann@there.test"], raw)
    for message_id in (by_api, by_smtp):
        found = await server.settled(key, message_id, "delivered")
        assert found["stream"] == "alerts"
    assert len(sink.mails) == 2 and all(b"x-sendkit" not in mail.raw.lower() for mail in sink.mails)
    listed = (await server.call("GET", "/emails?stream=alerts", key)).json["data"]
    assert {one["id"] for one in listed} == {by_api, by_smtp}


@pytest.mark.parametrize(
    ("member", "value"),
    [("priority", "high"), ("expires_at", "2001-01-01T00:00:00Z"), ("stream", "Big News"), ("require_tls", "perhaps")],
)
async def test_a_wrong_wish_is_refused_alike_on_both_doors(server: Server, key: str, member: str, value: str) -> None:
    body = {"from": "a@sender.test", "to": "ann@there.test", "subject": "x", "text": "x", member: value}
    reply = await server.call("POST", "/emails", key, body)
    assert (reply.status, reply.json["field"]) == (422, member)
    header = "X-Sendkit-" + member.replace("_", "-").title()
    raw = f"From: app@sender.test\r\nTo: ann@there.test\r\nSubject: x\r\n{header}: {value}\r\n\r\nx\r\n".encode()
    with pytest.raises(AssertionError, match="validation_error"):
        await asyncio.to_thread(server.smtp_send, key, ["ann@there.test"], raw)


async def test_a_mail_whose_deadline_comes_while_it_waits_expires_and_is_never_sent(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server(SENDKIT_RETRY_SCHEDULE="1h").start()
    key = await server.live_key()
    sink.answers["RCPT"] = "450 4.2.0 later"
    message_id = await server.send(key, expires_at=in_seconds(2))
    waiting = await server.settled(key, message_id, "delivery_delayed")
    assert waiting["reason"]
    sink.answers.pop("RCPT")
    found = await server.settled(key, message_id, "expired")
    assert found["last_event"] == "failed"
    assert found["recipients"][0]["status"] == "expired"
    assert not sink.mails


async def test_required_tls_is_deferred_where_there_is_none_and_delivered_where_the_host_proves_its_name(
    make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mx.safe.test").configure_cert(context)
    async with SmtpSink(next(itertools.islice(own_addresses(), 1, None)), sink.port, tls=context) as safe:
        for domain in ("safe.test", "other.test"):
            dns.zone[domain] = {"MX": [f"10 mx.{domain}."]}
            dns.zone[f"mx.{domain}"] = {"A": [safe.host]}
        server = await make_server(SENDKIT_CA_FILE=str(tmp_path / "ca.pem"), SENDKIT_RETRY_SCHEDULE="1h").start()
        key = await server.live_key()
        await server.settled(key, await server.send(key, to="ann@safe.test", require_tls=True), "delivered")
        (mail,) = safe.mails
        assert mail.tls
        for domain, why in (("there.test", "STARTTLS"), ("other.test", "certificate")):
            message_id = await server.send(key, to=f"ann@{domain}", require_tls=True)
            await server.settled(key, message_id, "delivery_delayed")
            attempts = (await server.call("GET", f"/emails/{message_id}/attempts", key)).json["data"]
            assert why in str(attempts[0]["transcript"]), attempts
        # Mail that does not ask for it is not held up by that.
        for domain in ("there.test", "other.test"):
            await server.settled(key, await server.send(key, to=f"bob@{domain}"), "delivered")
        assert len(sink.mails) == 1 and len(safe.mails) == 2


async def test_a_domain_whose_tls_is_enforced_sends_nothing_in_clear(server: Server, key: str, sink: SmtpSink) -> None:
    status, out, err = await server.command("domains", "set", "sender.test", "--tls", "enforced")
    assert (status, out.strip()) == (0, "sender.test: TLS is enforced."), err
    await server.settled(key, await server.send(key), "delivery_delayed")
    await server.act("domains.set", name="sender.test", tls="opportunistic")
    await server.settled(key, await server.send(key), "delivered")
    assert len(sink.mails) == 1
    assert (await server.command("domains", "set", "nowhere.test", "--tls", "enforced"))[0] == 1
    assert (await server.command("domains", "set", "sender.test"))[0] == 2, "nothing to change"


async def test_a_domain_s_own_return_path_is_used_once_dns_leads_there(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    status, out, err = await server.command(
        "domains", "set", "sender.test", "--return-path", "bounces", "--tracking", "links"
    )
    assert status == 0 and "bounces come to bounces.sender.test, tracking links lead to links.sender.test" in out, err
    assert "\nlinks.sender.test. 3600 IN " in out
    await server.settled(key, await server.send(key), "delivered")
    assert sink.mails[-1].return_path.endswith("@mail.sender.test")
    for line in out.splitlines():
        if found := re.fullmatch(r"(\S+)\. 3600 IN (TXT|MX|A) (.*)", line):
            dns.zone.setdefault(found[1], {})[found[2]] = [found[3]]
    dns.zone["mail.sender.test"] = {"A": [sink.host]}
    status, out, err = await server.command("domains", "verify", "sender.test")
    assert status == 0, out + err
    await server.stop()
    await server.start()  # what a signer knows of a domain it keeps for some seconds
    await server.settled(key, await server.send(key), "delivered")
    assert sink.mails[-1].return_path.endswith("@bounces.sender.test")


async def urgent_beside_bulk(
    make_server: Callable[..., Server], sink: SmtpSink, bulk: int, urgent: int, text: str = "x"
) -> list[float]:
    """Seconds from the call until the urgent mail's dot, one after the other, while so many bulk mails wait."""
    sink.mails.clear()
    server = await make_server(SENDKIT_LOG_LEVEL="warning", SENDKIT_CONNECTIONS_PER_SITE="1").start()
    key = await server.live_key()

    async def flood(part: int) -> None:
        for start in range(0, bulk // 4, 50):
            to = [f"b{part}-{start + n}@there.test" for n in range(50)]
            reply = await server.call(
                "POST", "/emails", key, {"from": "a@sender.test", "to": to, "subject": "bulk", "text": text}
            )
            assert reply.status == 200

    await asyncio.gather(*(flood(part) for part in range(4)))
    took = []
    loop = asyncio.get_running_loop()
    for n in range(urgent):
        seen = len(sink.mails)
        started = loop.time()
        await server.send(key, to=f"urgent{n}@there.test", priority="urgent")
        wanted = f"urgent{n}@there.test"
        while not any(wanted in mail.recipients for mail in sink.mails[seen:]):
            await asyncio.sleep(0.002)
            assert loop.time() - started < 30
        took.append(loop.time() - started)
    assert len(sink.mails) < bulk, "the bulk mail was through before the urgent was measured"
    return sorted(took)


async def test_an_urgent_mail_overtakes_a_bulk_mailing(make_server: Callable[..., Server], sink: SmtpSink) -> None:
    took = await urgent_beside_bulk(make_server, sink, bulk=4000, urgent=10)
    assert took[len(took) // 2] < 1.0, took


async def slow_dot(session: object, argument: str) -> str:
    """A receiver that takes its time for each mail."""
    await asyncio.sleep(0.045)
    return "250 2.0.0 taken"


async def test_an_urgent_mail_overtakes_a_bulk_mailing_that_is_larger_than_the_memory_at_a_slow_receiver(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    sink.answers["dot"] = slow_dot
    took = await urgent_beside_bulk(make_server, sink, bulk=2000, urgent=10, text="x" * 30_000)
    assert took[len(took) // 2] < 1.0, took


async def test_a_site_that_hangs_before_more_mail_than_the_memory_holds_delays_no_other_sites_mail(
    make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer
) -> None:
    async with RawServer(next(itertools.islice(own_addresses(), 1, None)), sink.port, hostile.tarpit(0.05)) as tarpit:
        dns.zone["tarpit.test"] = {"MX": ["10 mx.tarpit.test."]}
        dns.zone["mx.tarpit.test"] = {"A": [tarpit.host]}
        server = await make_server().start()
        key = await server.live_key()
        # These wait in the store, until they are due at a moment when the tarpit has all that it gets.
        await server.act("queue.hold", site="elsewhere.test")
        await asyncio.gather(*(server.send(key, to=f"u{n}@elsewhere.test") for n in range(20)))
        attached = [{"filename": "a.bin", "content": base64.b64encode(bytes(750_000)).decode()}]
        for part in range(2):
            to = [f"u{part}-{n}@tarpit.test" for n in range(50)]
            await server.send(key, to=to, subject="large", attachments=attached)
        await until(lambda: tarpit.connections, what="a connection to the tarpit")
        await server.act("queue.release", site="elsewhere.test")
        await asyncio.gather(*(server.send(key, to=f"u{n}@there.test") for n in range(20)))
        await until(lambda: len(sink.mails) == 40, 10.0, what="those that waited, and those that came afterwards")
        queue = (await server.call("GET", "/queue", key)).json["data"]
        (lane,) = [lane for lane in queue if lane["site"] == "tarpit.test"]
        assert lane["waiting"] + lane["in_flight"] == 100 and 1 <= lane["in_flight"] <= 20, lane


async def test_a_site_that_pushes_back_is_given_a_moment_and_gets_its_mail(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server(SENDKIT_RETRY_SCHEDULE="1s", SENDKIT_CONNECTIONS_PER_SITE="1").start()
    key = await server.live_key()
    said = itertools.count()
    sink.answers["MAIL"] = lambda session, argument: "421 4.7.0 too much mail from you" if next(said) == 0 else "250 ok"
    ids = [await server.send(key, to=f"u{n}@there.test") for n in range(4)]
    for message_id in ids:
        await server.settled(key, message_id, "delivered")
    attempts = [(await server.call("GET", f"/emails/{message_id}/attempts", key)).json["data"] for message_id in ids]
    assert "too much mail from you" in str(attempts)
    assert len(sink.mails) == 4


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_an_urgent_mail_arrives_within_a_second_while_a_hundred_thousand_wait(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    took = await urgent_beside_bulk(make_server, sink, bulk=100_000, urgent=100)
    assert took[98] < 1.0, took[-5:]
