"""API keys: create, rotate, rename, list, revoke.

A secret is `sk_live_` or `sk_test_` and 48 characters of `[0-9A-Za-z]`; only its SHA-256 is stored, it is shown once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Interface, ip_interface, ip_network
from typing import Any

import msgspec
from sqlalchemy import Connection

from sendkit_server.manage.audit import Actor
from sendkit_server.model.address import AddressError, ascii_domain, parse_mailbox
from sendkit_server.model.instant import DAY_MS, LAST, Instant, api_time
from sendkit_server.model.mail import NO_RESTRICTIONS, ApiKey, Restrictions, Warning_
from sendkit_server.model.permissions import PRESETS, parse_permission, preset_of
from sendkit_server.store.directory import hash_secret
from sendkit_server.store.queries import audit as audit_queries
from sendkit_server.store.queries import domains as domain_queries
from sendkit_server.store.queries import keys as queries
from sendkit_server.store.queries.pages import Part, Window
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

SECRET_CHARACTERS = 48
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX_CHARACTERS = 12
MAX_NAME_CHARACTERS = 255
MAX_OVERLAP_MS = 30 * DAY_MS
MAX_DAILY_LIMIT = 1_000_000_000
MAPPED_BITS = 96  # of an IPv6 address before the IPv4 address that it holds

_decoder = msgspec.json.Decoder(Restrictions)


_BOUND_IN_SENDING = Warning_(
    "restrictions_bind_sending",
    "The restrictions hold for what the key sends; what else its permissions allow it may do with all that the team has.",
    "Make it with the permission send, unless it is to manage the team or read its mail.",
)


class ManageError(Exception):
    """An action that cannot be done; the message says why and what to do instead. field: the member at fault, if it is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class KeyWish(msgspec.Struct, frozen=True):
    """What a new key is to be. permissions: a preset or a comma list.  domains: ids or names."""

    name: str
    permissions: str = "full"
    test: bool = False
    domains: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    recipient_domains: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    daily_limit: int | None = None
    rewrite_from: bool = False
    shadow: bool = False
    expires_at: Instant | None = None


class CreatedKey(msgspec.Struct, frozen=True):
    """A new key with its secret, which nobody can read again."""

    key: ApiKey
    secret: str

    @property
    def warnings(self) -> tuple[Warning_, ...]:
        """What whoever made it may not expect of it."""
        kept, more = self.key.restrictions, self.key.permissions - PRESETS["send"]
        is_bound = bool(
            self.key.domain_id or kept.domain_ids or kept.senders or kept.recipient_domains or kept.daily_limit
        )
        return (_BOUND_IN_SENDING,) if is_bound and more else ()


def make_secret(*, test: bool, entropy: Callable[[int], bytes]) -> str:
    """A new secret. entropy: n random bytes."""
    # 64 bytes reduced below 62^48 leave a bias of less than 2^-200.
    number = int.from_bytes(entropy(64), "big")
    characters = []
    for _ in range(SECRET_CHARACTERS):
        number, index = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[index])
    return ("sk_test_" if test else "sk_live_") + "".join(characters)


async def create_key(store: Store, team_id: int, wish: KeyWish, by: Actor, grantor: ApiKey | None = None) -> CreatedKey:
    """Makes a key. grantor: the key that asks for it; it cannot give what it does not have. ManageError."""
    name = wish.name.strip()
    if not name or len(name) > MAX_NAME_CHARACTERS:
        raise ManageError("A key needs a name of 1 to 255 characters: it is how you find it again.", "name")
    try:
        permissions = parse_permission(wish.permissions)
    except ValueError as error:
        raise ManageError(str(error), "permission") from None
    _check_end(wish.expires_at, by.now)
    if grantor is not None:
        _check_grantor(grantor, permissions, test=wish.test)
        _check_outlived(grantor, wish.expires_at, "Give expires_at, no later than that.")
    restrictions = _restrictions(wish)
    secret = make_secret(test=wish.test, entropy=by.entropy)
    key_id = by.new_id("key")

    def write(connection: Connection) -> ApiKey:
        found = [_domain_id(connection, team_id, domain) for domain in wish.domains]
        only = found[0] if len(found) == 1 else None
        limits = msgspec.structs.replace(restrictions, domain_ids=() if only else tuple(dict.fromkeys(found)))
        key = ApiKey(
            key_id, team_id, name, secret[:PREFIX_CHARACTERS], permissions, wish.test, only, wish.expires_at, limits
        )
        queries.insert_key(connection, _row(key, secret, by.now))
        by.record(connection, team_id, "keys.create", key_id, {"name": name, "permissions": sorted(permissions)})
        return key

    return CreatedKey(await store.write(write), secret)


