"""What is kept for certificates: sealed values by kind and name, and who orders at the moment."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, or_, select, text

from sendkit_server.model.instant import Instant
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import acme, domain

LEASE = "lease"
MOST_HOSTS = 1_000

# The same words on both engines.
_PUT = text(
    "INSERT INTO acme (kind, name, value, updated_at) VALUES (:kind, :name, :value, :now)"
    " ON CONFLICT (kind, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at"
)
# Of a lease updated_at is its end.
_CLAIM = text(
    "INSERT INTO acme (kind, name, value, updated_at) VALUES ('lease', '', :owner, :until)"
    " ON CONFLICT (kind, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at"
    " WHERE acme.value = excluded.value OR acme.updated_at < :now"
)


def list_values(connection: Connection) -> Sequence[AnyRow]:
    """(kind, name, value, updated_at) of all that is kept."""
    query = select(acme.c.kind, acme.c.name, acme.c.value, acme.c.updated_at).where(acme.c.kind != LEASE)
    return connection.execute(query.order_by(acme.c.kind, acme.c.name)).all()


def find_value(connection: Connection, kind: str, name: str) -> bytes | None:
    """One value."""
    query = select(acme.c.value).where(acme.c.kind == kind, acme.c.name == name)
    found = connection.execute(query).scalar()
    return None if found is None else bytes(found)


def put_value(connection: Connection, kind: str, name: str, value: bytes, now: Instant) -> None:
    """Writes a value, in place of the one that was there."""
    connection.execute(_PUT, {"kind": kind, "name": name, "value": value, "now": now})


def remove_values(connection: Connection, kind: str, names: Sequence[str]) -> None:
    """Removes values; one that is not there is gone already."""
    connection.execute(delete(acme).where(acme.c.kind == kind, acme.c.name.in_(names)))


def remove_older(connection: Connection, kind: str, before: Instant) -> None:
    """Removes all values of a kind that were written before."""
    connection.execute(delete(acme).where(acme.c.kind == kind, acme.c.updated_at < before))


def claim_lease(connection: Connection, owner: bytes, now: Instant, until: Instant) -> bool:
    """Makes the owner the one who orders, or lets it be so for longer. False: it is somebody else."""
    return connection.execute(_CLAIM, {"owner": owner, "now": now, "until": until}).rowcount > 0


def release_lease(connection: Connection, owner: bytes) -> None:
    """Somebody else may order now."""
    connection.execute(delete(acme).where(acme.c.kind == LEASE, acme.c.value == owner))


def tracking_hosts(connection: Connection) -> list[str]:
    """The hosts of tracking links, of all domains that mail may be sent from; by name, at most MOST_HOSTS."""
    may_send = or_(domain.c.trusted, domain.c.status == "verified")
    query = select(domain.c.tracking_host).distinct().where(domain.c.tracking_host.is_not(None), may_send)
    return [
        str(host) for host in connection.execute(query.order_by(domain.c.tracking_host).limit(MOST_HOSTS)).scalars()
    ]
