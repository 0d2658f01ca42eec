"""What keeps a mail from being sent though it is due: suppressed addresses, held sites and messages."""

from __future__ import annotations

import asyncio

from delivery_world import mx, world
from sinks import SILENCE, SmtpSink

from sendkit_server.model.status import Status


async def test_a_suppressed_recipient_ends_untried_and_the_others_get_their_mail() -> None:
    async with SmtpSink() as sink, world(mx(), sink.port) as w:
        w.suppressed.addresses = {"bob@there.test"}
        job = w.send("ann@there.test", "Bob@there.test", "carl@there.test")
        await w.store.until_settled()
        assert [w.store.update(job, n).status for n in range(3)] == ["delivered", "suppressed", "delivered"]
        assert (w.store.update(job, 1).attempts, w.store.update(job, 1).next_attempt_at) == (0, None)
        assert w.store.events(job, 1) == ["suppressed"]
        assert sink.mails[0].recipients == ["ann@there.test", "carl@there.test"]
        await w.deliverer._ledger.until_empty()
        assert (w.deliverer._ledger.jobs, w.deliverer._ledger.size_bytes) == (0, 0)


async def test_an_address_that_is_suppressed_while_its_mail_waits_in_the_lane_is_not_sent_to() -> None:
    async with SmtpSink() as sink, world(mx(), sink.port) as w:
        sink.answers["greeting"] = lambda session, _: w.suppressed.addresses.add("ann@there.test")
        job = w.send("ann@there.test")
        await w.store.until_settled()
        assert w.store.update(job).status is Status.SUPPRESSED
        assert not any(command.startswith("MAIL") for command in sink.commands)


async def test_while_suppressions_cannot_be_read_a_mail_waits_and_is_not_forgotten() -> None:
    async with SmtpSink() as sink, world(mx(), sink.port) as w:
        w.suppressed.fails = 1
        job = w.send("ann@there.test")
        await w.store.until(lambda: bool(w.store.completions))
        assert (w.store.update(job).reason, w.store.update(job).status) == ("handed_back", Status.QUEUED)
        ((event, _),) = w.log.faults
        assert event == "delivery.suppressions_not_read"
        w.log.faults.clear()
        w.move_on(2)
        await w.store.until_settled()
        assert w.store.update(job).status is Status.DELIVERED


async def test_a_held_site_gives_back_what_waits_in_memory_and_takes_no_more() -> None:
    async with SmtpSink() as sink, world(mx(), sink.port, connections_per_site=1) as w:
        sink.answers["dot"] = SILENCE
        on_the_wire = w.send("ann@there.test")
        while not sink.bodies:
            await asyncio.sleep(0.01)
        waits = [w.send(f"{n}@there.test") for n in range(20)]
        assert w.deliverer.has_room("there.test", 1000)
        w.deliverer.set_held(frozenset({"there.test"}))
        assert not w.deliverer.has_room("there.test", 1000) and w.deliverer.has_room("else.test", 1000)
        await w.store.until(lambda: len(w.store.completions) == 20)
        assert {w.store.update(job).reason for job in waits} == {"handed_back"}
        w.deliverer.wake()
        await w.store.until(lambda: w.store.claims[-1] == {"there.test"})
        assert w.store.recipients[on_the_wire.message.id, 0][2] is None


async def test_a_released_site_gets_its_mail_at_once() -> None:
    async with SmtpSink() as sink, world(mx(), sink.port) as w:
        w.deliverer.set_held(frozenset({"there.test"}))
        job = w.send("ann@there.test")
        await w.store.until(lambda: bool(w.store.completions))
        assert w.store.update(job).next_attempt_at == w.now
        w.deliverer.set_held(frozenset())
        await w.store.until_settled()
        assert len(sink.mails) == 1


async def test_a_held_message_goes_back_and_does_not_return_at_once() -> None:
    async with SmtpSink() as sink, world(mx(), sink.port) as w:
        job = w.job("ann@there.test")
        w.deliverer.set_held(frozenset({job.message.id}))
        w.deliverer.offer(job)
        await w.store.until(lambda: bool(w.store.completions))
        update = w.store.update(job)
        assert update.next_attempt_at is not None and update.next_attempt_at > w.now and not sink.sessions


async def test_a_hold_does_not_keep_captured_mail_from_the_inbox() -> None:
    async with world(mx()) as w:
        w.deliverer.set_held(frozenset({"there.test"}))
        job = w.send("ann@there.test", capture=True)
        await w.store.until_settled()
        assert w.store.update(job).reason == "captured"


async def test_a_lifted_pause_lets_the_site_be_asked_again() -> None:
    async with SmtpSink(answers={"greeting": "554 5.3.2 go away"}) as sink, world(mx(), sink.port) as w:
        first = w.send("ann@there.test")
        await w.store.until(lambda: bool(w.store.completions))
        assert w.deliverer.lanes()[0].next_attempt_at is not None
        del sink.answers["greeting"]
        w.deliverer.lift("there.test")
        assert w.deliverer.lanes()[0].next_attempt_at is None
        second = w.send("bob@there.test")
        await w.store.until(lambda: w.store.recipients[second.message.id, 0][2] is not None)
        assert w.store.update(second).status is Status.DELIVERED
        assert w.store.update(first).status is Status.DELAYED