async def rotate_key(
    store: Store, team_id: int, key_id: str, overlap_ms: int, by: Actor, grantor: ApiKey | None = None
) -> CreatedKey | None:
    """A new key that may do what the old one may; the old one ends after the overlap. None: there is no such key.

    grantor: as create_key. ManageError, also for a key that has ended or has a successor: the new one would end with it.
    """
    if not 0 <= overlap_ms <= MAX_OVERLAP_MS:
        raise ManageError("The overlap is at most 30 days.", "overlap")
    new_id = by.new_id("key")

    def write(connection: Connection) -> CreatedKey | None:
        row = queries.find_key(connection, team_id, key_id)
        if row is None:
            return None
        old = key_of(row)
        if grantor is not None:
            _check_grantor(grantor, old.permissions, test=old.test)
            _check_outlived(grantor, old.expires_at, "Rotate it with a key that does not end before it.")
        _check_rotatable(connection, old, by.now)
        secret = make_secret(test=row.test, entropy=by.entropy)
        key = msgspec.structs.replace(old, id=new_id, prefix=secret[:PREFIX_CHARACTERS])
        queries.insert_key(connection, _row(key, secret, by.now))
        ends = by.now + overlap_ms
        queries.end_key(connection, team_id, key_id, ends if old.expires_at is None else min(ends, old.expires_at))
        by.record(connection, team_id, "keys.rotate", key_id, {"new": new_id, "overlap_ms": overlap_ms})
        return CreatedKey(key, secret)

    return await store.write(write)


async def rename_key(
    store: Store, team_id: int, key_id: str, name: str, by: Actor, grantor: ApiKey | None = None
) -> AnyRow | None:
    """Gives a key another name; None: there is no such key. grantor: the key that asks for it. ManageError."""
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARACTERS:
        raise ManageError("A key needs a name of 1 to 255 characters: it is how you find it again.", "name")

    def write(connection: Connection) -> AnyRow | None:
        _check_reach(connection, team_id, key_id, grantor, "rename")
        if not queries.rename_key(connection, team_id, key_id, name):
            return None
        by.record(connection, team_id, "keys.rename", key_id, {"name": name})
        return queries.find_key(connection, team_id, key_id)

    return await store.write(write)


async def show_key(store: Store, team_id: int, key_id: str) -> AnyRow | None:
    """A living key; None: there is no such key."""
    return await store.read(lambda connection: queries.find_key(connection, team_id, key_id))


async def list_keys(store: Store, team_id: int, window: Window) -> Part:
    """The team's living keys, newest first."""
    return await store.read(lambda connection: queries.list_keys(connection, team_id, window))


async def revoke_key(store: Store, team_id: int, key_id: str, by: Actor, grantor: ApiKey | None = None) -> bool:
    """Revokes a key at once, in every door. False when there is no such key. grantor: the key that asks for it. ManageError."""

    def write(connection: Connection) -> bool:
        _check_reach(connection, team_id, key_id, grantor, "revoke")
        revoked = queries.revoke_key(connection, team_id, key_id, by.now)
        if revoked:
            by.record(connection, team_id, "keys.revoke", key_id)
        return revoked

    return await store.write(write)


def permission_word(permissions: str) -> str:
    """`full`, `send`, `read` or `custom` for a stored permission list."""
    return preset_of(frozenset(permissions.split(",")))


def worded(row: AnyRow, now: Instant) -> dict[str, Any]:
    """A key as JSON, without its secret."""
    restrictions = _decoder.decode(row.restrictions)
    expired = row.expires_at is not None and row.expires_at <= now
    return {
        "id": row.id,
        "name": row.name,
        "prefix": row.prefix,
        "permission": permission_word(row.permissions),
        "permissions": sorted(row.permissions.split(",")),
        "test": row.test,
        "domain_id": row.domain_id,
        "domain_ids": list(restrictions.domain_ids) or ([row.domain_id] if row.domain_id else []),
        "senders": list(restrictions.senders),
        "recipient_domains": list(restrictions.recipient_domains),
        "networks": list(restrictions.networks),
        "daily_limit": restrictions.daily_limit,
        "rewrite_from": restrictions.rewrite_from,
        "shadow": restrictions.shadow,
        "status": "expired" if expired else "active",
        "expires_at": api_time(row.expires_at),
        "last_used_at": api_time(row.last_used_at),
        "created_at": api_time(row.created_at),
    }


def key_of(row: AnyRow) -> ApiKey:
    """A stored key as the doors see it."""
    return ApiKey(
        row.id,
        row.team_id,
        row.name,
        row.prefix,
        frozenset(row.permissions.split(",")),
        row.test,
        row.domain_id,
        row.expires_at,
        _decoder.decode(row.restrictions),
    )


def _row(key: ApiKey, secret: str, now: Instant) -> dict[str, Any]:
    return {
        "team_id": key.team_id,
        "id": key.id,
        "name": key.name,
        "secret_hash": hash_secret(secret),
        "prefix": key.prefix,
        "permissions": ",".join(sorted(key.permissions)),
        "test": key.test,
        "domain_id": key.domain_id,
        "restrictions": msgspec.json.encode(key.restrictions).decode(),
        "created_at": now,
        "expires_at": key.expires_at,
    }


