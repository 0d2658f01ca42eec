"""Addresses that are not sent to any more: by hand, after a hard bounce, after the third soft one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from server import Server, until
from sinks import SmtpSink


async def suppression(server: Server, key: str, address: str = "ann@there.test") -> Any:
    """The suppression of an address; None when there is none."""
    reply = await server.call("GET", f"/suppressions/{address.replace('@', '%40')}", key)
    return reply.json if reply.status == 200 else None


async def test_nothing_arrives_at_a_suppressed_address_until_it_is_taken_off_the_list(
    server: Server, key: str, sink: SmtpSink
) -> None:
    assert (await server.call("POST", "/suppressions", key, {"email": "Ann@there.test"})).status == 201
    held = await server.send(key, to="ann@there.test")
    raw = b"From: app@sender.test\r\nTo: ann@there.test, bob@there.test\r\nSubject: Hi\r\n\r\nbody\r\n"
    mixed = await asyncio.to_thread(server.smtp_send, key, ["ann@there.test", "bob@there.test"], raw)
    assert (await server.email(key, held))["status"] == "suppressed"
    await until(lambda: sink.mails)
    assert [mail.recipients for mail in sink.mails] == [["bob@there.test"]]
    found = await server.settled(key, mixed, "suppressed")
    assert [one["status"] for one in found["recipients"]] == ["suppressed", "delivered"]
    assert (await server.call("DELETE", "/suppressions/ann%40there.test", key)).status == 200
    await server.settled(key, await server.send(key, to="ann@there.test"), "delivered")
    assert sink.mails[-1].recipients == ["ann@there.test"]


async def test_a_hard_bounce_suppresses_the_address_at_once_with_the_servers_words(
    server: Server, key: str, sink: SmtpSink
) -> None:
    sink.answers["RCPT"] = "550 5.1.1 No such user here"
    bounced = await server.send(key)
    await server.settled(key, bounced, "bounced")
    reply = await server.call(
        "POST", "/emails", key, {"from": "a@sender.test", "to": "ANN@there.test", "subject": "x", "text": "x"}
    )
    assert reply.json["status"] == "suppressed"
    found = await suppression(server, key)
    assert (found["reason"], found["source_id"]) == ("bounce", bounced)
    assert (found["evidence"]["code"], found["evidence"]["enhanced"]) == (550, "5.1.1")
    assert "No such user here" in found["evidence"]["text"]
    assert sum(command.startswith("RCPT") for command in sink.commands) == 1


@pytest.mark.parametrize(
    "answer",
    ["550 5.7.1 Message refused: your IP is on a block list", "550 Requested action not taken: mailbox unavailable"],
)
async def test_a_refusal_that_is_about_us_or_says_nothing_suppresses_nobody(
    server: Server, key: str, sink: SmtpSink, answer: str
) -> None:
    sink.answers["RCPT"] = answer
    await server.settled(key, await server.send(key), "bounced")
    assert await suppression(server, key) is None


async def test_the_third_soft_bounce_in_a_row_suppresses_and_a_delivery_begins_the_count_anew(
    server: Server, key: str, sink: SmtpSink
) -> None:
    full = "552 5.2.2 The mailbox is full"
    for answer, status in ((full, "bounced"), (full, "bounced"), ("250 2.1.5 ok", "delivered"), (full, "bounced")):
        sink.answers["RCPT"] = answer
        await server.settled(key, await server.send(key), status)
    await server.settled(key, await server.send(key), "bounced")
    assert await suppression(server, key) is None
    await server.settled(key, await server.send(key), "bounced")
    deadline = asyncio.get_running_loop().time() + 10
    while (found := await suppression(server, key)) is None:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)
    assert (found["reason"], found["evidence"]["subtype"], found["evidence"]["soft_bounces"]) == (
        "bounce",
        "mailbox_full",
        3,
    )


async def test_an_address_that_is_suppressed_while_its_mail_waits_is_not_sent_to(
    server: Server, key: str, sink: SmtpSink
) -> None:
    sink.answers["RCPT"] = lambda session, argument: "450 4.2.0 later" if len(sink.commands) < 8 else None
    reply = await server.call(
        "POST",
        "/emails",
        key,
        {"from": "a@sender.test", "to": "ann@there.test", "cc": "bob@there.test", "subject": "x", "text": "x"},
    )
    waits = reply.json["id"]
    await server.settled(key, waits, "delivery_delayed")
    await server.call("POST", "/suppressions", key, {"email": "ann@there.test"})
    sink.answers["RCPT"] = "250 2.1.5 ok"
    assert (await server.call("POST", f"/emails/{waits}/retry", key)).json["recipients"] == 2
    found = await server.settled(key, waits, "suppressed")
    assert [one["status"] for one in found["recipients"]] == ["suppressed", "delivered"]
    assert [mail.recipients for mail in sink.mails] == [["bob@there.test"]]


@pytest.mark.engine("sqlite")
async def test_the_command_line_lists_shows_adds_and_removes(server: Server, key: str) -> None:
    assert await server.command("suppressions", "list") == (0, "Nothing is suppressed.\n", "")
    assert (await server.command("suppressions", "add", "Ann@there.test"))[
        1
    ] == "ann@there.test is suppressed (manual).\n"
    assert "already" in (await server.command("suppressions", "add", "ann@there.test"))[1]
    assert "ann@there.test" in (await server.command("suppressions", "list", "--reason", "manual"))[1]
    assert "reason       manual" in (await server.command("suppressions", "show", "ann@there.test"))[1]
    assert (await server.command("suppressions", "remove", "ann@there.test"))[0] == 0
    status, _, error = await server.command("suppressions", "remove", "ann@there.test")
    assert status == 1 and "is not suppressed" in error
    assert (await server.command("suppressions", "add", "nobody"))[0] == 1
