"""One mail's whole way: in through a door, out to the recipient's server that DNS names."""

from __future__ import annotations

import asyncio
import email
from email import policy

from dkim_checks import publish, verified
from server import Server, until
from sinks import DnsServer, SmtpSink


async def test_a_mail_sent_by_the_api_arrives_signed_and_is_reported_delivered(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    await publish(server, dns)
    message_id = await server.send(key, to="Ann <ann@there.test>", subject="Grüße ✓")
    found = await server.settled(key, message_id, "delivered")
    assert found["last_event"] == "delivered"
    assert [event["type"] for event in found["events"]] == ["sent", "delivered"]
    (mail,) = sink.mails
    assert mail.recipients == ["ann@there.test"]
    parsed = email.message_from_bytes(mail.raw, policy=policy.default)
    assert parsed["Subject"] == "Grüße ✓"
    assert parsed["To"] == "Ann <ann@there.test>"
    assert parsed["Message-ID"] == found["message_id"]
    assert await asyncio.to_thread(verified, mail.raw, dns)


async def test_a_mail_sent_by_smtp_arrives_signed_and_its_id_stands_in_the_250(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    await publish(server, dns)
    raw = (
        b"From: app@sender.test\r\nTo: ann@there.test\r\nBcc: hidden@there.test\r\nSubject: Hi\r\n\r\n.dot\r\nbody\r\n"
    )
    message_id = await asyncio.to_thread(server.smtp_send, key, ["ann@there.test", "bob@elsewhere.test"], raw)
    found = await server.settled(key, message_id, "delivered")
    assert [(one["email"], one["role"]) for one in found["recipients"]] == [
        ("ann@there.test", "to"),
        ("bob@elsewhere.test", "bcc"),
    ]
    assert sorted(recipient for mail in sink.mails for recipient in mail.recipients) == [
        "ann@there.test",
        "bob@elsewhere.test",
    ]
    for mail in sink.mails:
        assert b"Bcc" not in mail.raw and b"hidden" not in mail.raw
        assert b"\r\n\r\n.dot\r\nbody\r\n" in mail.raw
        assert await asyncio.to_thread(verified, mail.raw, dns)


async def test_each_to_address_gets_its_own_mail_and_sees_only_itself(server: Server, key: str, sink: SmtpSink) -> None:
    reply = await server.call(
        "POST",
        "/emails",
        key,
        {
            "from": "hello@sender.test",
            "to": ["ann@there.test", "bob@there.test"],
            "cc": ["carl@there.test"],
            "bcc": "dora@there.test",
            "subject": "Hi",
            "text": "x",
        },
    )
    body = reply.json
    assert [one["to"] for one in body["data"]] == ["ann@there.test", "bob@there.test"]
    assert body["id"] == body["data"][0]["id"] != body["data"][1]["id"]
    await until(lambda: sum(len(mail.recipients) for mail in sink.mails) == 4)
    first = next(mail for mail in sink.mails if "ann@there.test" in mail.recipients)
    second = next(mail for mail in sink.mails if "bob@there.test" in mail.recipients)
    assert first.recipients == ["ann@there.test", "carl@there.test", "dora@there.test"]
    assert second.recipients == ["bob@there.test"]
    assert b"bob@" not in first.raw and b"dora@" not in first.raw and b"\nCc: carl@there.test" in first.raw
    assert b"ann@" not in second.raw and b"carl@" not in second.raw


async def test_a_deferred_mail_says_why_it_waits_and_until_when_and_goes_out_after_a_restart(
    make_server, sink: SmtpSink
) -> None:
    server = make_server(SENDKIT_RETRY_SCHEDULE="2s")
    await server.start()
    key = await server.live_key()
    sink.answers["RCPT"] = "450 4.2.0 greylisted, come back later"
    message_id = await server.send(key)
    found = await server.settled(key, message_id, "delivery_delayed")
    assert "greylisted, come back later" in found["reason"]
    assert found["next_attempt_at"] is not None
    assert found["recipients"][0]["attempts"] == 1
    queue = (await server.call("GET", "/queue", key)).json["data"]
    assert [lane["site"] for lane in queue] == ["there.test"]
    assert "greylisted" in queue[0]["last_answer"]
    assert await server.stop() == 0
    sink.answers.clear()
    await server.start()
    found = await server.settled(key, message_id, "delivered")
    assert found["recipients"][0]["attempts"] == 2
    attempts = (await server.call("GET", f"/emails/{message_id}/attempts", key)).json["data"]
    assert [attempt["outcome"] for attempt in attempts] == ["deferred", "delivered"]
    assert any("450 4.2.0 greylisted" in line["text"] for line in attempts[0]["transcript"])
    assert any(line["side"] == ">" and line["text"].startswith("MAIL FROM") for line in attempts[1]["transcript"])


async def test_a_5xx_ends_it_as_bounced_with_the_servers_words(server: Server, key: str, sink: SmtpSink) -> None:
    sink.answers["RCPT"] = "550 5.1.1 No such user here"
    message_id = await server.send(key)
    found = await server.settled(key, message_id, "bounced")
    assert "No such user here" in found["reason"]
    assert found["recipients"][0]["bounce"]["code"] == 550
    assert found["next_attempt_at"] is None


async def test_a_test_key_captures_and_nothing_leaves(server: Server, key: str, sink: SmtpSink) -> None:
    test_key = (await server.act("keys.create", name="t", permission="full", test=True))["token"]
    reply = await server.call(
        "POST", "/emails", test_key, {"from": "a@unknown.test", "to": "ann@there.test", "subject": "s", "text": "t"}
    )
    assert reply.json["status"] == "captured"
    assert [warning["name"] for warning in reply.json["warnings"]] == ["domain_not_verified"]
    await server.settled(test_key, reply.json["id"], "delivered")
    assert sink.sessions == []
    inbox = await server.act("inbox.list")
    assert [mail["id"] for mail in inbox["data"]] == [reply.json["id"]]
