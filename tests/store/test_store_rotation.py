"""The secret key is changed in one transaction; what was sealed opens, and what was sent comes back."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import LargeBinary, select, update

from sendkit_server.events.bounces import Returns
from sendkit_server.manage import domains, rotation
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.domains import DnsNames
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.instant import DAY_MS
from sendkit_server.store import schema, seal
from sendkit_server.store.errors import StoreError, WrongSecret
from sendkit_server.store.sealed import SEALED
from sendkit_server.store.store import Store, open_store
from sendkit_server.wire import return_path

NOW = 1_764_000_000_000
BY = Actor("cli", NOW, os.urandom)
MESSAGE = "msg_" + "0" * 26


@pytest.fixture
async def store(tmp_path: Path, database_url: str | None) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, "old", "tests", database_url)
    opened.start_managing()
    await domains.add_domain(opened, 1, "sender.test", DnsNames("mail.test", ()), trust=True, by=BY)
    yield opened
    if not opened._closed:
        opened.close()


async def private_keys(store: Store, secret: str) -> list[bytes]:
    rows = await store.read(
        lambda connection: connection.execute(select(schema.dkim_key.c.private_key)).scalars().all()
    )
    return sorted(seal.unseal(secret, seal.DKIM_PURPOSE, bytes(row)) for row in rows)


def returns(store: Store, now: int) -> Returns:
    secret = seal.derived_key(store.secret_key, seal.RETURN_PATH_PURPOSE)
    return Returns(store, secret, store.suppressed.suppress, lambda: now, lambda kind: None, older=store.older_keys)


async def test_everything_opens_with_the_new_key_alone_and_bounces_of_before_are_known_for_a_month(
    store: Store, tmp_path: Path, database_url: str | None
) -> None:
    before = await private_keys(store, "old")
    local = return_path.make(MESSAGE, None, seal.derived_key("old", seal.RETURN_PATH_PURPOSE))
    rotated_at = store.engine.read(store.engine.now) or NOW
    assert await rotation.rotate(store, "new", BY) == 2
    store.close()
    with pytest.raises(WrongSecret, match="Put the old key back"):
        open_store(tmp_path, "old", "tests", database_url)
    opened = open_store(tmp_path, "new", "tests", database_url)
    opened.start_managing()
    try:
        assert await private_keys(opened, "new") == before
        assert returns(opened, rotated_at + 29 * DAY_MS).token_of(local) == (MESSAGE, None)
        assert returns(opened, rotated_at + 31 * DAY_MS).token_of(local) is None
        assert await rotation.rotate(opened, "newer", BY) == 2
    finally:
        opened.close()
    again = open_store(tmp_path, "newer", "tests", database_url)
    assert [one.key for one in again.older_keys] == [
        seal.derived_key(secret, seal.RETURN_PATH_PURPOSE) for secret in ("old", "new")
    ]
    assert returns(again, rotated_at + 29 * DAY_MS).token_of(local) == (MESSAGE, None)
    again.close_unstarted()


async def test_one_value_that_does_not_open_stops_it_all(store: Store) -> None:
    ids = await store.read(lambda connection: connection.execute(select(schema.dkim_key.c.id)).scalars().all())
    spoil = update(schema.dkim_key).where(schema.dkim_key.c.id == max(ids)).values(private_key=b"x" * 64)
    await store.write(lambda connection: connection.execute(spoil))
    kept = select(schema.dkim_key.c.private_key)
    before = await store.read(lambda connection: connection.execute(kept).scalars().all())
    with pytest.raises(seal.SealBroken):
        await rotation.rotate(store, "new", BY)
    assert await store.read(lambda connection: connection.execute(kept).scalars().all()) == before


@pytest.mark.engine("postgres")
async def test_it_is_refused_while_a_node_lives_on_the_database(
    store: Store, tmp_path: Path, database_url: str | None
) -> None:
    (tmp_path / "node").mkdir()
    node = open_store(tmp_path / "node", "old", "tests", database_url)
    node.start(NOW)
    try:
        with pytest.raises(ManageError, match="these nodes run on the database"):
            await rotation.rotate(store, "new", BY)
    finally:
        node.close()


@pytest.mark.parametrize("committed", [True, False])
async def test_a_kill_on_either_side_of_the_commit_leaves_an_installation_that_starts(
    tmp_path: Path, database_url: str | None, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> Store:
        found = rotation.open_installation(tmp_path, None, "tests", database_url)
        found.start_managing()
        return found

    store = opened()
    before = store.secret_key
    rotate = rotation.rotate

    async def cut_off(store: Store, new: str, by: Actor) -> int:
        if committed:
            await rotate(store, new, by)
        raise KeyboardInterrupt

    monkeypatch.setattr(rotation, "rotate", cut_off)
    with pytest.raises(KeyboardInterrupt):
        await rotation.rotate_kept(store, tmp_path, BY)
    store.close()
    assert (tmp_path / "secret-key.next").exists()
    store = opened()
    assert (store.secret_key == before) is not committed
    assert not (tmp_path / "secret-key.next").exists()
    assert (tmp_path / "secret-key").read_text().strip() == store.secret_key
    store.close()


def test_every_sealed_column_is_known() -> None:
    """What is binary and neither a hash, a body nor a captured mail is sealed: a new one has to be rotated, too."""
    hashes_and_bodies = {
        ("session", "id"), ("one_time_link", "id"), ("api_key", "secret_hash"), ("idempotency", "fingerprint"),
        ("content", "body"), ("captured", "raw"),
    }  # fmt: skip
    binary = {
        (table.name, column.name)
        for table in schema.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    rotated: set[tuple[Any, Any]] = {(table.name, column.name) for table, column, _, _ in SEALED}
    assert binary - hashes_and_bodies == rotated


def test_a_start_without_the_secret_key_s_file_leaves_no_other_one(tmp_path: Path, database_url: str | None) -> None:
    path = tmp_path / "secret-key"
    rotation.open_installation(tmp_path, None, "tests", database_url).close_unstarted()
    right = path.read_text()
    path.unlink()
    with pytest.raises(WrongSecret):
        rotation.open_installation(tmp_path, None, "tests", database_url)
    assert not path.exists()
    path.write_text("wrong\n")
    with pytest.raises(WrongSecret):
        rotation.open_installation(tmp_path, None, "tests", database_url)
    assert path.read_text() == "wrong\n", "what somebody has put there stays"
    path.write_text(right)
    rotation.open_installation(tmp_path, None, "tests", database_url).close_unstarted()


def test_a_wrong_secret_key_refuses_to_open(tmp_path: Path, database_url: str | None) -> None:
    open_store(tmp_path, "right", "tests", database_url).close_unstarted()
    with pytest.raises(StoreError, match="not the one this database was made with"):
        open_store(tmp_path, "wrong", "tests", database_url)
