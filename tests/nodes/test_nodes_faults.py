"""Three nodes on one PostgreSQL, under load from both doors, while nodes die, freeze and come back, and the database restarts."""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from collections.abc import Callable

import pytest
from databases import PostgresServer
from server import Server, until
from sinks import SmtpSink
from steady import Steady

CONNECTIONS = 9
LEASE_S = 30
SUBJECT = re.compile(rb"^Subject: (\S+)\r$", re.MULTILINE)
pytestmark = pytest.mark.engine("postgres")


def token_of(raw: bytes) -> str:
    found = SUBJECT.search(raw)
    assert found is not None
    return found[1].decode()


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_nothing_acknowledged_is_lost_when_nodes_die_and_freeze_and_the_database_restarts(
    make_server: Callable[..., Server], sink: SmtpSink, own_postgres: PostgresServer
) -> None:
    database = own_postgres.create_database()
    settings = {
        "SENDKIT_SMTP_PLAIN_AUTH": "loopback",
        "SENDKIT_CONNECTIONS_PER_SITE": str(CONNECTIONS),
        "SENDKIT_LOG_LEVEL": "warning",
    }
    nodes = [await make_server(database, **settings).start() for _ in range(3)]
    key = await nodes[0].live_key()
    loads = [Steady(node, key, f"n{number}") for number, node in enumerate(nodes)]
    await until(lambda: len(sink.mails) > 300, 60, "the first mails")

    # The second node is stopped in the middle of its work for longer than its lease, ...
    nodes[1].process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(3)
    # ... the third is killed, ...
    await nodes[2].kill()
    await asyncio.sleep(3)
    # ... and the database restarts.
    await asyncio.to_thread(own_postgres.restart)
    before = len(loads[0].acknowledged)
    await until(lambda: len(loads[0].acknowledged) > before + 50, 30, "the first node to go on")
    await asyncio.sleep(LEASE_S + 15)
    frozen = set(loads[1].acknowledged)
    await until(lambda: frozen <= {token_of(mail.raw) for mail in sink.mails}, 60, "what the frozen node owned")
    at_wake = len(sink.mails)
    nodes[1].process.send_signal(signal.SIGCONT)
    before = len(loads[1].acknowledged)
    await until(lambda: len(loads[1].acknowledged) > before + 50, 60, "the frozen node to go on")
    await until(lambda: "node.began_anew" in nodes[1].log, 20, "a new incarnation")
    for load in loads:
        await asyncio.to_thread(load.stop)

    acknowledged = set().union(*(load.acknowledged for load in loads))
    await until(lambda: acknowledged <= {token_of(mail.raw) for mail in sink.mails}, 90, "every acknowledged mail")
    counts = Counter(token_of(mail.raw) for mail in sink.mails)
    doubles = {token for token, count in counts.items() if count > 1}
    # What was on the wire, or answered and not written down yet, when its node was killed or frozen.
    assert len(doubles) <= 3 * CONNECTIONS, sorted(doubles)
    assert all(count == 2 for count in counts.values() if count > 1)
    woken = {token_of(mail.raw) for mail in sink.mails[at_wake:]}
    assert not woken & frozen, "the frozen node sent what others had taken over"
    refused = set().union(*(load.refused for load in loads))
    print(
        len(acknowledged), "acknowledged", len(doubles), "doubles", len(refused), "refused", len(refused & set(counts))
    )
    assert {status for load in loads for status in load.refused.values()} <= {503, 451, 454}
    rows = (await nodes[0].act("nodes.list"))["data"]
    assert [row["state"] for row in rows].count("alive") == 2
