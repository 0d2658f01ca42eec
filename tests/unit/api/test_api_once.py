"""Idempotency-Key: the same call is obeyed once and answered alike, whoever asks again and however."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlencode

import pytest
from api_world import MAIL, NOW, Api
from sqlalchemy import func, select, update

from sendkit_server.model.instant import DAY_MS
from sendkit_server.store import schema

KEY = {"Idempotency-Key": "order-17"}


async def count(api: Api) -> int:
    return await api.store.read(
        lambda connection: connection.execute(select(func.count()).select_from(schema.message)).scalar_one()
    )


async def test_a_hundred_at_once_make_one_mail_and_all_get_its_answer(api: Api) -> None:
    answers = await asyncio.gather(*(api.call("POST", "/emails", MAIL, headers=KEY) for _ in range(100)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 99
    assert await count(api) == 1 and len(api.handover.jobs) == 1


async def test_another_request_with_the_same_key_is_a_conflict_that_says_what_to_do(api: Api) -> None:
    await api.call("POST", "/emails", MAIL, headers=KEY)
    answer = await api.call("POST", "/emails", {**MAIL, "subject": "Other"}, headers=KEY)
    assert (answer.status, answer.json["name"], answer.json["retryable"]) == (409, "invalid_idempotent_request", False)
    assert "Use a new key" in answer.json["message"]


async def test_the_same_request_in_another_spelling_is_the_same(api: Api) -> None:
    first = await api.call("POST", "/emails", MAIL, headers=KEY)
    other = await api.call("POST", "/emails", json.dumps(MAIL, indent=4, sort_keys=True).encode(), headers=KEY)
    form = await api.call(
        "POST", "/emails", urlencode(MAIL).encode(),
        headers={**KEY, "Content-Type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    assert first.json["id"] == other.json["id"] == form.json["id"]


async def test_a_refused_request_does_not_use_the_key_up(api: Api) -> None:
    assert (await api.call("POST", "/emails", {**MAIL, "to": "nobody"}, headers=KEY)).status == 422
    answer = await api.call("POST", "/emails", MAIL, headers=KEY)
    assert answer.status == 200 and "idempotent-replayed" not in answer.headers


async def test_the_stored_answer_comes_though_the_request_would_be_refused_by_now(api: Api) -> None:
    first = await api.call("POST", "/emails", MAIL, headers=KEY)
    untrusted = update(schema.domain).values(trusted=False)
    await api.store.write(lambda connection: connection.execute(untrusted))
    assert (await api.call("POST", "/emails", MAIL)).status == 422
    assert (await api.call("POST", "/emails", MAIL, headers=KEY)).json["id"] == first.json["id"]


async def test_a_key_is_1_to_256_characters(api: Api) -> None:
    for key in ("", " ", "x" * 257):
        answer = await api.call("POST", "/emails", MAIL, headers={"Idempotency-Key": key})
        assert (answer.status, answer.json["name"]) == (400, "invalid_idempotency_key"), key
    assert (await api.call("POST", "/emails", MAIL, headers={"Idempotency-Key": "x" * 256})).status == 200


async def test_a_check_only_call_neither_uses_nor_needs_the_key(api: Api) -> None:
    for _ in range(2):
        answer = await api.call("POST", "/emails", {**MAIL, "check_only": True}, headers=KEY)
        assert (answer.status, answer.json["status"]) == (200, "checked")
    assert (await api.call("POST", "/emails", MAIL, headers=KEY)).json["status"] == "queued"


async def test_the_key_among_the_mail_s_headers_counts_too_and_does_not_travel(api: Api) -> None:
    mail = {**MAIL, "headers": {"X-Sendkit-Idempotency-Key": "k", "X-Order": "1"}}
    first, second = await api.call("POST", "/emails", mail), await api.call("POST", "/emails", mail)
    assert first.json["id"] == second.json["id"]
    content = api.handover.jobs[0].content
    assert getattr(content, "headers", None) == (("X-Order", "1"),)


async def test_another_team_s_key_of_the_same_name_is_another_one(api: Api) -> None:
    await api.call("POST", "/emails", MAIL, headers=KEY)
    moved = update(schema.idempotency).values(team_id=2)
    await api.store.write(lambda connection: connection.execute(moved))
    answer = await api.call("POST", "/emails", MAIL, headers=KEY)
    assert "idempotent-replayed" not in answer.headers and await count(api) == 2


async def test_after_a_day_the_key_is_free(api: Api) -> None:
    await api.call("POST", "/emails", MAIL, headers=KEY)
    aged = update(schema.idempotency).values(kept_until=NOW - 1, created_at=NOW - DAY_MS)
    await api.store.write(lambda connection: connection.execute(aged))
    await api.call("POST", "/emails", MAIL, headers=KEY)
    assert await count(api) == 2


@pytest.mark.parametrize("captured", [{"test": True}, {"shadow": True}])
async def test_what_was_only_captured_is_no_answer_to_a_live_key_nor_the_other_way(api: Api, captured: dict) -> None:
    trying = await api.make_key(**captured)
    first = await api.call("POST", "/emails", MAIL, key=trying, headers=KEY)
    live = await api.call("POST", "/emails", MAIL, headers=KEY)
    assert live.json["id"] != first.json["id"] and "idempotent-replayed" not in live.headers
    for key, answer in ((trying, first), ("", live)):
        again = await api.call("POST", "/emails", MAIL, key=key, headers=KEY)
        assert again.json["id"] == answer.json["id"] and "idempotent-replayed" in again.headers
    assert await count(api) == 2


async def test_nobody_is_told_the_answer_to_what_his_key_may_not_do(api: Api) -> None:
    await api.call("POST", "/emails", MAIL, headers=KEY)
    for restriction in ({"senders": ("only@sender.test",)}, {"recipient_domains": ("elsewhere.test",)}):
        key = await api.make_key(**restriction)
        answer = await api.call("POST", "/emails", MAIL, key=key, headers=KEY)
        assert (answer.status, answer.json["name"]) == (401, "restricted_api_key")
