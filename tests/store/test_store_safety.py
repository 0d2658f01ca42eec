"""What keeps data safe: settings of every connection, the lock, the secret, migrations, and a database in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, text
from store_mails import completion, new_mail, owned_job

from sendkit_server.store import schema
from sendkit_server.store.errors import SchemaTooNew, StoreError, StoreFull, StoreLocked, StoreUnavailable
from sendkit_server.store.migrations import HEAD
from sendkit_server.store.seal import SealBroken, seal, unseal
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.values import Claim


@pytest.mark.engine("sqlite")
async def test_every_connection_is_wal_and_full(store: Store) -> None:
    def pragmas(connection: object) -> tuple[object, object]:
        run = connection.exec_driver_sql  # type: ignore[attr-defined]
        return run("PRAGMA journal_mode").scalar(), run("PRAGMA synchronous").scalar()

    assert await store.read(pragmas) == ("wal", 2)
    assert await store.write(pragmas) == ("wal", 2)


async def test_readers_cannot_write(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match=r"read-?only"):
        await store.read(lambda connection: connection.execute(text("DELETE FROM team")))


@pytest.mark.engine("sqlite")
async def test_a_second_process_is_refused_and_told_who_holds_the_directory(store: Store) -> None:
    with pytest.raises(StoreLocked, match=r"tests, pid \d+.*SENDKIT_DATA_DIR"):
        open_store(store.data_dir, "secret", "other")


async def test_the_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from sendkit_server.store.store import open_store
open_store(Path({str(tmp_path)!r}), "secret", "child")
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    open_store(tmp_path, "secret", "parent").close_unstarted()


def test_another_secret_key_is_refused(tmp_path: Path, database_url: str | None) -> None:
    open_store(tmp_path, "one", "first", database_url).close_unstarted()
    with pytest.raises(StoreError, match="SENDKIT_SECRET_KEY"):
        open_store(tmp_path, "two", "second", database_url)
    open_store(tmp_path, "one", "third", database_url).close_unstarted()


def test_a_newer_schema_is_refused(tmp_path: Path, database_url: str | None) -> None:
    open_store(tmp_path, "s", "first", database_url).close_unstarted()
    opened = sqlite3.connect(tmp_path / "sendkit.db") if database_url is None else psycopg.connect(database_url)
    with contextlib.closing(opened) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(SchemaTooNew, match="9999"):
        open_store(tmp_path, "s", "second", database_url)


def test_the_schema_is_the_sum_of_its_migrations(tmp_path: Path) -> None:
    open_store(tmp_path, "s", "migrated").close_unstarted()
    engine = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    schema.metadata.create_all(engine)
    engine.dispose()
    migrated = described(tmp_path / "sendkit.db")
    migrated.pop("alembic_version")
    assert migrated == described(tmp_path / "created.db")


@pytest.mark.engine("postgres")
def test_the_schema_is_the_sum_of_its_migrations_on_postgres_too(
    database_url: str, new_database: Callable[..., str]
) -> None:
    created = new_database(empty=True)
    engine = create_engine(created.replace("postgresql:", "postgresql+psycopg:", 1))
    schema.metadata.create_all(engine)
    engine.dispose()
    migrated = described_postgres(database_url)
    migrated.pop("alembic_version")
    assert migrated == described_postgres(created)


def test_head_is_the_newest_revision() -> None:
    versions = Path(schema.__file__).parent / "migrations" / "versions"
    assert max(path.name.partition("_")[0] for path in versions.glob("*.py")) == HEAD


@pytest.mark.engine("sqlite")
async def test_a_full_database_refuses_and_recovers(store: Store) -> None:
    mail = new_mail(store.owner)
    await store.accept(mail)
    await store.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1").scalar())
    big = new_mail(store.owner, content=mail.content)
    with pytest.raises(StoreFull):
        await asyncio.gather(*(store.accept(new_mail(store.owner)) for _ in range(200)), store.accept(big))
    # The connection was opened anew, and with it the limit is gone.
    await store.accept(new_mail(store.owner))
    assert await store.complete(completion(owned_job(mail))) is True


async def test_a_damaged_content_is_told_and_nothing_else_suffers(store: Store) -> None:
    damaged, whole = new_mail(store.owner, owned=False), new_mail(store.owner, owned=False)
    await store.accept(damaged)
    await store.accept(whole)
    name = damaged.messages[0].message.content_id
    await store.write(
        lambda connection: connection.execute(
            schema.content.update().where(schema.content.c.id == name).values(body=b"x")
        )
    )
    with pytest.raises(StoreUnavailable, match=name):
        await store.content(1, name)
    assert await store.content(1, whole.messages[0].message.content_id) == whole.content
    jobs = (await store.claim(Claim(store.owner, 10_000, frozenset(), 10, 10))).jobs
    assert {job.message.id: job.content for job in jobs} == {
        damaged.messages[0].message.id: None,
        whole.messages[0].message.id: whole.content,
    }


async def test_after_closing_nothing_is_accepted(tmp_path: Path, database_url: str | None) -> None:
    store = open_store(tmp_path, "s", "tests", database_url)
    store.start(1)
    store.close()
    with pytest.raises(StoreUnavailable):
        await store.accept(new_mail(1))


@pytest.mark.engine("postgres")
async def test_a_read_that_outlives_the_store_leaves_no_connection_behind(tmp_path: Path, database_url: str) -> None:
    opened = open_store(tmp_path, "secret", "tests", database_url)
    opened.start(1_000)
    begun, go_on = threading.Event(), threading.Event()
    pids: list[int] = []

    def slow(connection: Connection) -> None:
        pids.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        begun.set()
        go_on.wait(20)

    reading = asyncio.create_task(opened.read(slow))
    await asyncio.to_thread(begun.wait, 20)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    opened.close()
    go_on.set()
    with psycopg.connect(database_url, autocommit=True) as connection:
        async with asyncio.timeout(20):
            while connection.execute("SELECT 1 FROM pg_stat_activity WHERE pid = ANY(%s)", (pids,)).fetchone():
                await asyncio.sleep(0.01)


def test_a_seal_opens_with_its_key_and_purpose_only() -> None:
    sealed = seal("key", "dkim", b"private")
    assert unseal("key", "dkim", sealed) == b"private"
    for key, purpose, value in (
        ("other", "dkim", sealed),
        ("key", "webhook", sealed),
        ("key", "dkim", sealed[:-1]),
        ("key", "dkim", b""),
    ):
        with pytest.raises(SealBroken):
            unseal(key, purpose, value)


def described(path: Path) -> dict[str, object]:
    """Tables with columns, keys, rowid and indexes, as the database itself tells them."""
    connection = sqlite3.connect(path)
    found: dict[str, object] = {}
    for name, sql in connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ):
        indexes = {
            index: (connection.execute(f"PRAGMA index_info('{index}')").fetchall(), partial, unique)
            for _, index, unique, _, partial in connection.execute(f"PRAGMA index_list('{name}')")
        }
        where = sorted(
            row[0].partition("WHERE")[2] for row in connection.execute(
                "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", (name,)
            )
        )  # fmt: skip
        columns = connection.execute(f"PRAGMA table_info('{name}')").fetchall()
        found[name] = (columns, indexes, where, "WITHOUT ROWID" in sql)
    connection.close()
    return found


def described_postgres(url: str) -> dict[str, object]:
    """Tables with columns, constraints and indexes, as the database itself tells them."""
    tables = "relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace"
    asked = {
        "columns": "SELECT attrelid::regclass::text, attnum, attname, format_type(atttypid, atttypmod), attnotnull,"
        " attidentity, attcompression, attstorage, pg_get_expr(adbin, adrelid), attcollation::regcollation::text"
        " FROM pg_attribute JOIN pg_class c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        f" WHERE {tables} AND attnum > 0 AND NOT attisdropped",
        "constraints": "SELECT conrelid::regclass::text, contype::text, pg_get_constraintdef(x.oid) FROM pg_constraint x"
        f" JOIN pg_class c ON c.oid = conrelid WHERE {tables}",
        "indexes": "SELECT indrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        f" JOIN pg_class c ON c.oid = indrelid WHERE {tables}",
        "table": f"SELECT oid::regclass::text, relkind::text, reloptions, pg_get_partkeydef(oid) FROM pg_class WHERE {tables}",
    }
    found: dict[str, object] = {}
    with psycopg.connect(url) as connection:
        for kind, query in asked.items():
            for table, *row in sorted(connection.execute(query), key=repr):
                found.setdefault(table, {}).setdefault(kind, []).append(row)  # type: ignore[attr-defined]
    return found
