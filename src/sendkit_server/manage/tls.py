"""How mail to others' servers was secured, and by which policies: what `sendkit tls` shows."""

from __future__ import annotations

import msgspec

from sendkit_server.manage.keys import ManageError
from sendkit_server.model.address import AddressError, ascii_domain
from sendkit_server.model.instant import DAY_MS, Instant, day_of
from sendkit_server.store.queries import tls as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.queries.tls import StoredPolicy
from sendkit_server.store.store import Store

MOST_DAYS = 400


class Shown(msgspec.Struct, frozen=True):
    """counts: rows of domain, policy, mx_host, result, sessions.  policies: MTA-STS, those that bind now."""

    counts: list[AnyRow]
    policies: list[StoredPolicy]


async def show(store: Store, domain: str | None, days: int, now: Instant) -> Shown:
    """The last days, today among them (UTC), of one recipient domain or (None) of all. ManageError: not a domain."""
    try:
        name = None if domain is None else ascii_domain(domain.strip())
    except AddressError as error:
        raise ManageError(f"{domain!r} is no domain: {error}") from None
    if not 1 <= days <= MOST_DAYS:
        raise ManageError(f"days must be 1 to {MOST_DAYS}: nothing older is kept")
    since = day_of(now) - (days - 1) * DAY_MS
    counts = await store.read(lambda connection: queries.sum_counts(connection, name, since))
    policies = await store.read(lambda connection: queries.list_policies(connection, name, now))
    return Shown(list(counts), policies)
