"""Every management change, by whatever door, stands on the team's audit log."""

from __future__ import annotations

from typing import Any

import pytest
from api_world import BY, Api

from sendkit_server.manage import queue


async def changes(api: Api) -> list[Any]:
    answer = await api.call("GET", "/audit?per_page=100")
    assert answer.status == 200
    return list(answer.json["data"])


async def actions(api: Api) -> list[tuple[str, str]]:
    """What the changes were and who made them, in no order: the clock of these tests stands still."""
    return sorted((one["action"], one["actor"].partition("_")[0]) for one in await changes(api))


async def test_what_keys_and_the_command_line_change_is_told_with_who_did_it(api: Api) -> None:
    before = await actions(api)
    assert before == [("domains.add", "tests"), ("keys.create", "tests")]
    made = await api.call("POST", "/suppressions", {"email": "ann@there.test"})
    await api.call("POST", "/suppressions", {"email": "Ann@there.test"})
    await api.call("DELETE", "/suppressions/ann%40there.test")
    await api.call("DELETE", "/suppressions/ann%40there.test")
    await api.command("suppressions.add", address="bob@there.test")
    await api.command("suppressions.remove", name="bob@there.test")
    await api.command("domains.add", name="new.test", trust=False)
    await api.command("domains.add", name="new.test", trust=True)
    await api.command("domains.set", name="new.test", tls="enforced")
    await api.command("queue.hold", site="there.test")
    await api.command("queue.hold", site="there.test")
    await api.command("queue.release", site="there.test")
    assert await actions(api) == sorted(
        [
            *before, ("suppressions.add", "key"), ("suppressions.remove", "key"), ("suppressions.add", "cli"),
            ("suppressions.remove", "cli"), ("domains.add", "cli"), ("domains.set", "cli"), ("domains.set", "cli"),
            ("queue.hold", "cli"), ("queue.release", "cli"),
        ]
    )  # fmt: skip
    added = next(one for one in await changes(api) if one["target"] == made.json["id"])
    assert added["detail"] == {"email": "ann@there.test"} and added["created_at"] == "2025-11-24 16:00:00"


async def test_a_mail_that_is_retried_or_cancelled_is_noted_once_and_one_that_cannot_be_is_not(api: Api) -> None:
    api.handover.room = False
    sent = (await api.send(to="ann@there.test")).json["id"]
    assert (await api.call("POST", f"/emails/{sent}/cancel")).status == 200
    assert (await api.call("POST", f"/emails/{sent}/cancel")).status == 422
    for _ in range(2 * 60 + 1):
        await api.send(to="ann@there.test")
    await api.command("queue.drop", target="there.test")
    await api.command("queue.drop", target="there.test")
    found = [one for one in await changes(api) if one["action"] in ("emails.cancel", "queue.drop")]
    assert sorted((one["action"], one["target"]) for one in found) == [
        ("emails.cancel", sent), ("queue.drop", "there.test"),
    ]  # fmt: skip


async def test_a_change_that_is_not_made_leaves_no_trace_and_one_that_is_made_none_without(api: Api) -> None:
    """Both are written in one transaction."""
    api.handover.room = False
    sent = (await api.send(to="ann@there.test")).json["id"]
    by = type(BY)("tests", BY.now, _no_entropy)
    with pytest.raises(OSError, match="no randomness"):
        await queue.cancel(api.store, queue.target_of(1, sent), queue.DROPPED, by, lambda: BY.now)
    assert (await api.call("GET", f"/emails/{sent}")).json["status"] == "queued"


def _no_entropy(count: int) -> bytes:
    raise OSError("no randomness")


async def test_the_log_is_paged_newest_first_and_is_the_team_s_own(api: Api) -> None:
    for n in range(3):
        await api.call("POST", "/suppressions", {"email": f"{n}@there.test"})
    first = (await api.call("GET", "/audit?per_page=2")).json
    assert (first["meta"]["total"], len(first["data"]), first["has_more"]) == (5, 2, True)
    ids = [one["id"] for one in await changes(api)]
    assert ids == sorted(ids, reverse=True)
    other = await api.make_key(team=await api.make_team())
    mine = (await api.call("GET", "/audit", key=other)).json["data"]
    assert [(one["action"], one["actor"]) for one in mine] == [("keys.create", "tests")]
    refused = await api.call("GET", "/audit", key=await api.make_key("send"))
    assert (refused.status, refused.json["message"]) == (401, "This API key needs the permission team:read.")
