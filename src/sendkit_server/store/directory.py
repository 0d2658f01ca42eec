"""Who may send what, as the hot paths look it up: keys by secret, domains by name, both kept in memory.

A look-up that is cached is answered at once, synchronously; any other reads the database. Every management write
forgets everything at its commit, so a revoked key is dead when the call that revoked it returns; and an entry lives at
most a second, for the day when another process writes too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

import msgspec
from sqlalchemy import Connection, select

from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import NO_RESTRICTIONS, ApiKey, Restrictions
from sendkit_server.store import schema

LIFETIME_S = 1.0
MAX_ENTRIES = 20_000

_restrictions = msgspec.json.Decoder(Restrictions)

K = TypeVar("K")
V = TypeVar("V")


class SendingDomain(msgspec.Struct, frozen=True):
    """A domain as accept sees it. sendable: verified, or vouched for by the operator.  tls_enforced: its mail leaves only
    over TLS to hosts that prove their names."""

    id: str
    name: str
    sendable: bool
    tls_enforced: bool = False


class Cache(Generic[K, V]):
    """A bounded map whose entries die of age, or all at once."""

    def __init__(self, lifetime_s: float = LIFETIME_S, clock: Callable[[], float] = monotonic) -> None:
        self._entries: dict[K, tuple[float, V]] = {}
        self._lifetime_s = lifetime_s
        self._clock = clock
        self.generation = 0

    def get(self, key: K) -> tuple[V] | None:
        """The value in a tuple, for None may be one; None when there is none."""
        found = self._entries.get(key)
        if found is None or found[0] < self._clock():
            return None
        return (found[1],)

    def put(self, key: K, value: V, generation: int) -> None:
        """Keeps a value that was read while `generation` was current; one that may be stale already is dropped."""
        if generation != self.generation:
            return
        if len(self._entries) >= MAX_ENTRIES:
            self._entries.clear()
        self._entries[key] = (self._clock() + self._lifetime_s, value)

    def forget(self) -> None:
        """Drops everything, also what is being read right now."""
        self.generation += 1
        self._entries.clear()


def hash_secret(secret: str) -> bytes:
    """What is stored of an API key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def find_key(connection: Connection, secret_hash: bytes) -> ApiKey | None:
    """The key with this hash, unless it is revoked."""
    table, team = schema.api_key, schema.team
    row = connection.execute(
        select(table, team.c.paused_at, team.c.paused_reason)
        .join(team, team.c.id == table.c.team_id)
        .where(table.c.secret_hash == secret_hash, table.c.revoked_at.is_(None))
    ).one_or_none()
    if row is None:
        return None
    return ApiKey(
        id=row.id,
        team_id=row.team_id,
        name=row.name,
        prefix=row.prefix,
        permissions=frozenset(row.permissions.split(",")),
        test=row.test,
        domain_id=row.domain_id,
        expires_at=row.expires_at,
        restrictions=NO_RESTRICTIONS if row.restrictions == "{}" else _restrictions.decode(row.restrictions),
        team_paused=None if row.paused_at is None else row.paused_reason or "",
    )


def find_domain(connection: Connection, team_id: int, name: str) -> SendingDomain | None:
    """The team's domain of this name."""
    table = schema.domain
    row = connection.execute(select(table).where(table.c.team_id == team_id, table.c.name == name)).one_or_none()
    if row is None:
        return None
    return SendingDomain(row.id, row.name, row.trusted or row.status == "verified", row.tls == "enforced")


def is_expired(key: ApiKey, now: Instant) -> bool:
    """Whether the key's time is over."""
    return key.expires_at is not None and key.expires_at <= now
