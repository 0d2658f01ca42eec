"""What is sealed in the database, and its change to another secret key.

Everything sealed stands in SEALED: what is not there does not open any more after `sendkit secrets rotate`. The return paths
of mail that was sent before are told by the key that was derived for them from the old secret, so that one is kept, sealed
under the new one; the old secret itself is not.
"""

from __future__ import annotations

import base64

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Table, delete, insert, select, true, update

from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.store import schema, seal
from sendkit_server.store.queries.acme import LEASE
from sendkit_server.store.transfer.marks import FINGERPRINT

SEALED: tuple[tuple[Table, Column[bytes], str, ColumnElement[bool]], ...] = (
    (schema.dkim_key, schema.dkim_key.c.private_key, seal.DKIM_PURPOSE, true()),
    (schema.acme, schema.acme.c.value, seal.ACME_PURPOSE, schema.acme.c.kind != LEASE),
)
"""Table, column, purpose, and which of its rows."""

RETURN_PATHS_KEPT_MS = 30 * DAY_MS
OLDER = "older_return_paths"
OLDER_PURPOSE = "older-return-paths"


class OlderKey(msgspec.Struct, frozen=True):
    """The key of return paths that were made under an earlier secret. until: bounces of so old mail are nobody's."""

    key: bytes
    until: Instant


def reseal(connection: Connection, old: str, new: str, now: Instant) -> int:
    """Seals everything under a new secret key, in the caller's transaction; how many values. SealBroken: one does not open."""
    count = 0
    for table, column, purpose, chosen in SEALED:
        keys = list(table.primary_key.columns)
        for *key, sealed in connection.execute(select(*keys, column).where(chosen)).all():
            value = seal.seal(new, purpose, seal.unseal(old, purpose, bytes(sealed)))
            here = [one == other for one, other in zip(keys, key, strict=True)]
            connection.execute(update(table).where(*here).values({column.name: value}))
            count += 1
    kept = [one for one in older_keys(connection, old) if one.until > now]
    kept.append(OlderKey(seal.derived_key(old, seal.RETURN_PATH_PURPOSE), now + RETURN_PATHS_KEPT_MS))
    sealed_keys = base64.b64encode(seal.seal(new, OLDER_PURPOSE, msgspec.json.encode(kept))).decode()
    _put(connection, OLDER, sealed_keys)
    _put(connection, FINGERPRINT, seal.fingerprint(new))
    return count


def older_keys(connection: Connection, secret_key: str) -> tuple[OlderKey, ...]:
    """The keys of return paths that may still come back."""
    found = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == OLDER)).scalar()
    if found is None:
        return ()
    plain = seal.unseal(secret_key, OLDER_PURPOSE, base64.b64decode(found))
    return msgspec.json.decode(plain, type=tuple[OlderKey, ...])


def _put(connection: Connection, key: str, value: str) -> None:
    connection.execute(delete(schema.meta).where(schema.meta.c.key == key))
    connection.execute(insert(schema.meta).values(key=key, value=value))
