"""Who is composed first."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from delivery_world import TEXT, World, mx, world
from sinks import SmtpSink

from sendkit_server.deliver import Timeouts
from sendkit_server.deliver.desk import Desk
from sendkit_server.deliver.parcel import Parcel
from sendkit_server.deliver.plan import Way
from sendkit_server.deliver.route import Direct
from sendkit_server.model.mail import Priority
from sendkit_server.model.outcome import Outcome


def desk_of(here: World, pool: ThreadPoolExecutor) -> Desk:
    return Desk(
        here.store,
        pool,
        "out.test",
        workers=1,
        dkim_required=lambda _: False,
        start=asyncio.ensure_future,
        fault=lambda _, error: None,
        doors=lambda: 0,
    )


async def test_what_is_urgent_is_composed_before_the_bulk_that_waits():
    done: list[str] = []
    over = asyncio.Event()

    def then(parcel: Parcel, refused: Outcome | None) -> None:
        assert refused is None and parcel.composed is not None
        done.append(parcel.addresses[0])
        if len(done) == 41:
            over.set()

    with ThreadPoolExecutor(1) as pool:
        async with world({}) as here:
            desk = desk_of(here, pool)
            for n in range(40):
                job = here.job(f"bulk{n}@there.test", content=TEXT, priority=Priority.BULK)
                desk.add(Parcel(job, (Way(Direct()),)), then)
            desk.add(Parcel(here.job("urgent@there.test", priority=Priority.URGENT), (Way(Direct()),)), then)
            await asyncio.wait_for(over.wait(), 10)
    assert done.index("urgent@there.test") == 0 and done[1:] == [f"bulk{n}@there.test" for n in range(40)]


async def test_an_urgent_mail_is_composed_though_a_long_line_of_bulk_came_composed():
    gate = asyncio.Event()

    async def dot(*_: object) -> str:
        await gate.wait()
        return "250 2.0.0 ok"

    async with (
        SmtpSink(answers={"dot": dot}) as sink,
        world(mx(), sink.port, connections_per_site=1, timeouts=Timeouts()) as here,
    ):
        for n in range(60):
            job = here.job(f"bulk{n}@there.test", priority=Priority.BULK)
            here.deliverer.foresee(job)
            here.deliverer.offer(job)
        await here.until_lanes(lambda lane: lane.in_flight == 1 and lane.waiting == 59)
        here.send("urgent@there.test", priority=Priority.URGENT)
        (inside,) = here.deliverer._lanes
        async with asyncio.timeout(5):
            while not inside._ready.count(Priority.URGENT):
                await asyncio.sleep(0.01)
        gate.set()
        await here.store.until_settled()
        assert [mail.recipients[0] for mail in sink.mails].index("urgent@there.test") <= 2
