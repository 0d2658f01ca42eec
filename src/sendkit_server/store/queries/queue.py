"""The operator's hand on what waits: sites are held and released, recipients tried at once or cancelled.

A row of held_site is a site that the operator holds; one that begins with `~` is a site or a message's id that is held
only while a cancellation goes through: it makes every node hand back what it has in memory, and means nothing after
BRIEFLY_MS, should the process that wrote it die.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, FromClause, Select, and_, case, delete, func, select, text, update

from sendkit_server.model.instant import MINUTE_MS, Instant
from sendkit_server.model.status import UNSETTLED, Status
from sendkit_server.store.queries.bounces import sum_up
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.rows import json_text, numbers
from sendkit_server.store.schema import event, held_site, message, meta, recipient

BRIEFLY = "~"
BRIEFLY_MS = MINUTE_MS
SLICE = 60  # about 4 ms on SQLite, 20 ms on PostgreSQL
RETRIED = "queue_retried"
"""In `meta`: JSON, the sites that the operator wants tried now, and when he said so; "" stands for all."""
RETRIED_KEPT_MS = MINUTE_MS


class Target(msgspec.Struct, frozen=True):
    """Which of a team's waiting recipients are meant: of one site, of one message, or (both None) all."""

    team_id: int
    site: str | None = None
    message_id: str | None = None


class Hand(msgspec.Struct, frozen=True):
    """What the operator wants of delivery. held: sites and, for a moment, ids of messages.  retried: sites, and when."""

    held: frozenset[str]
    retried: dict[str, Instant]


def hold(connection: Connection, name: str, now: Instant) -> bool:
    """Holds a site. False: it was held already."""
    # The same words on both engines.
    insert = text("INSERT INTO held_site (site, held_at) VALUES (:site, :now) ON CONFLICT (site) DO NOTHING")
    return connection.execute(insert, {"site": name, "now": now}).rowcount == 1


def hold_briefly(connection: Connection, name: str, now: Instant) -> None:
    """Holds a site or a message until `release_briefly`, or for BRIEFLY_MS."""
    insert = text(
        "INSERT INTO held_site (site, held_at) VALUES (:site, :now)"
        " ON CONFLICT (site) DO UPDATE SET held_at = excluded.held_at"
    )
    connection.execute(insert, {"site": BRIEFLY + name, "now": now})


def release(connection: Connection, name: str) -> bool:
    """Lets a site's mail go again. False: it was not held."""
    return connection.execute(delete(held_site).where(held_site.c.site == name)).rowcount == 1


def release_briefly(connection: Connection, name: str, now: Instant) -> None:
    """Ends what hold_briefly began, and forgets what somebody else left behind."""
    is_old = and_(held_site.c.site.startswith(BRIEFLY), held_site.c.held_at < now - BRIEFLY_MS)
    connection.execute(delete(held_site).where((held_site.c.site == BRIEFLY + name) | is_old))


def held_sites(connection: Connection) -> list[str]:
    """What the operator holds, by name."""
    query = select(held_site.c.site).where(~held_site.c.site.startswith(BRIEFLY)).order_by(held_site.c.site)
    return list(connection.execute(query).scalars())


def hand(connection: Connection, now: Instant) -> Hand:
    """What delivery has to obey now."""
    held = {
        row.site.removeprefix(BRIEFLY)
        for row in connection.execute(select(held_site))
        if not row.site.startswith(BRIEFLY) or row.held_at >= now - BRIEFLY_MS
    }
    return Hand(frozenset(held), _retried(connection))


