"""What the last look has found, by scope: a domain's id, or a node's instance for what is about the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, delete, func, select, text, update

from sendkit_server.model.finding import Finding, FindingStatus
from sendkit_server.model.instant import Instant
from sendkit_server.store.rows import json_text
from sendkit_server.store.schema import finding as table


class Change(msgspec.Struct, frozen=True):
    """A finding whose status is another than at the last look. before: None when it is looked at for the first time."""

    finding: Finding
    before: str | None


def keep(connection: Connection, scope: str, findings: Sequence[Finding], now: Instant) -> list[Change]:
    """Writes a whole look at a scope; what has changed since the last one.

    What could not be found out leaves what was known; what is not looked at any more is forgotten, once a look was
    complete.
    """
    before = _statuses(connection, scope)
    changes = []
    for found in findings:
        known = before.pop(found.key, None)
        if known is None:
            if not _insert(connection, scope, found, now):
                continue
        elif found.status is FindingStatus.UNKNOWN or found.status == known:
            _touch(connection, scope, found, now)
            continue
        else:
            _change(connection, scope, found, now)
        changes.append(Change(found, known))
    if before and all(found.status is not FindingStatus.UNKNOWN for found in findings):
        connection.execute(delete(table).where(table.c.scope == scope, table.c.name.in_(before)))
    return changes


def _statuses(connection: Connection, scope: str) -> dict[str, str]:
    # Locked: of two nodes that have looked at one domain, the second sees what the first has written.
    rows = connection.execute(select(table.c.name, table.c.status).where(table.c.scope == scope).with_for_update())
    return {row.name: row.status for row in rows}


def _insert(connection: Connection, scope: str, found: Finding, now: Instant) -> bool:
    """False: another node has just written it, and told it."""
    statement = text(
        "INSERT INTO finding (scope, name, status, detail, looked_at, changed_at)"
        " VALUES (:scope, :name, :status, :detail, :looked_at, :changed_at) ON CONFLICT (scope, name) DO NOTHING"
    )
    values = {"scope": scope, "name": found.key, "changed_at": now, **_values(found, now)}
    return connection.execute(statement, values).rowcount == 1


def _change(connection: Connection, scope: str, found: Finding, now: Instant) -> None:
    row = update(table).where(table.c.scope == scope, table.c.name == found.key)
    connection.execute(row.values(changed_at=now, **_values(found, now)))


def _touch(connection: Connection, scope: str, found: Finding, now: Instant) -> None:
    row = update(table).where(table.c.scope == scope, table.c.name == found.key)
    known = found.status is not FindingStatus.UNKNOWN
    connection.execute(row.values(**(_values(found, now) if known else {"looked_at": now})))


def _values(found: Finding, now: Instant) -> Mapping[str, object]:
    return {"status": str(found.status), "detail": json_text(found), "looked_at": now}


def kept(connection: Connection, scopes: Sequence[str]) -> list[Finding]:
    """What these scopes' last looks found, whoever looked."""
    details = connection.execute(select(table.c.detail).where(table.c.scope.in_(scopes))).scalars()
    return [msgspec.json.decode(detail, type=Finding) for detail in details]


def looked_at(connection: Connection, scopes: Sequence[str]) -> dict[str, Instant]:
    """When each of these scopes was looked at last."""
    query = select(table.c.scope, func.max(table.c.looked_at)).where(table.c.scope.in_(scopes)).group_by(table.c.scope)
    return {scope: int(at) for scope, at in connection.execute(query)}


def standing(connection: Connection, scope: str, name: str) -> tuple[str, Instant] | None:
    """A finding's status, and since when; None when it was never looked at."""
    query = select(table.c.status, table.c.changed_at).where(table.c.scope == scope, table.c.name == name)
    row = connection.execute(query).one_or_none()
    return None if row is None else (str(row.status), int(row.changed_at))
