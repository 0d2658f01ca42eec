"""The log of refused requests and sessions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select

from sendkit_server.model.ids import id_floor
from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import api_key, refusal_log

KEPT_MS = 7 * DAY_MS
MAX_ROWS = 100_000
SLICE = 500


class RefusalFilter(msgspec.Struct, frozen=True):
    """Which rows. teams: whose.  q: a part of step, reply or detail.  after: only what is newer than this id."""

    teams: tuple[int, ...]
    door: str | None = None
    address: str | None = None
    q: str | None = None
    after: str | None = None


def insert_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Adds rows."""
    connection.execute(insert(refusal_log), list(rows))


def teams_of(connection: Connection, hashes: Collection[bytes]) -> dict[bytes, int]:
    """Whose keys these are, revoked ones too."""
    if not hashes:
        return {}
    query = select(api_key.c.secret_hash, api_key.c.team_id).where(api_key.c.secret_hash.in_(hashes))
    return {bytes(row.secret_hash): row.team_id for row in connection.execute(query)}


def list_rows(connection: Connection, chosen: RefusalFilter, offset: int, limit: int) -> tuple[Sequence[AnyRow], int]:
    """A page, newest first, and how many there are."""
    wanted = _conditions(chosen)
    total = connection.execute(select(func.count()).select_from(refusal_log).where(*wanted)).scalar_one()
    query = select(refusal_log).where(*wanted).order_by(refusal_log.c.id.desc()).offset(offset).limit(limit)
    return connection.execute(query).all(), total


def find_row(connection: Connection, team_id: int, log_id: str) -> AnyRow | None:
    """One row of a team."""
    query = select(refusal_log).where(refusal_log.c.team_id == team_id, refusal_log.c.id == log_id)
    return connection.execute(query).one_or_none()


def oldest_kept(connection: Connection, now: Instant) -> str:
    """The id below which rows are removed: of age, or because there are too many."""
    newest = select(refusal_log.c.id).order_by(refusal_log.c.id.desc()).offset(MAX_ROWS - 1).limit(1)
    by_count = connection.execute(newest).scalar()
    return max(id_floor("log", now - KEPT_MS), by_count or "")


def remove_slice(connection: Connection, before: str) -> int:
    """Removes some of the rows below an id; how many."""
    old = select(refusal_log.c.id).where(refusal_log.c.id < before).order_by(refusal_log.c.id).limit(SLICE)
    return connection.execute(delete(refusal_log).where(refusal_log.c.id.in_(old))).rowcount


def _conditions(chosen: RefusalFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [refusal_log.c.team_id.in_(chosen.teams)]
    if chosen.door is not None:
        found.append(refusal_log.c.door == chosen.door)
    if chosen.address is not None:
        found.append(refusal_log.c.address == chosen.address)
    if chosen.q is not None:
        columns = (refusal_log.c.step, refusal_log.c.reply, refusal_log.c.detail, refusal_log.c.key_prefix)
        found.append(or_(*(column.icontains(chosen.q, autoescape=True) for column in columns)))
    if chosen.after is not None:
        found.append(refusal_log.c.id > chosen.after)
    return found
