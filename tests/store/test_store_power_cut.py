"""The power goes at any moment: the database opens, is whole, and holds every mail that was acknowledged."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from power_cuts import CALLS, Disk, Event, Kept, Removal, SyncDone, Write, recorded

from sendkit_server.store import rows
from sendkit_server.store.store import open_store

FILES = frozenset({"sendkit.db", "sendkit.db-wal", "sendkit.db-journal"})
WORKER = Path(__file__).parent / "store_worker.py"


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """What the store did to its files while 120 mails were accepted and completed, from the first start on."""
    strace = shutil.which("strace")
    if strace is None:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is not installed (sh scripts/peers.sh installs it)")
        pytest.skip("not run: strace is not installed (sh scripts/peers.sh installs it)")
    folder = tmp_path_factory.mktemp("recorded")
    log = folder / "trace"
    (folder / "data").mkdir()
    subprocess.run(
        [strace, "-f", "-y", "-xx", "-s", "70000", "-e", f"trace={CALLS}", "-o", log,
         sys.executable, WORKER, folder / "data", "120", "150"],
        check=True, stdout=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    found = recorded(log, "data", FILES)
    checkpoints = sum(isinstance(event, SyncDone) and event.file == "sendkit.db" for event in found)
    assert Removal("sendkit.db-journal") in found
    assert checkpoints >= 3, "the recording must hold what a checkpoint does"
    return found


def test_every_acknowledged_mail_survives_a_power_cut(events: list[Event], tmp_path: Path) -> None:
    assert cuts(events, tmp_path / "rebuilt", 60) == 60


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_acknowledged_mail_survives_a_thousand_power_cuts(events: list[Event], tmp_path: Path) -> None:
    assert cuts(events, tmp_path / "rebuilt", 1_500) == 1_500


def test_a_disk_that_does_not_sync_loses_mail_and_is_found_out(events: list[Event], tmp_path: Path) -> None:
    """The oracle itself: without the last sync before an acknowledgement the mail must be missing."""
    lying = [event for event in events if not (isinstance(event, SyncDone) and event.file == "sendkit.db-wal")]
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        cuts(lying, tmp_path / "rebuilt", 20, start=len(lying) // 2, kinds=(Kept.NONE,))


def cuts(events: list[Event], folder: Path, count: int, *, start: int = 0, kinds: Sequence[Kept] = tuple(Kept)) -> int:
    """Rebuilds and opens that many disks, cut at moments spread over the whole recording."""
    chance = random.Random()
    moments = sorted(chance.sample(range(start, len(events)), min(count, len(events) - start)))
    while len(moments) < count:
        moments = sorted([*moments, chance.randrange(start, len(events))])
    disk, seen = Disk(), 0
    for number, moment in enumerate(moments):
        for event in events[seen:moment]:
            disk.see(event)
        seen = max(seen, moment)
        check(disk, kinds[number % len(kinds)], chance, folder)
    return len(moments)


def check(disk: Disk, kept: Kept, chance: random.Random, folder: Path) -> None:
    """One state: the product's own store opens it, the database is whole, and what was acknowledged is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, raw in disk.after_a_cut(kept, chance).items():
        (folder / name).write_bytes(raw)
    open_store(folder, "secret", "tests").close_unstarted()
    connection = sqlite3.connect(folder / "sendkit.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = dict(connection.execute("SELECT id, content_id FROM message"))
        lost = set(disk.said) - set(stored)
        assert not lost, f"acknowledged and lost ({kept.value}): {lost}"
        recipients = connection.execute("SELECT message_id, count(*) FROM recipient GROUP BY message_id").fetchall()
        assert dict(recipients) == dict.fromkeys(stored, 2)
        bodies = dict(connection.execute("SELECT id, body FROM content"))
        assert set(bodies) == set(stored.values())
        for body in bodies.values():
            rows.content_of(body)
    finally:
        connection.close()


def test_a_write_of_several_sectors_can_be_torn() -> None:
    disk = Disk()
    disk.see(Write("f", 100, b"x" * 1500))
    found = {disk.after_a_cut(Kept.SECTORS, random.Random(seed)).get("f", b"") for seed in range(50)}
    assert {b"", bytes(100) + b"x" * 1500} < found
    assert bytes(100) + b"x" * 412 + bytes(512) + b"x" * 576 in {raw[:1024] + raw[1024:1600] for raw in found}
