"""Servers that refuse, hang up, lie or babble: what the recipient's status becomes, and what is tried next."""

from __future__ import annotations

import asyncio

import pytest
from delivery_world import FAST, mx, world
from sinks import DROP, SILENCE, SmtpSink

from sendkit_server.deliver import Timeouts
from sendkit_server.deliver.connection import Greeter, MailConnection
from sendkit_server.model.mail import RawContent
from sendkit_server.model.status import Status
from sendkit_server.net.connect import Target
from sendkit_server.net.tls_client import TlsClient
from sendkit_server.wire.smtp_client import TlsWish


async def tried_once(sink: SmtpSink, *addresses: str, timeouts: Timeouts = FAST):
    """Send one mail and return its job and the world after the first outcome."""
    async with sink, world(mx(), sink.port, timeouts=timeouts) as here:
        job = here.send(*(addresses or ("ann@there.test",)))
        await here.store.until(lambda: len(here.store.completions) == 1)
        return job, here


async def test_a_connection_lost_after_the_dot_is_tried_again_and_may_be_a_duplicate():
    sink = SmtpSink(answers={"dot": [DROP, "250 ok"]})
    async with sink, world(mx(), sink.port) as here:
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        first = here.store.completions[0].attempt
        assert first is not None
        assert first.outcomes[0].reason == "no_reply_after_dot"
        assert first.outcomes[0].possible_duplicate
        assert here.store.update(job).next_attempt_at == here.now + 60_000
        assert here.store.events(job) == ["sent", "delivery_delayed"]
        here.move_on(61)
        await here.store.until_settled()
        assert here.store.update(job).attempts == 2
        assert here.store.events(job) == ["sent", "delivery_delayed", "delivered"]


async def test_the_same_bytes_go_again_after_a_lost_answer():
    sink = SmtpSink(answers={"dot": [DROP, "250 ok"]})
    async with sink, world(mx(), sink.port) as here:
        here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        here.move_on(61)
        await here.store.until_settled()
        assert len(sink.bodies) == 2
        assert sink.bodies[0] == sink.bodies[1]


@pytest.mark.parametrize(
    ("step", "answer", "status", "reason"),
    [
        ("MAIL", "550 5.1.8 no such sender", Status.BOUNCED, "sender_refused"),
        ("MAIL", "450 4.3.0 later", Status.DELAYED, "system_refused"),
        ("RCPT", "550 5.1.1 no such user", Status.BOUNCED, "mailbox_unavailable"),
        ("RCPT", "450 4.2.0 greylisted", Status.DELAYED, "mailbox_busy"),
        ("RCPT", "421 4.3.2 going down", Status.DELAYED, "system_refused"),
        ("RCPT", "552 5.2.2 full", Status.BOUNCED, "mailbox_full"),
        ("DATA", "554 no", Status.BOUNCED, "message_refused"),
        ("DATA", "451 4.7.1 not now", Status.DELAYED, "policy"),
        ("dot", "550 5.7.1 spam", Status.BOUNCED, "policy"),
        ("dot", "452 full", Status.DELAYED, "system_full"),
        ("dot", "354 more", Status.DELAYED, "protocol_error"),
        ("dot", "299 ok", Status.DELAYED, "protocol_error"),
        ("dot", "25", Status.DELAYED, "protocol_error"),
        ("dot", "000 ok", Status.DELAYED, "protocol_error"),
        ("dot", "999 ok", Status.DELAYED, "protocol_error"),
        ("dot", "hello", Status.DELAYED, "protocol_error"),
        ("DATA", "250 thanks", Status.DELAYED, "protocol_error"),
        ("DATA", "354 go\r\n250 thanks", Status.DELAYED, "protocol_error"),
        ("MAIL", DROP, Status.DELAYED, "connection_lost"),
        ("RCPT", DROP, Status.DELAYED, "connection_lost"),
        ("content", DROP, Status.DELAYED, "no_reply_after_dot"),
        ("greeting", "554 5.7.1 go away", Status.DELAYED, "host_refused"),
        ("greeting", "421 too busy", Status.DELAYED, "host_refused"),
        ("greeting", DROP, Status.DELAYED, "connection_lost"),
        ("greeting", "SSH-2.0-OpenSSH_9", Status.DELAYED, "protocol_error"),
        ("EHLO", "421 too busy", Status.DELAYED, "host_refused"),
    ],
)
async def test_each_answer_leads_to_its_status(step: str, answer: object, status: Status, reason: str):
    job, here = await tried_once(SmtpSink(answers={step: answer}))
    update = here.store.update(job)
    assert (update.status, update.reason) == (status, reason)
    assert update.attempts == 1
    assert (update.next_attempt_at is not None) == (status is Status.DELAYED)


@pytest.mark.parametrize("step", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "dot"])
async def test_a_silent_server_is_given_up_at_the_phases_deadline(step: str):
    short = Timeouts(connect_s=0.3, opening_s=0.3, handshake_s=0.3, envelope_s=0.3, message_s=0.3)
    job, here = await tried_once(SmtpSink(answers={step: SILENCE}), timeouts=short)
    update = here.store.update(job)
    assert update.status is Status.DELAYED
    assert update.reason == ("no_reply_after_dot" if step == "dot" else "timeout")


