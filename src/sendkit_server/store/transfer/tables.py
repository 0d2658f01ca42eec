"""Which tables are carried, in which order, and the one form in which rows of both engines are alike.

A row is its columns in the schema's order: whole numbers, text, bytes and None. Booleans are 0 and 1. Text has no NUL,
which PostgreSQL cannot keep. `recipient.owner` is always None: what a node had in hand waits again wherever it is
carried to. Rows of nodes, and what these tell each other of guesses, are not carried. Rows come in the order of their keys,
which both engines sort by bytes.

A table's digest is the SHA-256 of its rows' MessagePack, one after the other, however they were cut into batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import Boolean, LargeBinary, String, Table

from sendkit_server.store import schema
from sendkit_server.store.rows import words
from sendkit_server.store.transfer.marks import OWN

Row = Sequence[Any]
Batch = Sequence[Row]
Key = tuple[int | str, ...]

BATCH_ROWS = 2_000
BATCH_BYTES = 4 * 1024 * 1024
MOST_BLOBS = 64  # rows with bytes that are fetched at once: each may be a whole mail

_pack = msgspec.msgpack.Encoder().encode


class Carried(msgspec.Struct, frozen=True):
    """One table. texts, blobs, switches: the positions of text, bytes and booleans among its columns."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    texts: tuple[int, ...]
    blobs: tuple[int, ...]
    switches: tuple[int, ...]

    @property
    def key_of(self) -> Callable[[Row], Key]:
        """The key of a row."""
        positions = [self.columns.index(name) for name in self.key]
        return lambda row: tuple(row[position] for position in positions)


def _carried(table: Table) -> Carried:
    columns = list(table.columns)

    def positions(kind: type[Any]) -> tuple[int, ...]:
        return tuple(n for n, column in enumerate(columns) if isinstance(column.type, kind))

    return Carried(
        str(table.name),
        tuple(str(column.name) for column in columns),
        tuple(str(column.name) for column in table.primary_key),
        positions(String),
        positions(LargeBinary),
        positions(Boolean),
    )


_LEFT = (schema.node, schema.node_commit, schema.guess)
TABLES = tuple(_carried(table) for table in schema.metadata.tables.values() if table not in _LEFT)
BY_NAME = {table.name: table for table in TABLES}


def selection(
    table: Carried, placeholder: str, switch: Callable[[str], str], *, after: bool = False, where: str = ""
) -> str:
    """The statement that reads a table's rows in the order of their keys.

    placeholder: of a parameter.  switch: reads a boolean column as 0 or 1.  after: only rows behind a key, whose
    values are the statement's first parameters.  where: a further condition.
    """
    columns = [
        switch(_quoted(name)) if n in table.switches else "NULL" if name == "owner" else _quoted(name)
        for n, name in enumerate(table.columns)
    ]
    chosen = _condition(table, placeholder, after, where)
    return f"SELECT {', '.join(columns)} FROM {_quoted(table.name)}{chosen} ORDER BY {_keys(table)}"  # noqa: S608 - our names


def counting(table: Carried, placeholder: str, *, after: bool = False) -> str:
    """The statement that counts a table's rows, or those behind a key."""
    return f"SELECT count(*) FROM {_quoted(table.name)}{_condition(table, placeholder, after, '')}"  # noqa: S608 - our names


def _condition(table: Carried, placeholder: str, after: bool, where: str) -> str:
    conditions = [where] if where else []
    if after:
        conditions.insert(0, f"({_keys(table)}) > ({', '.join([placeholder] * len(table.key))})")
    if table.name == "meta":
        conditions.append(f"key NOT IN ({', '.join(repr(key) for key in OWN)})")
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _keys(table: Carried) -> str:
    return ", ".join(map(_quoted, table.key))


def column_list(table: Carried) -> str:
    """The table's columns, as INSERT and COPY name them."""
    return ", ".join(map(_quoted, table.columns))


def _quoted(name: str) -> str:
    return f'"{name}"'


def batches(table: Carried, fetch: Callable[[int], Batch]) -> Iterator[Batch]:
    """Rows as `fetch(how_many)` gives them, in batches of a few megabytes at most."""
    if not table.blobs:
        while batch := fetch(BATCH_ROWS):
            yield batch
        return
    size_of = itemgetter(table.blobs[0])
    gathered: list[Row] = []
    size = 0
    wanted = 1
    while batch := fetch(wanted):
        fetched = sum(len(size_of(row)) for row in batch)
        gathered += batch
        size += fetched
        # The next ones are likely as large as these.
        wanted = max(1, min(MOST_BLOBS, 2 * wanted, BATCH_BYTES * len(batch) // (fetched + 1)))
        if size >= BATCH_BYTES or len(gathered) >= BATCH_ROWS:
            yield gathered
            gathered, size = [], 0
    if gathered:
        yield gathered


def without_nul(table: Carried, batch: Batch) -> Batch:
    """The rows with every NUL replaced as rows.words does; old rows of SQLite may have some."""
    for position in table.texts:
        if "\0" in "".join(filter(None, map(itemgetter(position), batch))):
            return [[words(value) if n in table.texts else value for n, value in enumerate(row)] for row in batch]
    return batch


class Tally(msgspec.Struct, frozen=True):
    """What a table held: how many rows, and their digest."""

    rows: int
    sha256: bytes


class Counting:
    """Makes a Tally."""

    def __init__(self) -> None:
        self.rows = 0
        self._digest = hashlib.sha256()

    def add(self, batch: Batch) -> bytes:
        """Counts rows; their MessagePack, as an array."""
        packed = _pack(batch)
        self.add_packed(packed)
        return packed

    def add_packed(self, packed: bytes) -> int:
        """Counts rows that are packed already; how many."""
        count, start = _array_header(packed)
        self.rows += count
        self._digest.update(memoryview(packed)[start:])
        return count

    def tally(self) -> Tally:
        """What was counted."""
        return Tally(self.rows, self._digest.digest())


def _array_header(packed: bytes) -> tuple[int, int]:
    """How many elements a MessagePack array has, and where the first begins. ValueError when it is none."""
    kind = packed[0] if packed else 0
    if kind & 0xF0 == 0x90:
        return kind & 0x0F, 1
    if kind == 0xDC:
        return int.from_bytes(packed[1:3], "big"), 3
    if kind == 0xDD:
        return int.from_bytes(packed[1:5], "big"), 5
    raise ValueError("not an array")
