"""People who sign in: the first one, those who are invited, their passwords, and who leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from sendkit_server.manage import links
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.keys import ManageError
from sendkit_server.manage.links import Kind, Link, LinkGone
from sendkit_server.manage.passwords import Passwords
from sendkit_server.model.address import AddressError, parse_mailbox
from sendkit_server.model.instant import api_time
from sendkit_server.model.mail import NO_RESTRICTIONS, ApiKey
from sendkit_server.model.roles import KEY_MANAGER, Manager, Role, parse_role
from sendkit_server.store.queries import keys as team_queries
from sendkit_server.store.queries import people as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

MAX_NAME_CHARACTERS = 255
MAX_INVITATIONS = 500  # open ones of a team
NEWCOMER = ""
"""The name of an actor who comes by a link: it acts as the account that the link makes or belongs to."""
LAST_OWNER = "A team keeps at least one owner: make another one first."


def email_of(text: str) -> str:
    """An address as accounts are looked up by: exactly one, in small letters. ManageError."""
    try:
        return parse_mailbox(text.strip()).matching
    except AddressError as error:
        raise ManageError(f"{text!r} is no email address: {error}", "email") from None


def key_manager(key: ApiKey) -> Manager:
    """What a key with the permission may do about people. ManageError: it is bound to less than the whole team."""
    if key.test:
        raise ManageError("A test key cannot change the team or who is in it.")
    # Where it comes from and how much it sends says nothing of whom it may trust; the rest a new admin would get around.
    rest = msgspec.structs.replace(key.restrictions, networks=(), daily_limit=None)
    if key.domain_id is not None or rest != NO_RESTRICTIONS:
        raise ManageError(
            "An API key that is restricted to domains, senders or recipients cannot change the team or who is in it."
        )
    return KEY_MANAGER


def role_of(text: str) -> Role:
    """ManageError names the roles there are."""
    try:
        return parse_role(text)
    except ValueError as error:
        raise ManageError(str(error), "role") from None


# -- coming ------------------------------------------------------------------------------------------------------


async def setup_link(store: Store, by: Actor) -> Link | None:
    """A link that makes the first account, owner of the first team; None when somebody can sign in already."""

    def write(connection: Connection) -> Link | None:
        if queries.has_accounts(connection):
            return None
        first = team_queries.team_id(connection, team_queries.FIRST_TEAM)
        assert first is not None
        return links.add(connection, Kind.SETUP, first, by, role=Role.OWNER)

    return await store.write_quietly(write)


async def set_up(
    store: Store, passwords: Passwords, secret: str, email: str, name: str, password: str, by: Actor
) -> str:
    """Makes the first account by its link; its id. ManageError."""
    values = _account(email, name, await passwords.derived(password), by)

    def write(connection: Connection) -> str:
        link = links.take(connection, Kind.SETUP, secret, by.now)
        queries.lock_team(connection, link.team_id)
        if queries.has_accounts(connection):
            raise LinkGone
        queries.delete_links(connection, Kind.SETUP)
        _join(connection, link.team_id, values, Role.OWNER, by, is_new=True)
        return str(values["id"])

    return await store.write(write)


async def invite(store: Store, team_id: int, email: str, role: Role, by: Actor, manager: Manager | None = None) -> Link:
    """A link by which a person joins a team. manager: who invites; None: the operator. ManageError."""
    address = email_of(email)
    if manager is not None and not manager.may_manage(role):
        raise ManageError(f"{manager.who} cannot invite somebody as {role}.", "role")

    def write(connection: Connection) -> Link:
        if queries.count_invitations(connection, team_id, by.now) >= MAX_INVITATIONS:
            raise ManageError(f"A team has at most {MAX_INVITATIONS} open invitations: withdraw some first.")
        known = queries.find_account(connection, address)
        if known is not None and queries.find_member(connection, team_id, known.id) is not None:
            raise ManageError(f"{address} belongs to this team already.", "email")
        by.record(connection, team_id, "members.invite", address, {"role": role})
        return links.add(connection, Kind.INVITE, team_id, by, address, role)

    return await store.write(write)


async def join(
    store: Store, passwords: Passwords, secret: str, name: str, password: str, by: Actor, *, account_id: str | None
) -> str:
    """Takes an invitation; the id of the account that joined.

    account_id: of one who is invited and has an account, and has shown it; None makes one. ManageError.
    """
    phc = "" if account_id is not None else await passwords.derived(password)

    def write(connection: Connection) -> str:
        link = links.take(connection, Kind.INVITE, secret, by.now)
        known = queries.find_account(connection, link.email)
        if (known.id if known is not None else None) != account_id:
            raise ManageError("This invitation is for somebody else: sign out, and open the link again.")
        if known is not None and queries.find_member(connection, link.team_id, known.id) is not None:
            raise ManageError("You belong to this team already.")
        values = _account(link.email, name, phc, by) if known is None else {"id": known.id, "email": link.email}
        _join(connection, link.team_id, values, Role(link.role), by, is_new=known is None)
        return str(values["id"])

    return await store.write(write)


async def add(
    store: Store, passwords: Passwords, team_id: int, email: str, role: Role, password: str, by: Actor
) -> str:
    """Makes an account with a password, or puts one that is there into the team; its id. ManageError."""
    values = _account(email, "", await passwords.derived(password), by)

    def write(connection: Connection) -> str:
        known = queries.find_account(connection, values["email"])
        if known is not None:
            raise ManageError(f"{values['email']} has an account already; invite it without a password")
        _join(connection, team_id, values, role, by, is_new=True)
        return str(values["id"])

    return await store.write(write)


def _account(email: str, name: str, phc: str, by: Actor) -> dict[str, Any]:
    address = email_of(email)
    name = name.strip() or address.partition("@")[0]
    if len(name) > MAX_NAME_CHARACTERS or "\0" in name:
        raise ManageError(f"A name has at most {MAX_NAME_CHARACTERS} characters.", "name")
    return {"id": by.new_id("usr"), "email": address, "name": name, "password": phc, "created_at": by.now}


def _join(connection: Connection, team_id: int, values: dict[str, Any], role: Role, by: Actor, *, is_new: bool) -> None:
    # Who comes by a link acts as the account that it makes.
    actor = Actor(values["id"], by.now, by.entropy) if by.name == NEWCOMER else by
    if is_new:
        queries.insert_account(connection, values)
        actor.record(connection, team_id, "users.create", values["id"], {"email": values["email"]})
    queries.insert_member(connection, team_id, values["id"], role, by.now)
    actor.record(connection, team_id, "members.join", values["id"], {"email": values["email"], "role": role})


# -- passwords ---------------------------------------------------------------------------------------------------


async def reset_link(store: Store, email: str, by: Actor) -> Link:
    """A link by which a person sets a new password; earlier ones work no more. ManageError: there is no such person."""
    address = email_of(email)

    def write(connection: Connection) -> Link:
        known = queries.find_account(connection, address)
        if known is None:
            raise ManageError(f"there is no user {address}; `sendkit users list` shows all")
        queries.delete_links(connection, Kind.RESET, address)
        _note(connection, known.id, "users.reset", by)
        return links.add(connection, Kind.RESET, 0, by, address)

    return await store.write(write)


async def reset(store: Store, passwords: Passwords, secret: str, password: str, by: Actor) -> str:
    """Sets a new password by a link, and ends all sessions; the account's id. ManageError."""
    phc = await passwords.derived(password)

    def write(connection: Connection) -> str:
        link = links.take(connection, Kind.RESET, secret, by.now)
        known = queries.find_account(connection, link.email)
        if known is None:
            raise LinkGone
        _set_password(connection, known, phc, Actor(known.id, by.now, by.entropy))
        return str(known.id)

    return await store.write(write)


