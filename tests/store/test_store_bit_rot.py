"""Bytes that the disk has changed: told, never sent as if they were right, and no matter of other mails."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from store_mails import new_mail

from sendkit_server.model.mail import Content, PartsContent, RawContent
from sendkit_server.store import rows
from sendkit_server.store.store import Store, open_store

TEXT = "Dear Ann, your order 4711 costs 19.90 EUR"


@pytest.mark.parametrize(
    "content",
    [PartsContent("Your order 4711", f"<p>{TEXT}</p>", TEXT), RawContent(f"Subject: x\r\n\r\n{TEXT}".encode())],
)
def test_no_flipped_bit_of_a_stored_content_goes_unnoticed(content: Content) -> None:
    body = rows.packed(content)
    for place in range(len(body) * 8):
        flipped = bytearray(body)
        flipped[place // 8] ^= 1 << place % 8
        try:
            found = rows.content_of(bytes(flipped))
        except ValueError:
            continue
        assert found == content


@pytest.mark.engine("sqlite")
async def test_a_flipped_byte_in_the_log_leaves_a_whole_database_of_the_earlier_mails(
    store: Store, tmp_path: Path
) -> None:
    ids = []
    for _ in range(20):
        mail = new_mail(store.owner)
        await store.accept(mail)
        ids.append(mail.messages[0].message.id)
    wal = (tmp_path / "sendkit.db-wal").read_bytes()
    chance = random.Random()
    for _ in range(25):
        place = chance.randrange(len(wal))
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        shutil.copy(tmp_path / "sendkit.db", copy)
        (copy / "sendkit.db-wal").write_bytes(wal[:place] + bytes([wal[place] ^ 0x40]) + wal[place + 1 :])
        found = await asyncio.to_thread(stored_ids, copy)
        assert found == ids[: len(found)]


def stored_ids(folder: Path) -> list[str]:
    """The ids in a database that opens and is whole."""
    open_store(folder, "secret", "tests").close_unstarted()
    connection = sqlite3.connect(folder / "sendkit.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in connection.execute("SELECT id FROM message ORDER BY id")]
    finally:
        connection.close()
