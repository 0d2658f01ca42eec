"""Limits: rates, quota, warm-up and a key's daily number, on both doors, shared between processes, and off by default."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from api_world import BY, MAIL, NAMES, NOW, Answer, Api, running_api

from sendkit_server.accept.limits import WARM_UP, Limits, LimitSettings
from sendkit_server.config import limits_of, load
from sendkit_server.manage import domains
from sendkit_server.model.address import parse_address
from sendkit_server.model.instant import DAY_MS, MINUTE_MS
from sendkit_server.model.mail import Accepted, RawSubmission
from sendkit_server.model.refusal import Refusal
from sendkit_server.store.usage import Usage


class Clock:
    def __init__(self) -> None:
        self.now = NOW - NOW % MINUTE_MS + 1_000

    def __call__(self) -> int:
        return self.now


@asynccontextmanager
async def limited(
    tmp_path: Path, database_url: str | None, **settings: object
) -> AsyncIterator[tuple[Api, Clock, Usage]]:
    clock = Clock()
    async with running_api(tmp_path, database_url) as api:
        usage = Usage(api.store, clock)
        api.acceptor._limits = Limits(LimitSettings(**settings), usage)  # type: ignore[arg-type]
        api.acceptor._clock = clock
        yield api, clock, usage


async def by_smtp(api: Api, key: str = "") -> Accepted | Refusal:
    found = await api.store.key(key or api.key, NOW)
    assert found is not None
    raw = b"From: a@sender.test\r\nSubject: x\r\n\r\nbody\r\n"
    return await api.acceptor.accept_raw(RawSubmission(found, "a@sender.test", (parse_address("ann@there.test"),), raw))


def standing(answer: Answer) -> tuple[str | None, ...]:
    return tuple(answer.headers.get(f"ratelimit-{name}") for name in ("limit", "remaining", "reset"))


async def test_without_limits_nothing_is_said_of_them(api: Api) -> None:
    assert standing(await api.send()) == (None, None, None)


async def test_a_team_s_rate_is_told_and_held_on_both_doors_and_over_with_the_minute(
    tmp_path: Path, database_url: str | None
) -> None:
    async with limited(tmp_path, database_url, team_rate=3) as (api, clock, _):
        assert standing(await api.send()) == ("3", "2", "59")
        assert standing(await api.send(subject=...)) == ("3", "1", "59"), "a refused call counts"
        assert isinstance(await by_smtp(api), Accepted)
        answer, refused = await api.send(), await by_smtp(api)
        assert (answer.status, answer.json["name"], answer.headers["retry-after"]) == (429, "rate_limit_exceeded", "59")
        assert answer.json["message"] == "Rate limit exceeded. Please retry after 59 seconds."
        assert answer.json["retryable"] is True and standing(answer) == ("3", "0", "59")
        assert isinstance(refused, Refusal) and (refused.smtp_code, refused.smtp_enhanced) == (451, "4.7.1")
        assert refused.smtp_text == f"rate_limit_exceeded: {answer.json['message']}"
        clock.now += MINUTE_MS
        assert (await api.send()).status == 200


async def test_a_key_s_rate_is_its_own(tmp_path: Path, database_url: str | None) -> None:
    async with limited(tmp_path, database_url, key_rate=1) as (api, _, _):
        other = await api.make_key()
        assert (await api.send()).status == 200
        assert (await api.send()).status == 429
        assert (await api.call("POST", "/emails", MAIL, key=other)).status == 200


async def test_a_malformed_call_is_counted_before_it_is_read(tmp_path: Path, database_url: str | None) -> None:
    async with limited(tmp_path, database_url, team_rate=1) as (api, _, _):
        assert (await api.call("POST", "/emails", b"{")).status == 422
        assert (await api.call("POST", "/emails", b"{")).status == 429


async def test_the_monthly_quota_counts_recipients_and_what_was_refused_does_not_count(
    tmp_path: Path, database_url: str | None
) -> None:
    async with limited(tmp_path, database_url, monthly_quota=4) as (api, clock, _):
        assert (await api.send(to=["a@there.test", "b@there.test"], bcc="c@there.test")).status == 200
        answer = await api.send(to=["d@there.test", "e@there.test"])
        assert (answer.status, answer.json["message"]) == (422, "Monthly email quota exceeded.")
        assert (await api.send()).status == 200, "one is left"
        refused = await by_smtp(api)
        assert isinstance(refused, Refusal) and (refused.smtp_code, refused.smtp_enhanced) == (550, "5.7.1")
        clock.now += 31 * DAY_MS
        assert (await api.send()).status == 200


async def test_a_test_key_uses_no_quota_up(tmp_path: Path, database_url: str | None) -> None:
    async with limited(tmp_path, database_url, monthly_quota=1, warm_up=True) as (api, _, _):
        test = await api.make_key(test=True)
        for _ in range(3):
            assert (await api.call("POST", "/emails", MAIL, key=test)).status == 200
        assert (await api.send()).status == 200


async def test_a_new_domain_s_daily_limit_grows_and_is_told_as_the_contract_has_it(
    tmp_path: Path, database_url: str | None
) -> None:
    async with limited(tmp_path, database_url, warm_up=True) as (api, clock, _):
        clock.now -= clock.now % DAY_MS
        many = [f"u{n}@there.test" for n in range(50)]
        assert (await api.send(to=many)).status == 200
        answer = await api.send()
        assert (answer.status, answer.json["name"]) == (429, "warmup_limit")
        assert answer.json["message"].startswith(
            "Domain warmup limit reached for sender.test. Daily limit: 50 emails. Sent today: 50. Warmup completes on "
        )
        assert (answer.json["domain"], answer.json["daily_limit"], answer.json["emails_sent_today"], answer.json["warmup_day"]) == (
            "sender.test", 50, 50, 0,
        )  # fmt: skip
        assert answer.json["warmup_ends_at"].endswith("T00:00:00Z")
        assert answer.headers["retry-after"] == str(24 * 3600 + 1)
        refused = await by_smtp(api)
        assert isinstance(refused, Refusal) and (refused.smtp_code, refused.name) == (451, "warmup_limit")
        clock.now += 2 * DAY_MS
        assert (await api.send(to=many)).status == (await api.send(to=many)).status == 200
        assert (await api.send()).json["daily_limit"] == WARM_UP[2] == 100
        clock.now += 12 * DAY_MS
        for _ in range(3):
            assert (await api.send(to=many)).status == 200


async def test_a_domain_that_is_removed_and_added_again_goes_on_where_it_was(
    tmp_path: Path, database_url: str | None
) -> None:
    async with limited(tmp_path, database_url, warm_up=True) as (api, clock, _):
        assert (await api.send()).status == 200
        clock.now += 2 * DAY_MS
        many = [f"u{n}@there.test" for n in range(50)]
        assert (await api.send(to=many)).status == (await api.send(to=many)).status == 200
        await api.call("DELETE", "/domains/sender.test")
        await domains.add_domain(api.store, 1, "sender.test", NAMES, trust=True, by=BY)
        answer = await api.send()
        assert (answer.status, answer.json["warmup_day"], answer.json["emails_sent_today"]) == (429, 2, 100)


async def test_a_key_s_daily_number_is_held_on_both_doors_without_any_other_limit(
    tmp_path: Path, database_url: str | None
) -> None:
    async with limited(tmp_path, database_url) as (api, clock, _):
        key = await api.make_key(daily_limit=2)
        assert (await api.call("POST", "/emails", MAIL, key=key)).status == 200
        assert isinstance(await by_smtp(api, key), Accepted)
        answer, refused = await api.call("POST", "/emails", MAIL, key=key), await by_smtp(api, key)
        assert (answer.status, answer.json["name"]) == (401, "restricted_api_key")
        assert answer.json["message"] == "This API key may send to 2 recipients a day, and has sent to 2 today."
        assert isinstance(refused, Refusal) and refused.message == answer.json["message"]
        assert (await api.send()).status == 200, "other keys have no such limit"
        clock.now += DAY_MS
        assert (await api.call("POST", "/emails", MAIL, key=key)).status == 200


async def test_what_one_process_counts_another_one_and_a_restart_know(tmp_path: Path, database_url: str | None) -> None:
    async with limited(tmp_path, database_url, monthly_quota=3) as (api, clock, usage):
        assert (await api.send(to=["a@there.test", "b@there.test"])).status == 200
        await usage.write()
        again = Usage(api.store, clock)
        api.acceptor._limits = Limits(LimitSettings(monthly_quota=3), again)
        assert (await api.send()).status == 200
        assert (await api.send()).status == 422
        await again.write()
        await usage.write()
        if api.store.engine.exclusive:
            return  # there is no other process
        api.acceptor._limits = Limits(LimitSettings(monthly_quota=4), usage)
        assert (await api.send(to=["c@there.test", "d@there.test"])).status == 422
        assert (await api.send()).status == 200


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, LimitSettings()),
        ({"SENDKIT_LIMITS": "hosted"}, LimitSettings(60, None, 3000, warm_up=True)),
        (
            {"SENDKIT_LIMITS": "hosted", "SENDKIT_RATE_LIMIT": "off", "SENDKIT_WARMUP": "off"},
            LimitSettings(None, None, 3000),
        ),
        ({"SENDKIT_RATE_LIMIT": "120", "SENDKIT_KEY_RATE_LIMIT": "30"}, LimitSettings(120, 30)),
    ],
)
def test_the_preset_and_what_is_set_itself(environment: dict[str, str], expected: LimitSettings) -> None:
    assert limits_of(load(environment)) == expected
