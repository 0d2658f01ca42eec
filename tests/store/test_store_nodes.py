"""Several incarnations at one store: who owns what, who is dead, and that nothing is taken, or written back, twice."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from traceback import walk_tb
from typing import Any

import msgspec
import psycopg
import pytest
from databases import PostgresServer
from databases.proxy import Proxy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update
from store_mails import completion, new_mail, owned_job

from sendkit_server.model.address import Mailbox
from sendkit_server.model.instant import DAY_MS
from sendkit_server.model.status import Status, message_status
from sendkit_server.store import membership as membership_module
from sendkit_server.store import schema
from sendkit_server.store.engine import Mark
from sendkit_server.store.errors import StoreUnavailable
from sendkit_server.store.lease import BEAT_S, LIFETIME_MS, MARGIN_S
from sendkit_server.store.membership import GRACE_S, NOTICED_S, Membership
from sendkit_server.store.postgres import hot
from sendkit_server.store.queries import emails, nodes
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.values import Claim, Completion, Job

NOW = 1_000_000


async def claim(store: Store, now: int = 100_000_000, owner: int | None = None, **more: object) -> list[Job]:
    wanted = {"exclude_sites": frozenset(), "per_site": 1000, "limit": 1000, **more}
    return (await store.claim(Claim(store.owner if owner is None else owner, now, **wanted))).jobs  # type: ignore[arg-type]


async def register(store: Store, instance: str, now: int = NOW, *, alone: bool = False) -> int:
    who = nodes.Who(instance, "host", 1, "deliver", "0")
    return await store.write_quietly(lambda connection: nodes.register(connection, who, now, alone=alone))


async def free(store: Store) -> int:
    return await store.write_quietly(nodes.free_orphans)


async def status(store: Store, job: Job) -> list[str]:
    found = await store.read(lambda connection: emails.find_email(connection, 1, job.message.id))
    assert found is not None
    return [found.message.status, *(recipient.status for recipient in found.recipients)]


@pytest.fixture
async def other(store: Store, tmp_path: Path, database_url: str) -> AsyncIterator[Store]:
    """A second node on the same database."""
    folder = tmp_path / "other"
    folder.mkdir()
    opened = open_store(folder, "secret", "other", database_url)
    opened.start(2_000)
    yield opened
    opened.close()


# Incarnations, with times given.


async def test_a_late_node_is_not_dead_until_another_has_ended_it(store: Store) -> None:
    late = await register(store, "late")
    assert late not in await store.write_quietly(lambda c: nodes.end_expired(c, NOW + LIFETIME_MS))
    assert await store.write_quietly(lambda c: nodes.beat(c, late, NOW + 100 * LIFETIME_MS))
    after = NOW + 101 * LIFETIME_MS
    assert late not in await store.write_quietly(lambda c: nodes.end_expired(c, after))
    assert late in await store.write_quietly(lambda c: nodes.end_expired(c, after + 1))
    assert not await store.write_quietly(lambda c: nodes.beat(c, late, after + 2))


async def test_what_an_ended_node_owned_is_claimed_with_a_higher_fence_and_its_completion_refused(store: Store) -> None:
    dead = await register(store, "dead")
    mail = new_mail(dead)
    await store.accept(mail)
    assert await claim(store) == []
    assert await free(store) == 0
    assert dead in await store.write_quietly(lambda c: nodes.end_expired(c, NOW + LIFETIME_MS + 1))
    assert await free(store) == 1
    (job,) = await claim(store)
    stale = owned_job(mail)
    assert (stale.fence, job.fence, job.recipients) == (1, 2, stale.recipients)
    assert not await store.complete(completion(stale, Status.BOUNCED))
    assert await store.complete(completion(job))
    assert await status(store, job) == ["delivered", "delivered"]


async def test_what_a_node_writes_after_its_end_is_freed_too(store: Store) -> None:
    dead = await register(store, "dead")
    await store.write_quietly(lambda c: nodes.end(c, dead, NOW))
    assert await free(store) == 0
    await store.accept(new_mail(dead))
    await store.accept(new_mail(store.owner, owned=False))
    assert len(await claim(store, owner=dead)) == 1
    assert await free(store) == 2
    assert len(await claim(store)) == 2


async def test_what_belongs_to_an_owner_that_nobody_knows_is_freed_and_what_the_living_own_is_not(store: Store) -> None:
    living = await register(store, "living")
    for owner in (0, living, 999_999):
        await store.accept(new_mail(owner, "a@one.test", "b@two.test"))
    assert await free(store) == 4
    assert len(await claim(store)) == 4
    assert await free(store) == 0


async def test_orphans_are_freed_in_slices(store: Store) -> None:
    many = nodes.FREED_AT_ONCE + 150
    for start in range(0, many, 50):
        addresses = [f"u{n}@there.test" for n in range(start, start + 50)]
        await store.accept(new_mail(7_777, *addresses))
    assert [await free(store) for _ in range(3)] == [nodes.FREED_AT_ONCE, 150, 0]


async def test_a_restart_in_the_same_directory_frees_at_once_and_another_directory_does_not(store: Store) -> None:
    first = await register(store, "same")
    second = await register(store, "different")
    await store.accept(new_mail(first))
    await store.accept(new_mail(second))
    again = await register(store, "same", NOW + 1)
    assert again not in (first, second)
    assert not await store.write_quietly(lambda c: nodes.beat(c, first, NOW + 2))
    assert await store.write_quietly(lambda c: nodes.beat(c, second, NOW + 2))
    assert [job.fence for job in await claim(store)] == [2]


async def test_who_is_alone_ends_all_others(store: Store) -> None:
    others = [await register(store, name) for name in ("one", "two")]
    for owner in others:
        await store.accept(new_mail(owner))
    alone = await register(store, "three", alone=True)
    rows = await store.read(lambda connection: nodes.living(connection, NOW))
    assert [row.id for row in rows] == [alone]
    assert len(await claim(store)) == 2


async def test_rows_of_nodes_that_ended_a_week_ago_are_forgotten(store: Store) -> None:
    old, new = await register(store, "old"), await register(store, "new")
    await store.write_quietly(lambda c: nodes.end(c, old, NOW))
    await store.write_quietly(lambda c: nodes.end(c, new, NOW + DAY_MS))
    await store.write_quietly(lambda c: nodes.forget_ended(c, NOW + 7 * DAY_MS + 1))
    found = await store.read(lambda connection: connection.execute(select(schema.node.c.id)).scalars().all())
    assert old not in found and new in found


# Two stores at once.


@pytest.mark.engine("postgres")
async def test_two_stores_that_claim_at_once_get_each_recipient_exactly_once(store: Store, other: Store) -> None:
    for start in range(0, 1000, 50):
        addresses = [f"u{n}@s{n % 7}.test" for n in range(start, start + 50)]
        await store.accept(new_mail(store.owner, *addresses, owned=False))
    taken: Counter[tuple[str, int]] = Counter()
    shares: Counter[int] = Counter()

    async def take_all(node: Store) -> None:
        after = ""
        while jobs := await claim(node, per_site=5, limit=20, after_site=after):
            after = jobs[-1].site
            for job in jobs:
                assert job.owner == node.owner
                shares[node.owner] += len(job.recipients)
                taken.update((job.message.id, recipient.n) for recipient in job.recipients)

    # Rows that the other one holds just then are skipped, so a round may end early.
    while sum(taken.values()) < 1000:
        await asyncio.gather(take_all(store), take_all(other))
    assert len(taken) == 1000 and set(taken.values()) == {1}
    assert len(shares) == 2


@pytest.mark.engine("postgres")
async def test_recipients_of_one_message_completed_by_two_nodes_at_once_give_the_right_status(
    store: Store, other: Store
) -> None:
    outcomes = [Status.DELIVERED, Status.BOUNCED, Status.DELAYED]
    for first_outcome, second_outcome in itertools.islice(itertools.cycle(itertools.product(outcomes, outcomes)), 54):
        mail = new_mail(store.owner, "a@one.test", "b@two.test", owned=False)
        await store.accept(mail)
        (first,) = await claim(store, exclude_sites=frozenset({"two.test"}))
        (second,) = await claim(other)
        at = [900_000_000 if outcome is Status.DELAYED else None for outcome in (first_outcome, second_outcome)]
        done = await asyncio.gather(
            store.complete(completion(first, first_outcome, at[0])),
            other.complete(completion(second, second_outcome, at[1])),
        )
        assert done == [True, True]
        assert (await status(store, first))[0] == message_status([first_outcome, second_outcome])


@pytest.mark.engine("postgres")
async def test_a_completion_that_comes_too_late_leaves_the_message_with_the_status_of_its_recipients(
    store: Store, other: Store, database_url: str
) -> None:
    mail = new_mail(store.owner, "a@one.test", "b@two.test", owned=False)
    await store.accept(mail)
    (stale,) = await claim(store, exclude_sites=frozenset({"two.test"}))
    await store.write_quietly(
        lambda c: c.execute(update(schema.recipient).where(schema.recipient.c.n == 0).values(owner=None))
    )
    jobs = await claim(other)
    assert len(jobs) == 2
    with psycopg.connect(database_url) as connection:
        # The other node is in the middle of writing that both are delivered ...
        hot.complete_many(connection, [completion(job) for job in jobs])
        # ... when the first one, whose mail it is not any more, comes with its own outcome.
        late = asyncio.ensure_future(store.complete(completion(stale, Status.BOUNCED)))
        await waits_or_is_done(late, connection)
        connection.commit()
    assert not await late
    assert await status(store, stale) == ["delivered", "delivered", "delivered"]


async def waits_or_is_done(work: asyncio.Future[object], holder: psycopg.Connection[tuple[object, ...]]) -> None:
    """Until the work waits for a lock that the holder's transaction holds."""
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(5):
        while not work.done() and holder.execute(waits).fetchone() == (0,):
            await asyncio.sleep(0.01)


