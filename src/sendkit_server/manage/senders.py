"""Senders: who mail is sent as, by a name and an address at a domain that may send."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from sendkit_server.manage.audit import Actor
from sendkit_server.manage.domains import named
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.address import AddressError, parse_mailbox
from sendkit_server.store.queries import domains as domain_queries
from sendkit_server.store.queries import senders as queries
from sendkit_server.store.queries.pages import Part, Window
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

MAX_NAME_CHARACTERS = 255
MAX_USERNAME_CHARACTERS = 64  # RFC 5321 4.5.3.1.1
_USERNAME = re.compile(r"[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*")


class SenderWish(msgspec.Struct, frozen=True):
    """What a sender is to be; of a change None leaves a thing as it is. domain: id or name.  reply_to: "" takes it away."""

    name: str | None = None
    username: str | None = None
    domain: str | None = None
    reply_to: str | None = None


class Sender(msgspec.Struct, frozen=True):
    """A sender with its domain's row."""

    row: AnyRow
    domain: AnyRow

    @property
    def email(self) -> str:
        """Its address."""
        return f"{self.row.username}@{self.domain.name}"


async def create_sender(store: Store, team_id: int, wish: SenderWish, by: Actor) -> Sender:
    """Makes a sender. ManageError."""
    sender_id = by.new_id("snd")

    def write(connection: Connection) -> Sender:
        values = _columns(connection, team_id, wish, None)
        for field, column in (("name", "name"), ("username", "username"), ("domain_id", "domain_id")):
            if column not in values:
                raise ManageError(f"The {field.replace('_', ' ')} field is required.", field)
        values |= {"team_id": team_id, "id": sender_id, "created_at": by.now, "updated_at": by.now}
        queries.insert_sender(connection, values)
        made = _found(connection, team_id, sender_id)
        assert made is not None
        by.record(connection, team_id, "senders.create", sender_id, {"name": made.row.name, "email": made.email})
        return made

    return await store.write(write)


async def change_sender(store: Store, team_id: int, sender_id: str, wish: SenderWish, by: Actor) -> Sender | None:
    """Changes what is wished for; None when the team has no such sender. ManageError."""

    def write(connection: Connection) -> Sender | None:
        before = queries.find_sender(connection, team_id, sender_id)
        if before is None:
            return None
        changes = _columns(connection, team_id, wish, before)
        if changes:
            queries.update_sender(connection, team_id, sender_id, {**changes, "updated_at": by.now})
            by.record(connection, team_id, "senders.set", sender_id, changes)
        return _found(connection, team_id, sender_id)

    return await store.write(write)


async def delete_sender(store: Store, team_id: int, sender_id: str, by: Actor) -> bool:
    """Removes a sender; what was sent as it stays. False when the team has no such sender."""

    def write(connection: Connection) -> bool:
        deleted = queries.delete_sender(connection, team_id, sender_id)
        if deleted:
            by.record(connection, team_id, "senders.delete", sender_id)
        return deleted

    return await store.write(write)


async def show_sender(store: Store, team_id: int, sender_id: str) -> Sender | None:
    """A sender by its id; None when the team has no such sender."""
    return await store.read(lambda connection: _found(connection, team_id, sender_id))


async def list_senders(store: Store, team_id: int, window: Window) -> tuple[Sequence[Sender], Part]:
    """Senders, newest first, and how they stand in the list."""

    def read(connection: Connection) -> tuple[Sequence[Sender], Part]:
        part = queries.list_senders(connection, team_id, window)
        return [_with_domain(connection, row) for row in part.rows], part

    return await store.read(read)


def _found(connection: Connection, team_id: int, sender_id: str) -> Sender | None:
    row = queries.find_sender(connection, team_id, sender_id)
    return None if row is None else _with_domain(connection, row)


def _with_domain(connection: Connection, row: AnyRow) -> Sender:
    domain = domain_queries.find_domain(connection, row.team_id, row.domain_id)
    assert domain is not None, "a domain goes with its senders"
    return Sender(row, domain)


def _columns(connection: Connection, team_id: int, wish: SenderWish, before: AnyRow | None) -> dict[str, object]:
    found: dict[str, object] = {}
    if wish.name is not None:
        found["name"] = _name(wish.name)
    if wish.username is not None:
        found["username"] = _username(wish.username)
    if wish.domain is not None:
        found["domain_id"] = _domain_id(connection, team_id, wish.domain)
    if wish.reply_to is not None:
        found["reply_to"] = _reply_to(wish.reply_to)
    username = found.get("username", before and before.username)
    domain_id = found.get("domain_id", before and before.domain_id)
    if username and domain_id:
        other = queries.id_at(connection, team_id, str(domain_id), str(username))
        if other is not None and (before is None or other != before.id):
            raise ManageError("The username has already been taken.", "username")
    return found


def _name(text: str) -> str:
    name = text.strip()
    if not name:
        raise ManageError("The name field is required.", "name")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ManageError(f"The name field must not be greater than {MAX_NAME_CHARACTERS} characters.", "name")
    if not name.isprintable():
        raise ManageError("The name field must be one line of text.", "name")
    return name


def _username(text: str) -> str:
    if len(text) > MAX_USERNAME_CHARACTERS:
        raise ManageError(
            f"The username field must not be greater than {MAX_USERNAME_CHARACTERS} characters.", "username"
        )
    if _USERNAME.fullmatch(text) is None:
        raise ManageError(
            "The username field is what stands before the @: letters, digits and . _ % + -, no dot at an end or beside another.",
            "username",
        )
    return text


def _domain_id(connection: Connection, team_id: int, name: str) -> str:
    domain = domain_queries.find_domain(connection, team_id, named(name))
    if domain is None:
        raise ManageError("The selected domain id is invalid.", "domain_id")
    if not domain.trusted and domain.status != "verified":
        raise ManageError(f"The domain {domain.name} is not verified.", "domain_id")
    return str(domain.id)


def _reply_to(text: str) -> str | None:
    if not text.strip():
        return None
    if len(text) > MAX_NAME_CHARACTERS:
        raise ManageError(f"The reply to field must not be greater than {MAX_NAME_CHARACTERS} characters.", "reply_to")
    try:
        return parse_mailbox(text).display()
    except AddressError:
        raise ManageError("The reply to field must be a valid email address.", "reply_to") from None
