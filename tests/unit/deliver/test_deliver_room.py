"""How much mail is in memory: what one site may have of it, what is kept for urgent mail, and that all of it is counted out again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from delivery_world import World, mx, world
from sinks import SILENCE, SmtpSink, own_addresses

from sendkit_server.deliver import Routing, Timeouts, chain_of
from sendkit_server.deliver.ownership import Share
from sendkit_server.deliver.room import CLAIM_JOBS, CLAIM_SHARE, LANE_SHARE, Load, Room
from sendkit_server.deliver.route import Direct
from sendkit_server.deliver.settings import DeliverySettings
from sendkit_server.model.mail import Priority
from sendkit_server.store.values import Job

KB = 1000
URGENT = {"priority": Priority.URGENT}


def room(**settings: int) -> Room:
    return Room(DeliverySettings("out.test", **{"room_bytes": 64 * KB, **settings}))  # type: ignore[arg-type]


def load(jobs: int, size_bytes: int, *, urgent: bool = False) -> Load:
    made = Load()
    made.add((jobs, size_bytes, urgent))
    return made


# The rules. Pure.


def test_a_lane_may_have_an_eighth_of_the_bytes_that_are_free_for_the_doors():
    one = room()
    assert one.lets_in(6 * KB, None, None, urgent=False)
    assert one.lets_in(KB, load(1, 5 * KB), None, urgent=False)
    assert not one.lets_in(KB, load(1, 5 * KB), load(1, 1), urgent=False)
    one.in_memory.add((1, 24 * KB, False))
    assert one.is_full(load(1, 3 * KB)) and not one.is_full(load(1, 3 * KB - 1))


def test_an_empty_lane_takes_a_mail_of_any_size_while_there_is_room_and_one_that_is_alone_needs_none():
    one = room()
    assert one.lets_in(48 * KB, None, None, urgent=False)
    assert one.lets_in(1000 * KB, None, None, urgent=False)
    one.in_memory.add((1, 1 * KB, False))
    assert one.lets_in(47 * KB, None, None, urgent=False)
    assert not one.lets_in(48 * KB, None, None, urgent=False)
    assert not one.lets_in(47 * KB, load(1, 1), None, urgent=False)


def test_what_is_promised_counts_as_what_is_there():
    one = room()
    one.promised.add((1, 48 * KB, False))
    assert not one.lets_in(1, None, None, urgent=False)
    assert one.is_full(load(1, 1))


@pytest.mark.parametrize("sites", [1, 10, 22, 50])
def test_however_many_sites_take_all_they_may_the_next_one_has_something(sites: int):
    one = room(room_bytes=64 * KB * KB)
    for _ in range(sites):
        lane = Load()
        while one.lets_in(KB, lane, None, urgent=False):
            for each in (lane, one.in_memory):
                each.add((1, KB, False))
    assert one.lets_in(KB, None, None, urgent=False)


def test_the_last_part_is_for_urgent_mail_and_an_eighth_is_for_that_alone():
    one = room()
    one.in_memory.add((1, 58 * KB, False))
    assert one.least is Priority.URGENT
    assert one.lets_in(6 * KB, None, None, urgent=True) and not one.lets_in(6 * KB, None, None, urgent=False)
    one.in_memory.add((1, 1000 * KB, False))
    assert one.least is Priority.URGENT
    assert one.lets_in(8 * KB, None, None, urgent=True)
    assert not one.lets_in(8 * KB + 1, None, None, urgent=True)
    one.in_memory.add((1, 8 * KB, True))
    assert one.least is None and not one.lets_in(1, None, None, urgent=True)


def test_urgent_mail_for_one_lane_leaves_something_to_that_for_the_others():
    one = room()
    lane = load(100, 6 * KB)
    one.in_memory.add((100, 6 * KB, False))
    assert one.is_full(lane) and not one.is_full(lane, urgent=True)
    taken = 0
    while one.lets_in(KB, lane, None, urgent=True):
        for each in (lane, one.in_memory):
            each.add((1, KB, True))
        taken += 1
    assert 1 < taken < 8
    assert one.lets_in(KB, None, None, urgent=True)


def test_a_claim_fetches_no_more_than_there_is_room_for():
    one = room()
    bounds = one.next_claim()
    assert bounds is not None
    assert (bounds.least, bounds.limit, bounds.site_bytes) == (Priority.BULK, CLAIM_JOBS, 48 * KB // LANE_SHARE)
    one.in_memory.add((1, 50 * KB, False))
    bounds = one.next_claim()
    assert bounds is not None and bounds.least is Priority.BULK
    assert (bounds.site_bytes, bounds.room_bytes) == (1, 14 * KB // CLAIM_SHARE)
    one.in_memory.add((1, 10 * KB, False))
    bounds = one.next_claim()
    assert bounds is not None and bounds.least is Priority.URGENT
    assert bounds.room_bytes <= 8 * KB
    one.in_memory.add((1, 8 * KB, True))
    assert one.next_claim() is None


def test_jobs_are_bounded_as_bytes_are():
    one = room(room_jobs=40, lane_jobs=40)
    assert one.is_full(load(3, 0)) and not one.is_full(load(2, 0))
    one.in_memory.add((36, 0, False))
    bounds = one.next_claim()
    assert bounds is not None and (bounds.least, bounds.limit) == (Priority.URGENT, 4)
    one.in_memory.add((5, 0, True))
    assert one.next_claim() is None


def test_a_load_has_halved_when_either_of_the_two_has():
    assert load(5, 100).has_halved((10, 100)) and load(10, 50).has_halved((10, 100))
    assert not load(6, 51).has_halved((10, 100))
    assert load(0, 0).has_halved((1, 1)) and not load(1, 1).has_halved((1, 1))


# What they bring about.


@asynccontextmanager
async def slow_and_quick(**settings: object) -> AsyncIterator[tuple[World, SmtpSink]]:
    """A world with slow.test, which says nothing for ever, and quick.test, and the sink of the latter. Its room: 64 KB."""
    addresses = own_addresses()
    slow_address, quick_address = next(addresses), next(addresses)
    zone = {**mx(slow_address, "slow.test"), **mx(quick_address, "quick.test")}
    async with (
        SmtpSink(quick_address) as quick,
        SmtpSink(slow_address, quick.port, answers={"greeting": SILENCE}),
        world(zone, quick.port, timeouts=Timeouts(), **{"room_bytes": 64 * KB, **settings}) as here,  # type: ignore[arg-type]
    ):
        await here.resolver.mail_hosts("slow.test")
        await here.resolver.mail_hosts("quick.test")
        yield here, quick
        await here.deliverer.drain(0)


async def taken(here: World, site: str, jobs: int = 1) -> Load:
    """What a site's lane holds, once it holds so much."""
    async with asyncio.timeout(5):
        while True:
            for lane in here.deliverer._lanes:
                if site in lane.domains and lane.in_memory.jobs >= jobs:
                    return lane.in_memory
            await asyncio.sleep(0.01)