@pytest.mark.engine("postgres")
async def test_nodes_that_write_outcomes_of_the_same_messages_do_not_get_into_each_others_way(
    store: Store, other: Store, postgres_server: PostgresServer, database_url: str
) -> None:
    for _ in range(40):
        await store.accept(new_mail(store.owner, *(f"u@s{n}.test" for n in range(10)), owned=False))
    half = frozenset(f"s{n}.test" for n in range(5))
    mine, its = await claim(store, exclude_sites=half), await claim(other)
    assert len(mine) == len(its) == 200
    results = await asyncio.gather(
        *(store.complete(completion(job)) for job in mine), *(other.complete(completion(job)) for job in reversed(its))
    )
    assert all(results)
    found = await store.read(lambda c: c.exec_driver_sql("SELECT DISTINCT status FROM message").scalars().all())
    assert found == ["delivered"]
    # Each deadlock costs both writers a second.
    said = [
        line
        for line in postgres_server.log.read_text().splitlines()
        if database_url.split("/")[3].split("?")[0] in line
    ]
    assert not [line for line in said if "deadlock detected" in line]


@pytest.mark.engine("postgres")
async def test_freeing_a_dead_nodes_mail_never_takes_it_from_who_has_claimed_it_meanwhile(
    store: Store, other: Store, database_url: str
) -> None:
    await store.accept(new_mail(7_777, *(f"u@s{n}.test" for n in range(40))))
    claimed: list[Job] = []
    for busy in range(3):
        with psycopg.connect(database_url) as holder:
            # One row is busy, so this node's burial stops there, with all that follow before its eyes.
            holder.execute("SELECT 1 FROM recipient WHERE n = %s FOR UPDATE", (busy,))
            burial = asyncio.ensure_future(free(store))
            await waits_or_is_done(burial, holder)
            # Another node has been quicker with those, and claims them.
            with psycopg.connect(database_url, autocommit=True) as quicker:
                quicker.execute(FREE_WHAT_NOBODY_HOLDS, (7_777,))
            claimed += await claim(other)
            holder.rollback()
        await burial
    assert claimed
    results = [await other.complete(completion(job)) for job in claimed]
    assert results == [True] * len(claimed)


