"""What the operator says to one node holds on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from server import Server, until
from sinks import SILENCE, SmtpSink

pytestmark = pytest.mark.engine("postgres")
Make = Callable[..., Server]


async def test_what_another_node_has_in_memory_is_dropped_and_its_sites_can_be_held(
    make_server: Make, sink: SmtpSink
) -> None:
    doors = await make_server(SENDKIT_ROLES="http").start()
    delivering = await make_server(SENDKIT_ROLES="deliver,http", SENDKIT_CONNECTIONS_PER_SITE="1").start()
    key = await doors.live_key()
    sink.answers["dot"] = SILENCE
    await delivering.send(key)
    await until(lambda: sink.bodies)
    waits = [await delivering.send(key, to=f"{n}@there.test") for n in range(4)]
    assert (await doors.call("POST", f"/emails/{waits[0]}/cancel", key)).json["recipients"] == 1
    assert await doors.act("queue.drop", target="there.test") == {"recipients": 3, "in_flight": 1}

    await doors.act("queue.hold", site="elsewhere.test")
    deadline = asyncio.get_running_loop().time() + 2.0
    reason = ""
    while reason != "held by the operator":
        assert asyncio.get_running_loop().time() < deadline, reason
        # What gets to the other node before it has heard of it hangs on the silent server.
        reason = (await doors.email(key, await delivering.send(key, to="ann@elsewhere.test")))["reason"]


async def test_an_address_that_one_node_suppresses_is_soon_refused_by_the_others(
    make_server: Make, sink: SmtpSink
) -> None:
    one, other = await make_server().start(), await make_server().start()
    key = await one.live_key()
    await other.settled(key, await other.send(key), "delivered")
    assert (await one.call("POST", "/suppressions", key, {"email": "ann@there.test"})).status == 201
    deadline = asyncio.get_running_loop().time() + 2.5
    while (await other.email(key, await other.send(key)))["status"] != "suppressed":
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    assert (await one.call("DELETE", "/suppressions/ann%40there.test", key)).status == 200
    await other.settled(key, await other.send(key), "delivered")
