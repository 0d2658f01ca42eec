"""Disk calls in the running server: in which order they come, and what is said when they fail."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from senders import Journal, all_arrived, by_http, by_smtp, tokens
from server import Server
from sinks import SmtpSink
from tracing import failing, traced

pytestmark = pytest.mark.engine("sqlite")
SYNCS, WRITES, READS = "fsync,fdatasync", "pwrite64,ftruncate", "pread64"
TRACED = "fsync,fdatasync,pwrite64,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg"
OURS = {"SENDKIT_SMTP_PLAIN_AUTH": "loopback", "SENDKIT_LOG_LEVEL": "warning", "SENDKIT_RETRY_SCHEDULE": "1s"}


@pytest.fixture
async def quiet(make_server: Callable[..., Server]) -> Server:
    """A running server that does not write a log line for each mail."""
    return await make_server(**OURS).start()


@pytest.mark.parametrize("door", ["http", "smtp"])
async def test_the_database_is_synced_between_the_request_and_its_acknowledgement(
    quiet: Server, tmp_path: Path, door: str
) -> None:
    key = await quiet.live_key()
    log = tmp_path / "trace"
    async with traced(quiet, "-y", "-s", "8192", "-e", f"trace={TRACED}", log=log):
        if door == "http":
            assert await by_http(quiet, key, "token-4711") == 200
        else:
            assert await by_smtp(quiet, key, "token-4711") == 250
    lines = log.read_text(errors="replace").splitlines()
    asked = first(lines, 0, r"read.*token-4711") if door == "http" else first(lines, 0, r"read.*Subject: token-4711")
    acknowledged = first(lines, asked, r"(write|send)\S*\(.*(HTTP/1\.1 200|\"250 2\.0\.0 .*msg_)")
    name = re.search(r"msg_[0-9a-z]+", "".join(lines[acknowledged : acknowledged + 2]), re.IGNORECASE)
    assert name is not None
    written = first(lines, asked, rf"pwrite64\(\d+<\S*sendkit\.db-wal>.*{name[0]}")
    synced = finished_sync(lines, written)
    assert asked < written < synced < acknowledged


def first(lines: list[str], start: int, pattern: str) -> int:
    """The first line from there on that a pattern is found in."""
    return next(n for n in range(start, len(lines)) if re.search(pattern, lines[n]))


def finished_sync(lines: list[str], start: int) -> int:
    """The line that says that a sync of the WAL, begun after this line, has succeeded."""
    for n in range(start, len(lines)):
        begun = re.match(r"(\d+) +f(?:data)?sync\(\d+<\S*sendkit\.db-wal>(?:\) += (0)| <unfinished)", lines[n])
        if begun is not None:
            return n if begun[2] else first(lines, n, rf"^{begun[1]} .*sync resumed>\) += 0")
    raise AssertionError("the WAL is not synced")


async def test_a_call_that_fails_once_is_no_acknowledgement_and_costs_no_mail(quiet: Server, sink: SmtpSink) -> None:
    await faults(
        quiet, sink, [(SYNCS, "EIO", n) for n in (1, 2, 3, 6)] + [(WRITES, "ENOSPC", n) for n in (1, 2, 7, 30)]
    )


async def test_a_read_that_fails_is_no_acknowledgement_and_costs_no_mail(quiet: Server, sink: SmtpSink) -> None:
    await faults(quiet, sink, [(READS, "EIO", n) for n in (1, 2, 3, 5)], must_refuse=False)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("calls", "error", "most"), [(SYNCS, "EIO", 40), (WRITES, "ENOSPC", 120), (WRITES, "EIO", 120)]
)
async def test_whichever_call_fails_nothing_acknowledged_is_lost(
    quiet: Server, sink: SmtpSink, calls: str, error: str, most: int
) -> None:
    await faults(quiet, sink, [(calls, error, n) for n in range(1, most + 1)])


async def faults(
    server: Server, sink: SmtpSink, planned: list[tuple[str, str, int]], *, must_refuse: bool = True
) -> None:
    """Mails through both doors while one call fails, for each planned failure; then a restart that brings all home."""
    key = await server.live_key()
    journal = Journal(server, key)
    await journal.send("before")
    for calls, error, n in planned:
        async with traced(server, *failing(calls, error, str(n))):
            for mail in range(3):
                await journal.send(f"{calls[:4]}-{error}-{n}-{mail}")
        await recovered(journal, f"{calls[:4]}-{error}-{n}")
    if must_refuse:
        assert journal.refused
    assert "api.fault" not in server.log
    await everything_once(server, sink, journal)


async def recovered(journal: Journal, name: str) -> None:
    """Without the fault both doors take mail again, at once or after a few tries."""
    for retry in range(50):
        before = len(journal.acknowledged)
        await journal.send(f"after-{name}-{retry}")
        if len(journal.acknowledged) == before + 2:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"still refused after {name}")


async def everything_once(server: Server, sink: SmtpSink, journal: Journal) -> None:
    """Nothing died, so there is no reason for a double, nor for a mail that was refused."""
    assert await server.stop() == 0
    await server.start()
    await all_arrived(sink, journal.acknowledged)
    assert [token for token, count in Counter(tokens(sink)).items() if count > 1] == []
    assert set(tokens(sink)) & set(journal.refused) == set()


async def test_while_no_sync_succeeds_nothing_is_acknowledged_and_then_all_goes_on(
    quiet: Server, sink: SmtpSink
) -> None:
    key = await quiet.live_key()
    journal = Journal(quiet, key)
    await journal.send("before")
    taken = set(journal.acknowledged)
    async with traced(quiet, *failing(SYNCS, "EIO", "1+")):
        for mail in range(5):
            await journal.send(f"during-{mail}")
        assert journal.acknowledged == taken
        assert set(journal.refused.values()) == {503, 451}
        ready = await quiet.call("GET", "/ready")
        assert (ready.status, ready.json["problems"]) == (503, ["database: disk I/O error"])
        assert (await quiet.call("GET", "/health")).status == 200
    assert (await quiet.call("GET", "/ready")).status == 200
    await recovered(journal, "outage")
    await everything_once(quiet, sink, journal)
