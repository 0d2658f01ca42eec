"""What is kept about TLS to others: the policies that domains have published, and how connections were secured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, delete, func, select, text

from sendkit_server.model.instant import Instant
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.rows import json_text
from sendkit_server.store.schema import mta_sts, tls_count

MOST_ROWS = 1000  # of a list
SLICE = 500

# The same words on both engines. Of two nodes that fetched it the later one is right.
_KEEP = text(
    "INSERT INTO mta_sts (domain, policy_id, mode, mx, fetched_at, expires_at)"
    " VALUES (:domain, :policy_id, :mode, :mx, :fetched_at, :expires_at)"
    " ON CONFLICT (domain) DO UPDATE SET policy_id = excluded.policy_id, mode = excluded.mode, mx = excluded.mx,"
    " fetched_at = excluded.fetched_at, expires_at = excluded.expires_at"
    " WHERE excluded.fetched_at >= mta_sts.fetched_at"
)
_ADD = text(
    "INSERT INTO tls_count (day, domain, policy, mx_host, result, sessions)"
    " VALUES (:day, :domain, :policy, :mx_host, :result, :sessions)"
    " ON CONFLICT (day, domain, policy, mx_host, result)"
    " DO UPDATE SET sessions = tls_count.sessions + excluded.sessions"
)


class StoredPolicy(msgspec.Struct, frozen=True):
    """A domain's MTA-STS policy as it was fetched. mx: host names and patterns."""

    domain: str
    policy_id: str
    mode: str
    mx: tuple[str, ...]
    fetched_at: Instant
    expires_at: Instant


class CountKey(msgspec.Struct, frozen=True, order=True):
    """What connections are counted by. day: its first moment.  policy, result: in the words of RFC 8460."""

    day: Instant
    domain: str
    policy: str
    mx_host: str
    result: str


def keep_policy(connection: Connection, policy: StoredPolicy) -> None:
    """Writes down a policy, unless a later one is known."""
    connection.execute(_KEEP, {**msgspec.structs.asdict(policy), "mx": json_text(list(policy.mx))})


def find_policy(connection: Connection, domain: str) -> StoredPolicy | None:
    """A domain's policy, be it expired or not."""
    row = connection.execute(select(mta_sts).where(mta_sts.c.domain == domain)).one_or_none()
    return None if row is None else _policy_of(row)


def list_policies(connection: Connection, domain: str | None, now: Instant) -> list[StoredPolicy]:
    """Those that bind now, by domain, at most MOST_ROWS. domain: only its own."""
    query = select(mta_sts).where(mta_sts.c.expires_at > now)
    if domain is not None:
        query = query.where(mta_sts.c.domain == domain)
    return [_policy_of(row) for row in connection.execute(query.order_by(mta_sts.c.domain).limit(MOST_ROWS))]


def add_counts(connection: Connection, counts: Mapping[CountKey, int]) -> None:
    """Adds to what was counted."""
    # In order, so that two nodes that count the same never wait for each other crosswise.
    rows = [{**msgspec.structs.asdict(key), "sessions": counts[key]} for key in sorted(counts)]
    if rows:
        connection.execute(_ADD, rows)


def sum_counts(connection: Connection, domain: str | None, since: Instant) -> Sequence[AnyRow]:
    """(domain, policy, mx_host, result, sessions) from a day on, by domain, at most MOST_ROWS; domain: only its own."""
    columns = (tls_count.c.domain, tls_count.c.policy, tls_count.c.mx_host, tls_count.c.result)
    query = select(*columns, func.sum(tls_count.c.sessions).label("sessions")).where(tls_count.c.day >= since)
    if domain is not None:
        query = query.where(tls_count.c.domain == domain)
    return connection.execute(query.group_by(*columns).order_by(*columns).limit(MOST_ROWS)).all()


def forget_old(connection: Connection, counted_before: Instant, expired_before: Instant) -> int:
    """Removes a slice of counts of days before the one, and of policies that expired before the other; how many rows."""
    expired = select(mta_sts.c.domain).where(mta_sts.c.expires_at < expired_before).limit(SLICE)
    removed = connection.execute(delete(mta_sts).where(mta_sts.c.domain.in_(expired))).rowcount
    # The key begins with the day: one day at a time is one range of it.
    day = connection.execute(select(func.min(tls_count.c.day))).scalar()
    if day is not None and day < counted_before:
        removed += connection.execute(delete(tls_count).where(tls_count.c.day == day)).rowcount
    return removed


def _policy_of(row: AnyRow) -> StoredPolicy:
    return StoredPolicy(row.domain, row.policy_id, row.mode, tuple(json.loads(row.mx)), row.fetched_at, row.expires_at)
