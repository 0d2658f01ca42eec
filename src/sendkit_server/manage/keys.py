"""API keys: create, list, revoke.

A secret is `sk_live_` or `sk_test_` and 48 characters of `[0-9A-Za-z]`; only its SHA-256 is stored, it is shown once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from sendkit_server.model.ids import ENTROPY_BYTES, make_id
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import ApiKey
from sendkit_server.model.permissions import parse_permission, preset_of
from sendkit_server.store.directory import hash_secret
from sendkit_server.store.queries import domains as domain_queries
from sendkit_server.store.queries import keys as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

SECRET_CHARACTERS = 48
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX_CHARACTERS = 12


class ManageError(Exception):
    """An action that cannot be done; the message says why and what to do instead."""


class CreatedKey(msgspec.Struct, frozen=True):
    """A new key with its secret, which nobody can read again."""

    key: ApiKey
    secret: str


def make_secret(*, test: bool, entropy: Callable[[int], bytes]) -> str:
    """A new secret. entropy: n random bytes."""
    # 64 bytes reduced below 62^48 leave a bias of less than 2^-200.
    number = int.from_bytes(entropy(64), "big")
    characters = []
    for _ in range(SECRET_CHARACTERS):
        number, index = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[index])
    return ("sk_test_" if test else "sk_live_") + "".join(characters)


async def create_key(
    store: Store,
    team_id: int,
    name: str,
    permission: str,
    *,
    test: bool,
    domain: str | None,
    now: Instant,
    entropy: Callable[[int], bytes],
) -> CreatedKey:
    """Makes a key. permission: a preset or a comma list.  domain: id or name of the only domain it may send from."""
    name = name.strip()
    if not name or len(name) > 255:
        raise ManageError("a key needs a name of 1 to 255 characters: it is how you find it again")
    try:
        permissions = parse_permission(permission)
    except ValueError as error:
        raise ManageError(str(error)) from None
    secret = make_secret(test=test, entropy=entropy)
    key_id = make_id("key", now, entropy(ENTROPY_BYTES))

    domain_id = None
    if domain is not None:
        wanted = domain
        found = await store.read(lambda connection: domain_queries.find_domain(connection, team_id, wanted.lower()))
        if found is None:
            raise ManageError(f"there is no domain {domain}; add it with `sendkit domains add {domain}`")
        domain_id = found.id
    values = {
        "team_id": team_id,
        "id": key_id,
        "name": name,
        "secret_hash": hash_secret(secret),
        "prefix": secret[:PREFIX_CHARACTERS],
        "permissions": ",".join(sorted(permissions)),
        "test": test,
        "domain_id": domain_id,
        "created_at": now,
    }
    await store.write(lambda connection: queries.insert_key(connection, values))
    return CreatedKey(ApiKey(key_id, team_id, name, secret[:PREFIX_CHARACTERS], permissions, test, domain_id), secret)


async def list_keys(store: Store, team_id: int) -> Sequence[AnyRow]:
    """The team's living keys, newest first."""
    return await store.read(lambda connection: queries.list_keys(connection, team_id))


async def revoke_key(store: Store, team_id: int, key_id: str, now: Instant) -> bool:
    """Revokes a key at once, in every door. False when there is no such key."""
    return await store.write(lambda connection: queries.revoke_key(connection, team_id, key_id, now))


def permission_word(permissions: str) -> str:
    """`full`, `send`, `read` or `custom` for a stored permission list."""
    return preset_of(frozenset(permissions.split(",")))
