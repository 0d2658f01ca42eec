"""Parts of long lists, newest first: by number, or as the neighbours of an id, which stay the same while rows come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Column, Connection, Select, func, select

from sendkit_server.store.queries.rows import AnyRow


class Window(msgspec.Struct, frozen=True):
    """Which part. after: those that come behind this id in the list, older ones.  before: those right in front of it."""

    limit: int
    offset: int = 0
    after: str | None = None
    before: str | None = None


class Part(msgspec.Struct, frozen=True):
    """rows: newest first.  total: of the whole list.  more: there are others in the direction that was asked for."""

    rows: Sequence[AnyRow]
    total: int
    more: bool


def part_of(connection: Connection, query: Select[Any], id_: Column[Any], window: Window) -> Part:
    """The window's rows of a query without an order, and how many it has in all. id_: its column of ids that sort by time."""
    total = int(connection.execute(select(func.count()).select_from(query.subquery())).scalar_one())
    if window.before is not None:
        nearest = query.where(id_ > window.before).order_by(id_)
    elif window.after is not None:
        nearest = query.where(id_ < window.after).order_by(id_.desc())
    else:
        nearest = query.order_by(id_.desc()).offset(window.offset)
    found = connection.execute(nearest.limit(window.limit + 1)).all()
    rows = found[: window.limit]
    return Part(rows if window.before is None else rows[::-1], total, len(found) > window.limit)
