"""Mail to a real mail server: what is agreed on, what arrives, what is refused, and what comes back later."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Any

import pytest
from dkim_checks import publish, verified
from instance import BIGGEST_BYTES, Postfix, parsed
from server import Server, until
from sinks import DnsServer

pytestmark = pytest.mark.engine("sqlite")


@pytest.fixture
async def server(make_mta: Callable[..., Server]) -> Server:
    """A running server that knows nothing of Postfix's certificate authority."""
    return await make_mta().start()


@pytest.fixture
async def key(server: Server) -> str:
    """A live key."""
    return await server.live_key()


async def attempts(server: Server, key: str, message_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.call("GET", f"/emails/{message_id}/attempts", key)).json["data"]
    return found


def said(attempt: dict[str, Any], side: str) -> list[str]:
    """One side's lines of a transcript."""
    return [line["text"] for line in attempt["transcript"] if line["side"] == side]


async def arrived(postfix: Postfix, subject: str, count: int = 1) -> list[bytes]:
    """The mails of this subject, once there are so many."""
    await until(lambda: len(postfix.mails(subject)) >= count, what=f"{count} of {subject} in Postfix's Maildir")
    return postfix.mails(subject)


async def test_a_mail_arrives_once_over_tls_with_a_signature_that_verifies(
    server: Server, key: str, dns: DnsServer, postfix: Postfix
) -> None:
    await publish(server, dns)
    message_id = await server.send(key, subject="over TLS", text="Grüße\n.\n..dots\nFrom here\n")
    await server.settled(key, message_id, "delivered")
    (raw,) = await arrived(postfix, "over TLS")
    assert await asyncio.to_thread(verified, raw, dns)
    assert parsed(raw).get_body(("plain",)).get_content() == "Grüße\n.\n..dots\nFrom here\n"  # type: ignore[union-attr]
    assert b"using TLSv1.3" in raw
    (attempt,) = await attempts(server, key, message_id)
    assert attempt["tls"].startswith("TLSv1.3 ") and " unverified (" in attempt["tls"]
    assert "STARTTLS" in said(attempt, ">")
    assert attempt["host"] == "mx.there.test" and attempt["address"] == postfix.address


async def test_a_certificate_of_a_known_authority_is_told_as_verified_and_is_enough_for_required_tls(
    make_mta: Callable[..., Server], ca_file: str, postfix: Postfix
) -> None:
    server = await make_mta(SENDKIT_CA_FILE=ca_file, SENDKIT_RETRY_SCHEDULE="1h").start()
    key = await server.live_key()
    message_id = await server.send(key, subject="verified", require_tls=True)
    await server.settled(key, message_id, "delivered")
    (attempt,) = await attempts(server, key, message_id)
    assert attempt["tls"].endswith(" verified")
    await arrived(postfix, "verified")


async def test_required_tls_waits_when_the_certificate_proves_nothing(
    make_mta: Callable[..., Server], postfix: Postfix
) -> None:
    server = await make_mta(SENDKIT_RETRY_SCHEDULE="1h").start()
    key = await server.live_key()
    message_id = await server.send(key, subject="unproven", require_tls=True)
    found = await server.settled(key, message_id, "delivery_delayed")
    assert "certificate" in found["reason"]
    (attempt,) = await attempts(server, key, message_id)
    assert not any(line.startswith("MAIL") for line in said(attempt, ">"))
    assert postfix.mails("unproven") == []


async def test_what_postfix_offers_is_used_and_the_envelope_says_so(server: Server, key: str, postfix: Postfix) -> None:
    plain = await server.send(key, subject="offers", text="x")
    await server.settled(key, plain, "delivered")
    (attempt,) = await attempts(server, key, plain)
    (mail,) = [line for line in said(attempt, ">") if line.startswith("MAIL FROM")]
    assert "SIZE=" in mail
    assert any(line.startswith("BDAT") for line in said(attempt, ">"))
    assert "DATA" not in said(attempt, ">")

    wide = await server.send(key, to="ännchen@there.test", subject="utf8 address")
    await server.settled(key, wide, "delivered")
    (attempt,) = await attempts(server, key, wide)
    (mail,) = [line for line in said(attempt, ">") if line.startswith("MAIL FROM")]
    assert "SMTPUTF8" in mail
    (raw,) = await arrived(postfix, "utf8 address")
    assert "Delivered-To: ännchen@there.test".encode() in raw

    eight = "From: a@sender.test\r\nTo: ann@there.test\r\nSubject: eight bits\r\nMIME-Version: 1.0\r\n"
    eight += "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n"
    message_id = await asyncio.to_thread(server.smtp_send, key, ["ann@there.test"], eight.encode())
    await server.settled(key, message_id, "delivered")
    (attempt,) = await attempts(server, key, message_id)
    assert any("BODY=8BITMIME" in line for line in said(attempt, ">"))
    (raw,) = await arrived(postfix, "eight bits")
    assert "Grüße".encode() in raw


