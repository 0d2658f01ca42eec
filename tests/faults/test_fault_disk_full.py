"""A disk that is really full: refused, nothing lost, and all goes on by itself once there is space."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from senders import Journal, all_arrived, tokens
from server import Server, until
from sinks import SmtpSink

pytestmark = pytest.mark.engine("sqlite")
DISK_BYTES = 32 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, in memory."""
    if os.geteuid() != 0:
        pytest.skip("not run: mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"not run: no small disk can be mounted: {mounted.stderr.decode()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fills the disk but for some bytes; the file to remove again."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave)
    return ballast


@pytest.mark.parametrize("guard", ["0", "4MB"])
async def test_a_full_disk_refuses_mail_and_what_was_taken_arrives_once(
    small_disk: Path, make_server: Callable[..., Server], sink: SmtpSink, guard: str
) -> None:
    server = make_server(SENDKIT_SMTP_PLAIN_AUTH="loopback", SENDKIT_MIN_FREE_DISK=guard)
    server.data_dir = small_disk / "data"
    await server.start()
    key = await server.live_key()
    journal = Journal(server, key)
    await journal.send("before")
    ballast = fill(small_disk, 64 * 1024)
    for n in range(2000):
        await journal.send(f"during-{n}")
        if set(journal.refused.values()) >= {507, 452}:
            break
    assert set(journal.refused.values()) >= {507, 452}
    assert (await server.call("GET", "/health")).status == 200
    if guard != "0":
        await until_warned(server)
    ballast.unlink()
    await until_accepted(journal)
    await all_arrived(sink, journal.acknowledged)
    assert await server.stop() == 0
    await server.start()
    await until(lambda: Counter(tokens(sink)) == Counter(journal.acknowledged), 30, "each acknowledged mail, once")


async def until_warned(server: Server) -> None:
    """The server has seen for itself that the disk is short of space, and says so."""
    for _ in range(200):
        if [one["name"] for one in (await server.call("GET", "/ready")).json["warnings"]] == ["disk_full"]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("no warning of a full disk")


async def until_accepted(journal: Journal) -> None:
    """Sends until both doors take mail again."""
    for n in range(200):
        before = len(journal.acknowledged)
        await journal.send(f"after-{n}")
        if len(journal.acknowledged) == before + 2:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("still refused with space on the disk")
