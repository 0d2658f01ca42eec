"""The hot operations: what is accepted is there, what is due is claimed once, what is completed is final."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path

import msgspec
import psycopg
import pytest
from sqlalchemy import func, select
from store_mails import completion, new_mail, owned_job

from sendkit_server.model.mail import Attachment, PartsContent, Priority, RawContent, Tag
from sendkit_server.model.status import Status
from sendkit_server.store import schema
from sendkit_server.store.postgres import hot as postgres
from sendkit_server.store.queries import emails
from sendkit_server.store.sqlite import hot as sqlite
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.values import Claim, Job


async def claim(store: Store, now: int = 100_000, **more: object) -> list[Job]:
    wanted = {"exclude_sites": frozenset(), "per_site": 100, "limit": 100, **more}
    return (await store.claim(Claim(store.owner, now, **wanted))).jobs  # type: ignore[arg-type]


async def statuses(store: Store, job: Job) -> list[str]:
    found = await store.read(lambda connection: emails.find_email(connection, 1, job.message.id))
    assert found is not None
    return [found.message.status, *(recipient.status for recipient in found.recipients)]


@pytest.mark.parametrize(
    "content",
    [
        PartsContent(
            "s", "<p>x</p>", "x", headers=(("X-A", "b"),), attachments=(Attachment("a", "text/plain", b"\0\xff"),)
        ),
        RawContent(b"From: a@b.test\r\n\r\n\x00\xff"),
    ],
)
async def test_a_content_comes_back_as_it_was(store: Store, content: object) -> None:
    mail = new_mail(store.owner, content=content)  # type: ignore[arg-type]
    await store.accept(mail)
    assert await store.content(1, mail.messages[0].message.content_id) == content


async def test_what_is_owned_is_not_claimed_and_what_is_not_is_claimed_once(store: Store) -> None:
    await store.accept(new_mail(store.owner, owned=True))
    waiting = new_mail(store.owner, owned=False)
    await store.accept(waiting)
    (job,) = await claim(store)
    assert job.message == waiting.messages[0].message
    assert job.recipients == waiting.messages[0].recipients
    assert (job.fence, job.content, job.size_bytes) == (1, waiting.content, 100)
    assert await claim(store) == []


async def test_nothing_is_claimed_before_it_is_due(store: Store) -> None:
    await store.accept(new_mail(store.owner, owned=False, at=5_000))
    assert await store.next_due() == 5_000
    assert await claim(store, now=4_999) == []
    assert len(await claim(store, now=5_000)) == 1
    assert await store.next_due() is None


async def test_a_message_gives_one_job_a_site(store: Store) -> None:
    await store.accept(new_mail(store.owner, "a@one.test", "b@two.test", "c@one.test", owned=False))
    jobs = await claim(store)
    assert [(job.site, [recipient.n for recipient in job.recipients]) for job in jobs] == [
        ("one.test", [0, 2]),
        ("two.test", [1]),
    ]


async def test_a_site_with_a_long_backlog_hides_nobody(store: Store) -> None:
    for _ in range(30):
        await store.accept(new_mail(store.owner, "x@aaa.test", owned=False))
    await store.accept(new_mail(store.owner, "x@zzz.test", owned=False, at=90_000))
    jobs = await claim(store, per_site=5)
    assert [job.site for job in jobs] == ["aaa.test"] * 5 + ["zzz.test"]
    assert await claim(store, exclude_sites=frozenset({"aaa.test"})) == []


async def test_the_round_over_the_sites_goes_on_where_it_stopped(store: Store) -> None:
    for site in ("a.test", "b.test", "c.test"):
        for _ in range(3):
            await store.accept(new_mail(store.owner, f"x@{site}", owned=False))
    seen = []
    after = ""
    for _ in range(9):
        wanted = Claim(store.owner, 100_000, frozenset(), per_site=100, limit=1, after_site=after)
        claimed = await store.claim(wanted)
        if not claimed.jobs:
            assert claimed.reached == ""  # the round is complete
            claimed = await store.claim(msgspec.structs.replace(wanted, after_site=""))
        (job,) = claimed.jobs
        seen.append(job.site)
        after = claimed.reached
    assert seen == ["a.test", "b.test", "c.test"] * 3
    assert await claim(store, after_site="b.test") == []


async def test_a_slice_of_a_round_says_where_the_next_one_goes_on(store: Store) -> None:
    for n in range(5):
        await store.accept(new_mail(store.owner, f"x@s{n}.test", owned=False, at=200_000 if n < 4 else 5_000))
    wanted = Claim(store.owner, 100_000, frozenset(), per_site=100, limit=100, max_sites=2)
    reached = []
    while True:
        claimed = await store.claim(wanted)
        reached.append((claimed.reached, len(claimed.jobs)))
        if not claimed.reached:
            break
        wanted = msgspec.structs.replace(wanted, after_site=claimed.reached)
    assert reached == [("s1.test", 0), ("s3.test", 0), ("", 1)]


async def test_urgent_mail_is_claimed_first_and_alone_where_only_that_is_wanted(store: Store) -> None:
    for priority in (Priority.BULK, Priority.NORMAL, Priority.URGENT):
        for _ in range(2):
            await store.accept(new_mail(store.owner, owned=False, priority=priority))
    jobs = await claim(store, per_site=1)
    assert [job.message.priority for job in jobs] == [Priority.URGENT]
    jobs = await claim(store, urgent_only=frozenset({"there.test"}))
    assert [job.message.priority for job in jobs] == [Priority.URGENT]
    assert await claim(store, urgent_only=frozenset({"there.test"})) == []
    left = sorted(job.message.priority for job in await claim(store))
    assert left == [Priority.NORMAL] * 2 + [Priority.BULK] * 2


async def test_where_only_urgent_mail_is_wanted_no_site_gives_any_other(store: Store) -> None:
    for site in ("a.test", "b.test", "c.test"):
        for priority in (Priority.BULK, Priority.NORMAL, Priority.URGENT):
            await store.accept(new_mail(store.owner, f"x@{site}", owned=False, priority=priority))
    wanted = {"least": Priority.URGENT, "exclude_sites": frozenset({"a.test"})}
    jobs = await claim(store, urgent_only=frozenset({"b.test"}), **wanted)
    assert [(job.site, job.message.priority) for job in jobs] == [("b.test", 0), ("c.test", 0)]
    assert await claim(store, **wanted) == []
    assert len(await claim(store, least=Priority.NORMAL)) == 4


async def test_of_a_site_no_more_is_claimed_than_fits_and_the_rest_waits_for_the_next_claim(store: Store) -> None:
    for at in (5_000, 6_000, 7_000, 8_000):
        await store.accept(new_mail(store.owner, "x@big.test", owned=False, at=at, size_bytes=400))
        await store.accept(new_mail(store.owner, "x@small.test", owned=False, at=at, size_bytes=100))
    seen = []
    for _ in range(3):
        jobs = await claim(store, site_bytes=500)
        seen.append([(job.site, job.message.created_at) for job in jobs])
        assert {job.fence for job in jobs} <= {1}  # what was not fetched has not been owned meanwhile
    assert seen[0] == [
        ("big.test", 5_000),
        ("big.test", 6_000),
        *(("small.test", at) for at in (5_000, 6_000, 7_000, 8_000)),
    ]
    assert seen[1:] == [[("big.test", 7_000), ("big.test", 8_000)], []]


async def test_all_sites_together_give_no_more_than_fits_and_the_round_goes_on_behind_them(store: Store) -> None:
    for site in ("a.test", "b.test", "c.test", "d.test"):
        for _ in range(2):
            await store.accept(new_mail(store.owner, f"x@{site}", owned=False, size_bytes=300))
    seen = []
    after = ""
    while True:
        wanted = Claim(store.owner, 100_000, frozenset(), 100, 100, after, site_bytes=300, room_bytes=500)
        claimed = await store.claim(wanted)
        seen.append(([job.site for job in claimed.jobs], claimed.reached))
        if not claimed.reached:
            break
        after = claimed.reached
    assert seen == [(["a.test", "b.test"], "b.test"), (["c.test", "d.test"], "d.test"), ([], "")]
    assert [job.site for job in await claim(store, site_bytes=300, room_bytes=500)] == ["a.test", "b.test"]


async def test_a_site_with_more_than_fits_hides_nobody_behind_it(store: Store) -> None:
    for _ in range(20):
        await store.accept(new_mail(store.owner, "x@aaa.test", owned=False, size_bytes=1_000))
    await store.accept(new_mail(store.owner, "x@zzz.test", owned=False, size_bytes=1))
    seen = []
    after = ""
    while not seen or after:
        wanted = Claim(store.owner, 100_000, frozenset(), 100, 10, after, site_bytes=2_000)
        claimed = await store.claim(wanted)
        seen += [job.site for job in claimed.jobs]
        after = claimed.reached
    assert seen == ["aaa.test", "aaa.test", "zzz.test"]


async def test_a_mail_that_is_larger_than_any_bound_goes_and_nothing_behind_it(store: Store) -> None:
    for at, size_bytes in ((5_000, 9_000), (6_000, 1)):
        await store.accept(new_mail(store.owner, "x@a.test", owned=False, at=at, size_bytes=size_bytes))
    await store.accept(new_mail(store.owner, "x@b.test", owned=False, size_bytes=1))
    bounds = {"site_bytes": 1, "room_bytes": 1}
    assert [job.size_bytes for job in await claim(store, **bounds)] == [9_000]
    assert [job.site for job in await claim(store, after_site="a.test", **bounds)] == ["b.test"]
    assert [job.size_bytes for job in await claim(store, **bounds)] == [1]


async def test_urgent_mail_has_what_fits_before_the_rest_of_its_site(store: Store) -> None:
    for at, priority in ((5_000, Priority.NORMAL), (6_000, Priority.URGENT), (7_000, Priority.URGENT)):
        await store.accept(new_mail(store.owner, owned=False, at=at, priority=priority, size_bytes=300))
    assert [job.message.created_at for job in await claim(store, site_bytes=500)] == [6_000, 7_000]
    assert [job.message.created_at for job in await claim(store, site_bytes=500)] == [5_000]


async def test_a_message_to_several_at_a_site_counts_once_and_is_claimed_whole(store: Store) -> None:
    several = [f"u{n}@there.test" for n in range(5)]
    for at in (5_000, 6_000):
        await store.accept(new_mail(store.owner, *several, owned=False, at=at, size_bytes=300))
    # At the same moment, so only their ids tell them apart.
    await store.accept(new_mail(store.owner, *several, owned=False, at=6_000, size_bytes=300))
    jobs = await claim(store, site_bytes=301)
    assert [(job.message.created_at, len(job.recipients)) for job in jobs] == [(5_000, 5), (6_000, 5)]
    jobs = await claim(store, site_bytes=1, room_bytes=1)
    assert [(len(job.recipients), job.shared) for job in jobs] == [(5, False)]


async def test_however_much_waits_a_claim_goes_by_indexes(store: Store, database_url: str | None) -> None:
    """A site that is only looked through is a minute, once a million wait there."""
    with store.engine.open_writer() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        if database_url is None:
            found = [
                row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sqlite._TAKE}", (1, "a.test", 1, 5_000, 10, 100))
            ]
            read = [line for line in found if re.search(r"\b(recipient|message)\b", line)]
            assert len(read) == 4 and all(
                "(site=? AND priority=?" in line or "team_id=? AND " in line for line in read
            ), found
        else:
            asked = {"sites": ["a.test"], "most_urgent": [2], "priorities": [0, 1, 2], "now": 5_000, "owner": 1}
            bounds = {"per_site": 10, "limit": 10, "site_bytes": 100, "room_bytes": 100}
            found = [row[0] for row in raw.execute(f"EXPLAIN {postgres._CLAIM}", asked | bounds)]
            read = [line for line in found if "Index Cond" in line]
            assert not any("Seq Scan" in line or "Bitmap" in line for line in found), found
            assert read and all("(site = " in line or ("(team_id = " in line and "id = " in line) for line in read), (
                found
            )


async def test_how_a_mail_wants_to_travel_comes_back_with_it(store: Store) -> None:
    mail = new_mail(
        store.owner, owned=False, priority=Priority.BULK, expires_at=9_000_000, require_tls=True, stream="news"
    )
    await store.accept(mail)
    (job,) = await claim(store)
    assert job.message == mail.messages[0].message


async def test_a_completion_settles_and_leaves_attempt_and_events(store: Store) -> None:
    mail = new_mail(store.owner)
    await store.accept(mail)
    job = owned_job(mail)
    assert await store.complete(completion(job)) is True
    assert await statuses(store, job) == ["delivered", "delivered"]
    (attempt,) = await store.read(lambda connection: emails.list_attempts(connection, 1, job.message.id))
    assert (attempt.route, attempt.host, attempt.milliseconds) == ("direct", "mx.there.test", 12)
    assert await store.next_due() is None
    assert await claim(store) == []


async def test_a_deferral_makes_it_due_again_with_a_higher_fence(store: Store) -> None:
    mail = new_mail(store.owner)
    await store.accept(mail)
    await store.complete(completion(owned_job(mail), Status.DELAYED, next_at=50_000))
    assert await store.next_due() == 50_000
    (again,) = await claim(store, now=50_000)
    assert again.fence == 2
    assert (again.recipients[0].attempts, again.recipients[0].status) == (1, Status.DELAYED)


async def test_a_completion_with_an_old_fence_or_owner_writes_nothing(store: Store) -> None:
    mail = new_mail(store.owner)
    await store.accept(mail)
    stale = owned_job(mail)
    await store.complete(completion(stale, Status.DELAYED, next_at=6_000))
    (current,) = await claim(store)
    assert await store.complete(completion(stale, Status.BOUNCED)) is False
    assert await statuses(store, current) == ["delivery_delayed", "delivery_delayed"]
    assert await store.complete(completion(current)) is True
    assert await store.complete(completion(current)) is False
    count = select(func.count()).select_from(schema.attempt)
    assert await store.read(lambda connection: connection.execute(count).scalar()) == 2


async def test_a_message_with_several_recipients_shows_the_least_settled(store: Store) -> None:
    mail = new_mail(store.owner, "a@one.test", "b@two.test", owned=False)
    await store.accept(mail)
    first, second = await claim(store)
    await store.complete(completion(first))
    assert await statuses(store, first) == ["queued", "delivered", "queued"]
    await store.complete(completion(second, Status.BOUNCED))
    assert await statuses(store, first) == ["bounced", "delivered", "bounced"]


async def test_one_bad_value_in_a_group_fails_alone(store: Store) -> None:
    good, bad = new_mail(store.owner), new_mail(store.owner)
    await store.accept(bad)
    results = await asyncio.gather(
        store.accept(good), store.accept(bad), store.accept(new_mail(store.owner)), return_exceptions=True
    )
    assert (results[0], results[2]) == (None, None)
    assert isinstance(results[1], (sqlite3.IntegrityError, psycopg.IntegrityError))
    assert await store.content(1, good.messages[0].message.content_id) == good.content


async def test_labels_are_stored_once_however_often_they_are_given(store: Store) -> None:
    mail = new_mail(store.owner, tags=(Tag("a", "1"), Tag("a", "1"), Tag("b")))
    await store.accept(mail)
    rows = await store.read(lambda connection: connection.execute(select(schema.message_label)).all())
    assert sorted((row.kind, row.name, row.value) for row in rows) == [("tag", "a", "1"), ("tag", "b", "")]


async def test_a_new_start_frees_what_the_last_one_owned_and_counts_no_attempt(
    tmp_path: Path, database_url: str | None
) -> None:
    first = open_store(tmp_path, "secret", "first", database_url)
    first.start(1_000)
    mail = new_mail(first.owner)
    await first.accept(mail)
    first.close()
    second = open_store(tmp_path, "secret", "second", database_url)
    second.start(2_000)
    try:
        assert second.owner != first.owner
        (job,) = await claim(second)
        assert (job.fence, job.recipients[0].attempts) == (2, 0)
        assert await second.complete(completion(job)) is True
    finally:
        second.close()


async def test_many_waiting_operations_share_commits(store: Store) -> None:
    before = store.commits
    await asyncio.gather(*(store.accept(new_mail(store.owner)) for _ in range(300)))
    assert store.commits - before < 100