async def change_password(store: Store, passwords: Passwords, account_id: str, new: str, by: Actor) -> None:
    """Sets a new password for somebody who has just shown the old one, and ends all sessions. ManageError."""
    phc = await passwords.derived(new)

    def write(connection: Connection) -> None:
        known = queries.account_by_id(connection, account_id)
        if known is None:
            raise ManageError("This account is no more.")
        _set_password(connection, known, phc, by)

    await store.write(write)


def _set_password(connection: Connection, known: AnyRow, phc: str, by: Actor) -> None:
    queries.set_password(connection, known.id, phc)
    queries.end_sessions(connection, known.id)
    queries.delete_links(connection, Kind.RESET, known.email)
    _note(connection, known.id, "users.password", by)


def _note(connection: Connection, account_id: str, action: str, by: Actor) -> None:
    """On the audit log of each team that the person belongs to."""
    for membership in queries.memberships(connection, account_id):
        by.record(connection, membership.team_id, action, account_id, {"email": membership.email})


# -- roles, and leaving ------------------------------------------------------------------------------------------


async def set_role(store: Store, team_id: int, who: str, role: Role, by: Actor, manager: Manager | None = None) -> bool:
    """Changes what a person is in a team. who: id or address.  manager: None: the operator. False: there is no such person in
    it. ManageError."""
    who = _id_or_email(who)

    def write(connection: Connection) -> bool:
        queries.lock_team(connection, team_id)
        member = queries.find_member(connection, team_id, who)
        if member is None:
            return False
        if manager is not None and not manager.may_manage(Role(member.role), role):
            raise ManageError(f"{manager.who} cannot turn {member.role} into {role}.", "role")
        if member.role == Role.OWNER and role != Role.OWNER and queries.count_owners(connection, team_id) == 1:
            raise ManageError(LAST_OWNER, "role")
        if member.role != role:
            queries.set_role(connection, team_id, member.id, role)
            by.record(connection, team_id, "members.role", member.id, {"email": member.email, "role": role})
        return True

    return await store.write(write)


