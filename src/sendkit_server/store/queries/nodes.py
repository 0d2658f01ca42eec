"""Nodes: incarnations of processes, their heartbeats, and what happens to what a dead one owned."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, tuple_, update

from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.store.lease import LIFETIME_MS
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import node, node_commit, recipient

FREED_AT_ONCE = 1000
KEPT_MS = 7 * DAY_MS


class Who(msgspec.Struct, frozen=True):
    """A process, for its row. instance: of the data directory that it holds the lock of; roles: a comma list."""

    instance: str
    hostname: str
    pid: int
    roles: str
    version: str


def register(connection: Connection, who: Who, now: Instant, *, alone: bool) -> int:
    """A new incarnation's number. Earlier ones of the same instance (alone: of any) are dead: we hold their lock."""
    dead = select(node.c.id).where(node.c.ended_at.is_(None))
    if not alone:
        dead = dead.where(node.c.instance == who.instance)
    for (owner,) in connection.execute(dead).all():
        end(connection, owner, now)
    if alone:
        connection.execute(update(recipient).where(recipient.c.owner.is_not(None)).values(owner=None))
    result = connection.execute(
        insert(node).values(**msgspec.structs.asdict(who), started_at=now, beat_at=now, expires_at=now + LIFETIME_MS)
    )
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def beat(connection: Connection, owner: int, now: Instant, kept_from: int = 0) -> bool:
    """Says that an incarnation lives; False when somebody has ended it. kept_from: older marks of its writer can go."""
    connection.execute(delete(node_commit).where(node_commit.c.owner == owner, node_commit.c.number < kept_from))
    alive = update(node).where(node.c.id == owner, node.c.ended_at.is_(None))
    return connection.execute(alive.values(beat_at=now, expires_at=now + LIFETIME_MS)).rowcount == 1


def end(connection: Connection, owner: int, now: Instant) -> None:
    """Ends an incarnation; what it owns is free from then on."""
    connection.execute(update(node).where(node.c.id == owner, node.c.ended_at.is_(None)).values(ended_at=now))
    connection.execute(update(recipient).where(recipient.c.owner == owner).values(owner=None))


def end_expired(connection: Connection, now: Instant) -> list[int]:
    """Ends the incarnations that have not been heard of; one whose transaction is being written is not among them."""
    silent = select(node.c.id).where(node.c.ended_at.is_(None), node.c.expires_at < now)
    found = [int(owner) for (owner,) in connection.execute(silent.with_for_update(skip_locked=True)).all()]
    if found:
        connection.execute(update(node).where(node.c.id.in_(found)).values(ended_at=now))
    return found


def free_orphans(connection: Connection) -> int:
    """Frees a slice of what belongs to no living incarnation, also what one wrote after it had been ended."""
    living = {int(owner) for (owner,) in connection.execute(select(node.c.id).where(node.c.ended_at.is_(None)))}
    freed = 0
    owner: int | None = -1
    while owner is not None and freed < FREED_AT_ONCE:
        # One index seek an owner, however much each has.
        owner = connection.execute(select(func.min(recipient.c.owner)).where(recipient.c.owner > owner)).scalar()
        if owner is not None and owner not in living:
            freed += _free_slice(connection, owner)
    return freed


def _free_slice(connection: Connection, owner: int) -> int:
    key = tuple_(recipient.c.team_id, recipient.c.message_id, recipient.c.n)
    some = (
        select(recipient.c.team_id, recipient.c.message_id, recipient.c.n)
        .where(recipient.c.owner == owner)
        .limit(FREED_AT_ONCE)
    )
    # Its owner once more: while this waited for a row, another node may have freed it, and a third claimed it.
    still = recipient.c.owner == owner
    return connection.execute(update(recipient).where(key.in_(some), still).values(owner=None)).rowcount


def forget_ended(connection: Connection, now: Instant) -> None:
    """Removes the rows of incarnations that ended long ago."""
    old = select(node.c.id).where(node.c.ended_at < now - KEPT_MS)
    connection.execute(delete(node_commit).where(node_commit.c.owner.in_(old)))
    connection.execute(delete(node).where(node.c.ended_at < now - KEPT_MS))


def living(connection: Connection, now: Instant) -> Sequence[AnyRow]:
    """Incarnations that have not ended, by number: a newcomer is the last."""
    return connection.execute(select(node).where(node.c.ended_at.is_(None)).order_by(node.c.id)).all()


def list_nodes(connection: Connection) -> Sequence[AnyRow]:
    """The newest hundred incarnations, living ones first, with how many recipients each owns."""
    owned = (
        select(recipient.c.owner, func.count().label("recipients"))
        .where(recipient.c.owner.is_not(None))
        .group_by(recipient.c.owner)
        .subquery()
    )
    query = (
        select(node, func.coalesce(owned.c.recipients, 0).label("recipients"))
        .outerjoin(owned, owned.c.owner == node.c.id)
        .order_by(node.c.ended_at.is_not(None), node.c.id.desc())
        .limit(100)
    )
    return connection.execute(query).all()
