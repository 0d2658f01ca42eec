"""Backup, restore and export, from either engine to either."""

from __future__ import annotations

import io
import json
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from databases import PostgresServer
from sqlalchemy import insert, select
from transfer_places import NOW, SECRET, Place, Steps, fill, mail_at, place

from sendkit_server.model.instant import from_text
from sendkit_server.store import schema
from sendkit_server.store.errors import StoreLocked, StoreUnavailable
from sendkit_server.store.transfer import archive, export, tables
from sendkit_server.store.transfer import backup as backups
from sendkit_server.store.transfer.backup import back_up
from sendkit_server.store.transfer.errors import ArchiveDamaged, TransferRefused
from sendkit_server.store.transfer.restore import WHY_CANCELLED, restore
from sendkit_server.store.values import Claim

ENGINES = ("sqlite", "postgres")


__all__ = ["place"]


def backed_up(place: Place, to: Path, **options: Any) -> archive.Footer:
    options = {"secret_key": SECRET, "progress": Steps(), **options}
    return back_up(place.data_dir, place.url, options["secret_key"], to, NOW, "1.2.3", options["progress"])


def restored(path: Path, place: Place, secret: str | None = None, **options: Any) -> archive.Contents:
    options = {"progress": Steps(), **options}
    return restore(path, place.data_dir, place.url, secret, NOW, **options)