async def test_what_a_host_says_before_it_hangs_up_counts_even_when_it_has_gone_before_anybody_listened():
    async with SmtpSink(answers={"greeting": "421 4.3.2 come back at noon"}) as sink:
        loop = asyncio.get_running_loop()
        connection, gone = MailConnection(lambda: 0, FAST), asyncio.Event()
        connection.on_lost = gone.set
        await loop.create_connection(lambda: connection, sink.host, sink.port)
        await gone.wait()
        target = Target("mx.there.test", sink.host, sink.port)
        verdict = await connection.open(target, Greeter("out.test", TlsWish.OFFERED), TlsClient(None))
        assert verdict is not None and verdict.reply is not None
        assert (verdict.reply.code, verdict.reply.text) == (421, "4.3.2 come back at noon")
        assert any("421 4.3.2 come back at noon" in line.text for line in connection.transcript)


async def test_a_250_without_a_text_delivers():
    job, here = await tried_once(SmtpSink(answers={"dot": "250"}))
    assert here.store.update(job).status is Status.DELIVERED


async def test_mixed_recipients_each_get_their_own_status_and_only_the_deferred_go_again():
    answers = {"b@there.test": "550 5.1.1 no", "c@there.test": ["451 4.2.1 later", None]}
    times: dict[str, int] = {}

    def answer(_session: object, argument: str) -> object:
        for address, said in answers.items():
            if address in argument:
                times[address] = times.get(address, -1) + 1
                return said[min(times[address], 1)] if isinstance(said, list) else said
        return None

    sink = SmtpSink(answers={"RCPT": answer})
    async with sink, world(mx(), sink.port) as here:
        job = here.send(*(f"{name}@there.test" for name in "abcd"))
        await here.store.until(lambda: len(here.store.completions) == 1)
        assert [here.store.update(job, n).status for n in range(4)] == [
            Status.DELIVERED,
            Status.BOUNCED,
            Status.DELAYED,
            Status.DELIVERED,
        ]
        here.move_on(61)
        await here.store.until_settled()
        assert sink.mails[1].recipients == ["c@there.test"]
        assert [here.store.update(job, n).attempts for n in range(4)] == [1, 1, 2, 1]


async def test_all_refused_and_354_all_the_same_sends_only_the_dot():
    sink = SmtpSink(answers={"RCPT": "550 5.1.1 no", "DATA": "354 go ahead"})
    async with sink, world(mx(), sink.port) as here:
        job = here.send("ann@there.test")
        await here.store.until_settled()
        assert here.store.update(job).status is Status.BOUNCED
        sink.answers.clear()
        here.send("bob@there.test")
        await here.store.until(lambda: len(here.store.completions) == 2)
        assert [mail.recipients for mail in sink.mails] == [["bob@there.test"]]
        assert len(sink.sessions) == 1


async def test_after_a_transaction_left_half_way_the_next_begins_with_rset():
    sink = SmtpSink(answers={"RCPT": ["550 5.1.1 no", None]})
    async with sink, world(mx(), sink.port) as here:
        here.send("ann@there.test")
        await here.store.until_settled()
        here.send("bob@there.test")
        await here.store.until_settled()
        assert [mail.recipients for mail in sink.mails] == [["bob@there.test"]]
        assert len(sink.sessions) == 1
        assert "RSET" in sink.commands


async def test_a_552_after_accepted_recipients_means_too_many():
    sink = SmtpSink(answers={"RCPT": [None, "552 too many recipients"]})
    job, here = await tried_once(sink, "a@there.test", "b@there.test")
    assert here.store.update(job, 0).status is Status.DELIVERED
    assert (here.store.update(job, 1).status, here.store.update(job, 1).reason) == (
        Status.DELAYED,
        "too_many_recipients",
    )


async def test_what_a_limit_of_recipients_kept_out_goes_with_the_next_transactions_at_once():
    sink = SmtpSink(
        answers={"RCPT": lambda session, _: "452 4.5.3 Too many recipients" if session.recipients else None}
    )
    async with sink, world(mx(), sink.port) as here:
        job = here.send(*(f"u{n}@there.test" for n in range(4)))
        await here.store.until_settled()
        assert sorted(mail.recipients for mail in sink.mails) == [[f"u{n}@there.test"] for n in range(4)]
        assert here.store.events(job, 0) == ["sent", "delivered"]


async def test_too_many_recipients_though_none_was_taken_waits_like_any_refusal():
    sink = SmtpSink(answers={"RCPT": "452 4.5.3 Too many recipients"})
    job, here = await tried_once(sink, "a@there.test", "b@there.test")
    assert here.store.update(job).next_attempt_at > here.now + 50_000


async def test_a_421_between_mails_harms_nobody():
    sink = SmtpSink(answers={"MAIL": lambda session, _: "421 4.3.2 enough" if session.mails else None})
    async with sink, world(mx(), sink.port, connections_per_site=1) as here:
        jobs = [here.send(f"u{n}@there.test") for n in range(5)]
        await here.store.until_settled()
        assert [here.store.update(job).attempts for job in jobs] == [1] * 5
        assert all(here.store.events(job) == ["sent", "delivered"] for job in jobs)
        assert len(sink.mails) == 5