async def test_a_slow_site_is_handed_only_its_part_of_the_bytes():
    async with slow_and_quick() as (here, quick):
        while here.deliverer.has_room("slow.test", KB):
            here.send("a@slow.test", size_bytes=KB)
        held = await taken(here, "slow.test")
        assert held.size_bytes <= 6 * KB
        assert here.deliverer.has_room("slow.test", KB, Priority.URGENT)
        assert here.deliverer.has_room("quick.test", 40 * KB)
        job = here.send("ann@quick.test", size_bytes=40 * KB)
        await here.store.until(lambda: here.store.recipients[(job.message.id, 0)][2] is not None)
        assert len(quick.mails) == 1


async def test_what_waits_for_a_slow_site_is_fetched_only_as_far_as_its_part_and_holds_up_nobody():
    async with slow_and_quick() as (here, quick):
        slow = [here.wait_in_store("a@slow.test", size_bytes=KB) for _ in range(200)]
        here.deliverer.wake()
        held = await taken(here, "slow.test")
        for n in range(100):
            here.wait_in_store(f"u{n}@quick.test", size_bytes=KB)
        here.deliverer.wake()
        await here.store.until(lambda: len(quick.mails) == 100)
        assert held.size_bytes <= 12 * KB
        assert sum(here.store.waits(job) for job in slow) >= 188
        urgent = here.wait_in_store("urgent@slow.test", size_bytes=KB, **URGENT)
        here.deliverer.wake()
        async with asyncio.timeout(5):
            while here.store.waits(urgent):
                await asyncio.sleep(0.01)


