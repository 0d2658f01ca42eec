"""Counts of what is limited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, select, text

from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.store.schema import usage

KEPT_MS = 400 * DAY_MS
MINUTES_KEPT_MS = DAY_MS


class Counted(NamedTuple):
    """Whose use of what is counted, and in which window (its first moment; 0: for ever)."""

    team_id: int
    kind: str
    name: str
    window: Instant


_ADD = text(
    'INSERT INTO usage (team_id, kind, name, "window", used) VALUES (:team_id, :kind, :name, :window, :used)'
    ' ON CONFLICT (team_id, kind, name, "window") DO UPDATE SET used = usage.used + excluded.used'
)
_FIRST = text(
    'INSERT INTO usage (team_id, kind, name, "window", used) VALUES (:team_id, :kind, :name, :window, :used)'
    ' ON CONFLICT (team_id, kind, name, "window") DO NOTHING'
)


def add(connection: Connection, added: Mapping[Counted, int], wanted: Sequence[Counted]) -> dict[Counted, int]:
    """Adds to counts; what those that are wanted are then."""
    # In one order on every node, or two of them could wait for each other's rows.
    for counted, amount in sorted(added.items()):
        connection.execute(_ADD, {**counted._asdict(), "used": amount})
    return read(connection, wanted)


def read(connection: Connection, wanted: Sequence[Counted]) -> dict[Counted, int]:
    """Counts, 0 where there is none yet."""
    found = {}
    for counted in wanted:
        query = select(usage.c.used).where(
            usage.c.team_id == counted.team_id,
            usage.c.kind == counted.kind,
            usage.c.name == counted.name,
            usage.c.window == counted.window,
        )
        found[counted] = connection.execute(query).scalar() or 0
    return found


def first(connection: Connection, counted: Counted, value: int) -> int:
    """Writes a value where there is none; the one that is there."""
    connection.execute(_FIRST, {**counted._asdict(), "used": value})
    return read(connection, [counted])[counted]


def forget_old(connection: Connection, minute_kinds: Sequence[str], now: Instant) -> None:
    """Removes counts of windows that are long over."""
    connection.execute(delete(usage).where(usage.c.window > 0, usage.c.window < now - KEPT_MS))
    connection.execute(delete(usage).where(usage.c.kind.in_(minute_kinds), usage.c.window < now - MINUTES_KEPT_MS))
