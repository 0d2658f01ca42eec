"""Databases of earlier revisions: every row comes along, an interruption leaves the old one, and one node migrates."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import PostgresServer
from sqlalchemy import inspect, text

from sendkit_server.model.ids import make_id
from sendkit_server.model.mail import PartsContent
from sendkit_server.model.status import Status
from sendkit_server.store import migrate, rows
from sendkit_server.store.migrations import HEAD
from sendkit_server.store.queries import emails
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.values import Claim

SECRET = "secret"
AT = 1_700_000_000_000
MAILS = 3


def mail_rows(number: int) -> dict[str, list[dict[str, Any]]]:
    """What revision 0001 kept of one mail, which was tried twice and waits; of the last one it is being tried."""
    tail = make_id("", AT + number, bytes(10))[1:]
    message, content = f"msg_{tail}", f"con_{tail}"
    key = {"team_id": 1, "message_id": message}
    box = json.dumps(["ann", "there.test", ""])
    return {
        "content": [{"team_id": 1, "id": content, "size_bytes": 10, "body": rows.packed(CONTENT)}],
        "message": [
            {
                "team_id": 1, "id": message, "parent_id": f"req_{tail}", "content_id": content, "door": "http",
                "key_id": "key_1", "domain_id": "dom_1", "capture": 0, "protocol": "HTTP", "from_mailbox": box,
                "to_mailboxes": f"[{box}]", "cc_mailboxes": "[]", "subject": f"Number {number}",
                "message_id": f"<{number}@x.test>", "tags": "[]", "metadata": '{"a":"b"}', "stream": "transactional",
                "status": "delivery_delayed", "recipient_count": 1, "size_bytes": 10, "created_at": AT, "sent_at": AT + 1,
            }
        ],
        "recipient": [
            {
                **key, "n": 0, "local": "ann", "site": "there.test", "name": "", "matching": "ann@there.test",
                "role": "to", "status": "delivery_delayed", "attempts": 2, "reason": "greylisted", "explanation": "later",
                "code": 450, "enhanced": "4.2.0", "next_attempt_at": AT + 60_000,
                "owner": 1 if number == MAILS - 1 else None, "fence": 2, "updated_at": AT,
            }
        ],
        "attempt": [
            {
                "id": 2 * number + n + 1, **key, "route": "direct", "host": f"mx{n}.there.test", "address": "192.0.2.1",
                "tls": None, "started_at": AT + n, "milliseconds": 7, "outcomes": "[]", "transcript": "[]",
            }
            for n in range(2)
        ],
        "event": [
            {"id": 2 * number + n + 1, **key, "n": 0, "type": kind, "at": AT + n, "detail": "{}"}
            for n, kind in enumerate(("sent", "delivery_delayed"))
        ],
        "message_label": [{"team_id": 1, "kind": "metadata", "name": "a", "value": "b", "message_id": message}],
        "captured": [{**key, "captured_at": AT, "raw": rows.compressed(b"From: a@b.test\r\n\r\n")}],
    }  # fmt: skip


CONTENT = PartsContent("Hello", None, "It works")
ADMINISTERED: dict[str, list[dict[str, Any]]] = {
    "api_key": [
        {
            "team_id": 1, "id": "key_1", "name": "app", "secret_hash": b"h" * 32, "prefix": "sk_live_ab",
            "permissions": '["emails:send"]', "test": 0, "domain_id": None, "created_at": AT, "expires_at": None,
            "revoked_at": None, "last_used_at": AT,
        }
    ],
    "domain": [
        {
            "team_id": 1, "id": "dom_1", "name": "sender.test", "status": "verified", "trusted": 1, "region": "eu",
            "open_tracking": 0, "click_tracking": 0, "tls": "opportunistic", "record_status": "{}", "created_at": AT,
            "updated_at": AT,
        }
    ],
    "dkim_key": [
        {
            "team_id": 1, "id": "dkm_1", "domain_id": "dom_1", "selector": "s1", "algorithm": "rsa-sha256",
            "private_key": b"sealed", "public_record": "v=DKIM1", "created_at": AT,
        }
    ],
    "node": [{"id": 1, "hostname": "here", "pid": 7, "started_at": AT, "expires_at": AT + 30_000}],
}  # fmt: skip


# What later revisions have added to these rows.
ADDED: dict[str, dict[str, Any]] = {
    "api_key": {"restrictions": "{}"},
    "domain": {"return_path": "send", "tracking_host": None, "checked_at": None, "verified_at": None},
    "dkim_key": {"active_from": 0, "retired_at": None},
}


@pytest.fixture
def at_0001(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory of an installation on SQLite that has run with revision 0001, every table filled."""
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "HEAD", "0001")
        open_store(tmp_path, SECRET, "0001").close_unstarted()
    found = [ADMINISTERED, *(mail_rows(number) for number in range(MAILS))]
    with closing(sqlite3.connect(tmp_path / "sendkit.db")) as connection:
        for table, row in ((table, row) for tables in found for table, each in tables.items() for row in each):
            names = ", ".join(row)
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
        connection.commit()
        assert 0 not in counts(connection).values()
    return tmp_path


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}