async def test_a_call_to_many_at_one_site_is_promised_no_more_than_the_sites_part():
    async with slow_and_quick() as (here, _):
        jobs = []
        while here.deliverer.has_room("slow.test", KB):
            jobs.append(here.job("a@slow.test", size_bytes=KB))
            here.deliverer.foresee(jobs[-1])
        assert len(jobs) == 5
        assert here.deliverer.has_room("quick.test", KB)
        here.deliverer.forget(jobs.pop())
        assert here.deliverer.has_room("slow.test", KB)
        for job in jobs:
            here.deliverer.offer(job)
        held = await taken(here, "slow.test")
        assert held.size_bytes == 4 * KB and here.deliverer._room.promised.jobs == 0


async def test_urgent_mail_is_fetched_and_delivered_though_one_mail_has_taken_all_the_room():
    async with slow_and_quick() as (here, quick):
        here.send("a@slow.test", size_bytes=500 * KB)
        await taken(here, "slow.test")
        normal = here.wait_in_store("normal@quick.test", size_bytes=KB)
        urgent = [here.wait_in_store(f"urgent{n}@quick.test", size_bytes=3 * KB, **URGENT) for n in range(10)]
        here.deliverer.wake()
        await here.store.until(lambda: len(quick.mails) == 10)
        assert not any(here.store.waits(job) for job in urgent) and here.store.waits(normal)
        assert here.deliverer.has_room("quick.test", KB, Priority.URGENT)
        assert not here.deliverer.has_room("quick.test", KB)


async def test_a_mail_that_is_larger_than_its_part_or_than_the_room_goes():
    async with slow_and_quick() as (here, quick):
        for size_bytes in (20 * KB, 500 * KB):
            here.wait_in_store("big@quick.test", size_bytes=size_bytes)
        here.deliverer.wake()
        await here.store.until_settled()
        assert here.deliverer.has_room("quick.test", 500 * KB)
        here.send("big@quick.test", size_bytes=500 * KB)
        await here.store.until_settled()
        assert len(quick.mails) == 3


async def test_a_backlog_of_large_mails_flows_through_a_small_room_without_a_pause():
    async with slow_and_quick() as (here, quick):
        for n in range(100):
            here.wait_in_store(f"u{n}@quick.test", size_bytes=7 * KB)
        here.deliverer.wake()
        # A pause of a second after each full lane would take far longer.
        await here.store.until(lambda: len(quick.mails) == 100, 20.0)
        assert max(bounds.room_bytes for bounds in here.store.bounds) <= 16 * KB


# Counting: whatever becomes of a mail, it is counted out as it was counted in.


async def delivered(here: World, sink: SmtpSink) -> None:
    here.send("more@there.test")


async def site_is_held(here: World, sink: SmtpSink) -> None:
    here.deliverer.set_held(frozenset({"there.test"}))


async def site_is_elsewhere(here: World, sink: SmtpSink) -> None:
    name = "mx.there.test"
    shares = (Share(rank, 100) for rank in range(100))
    here.deliverer.set_share(next(share for share in shares if share.of(20, name) == 0))


async def dropped(here: World, sink: SmtpSink) -> None:
    here.deliverer.drop()