async def test_a_connection_closed_between_mails_harms_nobody():
    sink = SmtpSink(answers={"MAIL": lambda session, _: DROP if session.mails else None})
    async with sink, world(mx(), sink.port, connections_per_site=1) as here:
        jobs = [here.send(f"u{n}@there.test") for n in range(4)]
        await here.store.until_settled()
        assert [here.store.update(job).attempts for job in jobs] == [1] * 4
        assert len(sink.mails) == 4


async def test_a_421_at_the_greeting_of_a_further_connection_only_limits_their_number():
    sink = SmtpSink(answers={"greeting": lambda session, _: "421 too many" if session.number else None})
    async with sink, world(mx(), sink.port) as here:
        jobs = [here.send(f"u{n}@there.test") for n in range(50)]
        await here.store.until_settled()
        assert [here.store.update(job).attempts for job in jobs] == [1] * 50
        assert len(sink.mails) == 50
        assert len(sink.sessions) < 25


async def test_an_endless_reply_is_cut_and_what_is_kept_is_printable():
    lines = "\n".join(f"250-line {n}" for n in range(10_000))
    job, here = await tried_once(SmtpSink(answers={"dot": lines}))
    assert here.store.update(job).reason == "protocol_error"
    job, here = await tried_once(SmtpSink(answers={"dot": b"550 " + b"x" * 1_000_000 + b"\r\n"}))
    assert here.store.update(job).reason == "protocol_error"
    nasty = b"550 5.7.1 \x1b[31m<script>\x00\xff\xfe\r\n"
    job, here = await tried_once(SmtpSink(answers={"dot": nasty}))
    update = here.store.update(job)
    assert update.status is Status.BOUNCED
    assert "\\x1b[31m<script>\\x00\\xff\\xfe" in update.explanation
    assert update.explanation.isprintable()


async def test_a_4xx_for_ever_ends_with_the_retry_window():
    sink = SmtpSink(answers={"RCPT": "451 4.2.1 never mind"})
    async with sink, world(mx(), sink.port) as here:
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        started = here.now
        planned = []
        while (at := here.store.update(job).next_attempt_at) is not None:
            planned.append(at - started)
            count = len(here.store.completions)
            here.move_on((at - here.now) / 1000)
            await here.store.until(lambda count=count: len(here.store.completions) > count)
        assert planned[:3] == [60_000, 360_000, 660_000]
        assert planned[-1] == 3_600_000
        assert here.store.update(job).status is Status.FAILED
        assert here.store.events(job) == ["sent", "delivery_delayed", "failed"]
        assert "Given up after 1 h" in here.store.update(job).explanation


async def test_a_server_with_no_extensions_gets_seven_bits():
    text = "Grüße aus Köln\r\n"
    raw = (
        "From: shop@here.test\r\nTo: ann@there.test\r\nSubject: x\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n"
        "Message-ID: <1@here.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Transfer-Encoding: 8bit\r\n\r\n{text}"
    ).encode()
    sink = SmtpSink(extensions=())
    async with sink, world(mx(), sink.port) as here:
        job = here.send("ann@there.test", content=RawContent(raw))
        await here.store.until_settled()
        assert here.store.update(job).status is Status.DELIVERED, here.store.update(job)
        assert sink.mails[0].raw.isascii()
        assert sink.mails[0].mail_parameters == ""


async def test_a_server_that_knows_no_ehlo_is_greeted_with_helo():
    sink = SmtpSink(answers={"EHLO": "502 5.5.1 what"})
    job, here = await tried_once(sink)
    assert here.store.update(job).status is Status.DELIVERED
    assert sink.commands[:3] == ["EHLO out.test", "HELO out.test", "MAIL FROM:<bounce-0@out.test>"]


async def test_a_message_over_the_servers_size_fails_before_data():
    sink = SmtpSink(extensions=("PIPELINING", "SIZE 100"))
    job, here = await tried_once(sink)
    update = here.store.update(job)
    assert (update.status, update.enhanced, update.next_attempt_at) == (Status.FAILED, "5.3.4", None)
    assert not any(command.startswith("MAIL") for command in sink.commands)


async def test_an_international_address_fails_where_smtputf8_is_not_offered():
    sink = SmtpSink(extensions=("PIPELINING", "8BITMIME"))
    job, here = await tried_once(sink, "jörg@there.test")
    assert (here.store.update(job).status, here.store.update(job).enhanced) == (Status.FAILED, "5.6.7")


async def test_chunking_sends_the_bytes_as_they_are():
    sink = SmtpSink(extensions=("PIPELINING", "CHUNKING", "8BITMIME"))
    job, here = await tried_once(sink)
    assert here.store.update(job).status is Status.DELIVERED
    assert b"\r\n.a dot at the start" in sink.mails[0].raw
    assert any(command.startswith("BDAT") for command in sink.commands)
