"""From SQLite to PostgreSQL, in one go or in several, and never served on both sides."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from databases import PgBouncer, PostgresServer
from transfer_places import NOW, SECRET, Place, Steps, fill, place

from sendkit_server.store.errors import StoreError, StoreLocked, StoreUnavailable
from sendkit_server.store.transfer import migration, tables
from sendkit_server.store.transfer.backup import back_up
from sendkit_server.store.transfer.errors import TransferRefused
from sendkit_server.store.transfer.restore import restore
from sendkit_server.store.values import Claim

__all__ = ["place"]
WORKER = Path(__file__).parent / "transfer_worker.py"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows a batch, so that there is a "between"."""
    monkeypatch.setattr(tables, "BATCH_ROWS", 16)
    monkeypatch.setattr(migration, "COMMIT_ROWS", 16)


def carried(old: Place, new: Place, secret: str = SECRET, **options: Any) -> migration.Moved:
    assert new.url is not None
    return migration.migrate(old.data_dir, new.url, secret, NOW, options.get("progress", Steps()))


def killed(old: Place, new: Place, work: str, steps: int) -> None:
    """Runs it in a process of its own until it kills itself."""
    assert new.url is not None
    arguments = [str(old.data_dir), new.url, SECRET, "16", work, str(steps)]
    ran = subprocess.run([sys.executable, WORKER, *arguments], capture_output=True, timeout=60, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr.decode()


def may_be_served(place: Place) -> bool:
    try:
        place.open().close_unstarted()
    except StoreError:
        return False
    return True


async def test_everything_arrives_and_only_the_new_database_may_be_served(place: Callable[..., Place]) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new", empty=True)
    await fill(old)
    before = old.tallies()
    steps = Steps()
    moved = carried(old, new, progress=steps)
    rows = sum(tally.rows for tally in before.values())
    assert steps.begun == [("Carrying over", rows), ("Comparing", 2 * rows)]
    assert steps.done == 2 * rows
    assert (moved.tables, moved.waiting, moved.resumed) == (before, 60, False)
    assert new.tallies() == old.tallies() == before
    with pytest.raises(StoreError, match="sendkit migrate --undo"):
        old.open()
    store = new.open()
    store.start(NOW)
    try:
        jobs = (await store.claim(Claim(store.owner, NOW + 10_000_000, frozenset(), 1_000, 1_000))).jobs
        assert sum(len(job.recipients) for job in jobs) == 60
    finally:
        store.close()


async def test_undo_lets_the_old_one_be_served_and_a_second_time_does_nothing(place: Callable[..., Place]) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new")
    await fill(old, 4)
    carried(old, new)
    assert not may_be_served(old)
    moved_to = migration.undo(old.data_dir)
    assert moved_to is not None
    assert "test_" in moved_to
    assert may_be_served(old)
    assert migration.undo(old.data_dir) is None


@pytest.mark.parametrize(("work", "steps"), [("Carrying over", 1), ("Carrying over", 9), ("Comparing", 3)])
async def test_a_run_that_was_killed_is_gone_on_with(
    place: Callable[..., Place], postgres_server: PostgresServer, work: str, steps: int
) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new", empty=True)
    await fill(old)
    killed(old, new, work, steps)
    assert not may_be_served(new), "it is not whole"
    assert may_be_served(old), "it is as it was"
    killed_at = new.tallies()
    assert new.url is not None
    # Whatever was there is not written again: a row keeps the transaction that it came with.
    versions = "SELECT min(xmin::text::bigint) FROM team"
    before = postgres_server.execute(new.url, versions)
    progress = Steps()
    moved = carried(old, new, progress=progress)
    assert moved.resumed
    left = sum(tally.rows - killed_at[name].rows for name, tally in moved.tables.items())
    assert dict(progress.begun)["Carrying over"] == left
    assert postgres_server.execute(new.url, versions) == before
    assert new.tallies() == old.tallies()
    assert (may_be_served(old), may_be_served(new)) == (False, True)


async def test_a_database_that_was_changed_in_between_is_carried_over_anew(place: Callable[..., Place]) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new")
    await fill(old)
    killed(old, new, "Carrying over", 12)
    with sqlite3.connect(old.data_dir / "sendkit.db") as connection:
        connection.execute("UPDATE message SET subject = 'changed'")
        connection.execute("DELETE FROM content WHERE id = (SELECT min(id) FROM content)")
    connection.close()
    moved = carried(old, new)
    assert not moved.resumed
    assert new.tallies() == old.tallies()
    assert {row["subject"] for row in new.rows("message")} == {"changed"}


async def test_a_difference_is_found_and_the_next_run_mends_it(
    place: Callable[..., Place], postgres_server: PostgresServer
) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new")
    await fill(old)
    killed(old, new, "Comparing", 1)
    assert new.url is not None
    postgres_server.execute(new.url, "UPDATE recipient SET local = 'mallory' WHERE n = 1 AND local = 'bob'")
    with pytest.raises(TransferRefused, match="recipient is not the same on both sides"):
        carried(old, new)
    assert (may_be_served(old), may_be_served(new)) == (True, False)
    assert not carried(old, new).resumed
    assert new.tallies() == old.tallies()
    assert (may_be_served(old), may_be_served(new)) == (False, True)


async def test_a_run_that_was_killed_after_the_comparison_only_has_the_marks_left(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new")
    await fill(old, 8)
    with monkeypatch.context() as patched:

        def fails(*_: object) -> None:
            raise StoreUnavailable("the server was lost")

        patched.setattr(migration, "_finish", fails)
        with pytest.raises(StoreUnavailable):
            carried(old, new)
    assert (may_be_served(old), may_be_served(new)) == (False, False), "never both"
    assert carried(old, new).resumed
    assert (may_be_served(old), may_be_served(new)) == (False, True)
    with pytest.raises(TransferRefused, match="before, and completely"):
        carried(old, new)


async def test_a_server_that_runs_is_named(place: Callable[..., Place]) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new")
    await fill(old, 4)
    store = old.open()
    try:
        with pytest.raises(StoreLocked, match="tests, pid"):
            carried(old, new)
    finally:
        store.close_unstarted()


async def test_a_target_that_is_not_empty_or_another_ones_is_refused(place: Callable[..., Place]) -> None:
    old, other = place("sqlite", "old"), place("sqlite", "other")
    await fill(old, 8)
    await fill(other, 8)
    full, begun = place("postgres", "full"), place("postgres", "begun")
    await fill(full, 4)
    before = full.tallies()
    with pytest.raises(TransferRefused, match="not empty"):
        carried(old, full)
    assert full.tallies() == before
    killed(other, begun, "Carrying over", 3)
    with pytest.raises(TransferRefused, match="another installation"):
        carried(old, begun)
    assert may_be_served(old)


async def test_a_wrong_key_is_refused(place: Callable[..., Place]) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new")
    await fill(old, 4)
    with pytest.raises(TransferRefused, match="not the one this database was made with"):
        carried(old, new, "another")
    team = {"id": 1, "name": "default", "created_at": 0, "paused_at": None, "paused_reason": None}
    assert new.rows("team") == [team]


async def test_text_with_nul_is_the_same_on_both_sides_once_it_is_replaced(place: Callable[..., Place]) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new")
    await fill(old, 8)
    with sqlite3.connect(old.data_dir / "sendkit.db") as connection:
        connection.execute("UPDATE message SET subject = 'a' || char(0) || 'b'")
    connection.close()
    carried(old, new)
    assert {row["subject"] for row in new.rows("message")} == {"a\ufffdb"}


async def test_a_pooler_in_between_makes_no_difference(
    place: Callable[..., Place], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    old, target, again = place("sqlite", "old"), place("postgres", "target", empty=True), place("postgres", "again")
    await fill(old)
    before = old.tallies()
    assert target.url is not None
    assert again.url is not None
    pooler = PgBouncer(postgres_server)
    try:
        pooler.start()
        new = Place(target.data_dir, pooler.url(target.url))
        carried(old, new)
        assert new.tallies() == before
        back_up(new.data_dir, new.url, SECRET, tmp_path / "a.skb", NOW, "1.2.3", Steps())
        restore(tmp_path / "a.skb", again.data_dir, pooler.url(again.url), SECRET, NOW, Steps())
        assert again.tallies() == before
    finally:
        pooler.cleanup()
