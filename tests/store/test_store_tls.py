"""Policies of recipients' domains, and counts of how connections were secured, on both engines."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, select

from sendkit_server.manage.retention import TLS_COUNTS_MS, Kept, expire
from sendkit_server.model.instant import DAY_MS
from sendkit_server.store import schema
from sendkit_server.store.queries import tls
from sendkit_server.store.queries.tls import CountKey, StoredPolicy
from sendkit_server.store.store import Store

NOW = 20_000 * DAY_MS
POLICY = StoredPolicy("there.test", "1", "enforce", ("mx.there.test", "*.there.test"), NOW, NOW + DAY_MS)
KEY = CountKey(NOW, "there.test", "sts", "mx.there.test", "success")


async def keep(store: Store, policy: StoredPolicy) -> None:
    await store.write_quietly(lambda connection: tls.keep_policy(connection, policy))


async def count(store: Store, **counts: int) -> None:
    found = {msgspec.structs.replace(KEY, domain=f"{name}.test"): number for name, number in counts.items()}
    await store.write_quietly(lambda connection: tls.add_counts(connection, found))


async def test_the_latest_policy_is_kept_whoever_writes_last(store: Store) -> None:
    newer = msgspec.structs.replace(POLICY, policy_id="2", mx=(), mode="none", fetched_at=NOW + 5)
    for policy in (POLICY, newer, POLICY):
        await keep(store, policy)
    assert await store.read(lambda connection: tls.find_policy(connection, "there.test")) == newer
    assert await store.read(lambda connection: tls.find_policy(connection, "here.test")) is None


async def test_only_policies_that_bind_are_listed(store: Store) -> None:
    over = msgspec.structs.replace(POLICY, domain="over.test", expires_at=NOW)
    other = msgspec.structs.replace(POLICY, domain="a.test")
    for policy in (POLICY, over, other):
        await keep(store, policy)
    assert await store.read(lambda connection: tls.list_policies(connection, None, NOW)) == [other, POLICY]
    assert await store.read(lambda connection: tls.list_policies(connection, "there.test", NOW)) == [POLICY]


async def test_counts_add_up_and_are_summed_over_days(store: Store) -> None:
    await count(store, a=2, b=1)
    await count(store, a=3)
    await store.write_quietly(lambda connection: tls.add_counts(connection, {}))
    before = {msgspec.structs.replace(KEY, domain="a.test", day=NOW - DAY_MS): 10}
    await store.write_quietly(lambda connection: tls.add_counts(connection, before))

    async def summed(domain: str | None, since: int) -> list[tuple[str, int]]:
        rows = await store.read(lambda connection: tls.sum_counts(connection, domain, since))
        return [(row.domain, int(row.sessions)) for row in rows]

    assert await summed(None, NOW) == [("a.test", 5), ("b.test", 1)]
    assert await summed("a.test", NOW - DAY_MS) == [("a.test", 15)]
    assert await summed("c.test", 0) == []


async def test_old_counts_and_policies_that_are_over_go(store: Store) -> None:
    old = [NOW - TLS_COUNTS_MS - n * DAY_MS for n in range(3)]
    counts = {msgspec.structs.replace(KEY, day=day): 1 for day in [*old, NOW]}
    await store.write_quietly(lambda connection: tls.add_counts(connection, counts))
    await keep(store, msgspec.structs.replace(POLICY, domain="over.test", expires_at=NOW - DAY_MS - 1))
    await keep(store, POLICY)
    await expire(store, Kept(1, 1, 1, 1), NOW + 1)
    days = select(schema.tls_count.c.day).order_by(schema.tls_count.c.day)
    left = await store.read(lambda connection: [day for (day,) in connection.execute(days)])
    assert left == [NOW]
    policies = select(func.min(schema.mta_sts.c.domain), func.count())
    assert await store.read(lambda connection: tuple(connection.execute(policies).one())) == ("there.test", 1)
