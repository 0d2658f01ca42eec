"""Suppressed addresses: added by bounces, complaints and people, looked up by accept and delivery.

An address stands there as recipient.matching spells it (`Mailbox.matching`), so every spelling of it finds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, text

from sendkit_server.model.bounce import BounceType
from sendkit_server.model.ids import ENTROPY_BYTES, id_floor, make_id
from sendkit_server.model.instant import Instant
from sendkit_server.model.status import Status
from sendkit_server.model.suppression import PREFIX, SOFT_BOUNCES, SuppressionReason
from sendkit_server.store.queries.bounces import judged
from sendkit_server.store.queries.emails import MAX_COUNT
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.rows import json_text, words
from sendkit_server.store.schema import message, recipient, suppression

# The same words on both engines. The first evidence stays; a complaint is worse than whatever was known before.
_ADD = text(
    "INSERT INTO suppression (team_id, address, id, reason, detail, created_at, updated_at)"
    " VALUES (:team_id, :address, :id, :reason, :detail, :now, :now)"
    " ON CONFLICT (team_id, address) DO UPDATE SET updated_at = excluded.updated_at,"
    " reason = CASE WHEN excluded.reason = 'complaint' THEN excluded.reason ELSE suppression.reason END"
    " RETURNING id"
)
# What became of a mail that reached the recipient's server; anything else says nothing about the address.
_TOLD = tuple(
    str(status)
    for status in (
        Status.DELIVERED, Status.OPENED, Status.CLICKED, Status.COMPLAINED, Status.BOUNCED, Status.FAILED,
    )
)  # fmt: skip


class SuppressionFilter(msgspec.Struct, frozen=True):
    """What a list is narrowed to; None means not. search: part of the address."""

    team_id: int
    reason: str | None = None
    search: str | None = None


def add(
    connection: Connection, team_id: int, address: str, reason: str, detail: Mapping[str, object], now: Instant
) -> bool:
    """Suppresses an address, and says whether it was not before.

    address: as recipient.matching.  reason: bounce, complaint or manual.  detail: the evidence.
    """
    new_id = make_id(PREFIX, now, os.urandom(ENTROPY_BYTES))
    values = {
        "team_id": team_id,
        "address": address,
        "id": new_id,
        "reason": str(SuppressionReason(reason)),
        "detail": words(json_text(dict(detail))),
        "now": now,
    }
    return bool(connection.execute(_ADD, values).scalar_one() == new_id)


def remove(connection: Connection, team_id: int, name: str) -> str | None:
    """Takes an address off the list. name: its id, or the address as recipient.matching.  The id; None: it was not there."""
    removed: str | None = connection.execute(
        delete(suppression).where(_named(team_id, name)).returning(suppression.c.id)
    ).scalar()
    return removed


def find(connection: Connection, team_id: int, name: str) -> AnyRow | None:
    """A suppression by its id, or by the address as recipient.matching."""
    return connection.execute(select(suppression).where(_named(team_id, name))).one_or_none()


def list_(connection: Connection, chosen: SuppressionFilter, offset: int, limit: int) -> tuple[Sequence[AnyRow], int]:
    """A page, newest first, and how many there are in all (counted up to MAX_COUNT)."""
    condition = _condition(chosen)
    counted = select(func.count()).select_from(select(suppression.c.id).where(condition).limit(MAX_COUNT).subquery())
    total = int(connection.execute(counted).scalar_one())
    query = select(suppression).where(condition).order_by(suppression.c.id.desc()).offset(offset).limit(limit)
    return connection.execute(query).all(), total


def suppressed(connection: Connection, team_id: int, addresses: Iterable[str]) -> dict[str, str]:
    """Those of the addresses (as recipient.matching) that are suppressed, and the reason of each."""
    query = select(suppression.c.address, suppression.c.reason).where(
        suppression.c.team_id == team_id, suppression.c.address.in_(list(addresses))
    )
    return {row.address: row.reason for row in connection.execute(query)}


def added_since(connection: Connection, team_id: int, since: Instant, after_id: str, limit: int) -> Sequence[AnyRow]:
    """id and address of what was added since then, in order of the ids. after_id: where the last slice ended, or ""."""
    begin = max(after_id, id_floor(PREFIX, since))
    query = select(suppression.c.id, suppression.c.address).where(
        suppression.c.team_id == team_id, suppression.c.id > begin
    )
    return connection.execute(query.order_by(suppression.c.id).limit(limit)).all()


def add_after_soft_bounces(connection: Connection, team_id: int, address: str, now: Instant) -> bool:
    """Suppresses an address whose last SOFT_BOUNCES mails all bounced softly; whether it is suppressed by that."""
    found = _last_told(connection, team_id, address)
    if len(found) < SOFT_BOUNCES or not all(is_soft_bounce(row) for row in found):
        return False
    last = found[0]
    evidence = {
        "message_id": last.message_id,
        "subtype": judged(last).subtype,
        "code": last.code,
        "enhanced": last.enhanced,
        "text": last.explanation,
        "soft_bounces": SOFT_BOUNCES,
    }
    add(connection, team_id, address, SuppressionReason.BOUNCE, evidence, now)
    return True


def is_soft_bounce(row: AnyRow) -> bool:
    """Whether a settled recipient ended with a server's word that its mailbox is good, but not now."""
    if row.status not in (Status.BOUNCED, Status.FAILED) or row.code is None:
        return False
    return judged(row).type is BounceType.SOFT


def _last_told(connection: Connection, team_id: int, address: str) -> Sequence[AnyRow]:
    # PostgreSQL goes by ix_recipient_matching only for a question that says `matching <> ''`.
    query = (
        select(
            recipient.c.message_id,
            recipient.c.site,
            recipient.c.status,
            recipient.c.reason,
            recipient.c.code,
            recipient.c.enhanced,
            recipient.c.explanation,
        )
        .join(message, and_(message.c.team_id == recipient.c.team_id, message.c.id == recipient.c.message_id))
        .where(
            recipient.c.team_id == team_id,
            recipient.c.matching == address,
            recipient.c.matching != "",
            recipient.c.next_attempt_at.is_(None),
            recipient.c.status.in_(_TOLD),
            message.c.capture.is_(False),
        )
        .order_by(recipient.c.message_id.desc())
        .limit(SOFT_BOUNCES)
    )
    return connection.execute(query).all()


def _named(team_id: int, name: str) -> ColumnElement[bool]:
    column = suppression.c.address if "@" in name else suppression.c.id
    return and_(suppression.c.team_id == team_id, column == name)


def _condition(chosen: SuppressionFilter) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = [suppression.c.team_id == chosen.team_id]
    if chosen.reason is not None:
        parts.append(suppression.c.reason == chosen.reason)
    if chosen.search is not None:
        parts.append(suppression.c.address.contains(chosen.search.lower(), autoescape=True))
    return and_(*parts)
