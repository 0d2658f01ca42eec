"""What is kept of ordered certificates, as values: the table `acme` opened and sealed.

All nodes share it: the account at an authority, a certificate a name, the tries since, and the answers to challenges,
so that whichever node an authority comes to can give them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection

from sendkit_server.model.certificate import Account, Certificate, Challenge, Tries
from sendkit_server.model.instant import Instant
from sendkit_server.store import seal
from sendkit_server.store.queries import acme as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.seal import SealBroken
from sendkit_server.store.store import Store

ACCOUNT, CERTIFICATE, TRIES, CHALLENGE = "account", "certificate", "tries", "challenge"
KINDS: dict[str, Any] = {ACCOUNT: Account, CERTIFICATE: Certificate, TRIES: Tries, CHALLENGE: Challenge}

log = structlog.get_logger("acme")


class Book(msgspec.Struct, frozen=True):
    """All that is kept. accounts: by the authority's directory.  certificates, tries: by name.  challenges: with when each
    was written.  hosts: of tracking links."""

    accounts: dict[str, Account]
    certificates: dict[str, Certificate]
    tries: dict[str, Tries]
    challenges: list[tuple[Instant, Challenge]]
    hosts: list[str]


async def read(store: Store) -> Book:
    """Everything, as it stands. StoreUnavailable."""

    def both(connection: Connection) -> tuple[Sequence[AnyRow], list[str]]:
        return queries.list_values(connection), queries.tracking_hosts(connection)

    rows, hosts = await store.read(both)
    book = Book({}, {}, {}, [], hosts)
    for row in rows:
        value = None if row.kind not in KINDS else _open(store, row.kind, bytes(row.value))
        match value:
            case Account():
                book.accounts[row.name] = value
            case Certificate():
                book.certificates[row.name] = value
            case Tries():
                book.tries[row.name] = value
            case Challenge():
                book.challenges.append((row.updated_at, value))
            case _:
                log.warning("acme.value_unreadable", kind=row.kind, name=row.name)
    return book


async def keep(store: Store, values: Iterable[tuple[str, str, msgspec.Struct]], now: Instant) -> None:
    """Writes (kind, name, value). StoreError."""
    sealed = [(kind, name, _seal(store, value)) for kind, name, value in values]

    def put(connection: Connection) -> None:
        for kind, name, value in sealed:
            queries.put_value(connection, kind, name, value, now)

    await store.write_quietly(put)


async def keep_issued(store: Store, certificate: Certificate, now: Instant) -> None:
    """Writes a certificate, and that there is no trouble about its name any more. StoreError."""
    sealed = _seal(store, certificate)

    def put(connection: Connection) -> None:
        queries.put_value(connection, CERTIFICATE, certificate.name, sealed, now)
        queries.remove_values(connection, TRIES, [certificate.name])

    await store.write_quietly(put)


async def remove(store: Store, kind: str, names: Sequence[str]) -> None:
    """Removes values. StoreError."""
    await store.write_quietly(lambda connection: queries.remove_values(connection, kind, names))


async def answer(store: Store, token: str) -> str | None:
    """What an authority that comes with this token is answered (RFC 8555 8.3); None: nobody asked for it."""
    if re.fullmatch(r"[A-Za-z0-9_-]{16,256}", token) is None:
        return None
    value = await store.read(lambda connection: queries.find_value(connection, CHALLENGE, token))
    challenge = None if value is None else _open(store, CHALLENGE, value)
    return None if challenge is None else str(challenge.answer)


def certificate_of(name: str, chain: str, key: str, directory: str) -> Certificate:
    """A chain as it was issued. ValueError when it is none, or not for the name."""
    leaf = leaf_of(chain.encode())
    if name not in dns_names_of(leaf):
        raise ValueError(f"the certificate that was issued is not for {name}")
    return Certificate(
        name,
        chain,
        key,
        directory,
        issuer_of(leaf),
        int(leaf.not_valid_before_utc.timestamp() * 1000),
        int(leaf.not_valid_after_utc.timestamp() * 1000),
    )


def leaf_of(pem: bytes) -> x509.Certificate:
    """The first certificate of a chain. ValueError."""
    return x509.load_pem_x509_certificate(pem)


def dns_names_of(leaf: x509.Certificate) -> list[str]:
    """The DNS names a certificate is for."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in found.get_values_for_type(x509.DNSName)]


def issuer_of(leaf: x509.Certificate) -> str:
    """Who issued it: organization and name, as far as they are there."""
    parts = [
        str(found[0].value)
        for kind in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
        if (found := leaf.issuer.get_attributes_for_oid(kind))
    ]
    return " ".join(dict.fromkeys(parts)) or leaf.issuer.rfc4514_string()


def _seal(store: Store, value: msgspec.Struct) -> bytes:
    return seal.seal(store.secret_key, seal.ACME_PURPOSE, msgspec.json.encode(value))


def _open(store: Store, kind: str, value: bytes) -> Any:
    """The value; None when it was sealed with another key, or by a version that wrote it otherwise."""
    try:
        return msgspec.json.decode(seal.unseal(store.secret_key, seal.ACME_PURPOSE, value), type=KINDS[kind])
    except (SealBroken, msgspec.DecodeError):
        return None
