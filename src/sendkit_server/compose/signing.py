"""Which keys sign for a domain, and where its bounces go: read from the store, keys unsealed, and kept in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

import msgspec
from sqlalchemy import Connection

from sendkit_server.store import seal
from sendkit_server.store.queries import domains as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store
from sendkit_server.wire import dkim_keys
from sendkit_server.wire.dkim import DkimKey

LIFETIME_S = 5.0  # then it is looked whether another node has changed them; what is the same is not loaded again


class _Known(msgspec.Struct, frozen=True):
    """Loaded keys of a domain. ids: of their rows.  return_path: the domain of its return path, None: not its own."""

    until: float
    ids: tuple[str, ...]
    keys: tuple[DkimKey, ...]
    return_path: str | None


class Signers:
    """The DKIM keys of every domain that sends. algorithms: which of a domain's keys sign."""

    def __init__(self, store: Store, algorithms: Sequence[str]) -> None:
        self._store = store
        self._algorithms = frozenset(algorithms)
        self._known: dict[tuple[int, str], _Known] = {}
        self._reading = asyncio.Lock()
        store.on_forget.append(self._known.clear)

    async def keys(self, team_id: int, domain: str) -> tuple[DkimKey, ...]:
        """The domain's keys, RSA first; empty when the team has no such domain. SealBroken: another secret key."""
        known = self._known.get((team_id, domain))
        if known is not None and known.until > monotonic():
            return known.keys
        # Reading a key checks it, which takes longer than signing: the mails of a burst wait for one reading.
        async with self._reading:
            known = self._known.get((team_id, domain))
            if known is not None and known.until > monotonic():
                return known.keys
            return_path, rows = await self._store.read(lambda connection: _rows(connection, team_id, domain))
            ids = tuple([row.id for row in rows if row.algorithm in self._algorithms])
            if known is not None and known.ids == ids:
                keys = known.keys
            else:
                keys = tuple([self._loaded(row, domain) for row in rows if row.id in ids])
            if keys:
                self._known[team_id, domain] = _Known(monotonic() + LIFETIME_S, ids, keys, return_path)
            return keys

    def return_path(self, team_id: int, domain: str) -> str | None:
        """The domain's own where DNS was seen to bring its mail to us, as it was known when a mail was last signed for the
        domain; None otherwise."""
        known = self._known.get((team_id, domain))
        return None if known is None else known.return_path

    def _loaded(self, row: AnyRow, domain: str) -> DkimKey:
        private = seal.unseal(self._store.secret_key, seal.DKIM_PURPOSE, row.private_key)
        return dkim_keys.load(private, domain=domain, selector=row.selector)


def _rows(connection: Connection, team_id: int, domain: str) -> tuple[str | None, Sequence[AnyRow]]:
    found = queries.find_domain(connection, team_id, domain)
    if found is None:
        return None, []
    return_path = queries.return_path_of(found) if queries.has_return_path(found) else None
    keys = queries.dkim_keys(connection, team_id, found.id)
    return return_path, [key for key in keys if key.active_from is not None]
