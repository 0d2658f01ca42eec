"""The operator's hand on the queue: hold, release, retry, drop, and the sender's cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from server import Server, until
from sinks import SILENCE, SmtpSink


async def test_a_held_destination_gets_nothing_until_it_is_released(server: Server, key: str, sink: SmtpSink) -> None:
    status, said, _ = await server.command("queue", "hold", "There.test")
    assert (status, said) == (0, "there.test is held; 0 recipients of team default wait there.\n")
    waits = await server.send(key, to="ann@there.test")
    await server.settled(key, await server.send(key, to="bob@elsewhere.test"), "delivered")
    found = await server.email(key, waits)
    assert (found["status"], found["reason"]) == ("queued", "held by the operator")
    (lane,) = (await server.call("GET", "/queue", key)).json["data"]
    assert (lane["site"], lane["held"], lane["reason"], lane["waiting"]) == (
        "there.test",
        True,
        "held by the operator",
        1,
    )
    assert "HELD" in (await server.command("queue"))[1]
    status, said, _ = await server.command("queue", "release", "there.test")
    assert (status, said) == (0, "there.test is released; 1 recipient of team default wait there.\n")
    await server.settled(key, waits, "delivered")
    assert (await server.command("queue", "release", "there.test"))[0] == 1


async def test_a_hold_outlives_a_restart(server: Server, key: str) -> None:
    assert (await server.act("queue.hold", site="there.test"))["changed"] is True
    waits = await server.send(key)
    await server.stop()
    await server.start()
    assert (await server.email(key, waits))["reason"] == "held by the operator"
    await server.act("queue.release", site="there.test")
    await server.settled(key, waits, "delivered")


async def test_retry_tries_at_once_what_would_wait_for_a_minute(server: Server, key: str, sink: SmtpSink) -> None:
    sink.answers["RCPT"] = ["450 4.2.0 later", "250 2.1.5 ok"]
    waits = await server.send(key)
    await server.settled(key, waits, "delivery_delayed")
    status, said, _ = await server.command("queue", "retry", "there.test")
    assert (status, said) == (0, "1 recipient due now.\n")
    await server.settled(key, waits, "delivered")


async def test_retry_asks_a_paused_site_again(make_server: Callable[..., Server], sink: SmtpSink) -> None:
    server = await make_server().start()
    key = await server.live_key()
    sink.answers["greeting"] = "554 5.3.2 no service"
    waits = await server.send(key)
    await server.settled(key, waits, "delivery_delayed")
    del sink.answers["greeting"]
    assert (await server.call("POST", f"/emails/{waits}/retry", key)).json["recipients"] == 1
    await server.settled(key, waits, "delivered")


async def test_drop_cancels_what_waits_and_asks_first(server: Server, key: str, sink: SmtpSink) -> None:
    sink.answers["RCPT"] = "450 4.2.0 later"
    waits = await server.send(key, to=["ann@there.test"], cc=["bob@there.test"])
    other = await server.send(key, to="carl@elsewhere.test")
    await server.settled(key, waits, "delivery_delayed")
    await server.settled(key, other, "delivery_delayed")
    status, _, error = await server.command("queue", "drop", "there.test")
    assert status == 1 and "--yes" in error
    status, said, _ = await server.command("queue", "drop", "there.test", "--yes")
    assert (status, said) == (0, "2 recipients cancelled.\n")
    found = await server.settled(key, waits, "cancelled")
    assert found["reason"] == "Cancelled: the operator dropped it from the queue."
    assert [event["metadata"]["reason"] for event in found["events"] if event["type"] == "cancelled"] == ["dropped"] * 2
    assert (await server.email(key, other))["status"] == "delivery_delayed"
    assert json.loads((await server.command("queue", "drop", other, "--yes", "--json"))[1])["recipients"] == 1


async def test_what_is_in_memory_is_handed_back_and_cancelled_and_what_is_on_the_wire_is_not(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server(SENDKIT_CONNECTIONS_PER_SITE="1").start()
    key = await server.live_key()
    sink.answers["dot"] = SILENCE
    on_the_wire = await server.send(key)
    await until(lambda: sink.bodies)
    in_memory = [await server.send(key, to=f"{n}@there.test") for n in range(5)]
    cancelled = await server.call("POST", f"/emails/{in_memory[0]}/cancel", key)
    assert cancelled.json["recipients"] == 1
    assert await server.act("queue.drop", target="there.test") == {"recipients": 4, "in_flight": 1}
    for message in in_memory:
        assert (await server.email(key, message))["status"] == "cancelled"
    assert (await server.email(key, on_the_wire))["status"] == "queued"
    assert (await server.call("POST", f"/emails/{on_the_wire}/cancel", key)).status == 422
    (lane,) = (await server.call("GET", "/queue", key)).json["data"]
    assert (lane["in_flight"], lane["waiting"], lane["held"]) == (1, 0, False)


async def test_a_hold_hands_back_what_waits_in_memory(make_server: Callable[..., Server], sink: SmtpSink) -> None:
    server = await make_server(SENDKIT_CONNECTIONS_PER_SITE="1").start()
    key = await server.live_key()
    sink.answers["dot"] = SILENCE
    await server.send(key)
    await until(lambda: sink.bodies)
    waits = [await server.send(key, to=f"{n}@there.test") for n in range(3)]
    await server.act("queue.hold", site="there.test")
    for message in waits:
        deadline = asyncio.get_running_loop().time() + 5
        while (found := await server.email(key, message))["reason"] != "held by the operator":
            assert asyncio.get_running_loop().time() < deadline, found["reason"]
            await asyncio.sleep(0.02)