def tell_retried(connection: Connection, site: str, now: Instant) -> None:
    """Tells every node to ask a site again now; "": every site."""
    kept = {name: at for name, at in _retried(connection).items() if at > now - RETRIED_KEPT_MS}
    upsert = text(
        "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    connection.execute(upsert, {"key": RETRIED, "value": json_text({**kept, site: now})})


def retry_slice(connection: Connection, target: Target, now: Instant) -> int:
    """Makes some of the waiting recipients due at once; how many. 0: there are no more."""
    later = recipient.alias("later")
    some = _keys(target, later).where(later.c.next_attempt_at > now).limit(SLICE).subquery()
    due = (
        update(recipient)
        .where(_is_one_of(some), recipient.c.owner.is_(None), recipient.c.next_attempt_at > now)
        .values(next_attempt_at=now)
    )
    return connection.execute(due).rowcount


def bring_forward_slice(connection: Connection, now: Instant, latest: Instant) -> int:
    """Brings some of those whose next try lies beyond `latest` to that, and to `now` those that were never tried; how
    many. 0: there are no more. What is scheduled waits by its sender's wish."""
    late = recipient.alias("late")
    some = (
        select(late.c.team_id, late.c.message_id, late.c.n)
        # `fence >= 0` is what PostgreSQL's index wants to hear (schema.DUE_ANYWHERE).
        .where(late.c.owner.is_(None), late.c.next_attempt_at > latest, late.c.fence >= 0)
        .where(late.c.status != str(Status.SCHEDULED))
        .limit(SLICE)
        .subquery()
    )
    forward = (
        update(recipient)
        .where(_is_one_of(some), recipient.c.owner.is_(None), recipient.c.next_attempt_at > latest)
        .values(next_attempt_at=case((recipient.c.attempts == 0, now), else_=latest))
    )
    return connection.execute(forward).rowcount


def cancel_slice(
    connection: Connection, target: Target, reason: str, words: str, now: Instant, owner: int
) -> tuple[int, bool]:
    """Ends some of the waiting recipients as cancelled, each with its event; how many, and whether there may be more.

    reason: a stable word.  words: the same as a sentence.  owner: this process's incarnation, for the events' numbers.
    """
    some = connection.execute(_keys(target, recipient).limit(SLICE)).all()
    ids = sorted({row.message_id for row in some})
    # As delivery does it: messages first, in one order, then their recipients.
    locked = (
        select(message.c.id, message.c.recipient_count)
        .where(message.c.team_id == target.team_id, message.c.id.in_(ids))
        .order_by(message.c.id)
        .with_for_update()
    )
    sizes = {row.id: row.recipient_count for row in connection.execute(locked)}
    # What waits is told by its status: next_attempt_at would lead SQLite to an index, through all that waits.
    meant = [recipient.c.team_id == target.team_id, recipient.c.message_id.in_(ids)]
    if target.site is not None:
        meant.append(recipient.c.site == target.site)
    cancelled = (
        update(recipient)
        .where(*meant, recipient.c.owner.is_(None), recipient.c.status.in_([str(status) for status in UNSETTLED]))
        .values(status=str(Status.CANCELLED), reason=reason, explanation=words, next_attempt_at=None, updated_at=now)
        .returning(recipient.c.message_id, recipient.c.n)
    )
    ended = connection.execute(cancelled).all()
    if ended:
        detail = json_text({"reason": reason, "text": words})
        _tell_cancelled(connection, target.team_id, ended, sizes, detail, now, owner)
    return len(ended), len(some) == SLICE


def unsettled(connection: Connection, target: Target) -> int:
    """How many recipients wait, or are in some node's memory."""
    query = select(func.count()).select_from(recipient).where(_unsettled(target))
    return int(connection.execute(query).scalar_one())


def in_hand(connection: Connection, target: Target) -> int:
    """How many of the unsettled recipients are in some node's memory, or on the wire."""
    query = select(func.count()).select_from(recipient).where(_unsettled(target), recipient.c.owner.is_not(None))
    return int(connection.execute(query).scalar_one())


def _tell_cancelled(
    connection: Connection,
    team_id: int,
    ended: Sequence[AnyRow],
    sizes: dict[str, int],
    detail: str,
    now: Instant,
    owner: int,
) -> None:
    connection.execute(
        event.insert(),
        [
            {
                "team_id": team_id,
                "message_id": row.message_id,
                "id": numbers.next(now, owner),
                "n": row.n,
                "type": str(Status.CANCELLED),
                "at": now,
                "detail": detail,
            }
            for row in ended
        ],
    )
    whole = [row.message_id for row in ended if sizes[row.message_id] == 1]
    if whole:
        cancelled = update(message).where(message.c.team_id == team_id, message.c.id.in_(whole))
        connection.execute(cancelled.values(status=str(Status.CANCELLED)))
    for message_id in sorted({row.message_id for row in ended if sizes[row.message_id] != 1}):
        sum_up(connection, team_id, message_id)


def _is_one_of(some: FromClause) -> ColumnElement[bool]:
    """For an update of recipients by their keys. Joined and not by IN: for that SQLite would go through all recipients of
    the team."""
    return and_(
        recipient.c.team_id == some.c.team_id,
        recipient.c.message_id == some.c.message_id,
        recipient.c.n == some.c.n,
    )


def _keys(target: Target, of: FromClause) -> Select[tuple[int, str, int]]:
    """The keys of those that wait and are in nobody's hands."""
    return select(of.c.team_id, of.c.message_id, of.c.n).where(_unsettled(target, of), of.c.owner.is_(None))


def _unsettled(target: Target, of: FromClause = recipient) -> ColumnElement[bool]:
    # `fence >= 0` is what PostgreSQL's index wants to hear (schema.UNSETTLED_OF_TEAM).
    parts: list[ColumnElement[bool]] = [
        of.c.team_id == target.team_id, of.c.next_attempt_at.is_not(None), of.c.fence >= 0,
    ]  # fmt: skip
    if target.site is not None:
        parts.append(of.c.site == target.site)
    if target.message_id is not None:
        parts.append(of.c.message_id == target.message_id)
    return and_(*parts)


def _retried(connection: Connection) -> dict[str, Instant]:
    value = connection.execute(select(meta.c.value).where(meta.c.key == RETRIED)).scalar()
    found: dict[str, Instant] = {} if value is None else json.loads(value)
    return found