@pytest.mark.parametrize("to_engine", ENGINES)
@pytest.mark.parametrize("from_engine", ENGINES)
async def test_a_backup_restores_every_row_on_either_engine(
    place: Callable[..., Place], tmp_path: Path, from_engine: str, to_engine: str
) -> None:
    old, new = place(from_engine, "old"), place(to_engine, "new", empty=True)
    await fill(old)
    footer = backed_up(old, tmp_path / "a.skb")
    assert all(tally.rows for name, tally in footer.tables.items() if name != "meta"), footer
    assert footer.waiting == 60
    assert stat.S_IMODE((tmp_path / "a.skb").stat().st_mode) == 0o600
    contents = restored(tmp_path / "a.skb", new)
    assert (contents.header.engine, contents.header.oldest) == ({"postgres": "postgresql"}.get(from_engine, from_engine), NOW)  # fmt: skip
    assert contents.footer == footer
    assert new.tallies() == old.tallies() == footer.tables
    assert (new.data_dir / "secret-key").read_text().strip() == SECRET
    assert stat.S_IMODE((new.data_dir / "secret-key").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.skb", "new", "old"], "nothing is left lying about"


@pytest.mark.parametrize("to_engine", ENGINES)
async def test_what_waited_goes_on_where_it_is_restored_and_new_rows_find_room(
    place: Callable[..., Place], tmp_path: Path, to_engine: str
) -> None:
    old, new = place("sqlite", "old"), place(to_engine, "new")
    await fill(old)
    backed_up(old, tmp_path / "a.skb")
    restored(tmp_path / "a.skb", new)
    store = new.open()
    store.start(NOW)
    try:
        jobs = (await store.claim(Claim(store.owner, NOW + 10_000_000, frozenset(), 1_000, 1_000))).jobs
        assert sum(len(job.recipients) for job in jobs) == 60
        assert all(job.content is not None for job in jobs)
        await store.accept(mail_at(store, NOW + 999_999))
        await store.write(lambda connection: connection.execute(insert(schema.team).values(name="new", created_at=1)))
        team_ids = await store.read(lambda connection: connection.execute(select(schema.team.c.id)).scalars().all())
        assert sorted(team_ids) == [1, 2, 3]
    finally:
        store.close()


@pytest.mark.parametrize("engine_of_it", ENGINES)
async def test_what_is_written_after_a_backup_began_is_not_in_it_and_what_was_there_is(
    place: Callable[..., Place], tmp_path: Path, engine_of_it: str
) -> None:
    it = place(engine_of_it, "it")
    await fill(it)
    before = it.tallies()
    store = it.open()
    store.start(NOW)
    late = [mail_at(store, NOW + 1_000_000 + n, "late@there.test") for n in range(3)]
    wrote: list[str] = []

    class Writes(Steps):
        """Writes to the database when the reading has begun, and removes what is still to be read."""

        def begin(self, what: str, total: int) -> None:
            super().begin(what, total)
            if it.url is None:
                connection = sqlite3.connect(it.data_dir / "sendkit.db")
                connection.execute("DELETE FROM event")
                connection.commit()
                connection.close()
            else:
                import psycopg

                with psycopg.connect(it.url, autocommit=True) as connection_:
                    connection_.execute("DELETE FROM event")
            wrote.append(what)

    try:
        footer = backed_up(it, tmp_path / "a.skb", progress=Writes())
        for mail in late:
            await store.accept(mail)
    finally:
        store.close()
    assert wrote == ["Backing up"]
    assert footer.tables == before
    assert it.tallies()["event"].rows == 0


async def test_a_file_that_was_cut_off_anywhere_is_refused_before_anything_is_restored(
    place: Callable[..., Place], tmp_path: Path
) -> None:
    old, new = place("sqlite", "old"), place("sqlite", "new")
    await fill(old, 8)
    backed_up(old, tmp_path / "a.skb")
    whole = (tmp_path / "a.skb").read_bytes()
    for length in [*range(45), *range(45, len(whole), 211), *range(len(whole) - 45, len(whole))]:
        (tmp_path / "b.skb").write_bytes(whole[:length])
        with pytest.raises(ArchiveDamaged):
            restored(tmp_path / "b.skb", new)
    (tmp_path / "b.skb").write_bytes(whole + b"\0")
    with pytest.raises(ArchiveDamaged):
        restored(tmp_path / "b.skb", new)
    assert {path.name for path in new.data_dir.iterdir()} == {"lock"}


async def test_a_file_with_one_bit_flipped_anywhere_is_refused_before_anything_is_restored(
    place: Callable[..., Place], tmp_path: Path
) -> None:
    old, new = place("sqlite", "old"), place("sqlite", "new")
    await fill(old, 8)
    backed_up(old, tmp_path / "a.skb")
    whole = (tmp_path / "a.skb").read_bytes()
    for n, at in enumerate([*range(64), *range(64, len(whole), 97), *range(len(whole) - 64, len(whole))]):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << n % 8
        (tmp_path / "b.skb").write_bytes(damaged)
        with pytest.raises((ArchiveDamaged, TransferRefused)):
            restored(tmp_path / "b.skb", new)
    assert {path.name for path in new.data_dir.iterdir()} == {"lock"}


async def test_a_backup_is_not_written_over_another_file_nor_with_a_wrong_key(
    place: Callable[..., Place], tmp_path: Path
) -> None:
    old = place("sqlite", "old")
    await fill(old, 4)
    with pytest.raises(TransferRefused, match="not the one this database was made with"):
        backed_up(old, tmp_path / "a.skb", secret_key="another")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    (tmp_path / "a.skb").write_text("mine")
    with pytest.raises(TransferRefused, match="there already"):
        backed_up(old, tmp_path / "a.skb")
    assert (tmp_path / "a.skb").read_text() == "mine"


async def test_a_backup_that_is_interrupted_leaves_nothing_and_one_that_was_killed_is_no_obstacle(
    place: Callable[..., Place], tmp_path: Path
) -> None:
    old = place("sqlite", "old")
    await fill(old, 4)
    with pytest.raises(KeyboardInterrupt):
        backed_up(old, tmp_path / "a.skb", progress=Steps(fail_at="Backing up"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    (tmp_path / "a.skb.part").write_text("half of a backup")
    footer = backed_up(old, tmp_path / "a.skb")
    assert archive.examine(tmp_path / "a.skb").footer == footer
    assert not (tmp_path / "a.skb.part").exists()


async def test_another_schema_revision_is_refused_and_the_version_to_use_is_named(
    place: Callable[..., Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = place("sqlite", "old"), place("sqlite", "new")
    await fill(old, 4)
    monkeypatch.setattr(backups, "HEAD", "0999")
    with pytest.raises(TransferRefused, match="knows 0999"):
        backed_up(old, tmp_path / "a.skb")
    with sqlite3.connect(old.data_dir / "sendkit.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
    connection.close()
    backed_up(old, tmp_path / "a.skb")
    with pytest.raises(TransferRefused, match=r"sendkit 1\.2\.3 with schema revision 0999"):
        restored(tmp_path / "a.skb", new)


async def test_a_restore_refuses_another_secret_key(place: Callable[..., Place], tmp_path: Path) -> None:
    old, new = place("sqlite", "old"), place("sqlite", "new")
    await fill(old, 4)
    backed_up(old, tmp_path / "a.skb")
    with pytest.raises(TransferRefused, match="SENDKIT_SECRET_KEY is not the backup's"):
        restored(tmp_path / "a.skb", new, "another")
    (new.data_dir / "secret-key").write_text("another\n")
    with pytest.raises(TransferRefused, match="another key than the backup's"):
        restored(tmp_path / "a.skb", new)
    assert (new.data_dir / "secret-key").read_text() == "another\n"
    (new.data_dir / "secret-key").unlink()
    restored(tmp_path / "a.skb", new, SECRET)
    assert not (new.data_dir / "secret-key").exists(), "it is configured, so it need not lie there"


@pytest.mark.parametrize("to_engine", ENGINES)
async def test_a_restore_refuses_an_installation_that_is_not_empty(
    place: Callable[..., Place], tmp_path: Path, to_engine: str
) -> None:
    old, new = place("sqlite", "old"), place(to_engine, "new")
    await fill(old, 4)
    backed_up(old, tmp_path / "a.skb")
    await fill(new, 8)
    before = new.tallies()
    with pytest.raises(TransferRefused, match=r"not empty|there already"):
        restored(tmp_path / "a.skb", new)
    assert new.tallies() == before


async def test_a_restore_refuses_a_database_that_is_served(place: Callable[..., Place], tmp_path: Path) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new")
    await fill(old, 4)
    backed_up(old, tmp_path / "a.skb")
    store = new.open()
    store.start(NOW)
    try:
        with pytest.raises(StoreLocked):
            restored(tmp_path / "a.skb", new)
        (tmp_path / "elsewhere").mkdir()
        with pytest.raises(TransferRefused, match="a server runs on that database"):
            restored(tmp_path / "a.skb", Place(tmp_path / "elsewhere", new.url))
    finally:
        store.close()


@pytest.mark.parametrize("to_engine", ENGINES)
async def test_a_restore_that_is_interrupted_leaves_nothing_and_is_begun_anew(
    place: Callable[..., Place], tmp_path: Path, to_engine: str
) -> None:
    old, new = place("sqlite", "old"), place(to_engine, "new", empty=True)
    await fill(old)
    footer = backed_up(old, tmp_path / "a.skb")
    with pytest.raises(KeyboardInterrupt):
        restored(tmp_path / "a.skb", new, progress=Steps(fail_at="Restoring"))
    assert {path.name for path in new.data_dir.iterdir()} == {"lock"}
    # As a kill leaves it.
    (new.data_dir / "restoring.db").write_bytes(b"half of a database")
    (new.data_dir / "restoring.db-wal").write_bytes(b"and of its log")
    restored(tmp_path / "a.skb", new)
    assert new.tallies() == footer.tables


@pytest.mark.parametrize("to_engine", ENGINES)
async def test_what_waited_can_be_cancelled_instead_of_being_sent_again(
    place: Callable[..., Place], tmp_path: Path, to_engine: str
) -> None:
    old, new = place("sqlite", "old"), place(to_engine, "new")
    await fill(old)
    backed_up(old, tmp_path / "a.skb")
    restored(tmp_path / "a.skb", new, cancel_waiting=True)
    before = {(row["message_id"], row["n"]): row for row in old.rows("recipient")}
    cancelled = 0
    for row in new.rows("recipient"):
        was = before[row["message_id"], row["n"]]
        if was["next_attempt_at"] is None:
            assert row == was
        else:
            cancelled += 1
            assert (row["status"], row["reason"], row["explanation"]) == ("cancelled", "cancelled", WHY_CANCELLED)
            assert (row["next_attempt_at"], row["code"], row["updated_at"]) == (None, None, NOW)
    assert cancelled == 60
    assert {row["status"] for row in new.rows("message")} == {"cancelled", "delivered"}
    added = [row for row in new.rows("event") if row["type"] == "cancelled"]
    assert len({row["id"] for row in added}) == 60
    assert {json.loads(row["detail"])["text"] for row in added} == {WHY_CANCELLED}


async def test_text_with_nul_arrives_as_postgres_can_keep_it(place: Callable[..., Place], tmp_path: Path) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new")
    await fill(old, 8)
    with sqlite3.connect(old.data_dir / "sendkit.db") as connection:
        connection.execute("UPDATE message SET subject = 'a' || char(0) || 'b'")
        connection.execute("UPDATE recipient SET explanation = char(0)")
    connection.close()
    footer = backed_up(old, tmp_path / "a.skb")
    restored(tmp_path / "a.skb", new)
    assert new.tallies() == footer.tables
    assert {row["subject"] for row in new.rows("message")} == {"a\ufffdb"}
    assert {row["explanation"] for row in new.rows("recipient")} == {"\ufffd"}


async def test_without_room_for_a_copy_the_database_itself_is_read(
    place: Callable[..., Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sendkit_server.store.transfer import sqlite

    old = place("sqlite", "old")
    await fill(old, 8)
    before = old.tallies()
    monkeypatch.setattr(sqlite, "SPARE_BYTES", 1 << 60)
    monkeypatch.setattr(sqlite, "_copied", None)
    assert backed_up(old, tmp_path / "a.skb").tables == before


def test_a_digest_does_not_depend_on_how_rows_are_cut_into_batches() -> None:
    rows = [(n, f"name {n}", None, b"x" * (n % 7)) for n in range(70_000)]
    tallies = set()
    for size in (1, 15, 16, 65_535, 65_536, 70_000):
        counting = tables.Counting()
        for start in range(0, len(rows), size):
            counting.add(rows[start : start + size])
        tallies.add((counting.tally().rows, counting.tally().sha256))
    assert len(tallies) == 1
    changed = tables.Counting()
    changed.add([*rows[:-1], (*rows[-1][:-1], b"y")])
    assert (changed.tally().rows, changed.tally().sha256) not in tallies


@pytest.mark.parametrize("engine_of_it", ENGINES)
async def test_an_export_has_every_mail_with_its_recipients_and_no_secret(
    place: Callable[..., Place], engine_of_it: str
) -> None:
    it = place(engine_of_it, "it")
    await fill(it)
    out = io.BytesIO()
    lines = export.export(it.data_dir, it.url, export.KINDS, None, out.write, bodies=True)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines == len(found)
    count = {
        word: sum(one["object"] == word for one in found) for word in ("email", "event", "attempt", "domain", "key")
    }
    assert count == {"email": 40, "event": 40, "attempt": 20, "domain": 1, "key": 1}
    email = found[2]
    assert email["created_at"] == "2030-03-17T17:48:40.000Z"
    assert email["from"] == {"address": "hello@sender.test", "name": "Acme"}
    assert [one["address"] for one in email["recipients"]] == ["Ann2@there.test", "bob@elsewhere.test"]
    assert {one["status"] for one in email["recipients"]} == {"delivered"}
    assert email["tags"] == [{"name": "number", "value": "2"}, {"name": "all", "value": ""}]
    assert email["content"]["html"] == "<p>ä</p>"
    key = found[-1]
    assert (key["permissions"], key["test"]) == (["emails:read", "emails:send"], False)
    for secret in (b"hash of a key", b"secret_hash", b"private_key", b"sealed private key", SECRET.encode()):
        assert secret not in out.getvalue()


@pytest.mark.parametrize("engine_of_it", ENGINES)
async def test_an_export_since_a_time_leaves_out_what_was_before(
    place: Callable[..., Place], engine_of_it: str
) -> None:
    it = place(engine_of_it, "it")
    await fill(it)
    out = io.BytesIO()
    since = from_text("2030-03-17T18:20:40+00:00")
    assert since == NOW + 34 * 60_000
    assert export.export(it.data_dir, it.url, ("emails",), since, out.write) == 6
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert all(len(one["recipients"]) == 2 for one in found)
    assert all("content" not in one for one in found)


@pytest.mark.parametrize("engine_of_it", ENGINES)
async def test_where_there_is_no_installation_none_is_backed_up(
    place: Callable[..., Place], tmp_path: Path, engine_of_it: str
) -> None:
    nothing = place(engine_of_it, "nothing", empty=True)
    with pytest.raises(TransferRefused, match="there is no"):
        backed_up(nothing, tmp_path / "a.skb")
    if nothing.url is None:
        (nothing.data_dir / "sendkit.db").touch()
        with pytest.raises(TransferRefused, match="holds no installation"):
            backed_up(nothing, tmp_path / "a.skb")
    assert [path.name for path in tmp_path.iterdir()] == ["nothing"]


async def test_what_postgres_refuses_is_told_in_its_words(
    place: Callable[..., Place], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    old, new = place("sqlite", "old"), place("postgres", "new", empty=True)
    await fill(old, 4)
    backed_up(old, tmp_path / "a.skb")
    assert new.url is not None
    postgres_server.execute(new.url, "DROP ROLE IF EXISTS stranger")
    postgres_server.execute(new.url, "CREATE ROLE stranger LOGIN")
    stranger = Place(new.data_dir, new.url.replace("postgres@", "stranger@"))
    with pytest.raises(StoreUnavailable, match="permission denied"):
        restored(tmp_path / "a.skb", stranger)
