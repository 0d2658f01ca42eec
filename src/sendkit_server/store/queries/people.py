"""Teams, the people in them, their sessions, and links that work once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from sendkit_server.model.instant import Instant
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.schema import account, membership, one_time_link, session, team

# -- teams -------------------------------------------------------------------------------------------------------


def find_team(connection: Connection, name_or_id: str | int) -> AnyRow | None:
    """A team by its name or number."""
    column = team.c.id if isinstance(name_or_id, int) else team.c.name
    return connection.execute(select(team).where(column == name_or_id)).one_or_none()


def insert_team(connection: Connection, name: str, now: Instant) -> int:
    """A new team's number."""
    return int(connection.execute(insert(team).values(name=name, created_at=now).returning(team.c.id)).scalar_one())


def rename_team(connection: Connection, team_id: int, name: str) -> bool:
    """False: it has that name already."""
    other = update(team).where(team.c.id == team_id, team.c.name != name)
    return connection.execute(other.values(name=name)).rowcount == 1


def list_teams(connection: Connection) -> Sequence[AnyRow]:
    """All teams with how many people each has."""
    count = select(func.count()).where(membership.c.team_id == team.c.id).scalar_subquery()
    return connection.execute(select(team, count.label("people")).order_by(team.c.id)).all()


def pause_team(connection: Connection, team_id: int, at: Instant | None, reason: str | None) -> None:
    """Pauses a team's sending; at None: lets it go on."""
    connection.execute(update(team).where(team.c.id == team_id).values(paused_at=at, paused_reason=reason))


def lock_team(connection: Connection, team_id: int) -> None:
    """Until the transaction ends nobody else who locks it changes who is in the team."""
    connection.execute(select(team.c.id).where(team.c.id == team_id).with_for_update()).all()


# -- people ------------------------------------------------------------------------------------------------------


def has_accounts(connection: Connection) -> bool:
    """Whether anybody can sign in."""
    return connection.execute(select(account.c.id).limit(1)).scalar() is not None


def find_account(connection: Connection, email: str) -> AnyRow | None:
    """By email address, as it is stored."""
    return connection.execute(select(account).where(account.c.email == email)).one_or_none()


def account_by_id(connection: Connection, account_id: str) -> AnyRow | None:
    """By id."""
    return connection.execute(select(account).where(account.c.id == account_id)).one_or_none()


def insert_account(connection: Connection, values: dict[str, Any]) -> None:
    """Adds a person."""
    connection.execute(insert(account).values(**values))


def set_password(connection: Connection, account_id: str, password: str) -> None:
    """Replaces the password's PHC string."""
    connection.execute(update(account).where(account.c.id == account_id).values(password=password))


def saw_account(connection: Connection, account_id: str, now: Instant) -> None:
    """Notes that somebody was here."""
    connection.execute(update(account).where(account.c.id == account_id).values(last_seen_at=now))


def delete_account(connection: Connection, account_id: str) -> None:
    """Removes a person with sessions and memberships."""
    connection.execute(delete(session).where(session.c.account_id == account_id))
    connection.execute(delete(membership).where(membership.c.account_id == account_id))
    connection.execute(delete(account).where(account.c.id == account_id))


def _members() -> Select[*tuple[Any, ...]]:
    return select(
        account.c.id,
        account.c.email,
        account.c.name,
        account.c.created_at,
        account.c.last_seen_at,
        membership.c.team_id,
        membership.c.role,
        membership.c.created_at.label("joined_at"),
        team.c.name.label("team"),
    ).select_from(
        account.join(membership, membership.c.account_id == account.c.id).join(team, team.c.id == membership.c.team_id)
    )


def list_members(
    connection: Connection, team_id: int, offset: int = 0, limit: int | None = None
) -> tuple[Sequence[AnyRow], int]:
    """The people of a team, in the order in which they came, and how many there are. limit: None: all."""
    query = _members().where(membership.c.team_id == team_id).order_by(membership.c.created_at, account.c.id)
    found = connection.execute(query.offset(offset).limit(limit)).all()
    return found, sum(count_roles(connection, team_id).values())


def memberships(connection: Connection, account_id: str) -> Sequence[AnyRow]:
    """The teams of a person, the first joined first."""
    query = _members().where(account.c.id == account_id)
    return connection.execute(query.order_by(membership.c.created_at, membership.c.team_id)).all()


def find_member(connection: Connection, team_id: int, who: str) -> AnyRow | None:
    """A person in a team, by id or by address as it is stored."""
    column = account.c.email if "@" in who else account.c.id
    return connection.execute(_members().where(membership.c.team_id == team_id, column == who)).one_or_none()


def count_roles(connection: Connection, team_id: int) -> dict[str, int]:
    """How many people of a team have each role."""
    query = select(membership.c.role, func.count().label("people")).where(membership.c.team_id == team_id)
    return {row.role: row.people for row in connection.execute(query.group_by(membership.c.role))}


