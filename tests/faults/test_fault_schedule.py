"""What waits goes at its time after a kill, and after a start with another clock; holds and limits are kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import missing
from databases import PostgresServer
from senders import all_arrived, by_http, tokens
from server import Server, until
from sinks import Session, SmtpSink

YEAR_S = 365 * 86_400
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
# As if the database's machine had been set back: what was planned and accepted lies ahead by this.
_AHEAD = """
UPDATE recipient SET next_attempt_at = next_attempt_at + {ms} WHERE next_attempt_at IS NOT NULL;
UPDATE message SET created_at = created_at + {ms}
"""


class Greylist:
    """Defers an address until it is opened, and knows when each try came."""

    def __init__(self) -> None:
        self.tries: dict[str, list[float]] = {}
        self.open = False
        self.never = ""

    def __call__(self, session: Session, argument: str) -> object:
        address = argument.partition("<")[2].partition(">")[0]
        self.tries.setdefault(address, []).append(time.monotonic())
        return None if self.open and address != self.never else "451 4.7.1 come again later"


def set_clock(server: Server, seconds: int) -> None:
    """What the server takes for the time of day from its next start on, relative to the true one."""
    if not LIBRARIES:
        missing("libfaketime")
    server.settings |= {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME": f"{seconds:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@pytest.fixture
def greylist(sink: SmtpSink) -> Greylist:
    found = sink.answers["RCPT"] = Greylist()
    return found


async def deferred(server: Server, key: str, greylist: Greylist, count: int, what: str = "mail") -> None:
    """So many mails that have been tried once, and that is written down."""
    ids = [await server.send(key, to=f"{what}-{n}@there.test", subject=f"{what}-{n}") for n in range(count)]
    for message_id in ids:
        await server.settled(key, message_id, "delivery_delayed")


async def test_deferred_mail_outlives_kill_9_and_is_tried_at_its_time_and_not_before(
    make_server: Callable[..., Server], sink: SmtpSink, greylist: Greylist
) -> None:
    retry_s = 4.0
    server = await make_server(SENDKIT_RETRY_SCHEDULE=f"{retry_s:.0f}s").start()
    key = await server.live_key()
    await deferred(server, key, greylist, 5)
    await server.kill()
    greylist.open = True
    await server.start()
    ready = time.monotonic()
    await until(lambda: len(sink.mails) == 5, what="each mail's second try")
    for first, second in greylist.tries.values():
        assert second - first >= retry_s * 0.9 - 0.1
        assert second <= max(first + retry_s * 1.1, ready) + 2.0
    assert sorted(tokens(sink)) == [f"mail-{n}" for n in range(5)]


async def test_a_clock_set_back_by_a_year_across_a_restart_leaves_nothing_waiting_nor_tried_for_ever(
    make_server: Callable[..., Server], sink: SmtpSink, greylist: Greylist, engine: str, database_url: str | None,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    server = make_server(SENDKIT_RETRY_SCHEDULE="1s", SENDKIT_RETRY_WINDOW="4s")
    if engine == "sqlite":
        set_clock(server, YEAR_S)
    await server.start()
    key = await server.live_key()
    greylist.never = "never@there.test"
    for name in ("late", "never"):
        await server.settled(key, await server.send(key, to=f"{name}@there.test", subject=name), "delivery_delayed")
    await server.act("queue.hold", site="elsewhere.test")
    untried = await server.send(key, to="new@elsewhere.test", subject="untried")
    await server.kill()
    if engine == "sqlite":
        set_clock(server, 0)
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        for statement in _AHEAD.format(ms=YEAR_S * 1000).split(";"):
            postgres.execute(str(database_url), statement)
    greylist.open = True
    await server.start()
    await server.act("queue.release", site="elsewhere.test")
    await server.settled(key, untried, "delivered")
    await until(lambda: len(sink.mails) == 2, what="what had been deferred")
    found = next(one for one in (await server.call("GET", "/emails", key)).json["data"] if "never" in one["subject"])
    gave_up = await server.settled(key, found["id"], "failed")
    assert "come again later" in gave_up["reason"]
    assert sorted(tokens(sink)) == ["late", "untried"]
    assert "queue.brought_forward" in server.log


@pytest.mark.parametrize(("jump_h", "status"), [(2, "expired"), (-2, "delivered")])
async def test_a_deadline_is_judged_by_the_clock_that_all_nodes_share(
    make_server: Callable[..., Server], sink: SmtpSink, greylist: Greylist, engine: str, jump_h: int, status: str
) -> None:
    server = await make_server(SENDKIT_RETRY_SCHEDULE="1s").start()
    key = await server.live_key()
    in_an_hour = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    message_id = await server.send(key, expires_at=in_an_hour)
    await server.settled(key, message_id, "delivery_delayed")
    await server.kill()
    greylist.open = True
    set_clock(server, jump_h * 3600)
    await server.start()
    # On PostgreSQL it is the database's, whatever a node's own clock says.
    found = await server.settled(key, message_id, status if engine == "sqlite" else "delivered")
    assert len(sink.mails) == (found["status"] == "delivered")
    if found["status"] == "expired":
        assert "expires_at" in found["reason"]


async def test_holds_and_a_sites_limit_are_kept_after_kill_9(
    make_server: Callable[..., Server], sink: SmtpSink, greylist: Greylist
) -> None:
    server = await make_server(SENDKIT_RETRY_SCHEDULE="1s", SENDKIT_CONNECTIONS_PER_SITE="2").start()
    key = await server.live_key()
    await server.act("queue.hold", site="elsewhere.test")
    held = await server.send(key, to="held@elsewhere.test")
    await deferred(server, key, greylist, 30)
    await server.kill()
    greylist.open = True
    await server.start()
    await until(lambda: len(sink.mails) == 30, what="what waited for the site that is not held")
    assert sink.most_open <= 2
    assert sorted(tokens(sink)) == sorted(f"mail-{n}" for n in range(30))
    assert (await server.email(key, held))["reason"] == "held by the operator"
    await server.act("queue.release", site="elsewhere.test")
    await server.settled(key, held, "delivered")


@pytest.mark.engine("sqlite")
async def test_new_mail_goes_at_once_whatever_the_clock_says_at_the_start(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server().start()
    key = await server.live_key()
    for jump_s in (-YEAR_S, YEAR_S):
        await server.kill()
        set_clock(server, jump_s)
        await server.start()
        assert await by_http(server, key, f"at{jump_s}") == 200
        await all_arrived(sink, [f"at{jump_s}"], 10)
