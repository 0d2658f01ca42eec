"""Browsers that are signed in.

A session's secret is in the cookie, its SHA-256 in the database. Rights are looked up with every request: who is demoted or
removed has no more of them at once. A session ends 30 days after it was last used, at sign-out, and when the password changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from sendkit_server.manage import links
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.guesses import Guesses
from sendkit_server.manage.passwords import Passwords
from sendkit_server.model.instant import DAY_MS, MINUTE_MS, Instant
from sendkit_server.model.roles import Role
from sendkit_server.store.queries import people as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

LIFETIME_MS = 30 * DAY_MS
SEEN_AGAIN_MS = 5 * MINUTE_MS  # a session's end is moved at most so often


class Visitor(msgspec.Struct, frozen=True):
    """Who is signed in, and in which of the teams. teams: (id, name) of all."""

    account_id: str
    email: str
    name: str
    team_id: int
    team: str
    role: Role
    teams: tuple[tuple[int, str], ...]


async def sign_in(
    store: Store, passwords: Passwords, guesses: Guesses, email: str, password: str, host: str
) -> str | None:
    """The id of the account; None when address or password is wrong. TooManyGuesses.

    host: the client's address. It takes as long and says the same whether there is such an account.
    """
    guesses.check_sign_in(email, host)
    known = await store.read(lambda connection: queries.find_account(connection, email))
    is_right = await passwords.fits(password, known.password if known is not None else None)
    # Again: of many that ask at once no more are answered than of those that ask one after the other.
    guesses.check_sign_in(email, host)
    if not is_right:
        guesses.wrong_sign_in(email, host)
        return None
    assert known is not None
    return str(known.id)


async def open_session(store: Store, account_id: str, by: Actor, team_id: int | None = None) -> str:
    """A new session; its secret. team_id: which team is looked at; None: the first that was joined."""
    secret = links.new_secret(by)

    def write(connection: Connection) -> None:
        teams = queries.memberships(connection, account_id)
        chosen = team_id if team_id is not None else teams[0].team_id if teams else 0
        queries.insert_session(
            connection,
            {
                "id": links.hashed(secret),
                "account_id": account_id,
                "team_id": chosen,
                "created_at": by.now,
                "seen_at": by.now,
                "expires_at": by.now + LIFETIME_MS,
            },
        )
        queries.saw_account(connection, account_id, by.now)

    await store.write_quietly(write)
    return secret


async def visitor(store: Store, secret: str, now: Instant) -> Visitor | None:
    """Whose cookie this is; None when it is nobody's (any more)."""
    session_id = links.hashed(secret)
    found = await store.read(lambda connection: _read(connection, session_id, now))
    if found is None:
        return None
    session, teams = found
    if now - session.seen_at >= SEEN_AGAIN_MS:
        await store.write_quietly(lambda connection: _saw(connection, session, now))
    here = next((team for team in teams if team.team_id == session.team_id), teams[0])
    names = tuple((team.team_id, str(team.team)) for team in teams)
    return Visitor(here.id, here.email, here.name, here.team_id, here.team, Role(here.role), names)


def _read(connection: Connection, session_id: bytes, now: Instant) -> tuple[AnyRow, Sequence[AnyRow]] | None:
    session = queries.find_session(connection, session_id, now)
    teams = queries.memberships(connection, session.account_id) if session is not None else ()
    return (session, teams) if session is not None and teams else None


def _saw(connection: Connection, session: AnyRow, now: Instant) -> None:
    queries.update_session(connection, session.id, {"seen_at": now, "expires_at": now + LIFETIME_MS})
    queries.saw_account(connection, session.account_id, now)


async def look_at(store: Store, secret: str, team_id: int) -> None:
    """Shows another team in a session; whether it is one of the visitor's own is looked up with the next request."""
    chosen = {"team_id": team_id}
    await store.write_quietly(lambda connection: queries.update_session(connection, links.hashed(secret), chosen))


async def end_session(store: Store, secret: str) -> None:
    """Signs out."""
    await store.write_quietly(lambda connection: queries.end_session(connection, links.hashed(secret)))