def count_owners(connection: Connection, team_id: int) -> int:
    """How many owners a team has."""
    return count_roles(connection, team_id).get("owner", 0)


def insert_member(connection: Connection, team_id: int, account_id: str, role: str, now: Instant) -> None:
    """Puts a person into a team."""
    row = {"team_id": team_id, "account_id": account_id, "role": role, "created_at": now}
    connection.execute(insert(membership).values(**row))


def set_role(connection: Connection, team_id: int, account_id: str, role: str) -> None:
    """Changes what a person is in a team."""
    connection.execute(
        update(membership)
        .where(membership.c.team_id == team_id, membership.c.account_id == account_id)
        .values(role=role)
    )


def delete_member(connection: Connection, team_id: int, account_id: str) -> None:
    """Takes a person out of a team."""
    connection.execute(delete(membership).where(membership.c.team_id == team_id, membership.c.account_id == account_id))


# -- sessions ----------------------------------------------------------------------------------------------------


def insert_session(connection: Connection, values: dict[str, Any]) -> None:
    """Adds a session."""
    connection.execute(insert(session).values(**values))


def find_session(connection: Connection, session_id: bytes, now: Instant) -> AnyRow | None:
    """A session that has not ended."""
    query = select(session).where(session.c.id == session_id, session.c.expires_at > now)
    return connection.execute(query).one_or_none()


def update_session(connection: Connection, session_id: bytes, values: dict[str, Any]) -> None:
    """Changes columns of a session."""
    connection.execute(update(session).where(session.c.id == session_id).values(**values))


def end_session(connection: Connection, session_id: bytes) -> None:
    """Ends one session."""
    connection.execute(delete(session).where(session.c.id == session_id))


def end_sessions(connection: Connection, account_id: str) -> None:
    """Ends all sessions of a person."""
    connection.execute(delete(session).where(session.c.account_id == account_id))


# -- links -------------------------------------------------------------------------------------------------------


def insert_link(connection: Connection, values: dict[str, Any]) -> None:
    """Adds a link."""
    connection.execute(insert(one_time_link).values(**values))


def find_link(connection: Connection, link_id: bytes, kind: str, now: Instant) -> AnyRow | None:
    """A link of this kind that still works."""
    query = select(one_time_link).where(
        one_time_link.c.id == link_id, one_time_link.c.kind == kind, one_time_link.c.expires_at > now
    )
    return connection.execute(query).one_or_none()


def take_link(connection: Connection, link_id: bytes, kind: str, now: Instant) -> AnyRow | None:
    """Uses a link up; None when it does not work (any more). Of two at once, one gets it."""
    found = find_link(connection, link_id, kind, now)
    if found is None or connection.execute(delete(one_time_link).where(one_time_link.c.id == link_id)).rowcount != 1:
        return None
    return found


def delete_links(connection: Connection, kind: str, email: str | None = None) -> None:
    """Makes links of a kind, perhaps only those of one person, work no more."""
    of_kind = delete(one_time_link).where(one_time_link.c.kind == kind)
    connection.execute(of_kind if email is None else of_kind.where(one_time_link.c.email == email))


# -- invitations -------------------------------------------------------------------------------------------------


def _open_invitations(team_id: int, now: Instant) -> Select[*tuple[Any, ...]]:
    link = one_time_link.c
    return select(one_time_link).where(link.kind == "invite", link.team_id == team_id, link.expires_at > now)


def count_invitations(connection: Connection, team_id: int, now: Instant) -> int:
    """How many of a team's invitations are open."""
    return int(
        connection.execute(select(func.count()).select_from(_open_invitations(team_id, now).subquery())).scalar_one()
    )


def list_invitations(
    connection: Connection, team_id: int, now: Instant, offset: int = 0, limit: int | None = None
) -> tuple[Sequence[AnyRow], int]:
    """A page of a team's open invitations, newest first, and how many there are. limit: None: all."""
    query = _open_invitations(team_id, now).order_by(one_time_link.c.created_at.desc(), one_time_link.c.id)
    return connection.execute(query.offset(offset).limit(limit)).all(), count_invitations(connection, team_id, now)


def invitations_made_at(connection: Connection, team_id: int, at: Instant, now: Instant) -> Sequence[AnyRow]:
    """A team's open invitations that were made at a millisecond."""
    return connection.execute(_open_invitations(team_id, now).where(one_time_link.c.created_at == at)).all()


def delete_link(connection: Connection, link_id: bytes) -> None:
    """Makes one link work no more."""
    connection.execute(delete(one_time_link).where(one_time_link.c.id == link_id))


def forget_ended(connection: Connection, now: Instant) -> None:
    """Removes sessions and links whose time is over."""
    connection.execute(delete(session).where(session.c.expires_at <= now))
    connection.execute(delete(one_time_link).where(one_time_link.c.expires_at <= now))
