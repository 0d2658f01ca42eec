"""Processes that share a PostgreSQL: what one takes in another delivers, limits hold for all of them, and they know each other."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from statistics import median

import psutil
import pytest
from databases import PgBouncer, PostgresServer
from senders import Journal, all_arrived, by_http, by_smtp, tokens
from server import MAIL, Server, until
from sinks import SILENCE, SmtpSink
from steady import Steady

pytestmark = pytest.mark.engine("postgres")

LOOPBACK_AUTH = {"SENDKIT_SMTP_PLAIN_AUTH": "loopback"}
TAKES_OVER_S = 4.0
Make = Callable[..., Server]


async def start_all(nodes: list[Server]) -> list[Server]:
    return list(await asyncio.gather(*(node.start() for node in nodes)))


def tracebacks(node: Server) -> set[str]:
    """What was logged as if it were a fault of ours."""
    lines = [json.loads(line) for line in node.log.splitlines() if "Traceback" in line]
    return {f"{line['event']} {line['exception'].strip().splitlines()[-1]}" for line in lines}


async def eventually(question: Callable[[], Awaitable[object]], seconds: float, what: str) -> None:
    """Asks until the answer is yes."""
    deadline = time.monotonic() + seconds
    while not await question():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.05)


async def states(node: Server) -> dict[int, str]:
    """By pid."""
    return {row["pid"]: row["state"] for row in (await node.act("nodes.list"))["data"]}


async def know_each_other(nodes: list[Server]) -> None:
    """Until each keeps to its share of so many."""

    async def each_counts_all() -> bool:
        replies = await asyncio.gather(*(node.call("GET", "/metrics") for node in nodes))
        return all(f"sendkit_nodes {len(nodes)}.0" in reply.raw.decode() for reply in replies)

    await eventually(each_counts_all, 15, "all nodes to count the others")


async def test_what_a_door_takes_in_is_delivered_by_another_process_without_looking_for_it(
    make_server: Make, sink: SmtpSink
) -> None:
    doors, deliverer = make_server(SENDKIT_LOG_LEVEL="warning"), make_server(SENDKIT_HTTP_BIND="none")
    await asyncio.gather(doors.start("--roles", "http,smtp"), deliverer.start("--roles", "deliver"))
    key = await doors.live_key()
    first = await doors.send(key)
    await doors.settled(key, first, "delivered")
    took = []
    for n in range(7):
        # Each is taken in when the last one has just been delivered: a look in the next second's time would find it late.
        count = len(sink.mails)
        await doors.send(key, to=f"u{n}@there.test")
        started = time.monotonic()
        await until(lambda count=count: len(sink.mails) > count, 10, "the mail")  # type: ignore[misc]
        took.append(time.monotonic() - started)
    assert median(took) < 0.5, took
    listed = {tuple(row["roles"]): row for row in (await doors.act("nodes.list"))["data"]}
    assert set(listed) == {("http", "smtp"), ("deliver",)}


@pytest.mark.parametrize(("count", "limit"), [(2, 4), pytest.param(3, 1, marks=pytest.mark.long)])
async def test_all_nodes_together_open_no_more_connections_than_a_site_may_get(
    make_server: Make, sink: SmtpSink, count: int, limit: int
) -> None:
    settings = {"SENDKIT_CONNECTIONS_PER_SITE": str(limit), "SENDKIT_LOG_LEVEL": "warning", **LOOPBACK_AUTH}
    nodes = await start_all([make_server(**settings) for _ in range(count)])
    key = await nodes[0].live_key()
    await know_each_other(nodes)
    loads = [Steady(node, key, f"n{n}") for n, node in enumerate(nodes)]
    try:
        await until(lambda: len(sink.mails) > 300, 30, "300 mails")
    finally:
        for load in loads:
            await asyncio.to_thread(load.stop)
    accepted = set().union(*(load.acknowledged for load in loads))
    assert not any(load.refused or load.unknown for load in loads)
    await all_arrived(sink, accepted)
    assert len(tokens(sink)) == len(set(tokens(sink)))
    assert sink.most_open <= limit


async def test_a_node_that_is_told_to_stop_hands_its_queue_over_at_once(make_server: Make, sink: SmtpSink) -> None:
    sink.answers["greeting"] = SILENCE
    leaving, staying = await start_all([make_server(SENDKIT_DRAIN_SECONDS="3") for _ in range(2)])
    await know_each_other([leaving, staying])
    key = await leaving.live_key()
    for n in range(20):
        assert await by_http(leaving, key, f"http-{n}") == 200
    sink.answers.clear()
    assert leaving.process is not None
    leaving.process.send_signal(signal.SIGTERM)
    await all_arrived(sink, [f"http-{n}" for n in range(20)], TAKES_OVER_S)
    assert await leaving.stop() == 0
    assert len(tokens(sink)) == 20
    assert (await states(staying))[leaving.process.pid] == "ended"


async def test_the_list_of_nodes_tells_a_late_one_from_an_ended_one(
    make_server: Make, postgres_server: PostgresServer, database_url: str
) -> None:
    living, dying = await start_all([make_server(), make_server()])
    assert living.process is not None and dying.process is not None
    pid = dying.process.pid
    assert await states(living) == {living.process.pid: "alive", pid: "alive"}
    await dying.kill()
    # As if half a minute had passed.
    postgres_server.execute(database_url, "UPDATE node SET expires_at = expires_at - 40000 WHERE pid = %s", pid)
    assert (await states(living))[pid] == "late"
    status, out, err = await living.command("nodes")
    assert (status, err) == (0, "")
    assert re.search(
        rf"^ *\d+  late   \S+:{pid}  deliver,http,inbound,smtp  since [-0-9: ]+  heartbeat [-0-9: ]+  recipients 0$",
        out,
        re.M,
    )
    # Started again in its own directory it ends what it was before.
    await dying.start()
    assert pid not in {row["pid"] for row in json.loads((await living.command("nodes", "--json"))[1])}
    status, out, _ = await living.command("nodes", "--all", "--json")
    (old,) = [row for row in json.loads(out) if row["pid"] == pid]
    assert old["state"] == "ended" and old["ended_at"]
    assert set(old) == {
        "id", "hostname", "pid", "roles", "version", "state", "started_at", "last_heartbeat_at", "ended_at", "recipients",
    }  # fmt: skip


@pytest.mark.long
async def test_a_killed_nodes_mail_goes_on_elsewhere_once_it_has_been_buried(make_server: Make, sink: SmtpSink) -> None:
    sink.answers["greeting"] = SILENCE
    living, dying = await start_all([make_server(), make_server()])
    await know_each_other([living, dying])
    key = await dying.live_key()
    for n in range(10):
        assert await by_http(dying, key, f"http-{n}") == 200
    await dying.kill()
    assert dying.process is not None
    sink.answers.clear()

    async def is_buried() -> bool:
        return (await states(living))[dying.process.pid] == "ended"  # type: ignore[union-attr]

    await eventually(is_buried, 60, "the burial")
    await all_arrived(sink, [f"http-{n}" for n in range(10)], 5)
    assert len(tokens(sink)) == 10
    assert "node.took_over" in living.log


async def test_five_nodes_that_start_at_once_on_an_empty_database_all_serve(
    make_server: Make, new_database: Callable[..., str], sink: SmtpSink
) -> None:
    database = new_database(empty=True)
    nodes = await start_all([make_server(database) for _ in range(5)])
    assert sum("store.migrated" in node.log for node in nodes) <= 1
    key = await nodes[0].live_key()
    names = [f"http-{n}" for n in range(5)]
    assert (
        await asyncio.gather(*(by_http(node, key, name) for node, name in zip(nodes, names, strict=True))) == [200] * 5
    )
    await all_arrived(sink, names)
    await until(lambda: sum("store.migrated" in node.log for node in nodes) == 1, 5, "the one that migrated to say so")


async def test_a_key_that_one_node_revokes_is_soon_refused_by_the_others(make_server: Make) -> None:
    one, other = await start_all([make_server(), make_server()])
    key = await one.live_key()
    assert (await other.call("POST", "/emails", key, MAIL)).status == 200
    (row,) = (await one.act("keys.list"))["data"]
    await one.act("keys.revoke", id=row["id"])
    revoked_at = time.monotonic()

    async def is_refused() -> bool:
        return (await other.call("POST", "/emails", key, MAIL)).status == 401

    await eventually(is_refused, 5, "the refusal")
    assert time.monotonic() - revoked_at < 1.5


# What keeps a node from starting is one line.


async def refused_to_start(node: Server) -> str:
    """The line."""
    status, out, err = await asyncio.wait_for(node.command("serve"), 20)
    assert (status, out) == (1, "")
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, err
    assert lines[0].startswith("Error: ")
    return lines[0]


async def test_a_node_with_another_secret_key_is_refused(make_server: Make) -> None:
    await make_server().start()
    said = await refused_to_start(make_server(SENDKIT_SECRET_KEY="another one, of forty-eight characters or so, too"))
    assert "SENDKIT_SECRET_KEY" in said


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("postgresql://postgres@/nowhere?host={folder}", '"nowhere" does not exist'),
        ("postgresql://postgres@/x?host=/nowhere", "No such file or directory"),
        ("postgresql://127.0.0.1:1/x", "refused"),
        ("postgresql://postgres@/x?no_such_option=1&host={folder}", "no_such_option"),
        ("mysql://root@127.0.0.1/x", "postgresql://"),
    ],
)
async def test_a_database_that_cannot_be_had_is_told_in_one_line(
    make_server: Make, postgres_server: PostgresServer, url: str, part: str
) -> None:
    said = await refused_to_start(make_server(url.format(folder=postgres_server.directory)))
    assert part in said


async def test_a_wrong_password_is_told_in_one_line_that_does_not_hold_it(
    make_server: Make, own_postgres: PostgresServer
) -> None:
    database = own_postgres.create_database()
    own_postgres.execute(database, "CREATE ROLE sendkit LOGIN PASSWORD 'right'")
    hba = own_postgres.data_dir / "pg_hba.conf"
    hba.write_text("local all sendkit scram-sha-256\nlocal all postgres trust\n")
    own_postgres.execute(database, "SELECT pg_reload_conf()")
    said = await refused_to_start(make_server(database.replace("postgres@", "sendkit:wr0ng@")))
    assert "password authentication failed" in said
    assert "wr0ng" not in said


# Behind a pooler that lends connections by the transaction.


async def test_behind_a_pooler_mail_goes_its_way_under_load_and_a_killed_node_loses_none(
    make_server: Make, sink: SmtpSink, postgres_server: PostgresServer, database_url: str
) -> None:
    async with AsyncExitStack() as stack:
        pooler = PgBouncer(postgres_server)
        stack.callback(pooler.cleanup)
        await asyncio.to_thread(pooler.start)
        database = pooler.url(database_url)
        one, other = await start_all([make_server(database, **LOOPBACK_AUTH) for _ in range(2)])
        key = await one.live_key()
        await other.settled(key, await one.send(key), "delivered")
        loads = [Steady(node, key, f"n{n}") for n, node in enumerate((one, other))]
        try:
            await until(lambda: len(sink.mails) > 100, 30, "100 mails")
            await other.kill()
        finally:
            for load in loads:
                await asyncio.to_thread(load.stop)
        await other.start()
        await all_arrived(sink, loads[0].acknowledged | loads[1].acknowledged)
        assert not loads[0].refused and not loads[0].unknown
        assert not tracebacks(one) and not tracebacks(other)


# The database is away, or hangs.


async def test_while_the_database_is_away_doors_say_so_and_everything_goes_on_when_it_is_back(
    make_server: Make, own_postgres: PostgresServer, sink: SmtpSink
) -> None:
    node = await make_server(own_postgres.create_database(), **LOOPBACK_AUTH).start()
    key = await node.live_key()
    journal = Journal(node, key)
    await journal.send("before")
    await asyncio.to_thread(own_postgres.stop)
    away_since = time.monotonic()
    reply = await node.call("POST", "/emails", key, MAIL)
    assert reply.status == 503
    assert reply.json["name"] == "internal_server_error" and reply.json["statusCode"] == 503
    assert reply.headers["retry-after"]
    assert await by_smtp(node, key, "smtp-away") in (451, 454)
    ready = await node.call("GET", "/ready")
    assert ready.status == 503 and ready.json["status"] == "unavailable"
    assert any("database" in problem for problem in ready.json["problems"])
    assert (await node.call("GET", "/health")).status == 200
    number = 0
    while time.monotonic() - away_since < 4:
        number += 1
        await journal.send(f"away-{number}")
    await asyncio.to_thread(own_postgres.start, True)

    async def is_ready() -> bool:
        return (await node.call("GET", "/ready")).status == 200

    await eventually(is_ready, 5, "it to go on")
    await journal.send("after")
    assert {"http-before", "smtp-before", "http-after", "smtp-after"} <= journal.acknowledged
    await all_arrived(sink, journal.acknowledged)
    assert node.process is not None and node.process.returncode is None
    assert not tracebacks(node)


@pytest.mark.long
async def test_while_the_database_hangs_every_door_answers_before_its_client_gives_up(
    make_server: Make, own_postgres: PostgresServer, sink: SmtpSink
) -> None:
    node = await make_server(own_postgres.create_database(), **LOOPBACK_AUTH).start()
    key = await node.live_key()
    message_id = await node.send(key)
    await node.settled(key, message_id, "delivered")
    asking: dict[str, Awaitable[int]] = {
        "accept": by_http(node, key, "http-hung"),
        "smtp": by_smtp(node, key, "smtp-hung"),
        "read": status_of(node, "GET", f"/emails/{message_id}", key),
        "unknown key": status_of(node, "GET", f"/emails/{message_id}", "sk_live_nobody"),
        "ready": status_of(node, "GET", "/ready"),
        "health": status_of(node, "GET", "/health"),
    }
    with stopped(own_postgres):
        asked = {name: asyncio.ensure_future(timed(work)) for name, work in asking.items()}
        done, _ = await asyncio.wait(asked.values(), timeout=14)
        late = [name for name, task in asked.items() if task not in done]
        assert not late, f"no answer within 14 s: {late}"
        answers = {name: task.result() for name, task in asked.items()}
        assert answers["health"][0] == 200
        assert {name: status for name, (status, _) in answers.items() if status not in (200, 503, 451, 454)} == {}
        assert all(seconds < 11.5 for _, seconds in answers.values()), answers

    async def is_ready() -> bool:
        return (await node.call("GET", "/ready")).status == 200

    await eventually(is_ready, 10, "it to go on")
    assert await by_http(node, key, "http-after") == 200
    await all_arrived(sink, ["http-after"])
    assert not tracebacks(node)


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """All processes of the server stand still."""
    assert server.process is not None
    postmaster = psutil.Process(server.process.pid)
    postmaster.suspend()
    others = postmaster.children(recursive=True)
    for process in others:
        process.suspend()
    try:
        yield
    finally:
        for process in (*others, postmaster):
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def status_of(node: Server, method: str, path: str, key: str | None = None) -> int:
    return (await node.call(method, path, key)).status


async def timed(work: Awaitable[int]) -> tuple[int, float]:
    started = time.monotonic()
    return await work, time.monotonic() - started


@pytest.mark.long
async def test_a_node_that_is_told_to_stop_while_the_database_hangs_ends_in_bounded_time(
    make_server: Make, own_postgres: PostgresServer
) -> None:
    node = await make_server(own_postgres.create_database(), SENDKIT_DRAIN_SECONDS="2").start()
    key = await node.live_key()
    asking = asyncio.ensure_future(by_http(node, key, "http-hung"))
    with stopped(own_postgres):
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(node.process.wait(), 20)
    with suppress(OSError):
        assert await asking in (200, 503)