FREE_WHAT_NOBODY_HOLDS = """
UPDATE recipient SET owner = NULL WHERE (message_id, n) IN (
    SELECT message_id, n FROM recipient WHERE owner = %s FOR UPDATE SKIP LOCKED)
"""


@pytest.mark.engine("postgres")
async def test_two_nodes_bury_a_third_with_a_long_queue_and_every_mail_is_claimed_once(
    store: Store, other: Store
) -> None:
    for start in range(0, 3000, 50):
        await store.accept(new_mail(7_777, *(f"u{n}@s{n % 5}.test" for n in range(start, start + 50))))
    taken: Counter[tuple[str, int]] = Counter()
    over = asyncio.Event()

    async def bury(node: Store) -> None:
        while await free(node):
            pass

    async def take(node: Store) -> None:
        while not over.is_set():
            for job in await claim(node, limit=200):
                taken.update((job.message.id, recipient.n) for recipient in job.recipients)

    taking = [asyncio.ensure_future(take(node)) for node in (store, other)]
    await asyncio.gather(bury(store), bury(other))
    async with asyncio.timeout(20):
        while sum(taken.values()) < 3000:
            await asyncio.sleep(0.01)
    over.set()
    await asyncio.gather(*taking)
    assert len(taken) == 3000 and set(taken.values()) == {1}


