"""The log of refused requests: what is on it, whose it is, and that it stays small and cheap."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest
from api_world import BY, NAMES, NOW, Api

from sendkit_server.events import refusals as refusal_log
from sendkit_server.events.refusals import Entry, RefusalLog
from sendkit_server.manage import commands
from sendkit_server.manage.context import Context
from sendkit_server.manage.doctor import Doctor
from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.model.instant import DAY_MS, MINUTE_MS
from sendkit_server.store.queries import refusals as queries


async def logs(api: Api, query: str = "", key: str = "") -> list[Any]:
    await api.refusals.flush()
    answer = await api.call("GET", f"/logs{query}", key=key)
    assert answer.status == 200, answer.body
    return list(answer.json["data"])


async def for_the_operator(api: Api, **arguments: object) -> list[Any]:
    await api.refusals.flush()
    context = Context(
        api.store, Doctor(api.store, Surroundings(NAMES), lambda: BY.now), lambda: BY.now, BY.entropy, list
    )
    return list((await commands.run(context, "logs.list", arguments))["data"])


async def test_a_refused_request_tells_what_was_asked_and_answered_but_no_body_query_or_key(api: Api) -> None:
    answer = await api.call(
        "POST",
        "/emails?token=in-the-query",
        {"from": "a@sender.test", "subject": "private"},
        headers={"User-Agent": "php/1"},
    )
    assert answer.status == 422
    [row] = await logs(api)
    assert (row["step"], row["method"], row["endpoint"], row["response_status"]) == (
        "POST /emails",
        "POST",
        "/emails",
        422,
    )
    assert (row["reply"], row["name"]) == ("422 validation_error: The to field is required.", "validation_error")
    assert (row["user_agent"], row["door"], row["address"]) == ("php/1", "http", "127.0.0.1")
    assert row["key_prefix"] == api.key[:12] and row["transcript"] is None
    whole = json.dumps(row)
    assert api.key not in whole and "private" not in whole and "in-the-query" not in whole
    assert (await api.call("GET", f"/logs/{row['id']}")).json == row


async def test_what_succeeds_is_not_on_the_log(api: Api) -> None:
    assert (await api.send()).status == 200
    assert await logs(api) == []


async def test_a_revoked_key_s_failures_are_still_its_team_s_and_a_made_up_one_s_nobody_s(api: Api) -> None:
    old = await api.make_key("send")
    [mine] = [key for key in (await api.call("GET", "/api-keys")).json["data"] if key["permission"] == "send"]
    await api.call("DELETE", f"/api-keys/{mine['id']}")
    assert (await api.send()).status == 200
    assert (await api.call("GET", "/emails", key=old)).status == 401
    made_up = "sk_live_" + "x" * 48
    assert (await api.call("GET", "/emails", key=made_up)).status == 401
    assert (await api.call("GET", "/emails", key="my other password")).status == 401
    assert (await api.call("GET", f"/nope/{made_up}", key=None)).status == 404
    assert [row["key_prefix"] for row in await logs(api)] == [old[:12]]
    found = await for_the_operator(api)
    assert sorted(str(row["key_prefix"]) for row in found) == sorted(["None", "None", old[:12], "sk_live_xxxx"])
    whole = json.dumps(found)
    assert made_up not in whole and old not in whole and "my other password" not in whole


async def test_the_filters_choose_and_the_pages_turn(api: Api) -> None:
    for path in ("/emails/msg_1", "/emails/msg_2", "/domains/nope"):
        await api.call("GET", path)
    assert len(await logs(api, "?q=EMAILS/msg_")) == 2
    assert len(await logs(api, "?q=Domain+not+found")) == 1
    assert await logs(api, "?q=100%25") == [] and await logs(api, "?door=smtp") == []
    assert len(await logs(api, "?door=http&address=127.0.0.1")) == 3
    assert await logs(api, "?address=192.0.2.1") == []
    first = (await api.call("GET", "/logs?per_page=2")).json
    assert (first["meta"]["total"], len(first["data"]), first["has_more"]) == (3, 2, True)
    assert (await api.call("GET", "/logs?door=ftp")).json["field"] == "door"
    newest = (await for_the_operator(api))[0]
    assert await for_the_operator(api, after=newest["id"]) == []


async def test_another_team_sees_nothing_of_it(api: Api) -> None:
    await api.call("GET", "/emails/msg_1")
    [row] = await logs(api)
    other = await api.make_key(team=await api.make_team())
    assert await logs(api, key=other) == []
    assert (await api.call("GET", f"/logs/{row['id']}", key=other)).status == 404
    assert [found["id"] for found in await for_the_operator(api, team="other")] != [row["id"]]


def entry(address: str = "192.0.2.1") -> Entry:
    return Entry("http", address, "GET /x", "404 not_found: Not found.", {"status": 404})


async def test_of_a_flood_from_one_address_a_hundred_rows_a_minute_are_kept_and_the_rest_is_counted(api: Api) -> None:
    now = NOW
    log = RefusalLog(api.store, api.metrics, lambda: now, os.urandom, str)
    for _ in range(350):
        log.note(entry())
    log.note(entry("192.0.2.2"))
    await log.flush()
    assert len(await for_the_operator(api, limit=1000)) == 101
    assert api.metrics.refusals_unlogged.labels("flood")._value.get() == 250
    now += MINUTE_MS
    log.note(entry())
    await log.flush()
    newest = await for_the_operator(api, limit=1000)
    assert len(newest) == 103
    [told] = [row for row in newest if row["step"] == "flood"]
    assert told["address"] == "192.0.2.1" and told["reply"].startswith("250 more refusals from here")


async def test_the_queue_and_the_memory_of_addresses_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_log, "MAX_WAITING", 5)
    monkeypatch.setattr(refusal_log, "MAX_SOURCES", 8)
    log = RefusalLog(api.store, api.metrics, lambda: NOW, os.urandom, str)
    for n in range(20):
        log.note(entry(f"192.0.2.{n}"))
    assert api.metrics.refusals_unlogged.labels("queue_full")._value.get() == 3
    assert api.metrics.refusals_unlogged.labels("flood")._value.get() == 12
    await log.flush()
    assert len(await for_the_operator(api)) == 5


async def test_rows_of_a_week_ago_and_those_over_the_limit_are_removed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = NOW - 8 * DAY_MS
    log = RefusalLog(api.store, api.metrics, lambda: at, os.urandom, str)
    log.note(entry("192.0.2.1"))
    await log.flush()
    at = NOW - 6 * DAY_MS
    for n in range(5):
        at += 1
        log.note(entry(f"192.0.2.{n + 2}"))
    await log.flush()
    at = NOW
    await log.tidy()
    assert len(await for_the_operator(api)) == 5
    monkeypatch.setattr(queries, "MAX_ROWS", 3)
    await log.tidy()
    assert [row["address"] for row in await for_the_operator(api)] == ["192.0.2.6", "192.0.2.5", "192.0.2.4"]


async def test_what_a_database_cannot_store_does_not_get_there(api: Api) -> None:
    log = RefusalLog(api.store, api.metrics, lambda: NOW, os.urandom, str)
    log.note(Entry("smtp", "192.0.2.1", "RC\0PT", "550 \ud800", {"transcript": [["C", "a\0b\ud800"]]}))
    await log.flush()
    [row] = await for_the_operator(api)
    assert (row["step"], row["reply"], row["transcript"]) == ("RCPT", "550 ?", [["C", "a\0b?"]])
    for agent in ("\\u0000", "\\ud800", "\\", '"', "\xff"):
        await api.call("GET", "/nope", headers={"User-Agent": agent})
    assert sorted(str(row["user_agent"]) for row in await logs(api)) == sorted(
        ["\\u0000", "\\ud800", "\\", '"', "\xff"]
    )


async def test_a_row_that_cannot_be_written_does_not_end_the_log(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_log, "WRITE_S", 0.01)
    log = RefusalLog(api.store, api.metrics, lambda: NOW, os.urandom, str)
    running = asyncio.create_task(log.run())
    try:
        good = queries.insert_rows
        failed = asyncio.Event()

        def broken(*_: object) -> None:
            failed.set()
            raise ValueError("no such row")

        monkeypatch.setattr(queries, "insert_rows", broken)
        log.note(entry("192.0.2.1"))
        await asyncio.wait_for(failed.wait(), 10)
        monkeypatch.setattr(queries, "insert_rows", good)
        log.note(entry("192.0.2.2"))
        async with asyncio.timeout(10):
            while [row["address"] for row in await for_the_operator(api)] != ["192.0.2.2"]:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
