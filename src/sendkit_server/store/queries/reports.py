"""Reports of receivers about a team's domains: each stored once, removed by the age of its id."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select, text

from sendkit_server.model.ids import id_floor
from sendkit_server.model.instant import Instant
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import domain, report

PREFIX = "rep"
SLICE = 200


def owners(connection: Connection, names: Collection[str]) -> dict[str, int]:
    """Which of these domains are somebody's, and which team's: of several the one that has proved it, or the first."""
    query = select(domain.c.name, domain.c.team_id, domain.c.status, domain.c.trusted, domain.c.created_at)
    rows = connection.execute(query.where(domain.c.name.in_(names))).all()
    found: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (row.status != "verified", not row.trusted, row.created_at)):
        found.setdefault(row.name, row.team_id)
    return found


def add(connection: Connection, values: dict[str, Any]) -> bool:
    """Stores a report. False: it was there already."""
    # The same words on both engines.
    statement = text(
        "INSERT INTO report (team_id, id, kind, domain, organization, report_id, begins_at, ends_at, received_at, summary)"
        " VALUES (:team_id, :id, :kind, :domain, :organization, :report_id, :begins_at, :ends_at, :received_at, :summary)"
        " ON CONFLICT (team_id, domain, kind, organization, report_id) DO NOTHING"
    )
    return connection.execute(statement, values).rowcount == 1


def count_since(connection: Connection, team_id: int, since: Instant) -> int:
    """How many reports a team has got since then."""
    query = select(func.count()).select_from(report)
    return int(
        connection.execute(
            query.where(report.c.team_id == team_id, report.c.id >= id_floor(PREFIX, since))
        ).scalar_one()
    )


def list_since(connection: Connection, team_id: int, since: Instant, name: str | None, most: int) -> Sequence[AnyRow]:
    """A team's reports about days that began since then, the newest first. name: only about this domain."""
    query = select(report).where(report.c.team_id == team_id, report.c.begins_at >= since)
    if name is not None:
        query = query.where(report.c.domain == name)
    return connection.execute(query.order_by(report.c.id.desc()).limit(most)).all()


def remove_slice(connection: Connection, team_id: int, before: Instant) -> int:
    """Removes some of the reports that came before then; how many. 0: there are no more."""
    old = select(report.c.id).where(report.c.team_id == team_id, report.c.id < id_floor(PREFIX, before)).limit(SLICE)
    return connection.execute(delete(report).where(report.c.team_id == team_id, report.c.id.in_(old))).rowcount
