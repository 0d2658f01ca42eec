"""Wrong keys over HTTP: too many of them are told to wait, right ones never."""

from __future__ import annotations

from api_world import Api

from sendkit_server.manage.guesses import LIMITS, WINDOW_S, Kind

LIMIT = LIMITS[Kind.KEY]
WRONG = "sk_live_AbCd" + "x" * 40


async def statuses(api: Api, count: int, key: str | None = WRONG, address: str = "192.0.2.1") -> list[int]:
    return [(await api.call("GET", "/emails", key=key, address=address)).status for _ in range(count)]


async def test_after_too_many_wrong_keys_a_wrong_one_waits_and_a_right_one_is_served(api: Api) -> None:
    assert await statuses(api, LIMIT) == [401] * LIMIT
    answer = await api.call("GET", "/emails", key=WRONG, address="192.0.2.1")
    assert answer.json == {
        "name": "rate_limit_exceeded",
        "message": "Too many requests with an invalid API key. Please retry after 600 seconds.",
        "statusCode": 429,
        "status_code": 429,
        "retryable": True,
        "doc_url": "http://api.test/docs#rate_limit_exceeded",
    }
    assert (answer.status, answer.headers["retry-after"]) == (429, "600")
    assert "www-authenticate" not in answer.headers
    assert await statuses(api, 1, "my other password") == [429]
    assert await statuses(api, 1, None) == [401], "no key is no guess"
    assert await statuses(api, 3, api.key) == [200] * 3
    new = await api.make_key()
    assert await statuses(api, 1, new) == [200], "one that was never seen here, too"
    restricted = await api.make_key("send")
    assert await statuses(api, 1, restricted) == [401]
    assert await statuses(api, 1, address="192.0.2.2") == [401]
    api.elapsed_s += WINDOW_S
    assert await statuses(api, 1) == [401]


async def test_right_keys_that_may_not_and_missing_ones_are_no_guesses(api: Api) -> None:
    restricted = await api.make_key("send")
    assert await statuses(api, LIMIT + 1, restricted) == [401] * (LIMIT + 1)
    assert await statuses(api, LIMIT + 1, None) == [401] * (LIMIT + 1)
    assert await statuses(api, 1) == [401]
    assert len(api.guesses.take_untold(100)) == 1


async def test_a_revoked_key_counts_and_its_team_reads_once_that_it_had_to_wait(api: Api) -> None:
    old = await api.make_key("send")
    [row] = [key for key in (await api.call("GET", "/api-keys")).json["data"] if key["permission"] == "send"]
    await api.call("DELETE", f"/api-keys/{row['id']}")
    assert await statuses(api, LIMIT + 5, old) == [401] * LIMIT + [429] * 5
    await api.refusals.flush()
    logged = [row["response_status"] for row in (await api.call("GET", "/logs?per_page=100")).json["data"]]
    assert sorted(logged) == [401] * LIMIT + [429]
    assert api.metrics.errors.labels("rate_limit_exceeded", "http")._value.get() == 5


async def test_the_page_of_errors_names_it(api: Api) -> None:
    page = (await api.call("GET", "/docs", key=None)).body.decode()
    assert 'id="rate_limit_exceeded"' in page
