"""kill -9 at random moments under load from both doors: nothing acknowledged is lost, and doubles have their reason."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable

import pytest
from load import Load
from server import Server, until
from sinks import SmtpSink

CONNECTIONS = 8
SUBJECT = re.compile(rb"^Subject: (\S+)\r$", re.MULTILINE)


def token_of(raw: bytes) -> str:
    found = SUBJECT.search(raw)
    assert found is not None
    return found[1].decode()


async def killed_rounds(make_server: Callable[..., Server], sink: SmtpSink, rounds: int, seed: int) -> None:
    """Rounds of load and kill on one data directory, then one start that must bring everything home."""
    chance = random.Random(seed)
    server = make_server(
        SENDKIT_SMTP_PLAIN_AUTH="loopback", SENDKIT_CONNECTIONS_PER_SITE=str(CONNECTIONS), SENDKIT_LOG_LEVEL="warning"
    )
    await server.start()
    key = await server.live_key()
    acknowledged = 0
    for _ in range(rounds):
        load = Load(server, key, most=3000)
        load.start()
        await until(lambda load=load: len(load.acknowledged) > 20)  # type: ignore[misc]
        await asyncio.sleep(chance.uniform(0.0, 0.8))
        await server.kill()
        await asyncio.to_thread(load.stop)
        acknowledged += len(load.acknowledged)
        await server.start()
        wanted = load.acknowledged
        await until(
            lambda wanted=wanted: wanted <= {token_of(mail.raw) for mail in sink.mails},  # type: ignore[misc]
            60,
            "every acknowledged mail to arrive",
        )
        counts = Counter(token_of(mail.raw) for mail in sink.mails)
        doubles = [token for token, count in counts.items() if count > 1]
        # On the wire, or answered and not durable yet: at most a mail a connection, and two outcomes each.
        assert len(doubles) <= 3 * CONNECTIONS, doubles
        for token in doubles:
            assert len({mail.raw for mail in sink.mails if token_of(mail.raw) == token}) == 1, token
        unknown = set(counts) - load.attempted
        assert not unknown
        await until_empty(server, key)
        sink.mails.clear()
        sink.bodies.clear()
    assert acknowledged > 20 * rounds
    await server.stop()


async def until_empty(server: Server, key: str) -> None:
    """Waits until nothing is left to deliver."""
    for _ in range(1000):
        if not (await server.call("GET", "/queue", key)).json["data"]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the queue does not empty")


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    await killed_rounds(make_server, sink, rounds=3, seed=random.randrange(2**32))


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_nothing_acknowledged_is_lost_in_many_kills(make_server: Callable[..., Server], sink: SmtpSink) -> None:
    await killed_rounds(make_server, sink, rounds=60, seed=random.randrange(2**32))
