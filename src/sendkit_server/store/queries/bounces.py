"""What a bounce or a complaint reads and writes of the message that it is about."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from sendkit_server.model.bounce import Bounce, judge
from sendkit_server.model.instant import Instant
from sendkit_server.model.status import Status, message_status
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.rows import numbers, words
from sendkit_server.store.schema import event, message, recipient, team


def find_message(connection: Connection, message_id: str) -> AnyRow | None:
    """The team and the id of a message, whoever's it is; locked, so that its status is summed up by one at a time."""
    # By way of the teams: the primary key begins with them, and there are few.
    query = (
        select(message.c.team_id, message.c.id)
        .join(team, team.c.id == message.c.team_id)
        .where(message.c.id == message_id)
        .with_for_update(of=message)
    )
    return connection.execute(query).one_or_none()


def judged(row: AnyRow) -> Bounce:
    """What a recipient's end says about its address, by today's rules."""
    return judge(row.reason or "", row.code, row.enhanced, row.explanation or "", row.site)


def recipients_of(connection: Connection, team_id: int, message_id: str) -> Sequence[AnyRow]:
    """A message's recipients in order."""
    query = select(recipient).where(recipient.c.team_id == team_id, recipient.c.message_id == message_id)
    return connection.execute(query.order_by(recipient.c.n)).all()


def events_of(connection: Connection, team_id: int, message_id: str) -> Sequence[AnyRow]:
    """A message's events, oldest first."""
    query = select(event).where(event.c.team_id == team_id, event.c.message_id == message_id)
    return connection.execute(query.order_by(event.c.id)).all()


def end_recipient(
    connection: Connection,
    before: AnyRow,
    status: Status,
    reason: str,
    explanation: str,
    code: int | None,
    enhanced: str | None,
    now: Instant,
) -> bool:
    """Settles a recipient that nobody is delivering to. False: somebody is by now, and nothing is written."""
    ended = (
        recipient.update()
        .where(
            recipient.c.team_id == before.team_id,
            recipient.c.message_id == before.message_id,
            recipient.c.n == before.n,
            recipient.c.owner.is_(None),
            recipient.c.status == before.status,
        )
        .values(
            status=str(status),
            reason=reason,
            explanation=words(explanation),
            code=code,
            enhanced=enhanced,
            next_attempt_at=None,
            updated_at=now,
        )
    )
    return connection.execute(ended).rowcount == 1


def add_event(connection: Connection, before: AnyRow, type_: Status, detail: str, now: Instant, owner: int) -> None:
    """Appends what happened to a recipient. owner: this process's incarnation, which the event's number holds."""
    connection.execute(
        event.insert().values(
            team_id=before.team_id,
            message_id=before.message_id,
            id=numbers.next(now, owner),
            n=before.n,
            type=str(type_),
            at=now,
            detail=detail,
        )
    )


def sum_up(connection: Connection, team_id: int, message_id: str) -> None:
    """Sets a message's status from its recipients'."""
    found = [Status(row.status) for row in recipients_of(connection, team_id, message_id)]
    connection.execute(
        message.update()
        .where(message.c.team_id == team_id, message.c.id == message_id)
        .values(status=str(message_status(found)))
    )