def everything(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


async def everything_came_along(store: Store) -> None:
    for number in range(MAILS):
        (message,) = mail_rows(number)["message"]
        found = await store.read(lambda connection, name=message["id"]: emails.find_email(connection, 1, name))
        assert found is not None
        assert {name: getattr(found.message, name) for name in message} == message
        (recipient,) = found.recipients
        wanted = {**mail_rows(number)["recipient"][0], "owner": recipient.owner}
        assert {name: getattr(recipient, name) for name in wanted} == wanted
        assert [(event.type, event.at) for event in found.events] == [("sent", AT), ("delivery_delayed", AT + 1)]
        attempts = await store.read(lambda connection, name=message["id"]: emails.list_attempts(connection, 1, name))
        assert [(attempt.host, attempt.milliseconds) for attempt in attempts] == [
            ("mx0.there.test", 7), ("mx1.there.test", 7),
        ]  # fmt: skip
        assert await store.content(1, message["content_id"]) == CONTENT
    for table in ("api_key", "domain", "dkim_key"):
        (row,) = await store.read(lambda c, table=table: c.execute(text(f"SELECT * FROM {table}")).mappings().all())
        assert dict(row) == ADMINISTERED[table][0] | ADDED[table]
    kept = await store.read(
        lambda c: [c.execute(text(f"SELECT count(*) FROM {t}")).scalar() for t in ("captured", "message_label")]
    )
    assert kept == [MAILS, MAILS]
    # What the process of then had in hand is free, and everything is delivered.
    jobs = (await store.claim(Claim(store.owner, AT + 100_000, frozenset(), 100, 100))).jobs
    assert sorted(job.message.subject for job in jobs) == [f"Number {number}" for number in range(MAILS)]
    assert {(job.recipients[0].attempts, job.recipients[0].status) for job in jobs} == {(2, Status.DELAYED)}


async def opened(data_dir: Path) -> None:
    store = open_store(data_dir, SECRET, "now")
    store.start(AT)
    try:
        await everything_came_along(store)
    finally:
        store.close()


async def test_every_row_of_the_first_revision_comes_along(at_0001: Path) -> None:
    await opened(at_0001)


async def test_a_copy_is_made_before_that_the_old_program_can_go_on_with(
    at_0001: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(at_0001 / "sendkit.db")
    open_store(at_0001, SECRET, "now").close_unstarted()
    copy = at_0001 / "backups" / f"before-{HEAD}.db"
    assert everything(copy) == before
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert copy.stat().st_mode & 0o077 == 0, "keys and mail are in it, too"
    monkeypatch.setattr(migrate, "HEAD", "0001")
    copy.replace(at_0001 / "sendkit.db")
    open_store(at_0001, SECRET, "0001").close_unstarted()


async def test_a_second_start_migrates_nothing_and_copies_nothing(at_0001: Path) -> None:
    open_store(at_0001, SECRET, "now").close_unstarted()
    copy = at_0001 / "backups" / f"before-{HEAD}.db"
    copy.unlink()
    await opened(at_0001)
    assert not copy.exists()


DIES = """
import os, sys
from pathlib import Path
from sqlalchemy import Engine, event
from sendkit_server.store.store import open_store

@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, *more):
    if statement.startswith(sys.argv[2]):
        os.kill(os.getpid(), 9)

open_store(Path(sys.argv[1]), "secret", "child", sys.argv[3] if len(sys.argv) > 3 else None).close_unstarted()
"""


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE attempt_new", "DROP TABLE event", "CREATE INDEX ix_node_instance", "UPDATE alembic_version"],
)
async def test_a_migration_that_is_killed_leaves_the_old_database_and_the_next_start_does_it(
    at_0001: Path, statement: str
) -> None:
    before = everything(at_0001 / "sendkit.db")
    ran = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", DIES, at_0001, statement], check=False)
    assert ran.returncode == -9
    assert everything(at_0001 / "sendkit.db") == before
    await opened(at_0001)


def test_a_migration_that_fails_leaves_the_old_database(at_0001: Path) -> None:
    with closing(sqlite3.connect(at_0001 / "sendkit.db")) as connection:
        connection.execute("CREATE TABLE event_new (x)")
        connection.commit()
    before = everything(at_0001 / "sendkit.db")
    with pytest.raises(Exception, match="event_new already exists"):
        open_store(at_0001, SECRET, "now")
    assert everything(at_0001 / "sendkit.db") == before


# On PostgreSQL, where the first revision never held a mail.


@pytest.fixture
def url_at_0001(
    tmp_path: Path, new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer
) -> str:
    url = new_database(empty=True)
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "HEAD", "0001")
        open_store(tmp_path, SECRET, "0001", url).close_unstarted()
    assert postgres_server.execute(url, "SELECT version_num FROM alembic_version") == [("0001",)]
    return url