async def drained(here: World, sink: SmtpSink) -> None:
    await here.deliverer.drain(0)


async def not_connected(here: World, sink: SmtpSink) -> None:
    sink.answers["hello"] = "421 4.3.2 too busy"


async def refused(here: World, sink: SmtpSink) -> None:
    sink.answers["RCPT"] = "550 5.1.1 no such user"


async def partly_suppressed(here: World, sink: SmtpSink) -> None:
    here.suppressed.addresses.add("b@there.test")


ENDS = [delivered, site_is_held, site_is_elsewhere, dropped, drained, not_connected, refused, partly_suppressed]


@asynccontextmanager
async def behind_a_greeting() -> AsyncIterator[tuple[World, SmtpSink, asyncio.Event]]:
    """there.test and also.test at one site, which greets when the event is set: with what its answer `hello` says."""
    gate = asyncio.Event()

    async def greeting(*_: object) -> object:
        await gate.wait()
        return sink.answers.get("hello", "220 sink.test ESMTP")

    zone = {**mx(), "also.test": {"MX": ["10 mx.there.test."]}}
    async with SmtpSink(answers={"greeting": greeting}) as sink, world(zone, sink.port) as here:
        for domain in ("there.test", "also.test"):
            await here.resolver.mail_hosts(domain)
        yield here, sink, gate


def send_joined(here: World) -> tuple[Job, Job]:
    """Two jobs of one message, which become one parcel."""
    first = here.job("c@there.test", size_bytes=7)
    other = msgspec.structs.replace(first.recipients[0], n=1)
    second = here.store.add(msgspec.structs.replace(first, recipients=(other,), site="also.test"))
    here.deliverer.offer(first)
    here.deliverer.offer(second)
    return first, second


@pytest.mark.parametrize("end", ENDS)
async def test_all_that_was_counted_in_is_counted_out(end: Callable[[World, SmtpSink], Awaitable[None]]):
    async with behind_a_greeting() as (here, sink, gate):
        for n, priority in enumerate((*Priority, *Priority)):
            here.send(f"a{n}@there.test", "b@there.test", size_bytes=100 + n, priority=priority)
            foreseen = here.job(f"f{n}@there.test", size_bytes=1, priority=priority)
            here.deliverer.foresee(foreseen)
            here.deliverer.offer(foreseen)
        send_joined(here)
        never = here.job("never@there.test")
        here.deliverer.foresee(never)
        held = await taken(here, "there.test", jobs=14)
        (lane,) = here.deliverer.lanes()
        assert lane.waiting == 13 and here.deliverer._ledger.jobs == 14
        here.deliverer.forget(never)
        await end(here, sink)
        gate.set()
        await asyncio.wait_for(here.until_nothing_is_left(held), 10)


async def test_a_mail_that_loses_a_recipient_on_its_connection_is_counted_out_whole():
    async with behind_a_greeting() as (here, sink, gate):
        _, second = send_joined(here)
        held = await taken(here, "there.test", jobs=2)
        (lane,) = here.deliverer._lanes
        lane.pace.pause_until = asyncio.get_running_loop().time() + 0.3
        gate.set()
        await here.until_lanes(lambda lane: lane.in_flight == 1)
        assert held.amount(urgent=False) == (2, 14)
        here.deliverer.set_held(frozenset({"also.test"}))
        await here.store.until(lambda: len(here.store.completions) == 2)
        await here.until_nothing_is_left(held)
        assert here.store.waits(second, 1) and [mail.recipients for mail in sink.mails] == [["c@there.test"]]


async def test_what_waits_for_a_look_up_is_counted_out_too():
    async with world({}, routing=Routing(chain_of(Direct()))) as here:
        for priority in Priority:
            here.send("a@missing.test", priority=priority)
        assert here.deliverer._ledger.jobs == 3
        await here.store.until_settled()
        await here.until_nothing_is_left()
