"""Links that work once: set-up, invitation, reset. Only the SHA-256 of the secret is kept.

Opening a link changes nothing, so that a mail scanner or a preview does not use it up; sending its form does.
"""

from __future__ import annotations

import base64
import hashlib
import re
from enum import StrEnum

import msgspec
from sqlalchemy import Connection

from sendkit_server.manage.audit import Actor
from sendkit_server.manage.keys import ManageError
from sendkit_server.model import ids
from sendkit_server.model.instant import DAY_MS, Instant, api_time
from sendkit_server.store.queries import people as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

SECRET_BYTES = 32


class Kind(StrEnum):
    """What a link is for."""

    SETUP = "setup"
    INVITE = "invite"
    RESET = "reset"


LIFETIMES_MS = {Kind.SETUP: DAY_MS, Kind.INVITE: 7 * DAY_MS, Kind.RESET: DAY_MS}


class LinkGone(ManageError):
    """The link was used, has expired, or never was."""

    def __init__(self) -> None:
        super().__init__("This link has been used, or has expired. Ask for a new one.")


class Link(msgspec.Struct, frozen=True):
    """A link that was made. path: below the public URL.  id: what it is called where it cannot be shown."""

    path: str
    expires_at: Instant
    id: str
    created_at: Instant

    def worded(self, public_url: str) -> dict[str, str | None]:
        """As JSON, with its URL."""
        return {"url": public_url + self.path, "expires_at": api_time(self.expires_at)}


def new_secret(by: Actor) -> str:
    """256 random bits, for a URL or a cookie."""
    return base64.urlsafe_b64encode(by.entropy(SECRET_BYTES)).rstrip(b"=").decode()


def hashed(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


PUBLIC_ID = re.compile(rf"inv_[{ids.ALPHABET}]{{{ids.LENGTH}}}")


def public_id(created_at: Instant, link_id: bytes) -> str:
    """What an invitation is called by who may not use it. link_id: as hashed() makes it, for 80 bits of that lead nowhere."""
    return ids.make_id("inv", created_at, link_id[: ids.ENTROPY_BYTES])


def add(
    connection: Connection, kind: Kind, team_id: int, by: Actor, email: str | None = None, role: str | None = None
) -> Link:
    """Makes a link."""
    secret = new_secret(by)
    link_id = hashed(secret)
    expires_at = by.now + LIFETIMES_MS[kind]
    queries.insert_link(
        connection,
        {
            "id": link_id,
            "kind": kind,
            "team_id": team_id,
            "email": email,
            "role": role,
            "created_at": by.now,
            "expires_at": expires_at,
        },
    )
    return Link(f"/ui/{kind}/{secret}", expires_at, public_id(by.now, link_id), by.now)


def take(connection: Connection, kind: Kind, secret: str, now: Instant) -> AnyRow:
    """Uses a link up. LinkGone."""
    found = queries.take_link(connection, hashed(secret), kind, now)
    if found is None:
        raise LinkGone
    return found


async def find(store: Store, kind: Kind, secret: str, now: Instant) -> AnyRow | None:
    """A link that still works."""
    return await store.read(lambda connection: queries.find_link(connection, hashed(secret), kind, now))