@pytest.mark.engine("postgres")
async def test_an_empty_database_of_the_first_revision_is_brought_to_the_newest(
    tmp_path: Path, url_at_0001: str, engine: str
) -> None:
    store = open_store(tmp_path, SECRET, "now", url_at_0001)
    store.start(AT)
    try:
        partitioned = await store.read(lambda c: inspect(c).get_table_names())
        assert any(name.startswith("recipient_p") for name in partitioned)
    finally:
        store.close()


@pytest.mark.engine("postgres")
def test_a_database_of_the_first_revision_that_holds_mail_is_left_as_it_is(
    tmp_path: Path, url_at_0001: str, engine: str, postgres_server: PostgresServer
) -> None:
    (message,) = mail_rows(0)["message"]
    row = {**message, "capture": False}
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    postgres_server.execute(url_at_0001, f"INSERT INTO message ({names}) VALUES ({marks})", *row.values())
    with pytest.raises(Exception, match="not expected to hold anything"):
        open_store(tmp_path, SECRET, "now", url_at_0001)
    assert postgres_server.execute(url_at_0001, "SELECT count(*) FROM message") == [(1,)]
    assert postgres_server.execute(url_at_0001, "SELECT version_num FROM alembic_version") == [("0001",)]


@pytest.mark.engine("postgres")
@pytest.mark.parametrize("statement", ["CREATE TABLE recipient", "UPDATE alembic_version"])
async def test_a_migration_of_postgres_that_is_killed_leaves_the_old_database(
    tmp_path: Path, url_at_0001: str, engine: str, statement: str, postgres_server: PostgresServer
) -> None:
    command = [sys.executable, "-c", DIES, tmp_path, statement, url_at_0001]
    ran = await asyncio.to_thread(subprocess.run, command, check=False)
    assert ran.returncode == -9
    open_store(tmp_path, SECRET, "now", url_at_0001).close_unstarted()
    assert postgres_server.execute(url_at_0001, "SELECT version_num FROM alembic_version") == [(HEAD,)]


@pytest.mark.engine("postgres")
@pytest.mark.parametrize("empty", [True, False], ids=["nothing", "0001"])
async def test_of_several_that_start_at_once_one_migrates_and_the_others_wait(
    tmp_path: Path,
    new_database: Callable[..., str],
    request: pytest.FixtureRequest,
    engine: str,
    empty: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = new_database(empty=True) if empty else request.getfixturevalue("url_at_0001")
    capsys.readouterr()
    folders = [tmp_path / f"node{n}" for n in range(4)]
    for folder in folders:
        folder.mkdir()

    def start(folder: Path) -> int:
        store = open_store(folder, SECRET, "node", url)
        store.start(AT)
        store.close()
        return store.owner

    owners = await asyncio.gather(*(asyncio.to_thread(start, folder) for folder in folders))
    assert sorted(owners) == [1, 2, 3, 4]
    assert capsys.readouterr().out.count("store.migrated") == 1
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM team").fetchone() == (1,)