async def remove(store: Store, team_id: int, who: str, by: Actor, manager: Manager | None = None) -> str | None:
    """Takes a person out of a team, and away if that was the last one; the account's id. who: id or address.  manager: None:
    the operator. Who leaves by himself needs no rights. None: there is no such person in it. ManageError."""
    who = _id_or_email(who)

    def write(connection: Connection) -> str | None:
        queries.lock_team(connection, team_id)
        member = queries.find_member(connection, team_id, who)
        if member is None:
            return None
        if manager is not None and by.name != member.id and not manager.may_manage(Role(member.role)):
            raise ManageError(f"{manager.who} cannot remove one who is {member.role}.")
        if member.role == Role.OWNER and queries.count_owners(connection, team_id) == 1:
            raise ManageError(LAST_OWNER)
        queries.delete_member(connection, team_id, member.id)
        by.record(connection, team_id, "members.remove", member.id, {"email": member.email})
        if not queries.memberships(connection, member.id):
            queries.delete_account(connection, member.id)
            by.record(connection, team_id, "users.remove", member.id, {"email": member.email})
        return str(member.id)

    return await store.write(write)


def _id_or_email(text: str) -> str:
    """An address as accounts are looked up by it; what is none may be an id."""
    try:
        return email_of(text) if "@" in text else text
    except ManageError:
        return text  # nobody has it


async def members(
    store: Store, team_id: int, offset: int = 0, limit: int | None = None
) -> tuple[Sequence[AnyRow], int]:
    """The people of a team, in the order in which they came, and how many there are. limit: None: all."""
    return await store.read(lambda connection: queries.list_members(connection, team_id, offset, limit))


async def member(store: Store, team_id: int, who: str) -> AnyRow | None:
    """A person in a team, by id or address."""
    known = _id_or_email(who)
    return await store.read(lambda connection: queries.find_member(connection, team_id, known))


def worded(row: AnyRow) -> dict[str, Any]:
    """A person in a team as JSON."""
    return {
        "id": row.id,
        "email": row.email,
        "name": row.name,
        "team": row.team,
        "role": row.role,
        "joined_at": api_time(row.joined_at),
        "last_seen_at": api_time(row.last_seen_at),
    }
