"""Reading mails: one, its attempts, lists by filter and page, and what waits by site."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select

from sendkit_server.model.instant import Instant
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import attempt, captured, domain, event, held_site, message, message_label, recipient

MAX_COUNT = 10_000
"""No list is counted beyond this; `meta.total` is then a lower bound."""


class EmailFilter(msgspec.Struct, frozen=True):
    """What a list is narrowed to; None means not. Times are instants, `until` exclusive.

    search: part of a recipient's address.  q: part of subject or address.
    """

    team_id: int
    search: str | None = None
    status: str | None = None
    domain_id: str | None = None
    since: Instant | None = None
    until: Instant | None = None
    tags: tuple[tuple[str, str | None], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    stream: str | None = None
    door: str | None = None
    message_id: str | None = None
    q: str | None = None


class Email(msgspec.Struct, frozen=True):
    """A message with everything that a read shows of it. held: those of its recipients' sites that the operator holds."""

    message: AnyRow
    domain_name: str | None
    recipients: Sequence[AnyRow]
    events: Sequence[AnyRow]
    held: frozenset[str] = frozenset()


def find_email(connection: Connection, team_id: int, name: str) -> Email | None:
    """One mail by its id, or by its Message-ID with or without angle brackets; of several the newest."""
    by_message_id = name if name.startswith("<") else f"<{name}>"
    query = (
        select(message)
        .where(message.c.team_id == team_id)
        .where(_has_message_id(by_message_id) if "@" in name else message.c.id == name)
        .order_by(message.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _with_details(connection, team_id, [row])[0]


def list_emails(connection: Connection, chosen: EmailFilter, offset: int, limit: int) -> tuple[list[Email], int]:
    """A page, newest first, and how many there are in all (counted up to MAX_COUNT)."""
    condition = _condition(chosen)
    counted = select(func.count()).select_from(select(message.c.id).where(condition).limit(MAX_COUNT).subquery())
    total = int(connection.execute(counted).scalar_one())
    query = select(message).where(condition).order_by(message.c.id.desc()).offset(offset).limit(limit)
    return _with_details(connection, chosen.team_id, connection.execute(query).all()), total


def list_attempts(connection: Connection, team_id: int, message_id: str) -> Sequence[AnyRow]:
    """A mail's attempts, oldest first."""
    query = select(attempt).where(attempt.c.team_id == team_id, attempt.c.message_id == message_id)
    return connection.execute(query.order_by(attempt.c.id)).all()


def waiting_by_site(connection: Connection, team_id: int, limit: int) -> Sequence[AnyRow]:
    """Of each site with unsettled recipients: how many wait, how many are in flight, oldest, next try, last words."""
    waiting = and_(recipient.c.team_id == team_id, recipient.c.next_attempt_at.is_not(None), recipient.c.fence >= 0)
    query = (
        select(
            recipient.c.site,
            func.count().label("recipients"),
            func.count(recipient.c.owner).label("owned"),
            func.min(recipient.c.message_id).label("oldest_message"),
            func.min(recipient.c.next_attempt_at).label("next_attempt_at"),
        )
        .where(waiting)
        .group_by(recipient.c.site)
        .order_by(func.count().desc(), recipient.c.site)
        .limit(limit)
    )
    return connection.execute(query).all()


def last_words(connection: Connection, team_id: int, site: str) -> AnyRow | None:
    """The newest reason why a recipient of this site waits."""
    query = (
        select(recipient.c.reason, recipient.c.explanation, recipient.c.code, recipient.c.enhanced)
        .where(
            recipient.c.team_id == team_id,
            recipient.c.site == site,
            recipient.c.next_attempt_at.is_not(None),
            recipient.c.fence >= 0,
            recipient.c.reason.is_not(None),
        )
        .order_by(recipient.c.updated_at.desc())
        .limit(1)
    )
    return connection.execute(query).one_or_none()


def created_at(connection: Connection, team_id: int, message_id: str) -> Instant | None:
    """When a message was accepted."""
    query = select(message.c.created_at).where(message.c.team_id == team_id, message.c.id == message_id)
    return connection.execute(query).scalar()


def unsettled_count(connection: Connection) -> tuple[int, int]:
    """(waiting, in flight) recipients of all teams, each counted up to MAX_COUNT × 100."""
    cap = MAX_COUNT * 100
    waiting = select(recipient.c.site).where(recipient.c.owner.is_(None), recipient.c.next_attempt_at.is_not(None))
    owned = select(recipient.c.owner).where(recipient.c.owner.is_not(None))
    counts = [
        int(connection.execute(select(func.count()).select_from(query.limit(cap).subquery())).scalar_one())
        for query in (waiting, owned)
    ]
    return counts[0], counts[1]


def list_captured(connection: Connection, team_id: int, limit: int) -> list[Email]:
    """The newest captured mails."""
    ids = (
        select(captured.c.message_id)
        .where(captured.c.team_id == team_id)
        .order_by(captured.c.message_id.desc())
        .limit(limit)
    )
    return _by_ids(connection, team_id, ids)


def find_captured(connection: Connection, team_id: int, message_id: str) -> tuple[Email, bytes] | None:
    """One captured mail and its stored bytes."""
    query = select(captured.c.raw).where(captured.c.team_id == team_id, captured.c.message_id == message_id)
    raw = connection.execute(query).scalar()
    found = find_email(connection, team_id, message_id)
    return None if raw is None or found is None else (found, raw)


def clear_captured(connection: Connection, team_id: int) -> int:
    """Removes every captured mail of a team from the inbox, and says how many; the mails' own records stay."""
    return connection.execute(captured.delete().where(captured.c.team_id == team_id)).rowcount


def _by_ids(connection: Connection, team_id: int, ids: Select[tuple[str]]) -> list[Email]:
    query = select(message).where(message.c.team_id == team_id, message.c.id.in_(ids)).order_by(message.c.id.desc())
    return _with_details(connection, team_id, connection.execute(query).all())


def _condition(chosen: EmailFilter) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = [message.c.team_id == chosen.team_id]
    for column, value in (
        (message.c.status, chosen.status),
        (message.c.domain_id, chosen.domain_id),
        (message.c.stream, chosen.stream),
        (message.c.door, chosen.door),
    ):
        if value is not None:
            parts.append(column == value)
    if chosen.message_id is not None:
        parts.append(_has_message_id(chosen.message_id))
    if chosen.since is not None:
        parts.append(message.c.created_at >= chosen.since)
    if chosen.until is not None:
        parts.append(message.c.created_at < chosen.until)
    labels = [("tag", name, value) for name, value in chosen.tags]
    labels += [("metadata", name, value) for name, value in chosen.metadata]
    parts += [_has_label(chosen.team_id, kind, name, value) for kind, name, value in labels]
    if chosen.search is not None:
        parts.append(_has_recipient(chosen.team_id, chosen.search))
    if chosen.q is not None:
        subject = message.c.subject.ilike(f"%{_escaped(chosen.q)}%", escape="\\")
        parts.append(or_(subject, _has_recipient(chosen.team_id, chosen.q)))
    return and_(*parts)


# An index of PostgreSQL's is used only by who says what it says (schema.UNSETTLED_OF_TEAM tells why).


def _has_message_id(message_id: str) -> ColumnElement[bool]:
    return and_(message.c.message_id == message_id, message.c.message_id != "")


def _has_label(team_id: int, kind: str, name: str, value: str | None) -> ColumnElement[bool]:
    query = select(message_label.c.message_id).where(
        message_label.c.team_id == team_id, message_label.c.kind == kind, message_label.c.name == name
    )
    if value is not None:
        query = query.where(message_label.c.value == value)
    return message.c.id.in_(query)


def _has_recipient(team_id: int, part: str) -> ColumnElement[bool]:
    """A whole address is looked up by its index; a part of one is searched for among the team's recipients."""
    lowered = part.lower()
    query = select(recipient.c.message_id).where(recipient.c.team_id == team_id, recipient.c.matching != "")
    exact = "@" in lowered.strip("@")
    wanted = (
        recipient.c.matching == lowered if exact else recipient.c.matching.like(f"%{_escaped(lowered)}%", escape="\\")
    )
    return message.c.id.in_(query.where(wanted))


def _escaped(text: str) -> str:
    """Text in which LIKE's wildcards are letters."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _with_details(connection: Connection, team_id: int, messages: Sequence[AnyRow]) -> list[Email]:
    if not messages:
        return []
    ids = [row.id for row in messages]
    recipients = _grouped(connection, recipient.select().where(
        recipient.c.team_id == team_id, recipient.c.message_id.in_(ids)
    ).order_by(recipient.c.message_id, recipient.c.n))  # fmt: skip
    events = _grouped(connection, event.select().where(
        event.c.team_id == team_id, event.c.message_id.in_(ids)
    ).order_by(event.c.id))  # fmt: skip
    domain_ids = {row.domain_id for row in messages if row.domain_id}
    names: dict[str, str] = {}
    if domain_ids:
        found = select(domain.c.id, domain.c.name).where(domain.c.team_id == team_id, domain.c.id.in_(domain_ids))
        names = {row.id: row.name for row in connection.execute(found)}
    held = _held(connection, {one.site for group in recipients.values() for one in group if one.next_attempt_at})
    return [
        Email(row, names.get(row.domain_id), recipients.get(row.id, []), events.get(row.id, []), held)
        for row in messages
    ]


def _held(connection: Connection, sites: set[str]) -> frozenset[str]:
    if not sites:
        return frozenset()
    return frozenset(connection.execute(select(held_site.c.site).where(held_site.c.site.in_(sites))).scalars())


def _grouped(connection: Connection, query: Select[tuple[object, ...]]) -> dict[str, list[AnyRow]]:
    grouped: dict[str, list[AnyRow]] = {}
    for row in connection.execute(query):
        grouped.setdefault(row.message_id, []).append(row)
    return grouped
