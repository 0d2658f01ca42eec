"""Domains and their DKIM keys: management writes and reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select, text, update

from sendkit_server.model.instant import Instant
from sendkit_server.store.queries.pages import Part, Window, part_of
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import dkim_key, domain, domain_claim, sender


def return_path_of(row: AnyRow) -> str:
    """Below a domain: where its bounces come to, and whose SPF record receivers look at."""
    return f"{row.return_path}.{row.name}"


def record_key(kind: str, name: str) -> str:
    """What a DNS record's status is kept under in domain.record_status."""
    return f"{kind} {name}"


def has_return_path(row: AnyRow) -> bool:
    """Whether DNS was last seen to bring bounces of the return path to us, and to let us send with it."""
    statuses: dict[str, str] = json.loads(row.record_status)
    name = return_path_of(row)
    return all(statuses.get(record_key(kind, name)) == "verified" for kind in ("SPF", "MX"))


def insert_domain(connection: Connection, values: dict[str, Any], keys: Sequence[dict[str, Any]]) -> None:
    """Adds a domain with its DKIM keys."""
    connection.execute(insert(domain).values(**values))
    connection.execute(insert(dkim_key), list(keys))


def update_domain(connection: Connection, team_id: int, domain_id: str, values: dict[str, Any]) -> None:
    """Changes columns of a domain."""
    connection.execute(update(domain).where(domain.c.team_id == team_id, domain.c.id == domain_id).values(**values))


def find_domain(connection: Connection, team_id: int, name_or_id: str) -> AnyRow | None:
    """A domain by id or by name."""
    query = select(domain).where(
        domain.c.team_id == team_id, or_(domain.c.id == name_or_id, domain.c.name == name_or_id)
    )
    return connection.execute(query).one_or_none()


def list_domains(connection: Connection, team_id: int, window: Window) -> Part:
    """A team's domains."""
    return part_of(connection, select(domain).where(domain.c.team_id == team_id), domain.c.id, window)


def dkim_keys(connection: Connection, team_id: int, domain_id: str) -> Sequence[AnyRow]:
    """A domain's DKIM keys that are not retired, the RSA ones first, those that sign before those that are to."""
    query = select(dkim_key).where(
        dkim_key.c.team_id == team_id, dkim_key.c.domain_id == domain_id, dkim_key.c.retired_at.is_(None)
    )
    ordered = query.order_by(dkim_key.c.algorithm.desc(), dkim_key.c.active_from.is_(None), dkim_key.c.id)
    return connection.execute(ordered).all()


def insert_key(connection: Connection, key: dict[str, Any]) -> None:
    """Adds a DKIM key to a domain."""
    connection.execute(insert(dkim_key), [key])


def put_key_into_use(connection: Connection, key: AnyRow, at: Instant) -> None:
    """Lets a key sign from now on, in place of the domain's others of its algorithm."""
    mine = (dkim_key.c.team_id == key.team_id, dkim_key.c.domain_id == key.domain_id)
    others = (dkim_key.c.algorithm == key.algorithm, dkim_key.c.id != key.id, dkim_key.c.retired_at.is_(None))
    connection.execute(update(dkim_key).where(*mine, *others).values(retired_at=at))
    connection.execute(update(dkim_key).where(*mine, dkim_key.c.id == key.id).values(active_from=at))


def delete_domain(connection: Connection, team_id: int, domain_id: str) -> None:
    """Removes a domain, its keys, its senders and its claim; the mails that were sent from it stay."""
    connection.execute(delete(dkim_key).where(dkim_key.c.team_id == team_id, dkim_key.c.domain_id == domain_id))
    connection.execute(delete(sender).where(sender.c.team_id == team_id, sender.c.domain_id == domain_id))
    connection.execute(delete(domain).where(domain.c.team_id == team_id, domain.c.id == domain_id))
    disclaim(connection, team_id, domain_id)


def claim(connection: Connection, row: AnyRow, at: Instant) -> bool:
    """Makes a verified domain this team's. False: it is another's."""
    statement = text(
        "INSERT INTO domain_claim (name, team_id, domain_id, claimed_at) VALUES (:name, :team_id, :domain_id, :at)"
        " ON CONFLICT (name) DO NOTHING"
    )
    connection.execute(statement, {"name": row.name, "team_id": row.team_id, "domain_id": row.id, "at": at})
    owner = connection.execute(select(domain_claim.c.team_id).where(domain_claim.c.name == row.name)).scalar()
    return bool(owner == row.team_id)


def disclaim(connection: Connection, team_id: int, domain_id: str) -> None:
    """Gives a domain up: another team may verify it."""
    connection.execute(
        delete(domain_claim).where(domain_claim.c.team_id == team_id, domain_claim.c.domain_id == domain_id)
    )
