"""The wall clock is set while mail waits: nothing is tried early, given up, or left lying."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from clients import missing
from raw_talk import connected
from senders import by_http, tokens
from server import Server, until
from sinks import Session, SmtpSink

pytestmark = pytest.mark.engine("sqlite")
MAILS = 20
RETRY_S = 3.0
SPREAD = 0.25  # a tenth for the retry's own spread, a tenth for following the wall clock, and a little to get there
JUMPS_S = {"+365d": 365 * 86_400, "-365d": -365 * 86_400, "+3": 3, "-3": -3}
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class Greylist:
    """Answers 451 to an address's first try and takes its second, and knows when each came."""

    def __init__(self) -> None:
        self.tries: dict[str, list[float]] = {}

    def __call__(self, session: Session, argument: str) -> object:
        times = self.tries.setdefault(argument.partition("<")[2].partition(">")[0], [])
        times.append(time.monotonic())
        return "451 4.7.1 come again later" if len(times) == 1 else None


async def until_jumped(server: Server, jump: str) -> None:
    """Waits until the server's Date header, which is the wall clock's, shows the jump."""
    while True:
        told = parsedate_to_datetime((await server.call("GET", "/health")).headers["date"]).timestamp()
        if abs(told - time.time() - JUMPS_S[jump]) < 2:
            return
        await asyncio.sleep(0.05)


@pytest.mark.timeout(40)
@pytest.mark.parametrize(
    "jump", [pytest.param(jump, marks=[pytest.mark.long] if len(jump) < 3 else []) for jump in JUMPS_S]
)
async def test_a_jump_of_the_wall_clock_moves_no_retry_and_ends_none(
    make_server: Callable[..., Server], sink: SmtpSink, tmp_path: Path, jump: str
) -> None:
    if not LIBRARIES:
        missing("libfaketime")
    wall = tmp_path / "wall"
    wall.write_text("+0")
    greylist = sink.answers["RCPT"] = Greylist()
    server = await make_server(
        SENDKIT_RETRY_SCHEDULE=f"{RETRY_S:.0f}s",
        SENDKIT_RETRY_WINDOW="1h",
        LD_PRELOAD=str(LIBRARIES[0]),
        FAKETIME_TIMESTAMP_FILE=str(wall),
        FAKETIME_CACHE_DURATION="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    ).start()
    key = await server.live_key()
    for n in range(MAILS):
        assert await by_http(server, key, f"mail-{n}") == 200
    await until(lambda: len(greylist.tries) == MAILS, what="each mail's first try")
    async with connected(server.port("SMTP, STARTTLS")) as idle:
        assert (await idle.smtp()).startswith("220")
        wall.write_text(jump)
        await until_jumped(server, jump)
        assert await by_http(server, key, "new") == 200
        await until(lambda: len(sink.mails) == MAILS + 1, RETRY_S * 3, "each mail's second try")
        assert (await idle.smtp("NOOP")).startswith("250")
    assert sorted(tokens(sink)) == sorted([*(f"mail-{n}" for n in range(MAILS)), "new"])
    for first, second in greylist.tries.values():
        assert RETRY_S * (1 - SPREAD) <= second - first <= RETRY_S * (1 + SPREAD) + 2.0
    for email in (await server.call("GET", "/emails", key)).json["data"]:
        await server.settled(key, email["id"], "delivered")
    assert await asyncio.wait_for(server.stop(), 10) == 0