async def test_a_mail_of_twenty_megabytes_arrives_whole(
    server: Server, key: str, dns: DnsServer, postfix: Postfix
) -> None:
    await publish(server, dns)
    blob = os.urandom(15_000_000)
    part = {"filename": "blob.bin", "content": base64.b64encode(blob).decode()}
    message_id = await server.send(key, subject="twenty megabytes", attachments=[part])
    await server.settled(key, message_id, "delivered")
    (raw,) = await arrived(postfix, "twenty megabytes")
    (found,) = parsed(raw).iter_attachments()
    assert found.get_content() == blob
    assert await asyncio.to_thread(verified, raw, dns)


async def test_a_mail_that_is_too_big_for_the_server_fails_before_it_is_sent(server: Server, key: str) -> None:
    blob = base64.b64encode(bytes(BIGGEST_BYTES * 3 // 4)).decode()
    message_id = await server.send(key, subject="too big", attachments=[{"filename": "blob.bin", "content": blob}])
    found = await server.settled(key, message_id, "failed")
    assert str(BIGGEST_BYTES) in found["reason"]
    (attempt,) = await attempts(server, key, message_id)
    assert not any(line.startswith("MAIL") for line in said(attempt, ">"))


async def test_fifty_recipients_go_in_one_transaction_and_each_gets_one(
    server: Server, key: str, postfix: Postfix
) -> None:
    recipients = [f"fifty{n}@there.test" for n in range(50)]
    raw = b"From: a@sender.test\r\nTo: all@there.test\r\nSubject: fifty\r\n\r\nx\r\n"
    message_id = await asyncio.to_thread(server.smtp_send, key, recipients, raw)
    await server.settled(key, message_id, "delivered")
    mails = await arrived(postfix, "fifty", 50)
    assert sorted(str(parsed(mail)["Delivered-To"]) for mail in mails) == sorted(recipients)
    (attempt,) = await attempts(server, key, message_id)
    assert sum(line.startswith("RCPT") for line in said(attempt, ">")) == 50


async def test_an_unknown_user_bounces_with_postfixs_words_and_the_transcript_and_the_others_get_theirs(
    server: Server, key: str, postfix: Postfix
) -> None:
    raw = b"From: a@sender.test\r\nTo: all@there.test\r\nSubject: one unknown\r\n\r\nx\r\n"
    message_id = await asyncio.to_thread(server.smtp_send, key, ["nobody@there.test", "ann@there.test"], raw)
    found = await server.settled(key, message_id, "bounced")
    ends = {one["email"]: one for one in found["recipients"]}
    assert ends["ann@there.test"]["status"] == "delivered"
    nobody = ends["nobody@there.test"]
    assert nobody["status"] == "bounced"
    assert (nobody["bounce"]["code"], nobody["bounce"]["enhanced"]) == (550, "5.1.1")
    assert "User unknown in virtual mailbox table" in nobody["reason"]
    (attempt,) = await attempts(server, key, message_id)
    assert any("550 5.1.1 <nobody@there.test>" in line for line in said(attempt, "<"))
    assert len(await arrived(postfix, "one unknown")) == 1


async def test_what_postfix_takes_and_returns_later_is_delivered_and_then_bounced(
    server: Server, key: str, postfix: Postfix
) -> None:
    message_id = await server.send(key, to="gone@there.test", subject="returned")
    found = await server.settled(key, message_id, "bounced")
    assert [event["type"] for event in found["events"]] == ["sent", "delivered", "bounced"]
    assert found["recipients"][0]["bounce"]["enhanced"] == "5.1.1"
    assert found["recipients"][0]["bounce"]["type"] == "hard"
    listed = (await server.call("GET", "/suppressions", key)).json["data"]
    assert [one["email"] for one in listed] == ["gone@there.test"]
    again = await server.send(key, to="gone@there.test", subject="again")
    await server.settled(key, again, "suppressed")
    # By Postfix's own log it brought the mail back over TLS, to a door that took it.
    assert f"connection established to {postfix.bounces}" in postfix.log
    assert "status=sent (250" in postfix.log