@pytest.mark.engine("postgres")
async def test_making_new_partitions_holds_up_nobody_while_a_backup_reads_the_tables(
    store: Store, database_url: str
) -> None:
    later = int(time.time() * 1000) + 400 * DAY_MS
    with psycopg.connect(database_url) as backup:
        for table in ("content", "message", "recipient", "attempt", "event", "captured", "message_label"):
            backup.execute(f"SELECT 1 FROM {table} LIMIT 1".encode())
        making = asyncio.ensure_future(asyncio.to_thread(_maintain, store, later))
        await waits_or_is_done(making, backup)
        try:
            await asyncio.wait_for(asyncio.shield(store.accept(new_mail(store.owner))), 3)
        finally:
            backup.rollback()
            await making


def _maintain(store: Store, now: int) -> None:
    try:
        store.engine.maintain(now)
    except psycopg.Error:
        return  # it may give up, and be called again


# The same on both engines.


STATUSES = st.lists(st.sampled_from(sorted(Status)), min_size=2, max_size=6)


@given(STATUSES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_messages_status_is_that_of_its_recipients_whatever_they_came_to(
    store: Store, found: list[Status]
) -> None:
    mail = new_mail(store.owner, *(f"u@s{n}.test" for n in range(len(found))))
    await store.accept(mail)
    new = mail.messages[0]
    for recipient, outcome in zip(new.recipients, found, strict=True):
        job = Job(new.message, (recipient,), recipient.mailbox.domain, 1, 1, None, store.owner, shared=True)
        await store.complete(completion(job, outcome))
    assert (await status(store, job))[0] == message_status(found)


async def test_words_from_elsewhere_may_hold_nul(store: Store) -> None:
    mail = new_mail(store.owner)
    new = mail.messages[0]
    message = msgspec.structs.replace(new.message, subject="a\0b", message_id="<1\0@x.test>")
    box = Mailbox("ann", "there.test", "An\0n")
    recipient = msgspec.structs.replace(new.recipients[0], mailbox=box)
    new = msgspec.structs.replace(new, message=message, recipients=(recipient,))
    mail = msgspec.structs.replace(mail, messages=(new,))
    await store.accept(mail)
    done = completion(owned_job(mail), Status.DELAYED, next_at=6_000)
    said = msgspec.structs.replace(done.updates[0], explanation="no\0way", enhanced="4\0.0")
    assert done.attempt is not None
    attempt = msgspec.structs.replace(done.attempt, host="mx\0.test", tls="TLS\0")
    assert await store.complete(Completion(done.job, attempt, (said,), done.events, done.at))
    found = await store.read(lambda connection: emails.find_email(connection, 1, message.id))
    assert found is not None
    row = found.recipients[0]
    assert (found.message.subject, row.explanation, row.name, row.enhanced) == (
        "a\ufffdb", "no\ufffdway", "An\ufffdn", "4\ufffd.0",
    )  # fmt: skip
    (job,) = await claim(store)
    assert job.message.subject == "a\ufffdb"


async def test_both_engines_go_round_the_sites_by_their_bytes_and_oldest_mail_first(store: Store) -> None:
    sites = ("Zeta.test", "a-b.test", "a.test", "ab.test", "xn--bcher-kva.test", "10.test", "b--c.test")
    for at, site in itertools.product((7_000, 5_000, 6_000), sites):
        await store.accept(new_mail(store.owner, f"x@{site}", owned=False, at=at))
    seen: list[tuple[str, int]] = []
    after = ""
    for _ in range(3):
        while True:
            wanted = Claim(store.owner, 100_000, frozenset(), per_site=1, limit=2, after_site=after)
            claimed = await store.claim(wanted)
            seen += [(job.site, job.message.created_at) for job in claimed.jobs]
            after = claimed.reached
            if not after:
                break
    in_order = sorted((site.lower() for site in sites), key=str.encode)
    assert seen == [(site, at) for at in (5_000, 6_000, 7_000) for site in in_order]


async def test_only_so_many_sites_are_looked_at_and_the_excluded_cost_no_place(store: Store) -> None:
    for n in range(6):
        await store.accept(new_mail(store.owner, f"x@s{n}.test", owned=False))
    assert [job.site for job in await claim(store, max_sites=3)] == ["s0.test", "s1.test", "s2.test"]
    left = await claim(store, exclude_sites=frozenset({"s3.test"}), after_site="s2.test", limit=2)
    assert [job.site for job in left] == ["s4.test", "s5.test"]


# This process among the nodes, by a clock that the test moves.


class Elapsed:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


class Member:
    """A membership and what it has told. peers: the last; lost: the lease's owner each time an incarnation was lost."""

    def __init__(self, store: Store) -> None:
        self.elapsed = Elapsed()
        self.store = store
        store.lease.elapsed = self.elapsed
        store.lease.begin(store.owner, store.lease.elapsed(), for_ever=False)
        self.peers: Sequence[int] | None = ()
        self.lost: list[tuple[int, bool]] = []
        self.kept = 0
        self.membership = Membership(
            store, "deliver,http", lambda: 0, on_peers=self._peers, on_lost=self._lost, on_kept=self._kept
        )

    @classmethod
    async def of(cls, store: Store) -> Member:
        delivers = update(schema.node).where(schema.node.c.id == store.owner).values(roles="deliver,http")
        await store.write_quietly(lambda connection: connection.execute(delivers))
        return cls(store)

    def _peers(self, owners: Sequence[int] | None) -> None:
        self.peers = owners

    def _lost(self) -> None:
        self.lost.append((self.store.owner, self.store.lease.holds()))

    def _kept(self) -> None:
        self.kept += 1

    async def beat(self, after_s: float = 0.0) -> None:
        self.elapsed.s += after_s
        await self.membership.beat()

    async def until_kept(self, times: int) -> None:
        wanted = self.kept + times
        async with asyncio.timeout(8):
            while self.kept < wanted:
                await asyncio.sleep(0.005)


async def state(store: Store, owner: int) -> Any:
    return await store.read(lambda c: c.execute(select(schema.node).where(schema.node.c.id == owner)).one())


async def register_now(store: Store, instance: str, roles: str = "deliver") -> int:
    def work(connection: Connection) -> int:
        now = store.engine.now(connection)
        assert now is not None
        return nodes.register(connection, nodes.Who(instance, "host", 1, roles, "0"), now, alone=False)

    return await store.write_quietly(work)


@pytest.mark.engine("postgres")
async def test_who_is_the_only_one_that_delivers_has_everything_at_once(store: Store) -> None:
    member = await Member.of(store)
    await register_now(store, "doors", roles="http,smtp")
    await member.beat()
    assert member.peers == [store.owner]


@pytest.mark.engine("postgres")
async def test_a_newcomer_waits_until_the_others_have_seen_it(store: Store) -> None:
    member = await Member.of(store)
    before = await register_now(store, "before")
    await member.beat()
    assert member.peers is None
    await member.beat(BEAT_S)
    assert member.peers is None
    await member.beat(NOTICED_S - BEAT_S)
    assert member.peers == sorted([store.owner, before])
    newcomer = await register_now(store, "newcomer")
    await member.beat(BEAT_S)
    assert member.peers == sorted([store.owner, before, newcomer])


@pytest.mark.engine("postgres")
async def test_a_silent_node_is_buried_only_by_one_that_has_had_the_database_for_a_while(store: Store) -> None:
    member = await Member.of(store)
    dead = await register(store, "dead")
    await store.accept(new_mail(dead))
    await member.beat()
    for _ in range(int(GRACE_S / BEAT_S) - 1):
        await member.beat(BEAT_S)
        assert (await state(store, dead)).ended_at is None
    await member.beat(BEAT_S)
    assert (await state(store, dead)).ended_at is not None
    assert len(await claim(store)) == 1
    await member.beat(BEAT_S)
    assert member.peers == [store.owner]


@pytest.mark.engine("postgres")
async def test_after_a_time_without_the_database_the_others_get_to_speak_first(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership_module, "BEAT_S", 0.01)
    monkeypatch.setattr(membership_module, "RETRY_S", 0.01)
    with Proxy(database_url) as proxy, ExitStack() as cleanup:
        store = open_store(tmp_path, "secret", "tests", proxy.url)
        store.start(1_000)
        cleanup.callback(store.close)
        member = await Member.of(store)
        dead = await register(store, "dead")
        running = asyncio.create_task(member.membership.run())
        await member.until_kept(1)
        proxy.refuse = True
        proxy.cut()
        kept = -1
        async with asyncio.timeout(8):
            while member.kept != kept:
                kept = member.kept
                await asyncio.sleep(0.3)
        member.elapsed.s += 40
        assert not store.lease.holds()
        proxy.refuse = False
        await member.until_kept(5)
        assert store.lease.holds() and not member.lost
        assert (await state(store, dead)).ended_at is None
        member.elapsed.s += GRACE_S
        await member.until_kept(5)
        assert (await state(store, dead)).ended_at is not None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.engine("postgres")
async def test_who_was_ended_by_others_forgets_and_begins_anew(store: Store) -> None:
    member = await Member.of(store)
    before = store.owner
    await store.accept(new_mail(before))
    await member.beat()
    await store.write_quietly(lambda c: nodes.end(c, before, NOW))
    await member.beat(BEAT_S)
    # Told while it was nobody: nothing can go out in the old name, and nothing yet in the new one.
    assert member.lost == [(0, False)]
    assert store.owner not in (0, before) and store.lease.holds()
    row = await state(store, store.owner)
    assert (row.ended_at, row.roles) == (None, "deliver,http")
    assert [job.fence for job in await claim(store)] == [2]
    await member.beat(BEAT_S)
    assert member.peers == [store.owner] and len(member.lost) == 1


@pytest.mark.engine("postgres")
async def test_the_lease_of_a_new_incarnation_counts_from_before_it_was_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = await Member.of(store)
    await store.write_quietly(lambda c: nodes.end(c, store.owner, NOW))
    write = store.write_quietly

    async def slow(function: Callable[[Connection], Any]) -> Any:
        result = await write(function)
        member.elapsed.s += 9
        return result

    monkeypatch.setattr(store, "write_quietly", slow)
    await member.beat()
    # Two writes of 9 s; the database counts the 30 s from the second one's beginning.
    member.elapsed.s = 9 + LIFETIME_MS / 1000 - MARGIN_S
    assert not store.lease.holds()


@pytest.mark.engine("postgres")
async def test_the_lease_of_a_start_counts_from_before_it_was_written(tmp_path: Path, database_url: str) -> None:
    store = open_store(tmp_path, "secret", "tests", database_url)
    elapsed = store.lease.elapsed = Elapsed()
    run = store.engine.run

    def slow(*arguments: Any) -> Any:
        result = run(*arguments)
        elapsed.s += 9
        return result

    store.engine.run = slow  # type: ignore[method-assign]
    store.start(1_000)
    store.close()
    elapsed.s = LIFETIME_MS / 1000 - MARGIN_S
    assert not store.lease.holds()


@pytest.mark.engine("postgres")
async def test_the_nodes_clock_is_the_databases(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hour_ns = 3_600_000_000_000
    real = time.time_ns
    monkeypatch.setattr(membership_module, "time_ns", lambda: real() + hour_ns)
    monkeypatch.setattr(time, "time_ns", lambda: real() + hour_ns)
    assert abs(store.wall_ns() - real()) > hour_ns / 2
    await (await Member.of(store)).beat()
    assert abs(store.wall_ns() - real()) < 2_000_000_000


@pytest.mark.engine("postgres")
async def test_who_leaves_frees_what_it_owns_and_wakes_the_others(store: Store, other: Store) -> None:
    member = await Member.of(store)
    await member.beat()
    await store.accept(new_mail(store.owner))
    woken = asyncio.Event()
    loop = asyncio.get_running_loop()
    deafen = other.engine.listen(lambda: loop.call_soon_threadsafe(woken.set))
    assert deafen is not None
    try:
        await asyncio.wait_for(woken.wait(), 5)  # it listens
        woken.clear()
        await member.membership.leave()
        await asyncio.wait_for(woken.wait(), 5)
    finally:
        await asyncio.to_thread(deafen)
    assert len(await claim(other)) == 1
    assert (await state(store, store.owner)).ended_at is not None


async def test_on_sqlite_nobody_has_to_be_convinced_of_anything(tmp_path: Path) -> None:
    store = open_store(tmp_path, "secret", "tests")
    store.start(1_000)
    try:
        told: list[object] = []
        membership = Membership(
            store, "deliver", lambda: 0, on_peers=told.append, on_lost=lambda: told.append(0), on_kept=lambda: None
        )
        await asyncio.wait_for(membership.run(), 5)
        await membership.leave()
        assert not told and store.lease.holds()
        assert await store.read(lambda c: len(nodes.living(c, 0))) == 1
    finally:
        store.close()


@pytest.mark.engine("postgres")
async def test_who_leaves_while_a_heartbeat_is_under_way_does_not_come_back(store: Store) -> None:
    member = await Member.of(store)
    await member.beat()
    await asyncio.gather(member.membership.leave(), member.membership.beat())
    assert not await store.read(lambda connection: nodes.living(connection, 0))


@pytest.mark.engine("postgres")
async def test_a_commit_that_was_lost_while_a_new_incarnation_began_is_looked_up_under_the_old_one(
    tmp_path: Path, database_url: str
) -> None:
    with Proxy(database_url) as proxy, ExitStack() as cleanup:
        store = open_store(tmp_path, "secret", "tests", proxy.url)
        store.start(1_000)
        cleanup.callback(store.close)
        new = await register(store, "new")
        transact = store.engine.transact

        def then_begin(*group: Any) -> Any:
            try:
                return transact(*group)
            finally:
                store.begin(new, store.lease.elapsed())

        store.engine.transact = then_begin  # type: ignore[method-assign]
        proxy.lose_commits = 1
        mail = new_mail(store.owner)
        await store.accept(mail)
        assert proxy.lost == 1
        assert await store.content(1, mail.messages[0].message.content_id) == mail.content


@pytest.mark.engine("postgres")
async def test_an_outage_that_many_are_told_of_is_told_to_the_last_as_shortly_as_to_the_first(
    tmp_path: Path, database_url: str
) -> None:
    with Proxy(database_url) as proxy, ExitStack() as cleanup:
        store = open_store(tmp_path, "secret", "tests", proxy.url)
        store.start(1_000)
        cleanup.callback(store.close)
        proxy.refuse = True
        proxy.lose_commits = 1
        unknown = asyncio.ensure_future(store.accept(new_mail(store.owner)))
        while not proxy.lost:
            await asyncio.sleep(0.005)
        longest = 0
        for _ in range(300):
            with pytest.raises(StoreUnavailable) as told:
                await store.accept(new_mail(store.owner))
            longest = max(longest, sum(1 for _ in walk_tb(told.value.__traceback__)))
        proxy.refuse = False
        await asyncio.wait_for(unknown, 10)
        # Each is a line in the log.
        assert longest < 30


@pytest.mark.engine("postgres")
async def test_a_transaction_that_arrives_after_it_was_looked_up_as_lost_changes_nothing(
    store: Store, database_url: str
) -> None:
    await store.accept(new_mail(store.owner, owned=False))
    lost = Mark(store.owner, 1_000)  # still in a pooler, or in the queue of a busy server
    with store.engine.open_writer() as connection:
        assert store.engine.was_committed(connection, lost) is False
    wanted = Claim(store.owner, 100_000, frozenset(), 10, 10)
    with store.engine.open_writer() as late, suppress(Exception):
        store.engine.transact(late, [("claim", [wanted])], lost)
    # Claimed by nobody who knows of it, it would wait for as long as its owner lives.
    assert len(await claim(store)) == 1