def _check_grantor(grantor: ApiKey, permissions: frozenset[str], *, test: bool) -> None:
    """A key cannot make one that may do more than itself."""
    if lacking := sorted(permissions - grantor.permissions):
        raise ManageError(
            f"This API key cannot give permissions that it does not have: {', '.join(lacking)}.", "permission"
        )
    if grantor.test and not test:
        raise ManageError("A test key can make only test keys.", "test")
    if grantor.domain_id is not None or grantor.restrictions != NO_RESTRICTIONS:
        raise ManageError("An API key with restrictions cannot make keys.")


def _check_outlived(grantor: ApiKey, expires_at: Instant | None, what_to_do: str) -> None:
    """A key cannot make one that goes on when it has ended itself."""
    ends = grantor.expires_at
    if ends is not None and (expires_at is None or expires_at > ends):
        text = f"This API key ends at {api_time(ends)} UTC, and cannot make one that ends later. {what_to_do}"
        raise ManageError(text, "expires_at")


def _check_reach(connection: Connection, team_id: int, key_id: str, grantor: ApiKey | None, verb: str) -> None:
    """A test key does nothing to live ones, which real mail is sent with."""
    if grantor is None or not grantor.test:
        return
    row = queries.find_key(connection, team_id, key_id)
    if row is not None and not row.test:
        raise ManageError(f"A test key can {verb} only test keys.")


def _check_rotatable(connection: Connection, key: ApiKey, now: Instant) -> None:
    """What ends soon, or has ended, would hand its end on."""
    if key.expires_at is None:
        return
    successor = audit_queries.last_detail(connection, key.team_id, "keys.rotate", key.id)
    if successor is not None:
        new_id = json.loads(successor)["new"]
        raise ManageError(f"The API key was rotated already: rotate its successor {new_id}, or make a new key.")
    if key.expires_at <= now:
        raise ManageError("The API key has expired, and a new one would have the same end: make a new key instead.")


def _check_end(expires_at: Instant | None, now: Instant) -> None:
    if expires_at is not None and expires_at <= now:
        raise ManageError("The expires_at field must be a time in the future.", "expires_at")
    if expires_at is not None and expires_at > LAST:
        raise ManageError("The expires_at field must be a time before the year 10000.", "expires_at")


def _domain_id(connection: Connection, team_id: int, name: str) -> str:
    found = domain_queries.find_domain(connection, team_id, name.lower())
    if found is None:
        raise ManageError(
            f"There is no domain {name}; add it first (POST /domains or `sendkit domains add`).", "domain_id"
        )
    return str(found.id)


def _restrictions(wish: KeyWish) -> Restrictions:
    if wish.daily_limit is not None and not 1 <= wish.daily_limit <= MAX_DAILY_LIMIT:
        raise ManageError(f"The daily limit field must be a whole number from 1 to {MAX_DAILY_LIMIT}.", "daily_limit")
    senders = tuple(_sender(text) for text in wish.senders)
    if wish.rewrite_from and not any(not sender.startswith("*") for sender in senders):
        raise ManageError(
            "rewrite_from needs a whole address in senders: it is what mail will be sent from.", "senders"
        )
    return Restrictions(
        senders=senders,
        recipient_domains=tuple(_ascii(text, "recipient_domains") for text in wish.recipient_domains),
        networks=tuple(_network(text) for text in wish.networks),
        daily_limit=wish.daily_limit,
        rewrite_from=wish.rewrite_from,
        shadow=wish.shadow,
    )


def _sender(text: str) -> str:
    if text.startswith("*@"):
        return "*@" + _ascii(text[2:], "senders")
    try:
        return parse_mailbox(text).matching
    except AddressError:
        raise ManageError(
            f"{text!r} is no sender: give an address, or *@example.com for all of a domain.", "senders"
        ) from None


def _ascii(text: str, field: str) -> str:
    try:
        return ascii_domain(text.strip())
    except AddressError:
        raise ManageError(f"{text!r} is no domain name.", field) from None


def _network(text: str) -> str:
    try:
        given = ip_interface(text.strip())
    except ValueError:
        raise ManageError(f"{text!r} is no network: give one such as 192.0.2.0/24.", "networks") from None
    if isinstance(given, IPv4Interface):
        return str(given.network)
    if given.scope_id is not None:
        raise ManageError(f"{text!r} names an interface of this machine: leave out what follows the %.", "networks")
    mapped = given.ip.ipv4_mapped
    if mapped is None:
        return str(given.network)
    # Clients are known by their IPv4 address, however the socket spells it.
    length = given.network.prefixlen - MAPPED_BITS
    if length < 0:
        raise ManageError(f"{text!r} is broader than IPv4 is: give the IPv4 network, such as 192.0.2.0/24.", "networks")
    return str(ip_network((mapped, length), strict=False))
