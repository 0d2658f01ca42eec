"""The first start, the first account, and the people after it, with the real program."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from pages import Browser
from server import Server

PASSWORD = "correct horse battery"


def setup_url(server: Server) -> str | None:
    found = re.search(r"http://[^ ]*/ui/setup/[A-Za-z0-9_-]{43}", server.banner)
    return found[0] if found else None


async def test_the_first_start_leads_to_an_account_and_its_session_outlives_a_restart(
    make_server: Callable[..., Server],
) -> None:
    server = await make_server(SENDKIT_HTTP_BIND="127.0.0.1:0").start()
    first = setup_url(server)
    await server.kill()
    await server.start()
    second = setup_url(server)
    assert first is not None and second is not None and first.rpartition("/")[2] != second.rpartition("/")[2]
    browser = Browser()
    assert "Make the first account" in await browser.get(second)
    assert "You are owner here" in await browser.post(second, email="ann@sender.test", name="Ann", password=PASSWORD)
    assert "does not work (any more)" in await Browser().get(server.url + "/ui/setup/" + first.rpartition("/")[2])
    await server.kill()
    await server.start()
    assert setup_url(server) is None
    assert "You are owner here" in await browser.get(server.url + "/ui")
    secrets = [cookie.value or "" for cookie in browser.jar]
    assert not any(secret in server.log + server.banner for secret in secrets)
    assert first.rpartition("/")[2] not in server.log and PASSWORD not in server.log


async def test_links_of_the_command_line_let_people_in_and_set_passwords(server: Server) -> None:
    status, out, _ = await server.command("users", "create", "Bob@there.test", "--role", "owner")
    url = out.strip()
    assert status == 0 and url.startswith(f"{server.url}/ui/invite/")
    bob = Browser()
    assert "Make an account and join" in await bob.get(url)
    assert "You are owner here" in await bob.post(url, name="Bob", password=PASSWORD)
    status, out, _ = await server.command("users", "list", "--json")
    assert status == 0 and '"role": "owner"' in out and "argon2" not in out and PASSWORD not in out
    reset = (await server.act("users.reset", email="bob@there.test"))["link"]["url"]
    again = Browser()
    await again.get(reset)
    assert "You are owner here" in await again.post(reset, password="another fine password")
    assert "Sign in" in await bob.get(server.url + "/ui")
    status, _, err = await server.command("users", "remove", "bob@there.test")
    assert status == 1 and "A team keeps at least one owner" in err
    status, _, err = await server.command("users", "create", "x@there.test", "--team", "nope")
    assert status == 1 and "there is no team 'nope'" in err


async def test_a_paused_team_sends_nothing_by_either_door_and_the_others_do(server: Server, key: str) -> None:
    await server.act("teams.create", name="shop")
    await server.act("domains.add", team="shop", name="shop.test", trust=True)
    theirs = (await server.act("keys.create", team="shop", name="k", permission="full", test=False))["token"]
    shop: dict[str, Any] = {"from": "a@shop.test"}
    await server.send(theirs, **shop)
    status, out, _ = await server.command("teams", "pause", "shop", "--reason", "Too many complaints.")
    assert (status, out) == (0, "Team shop is paused.\n")
    refused = await server.call(
        "POST", "/emails", theirs, {**shop, "to": "ann@there.test", "subject": "x", "text": "x"}
    )
    assert refused.json["message"] == "Sending is paused for this account. Too many complaints."
    await server.send(key)
    assert "PAUSED" in (await server.command("teams", "list"))[1]
    await server.act("teams.resume", team="shop")
    await server.send(theirs, **shop)
    changed = [row["action"] for row in (await server.act("audit.list", team="shop"))["data"]]
    assert changed == ["teams.resume", "teams.pause", "keys.create", "domains.add", "teams.create"]


async def test_a_program_invites_somebody_changes_the_role_and_removes_them_again(server: Server) -> None:
    await server.act("users.create", email="ann@sender.test", role="owner", password=PASSWORD)
    writing = await server.live_key(permission="team:read,team:write")
    reading = await server.live_key(permission="team:read")
    refused = await server.call("POST", "/team/invitations", reading, {"email": "bob@there.test", "role": "member"})
    assert (refused.status, refused.json["name"]) == (401, "restricted_api_key")
    assert refused.json["message"] == "This API key needs the permission team:write."
    invited = await server.call("POST", "/team/invitations", writing, {"email": "bob@there.test", "role": "member"})
    assert invited.status == 201
    bob = Browser()
    assert "Make an account and join" in await bob.get(invited.json["link"])
    assert "You are member here" in await bob.post(invited.json["link"], name="Bob", password=PASSWORD)
    assert (await server.call("GET", "/team/invitations", reading)).json["data"] == []
    members = (await server.call("GET", "/team/members", reading)).json["data"]
    assert [(row["email"], row["role"]) for row in members] == [
        ("ann@sender.test", "owner"),
        ("bob@there.test", "member"),
    ]
    changed = await server.call("PATCH", "/team/members/bob@there.test", writing, {"role": "admin"})
    assert (changed.status, changed.json["role"]) == (200, "admin")
    assert "You are admin here" in await bob.get(f"{server.url}/ui")
    removed = await server.call("DELETE", f"/team/members/{members[1]['id']}", writing)
    assert removed.json == {"object": "member", "id": members[1]["id"], "deleted": True}
    assert "Sign in" in await bob.get(f"{server.url}/ui")
    kept = await server.call("DELETE", "/team/members/ann@sender.test", writing)
    assert kept.json["message"] == "An API key cannot remove one who is owner."
    assert (await server.call("GET", "/team", reading)).json["members"]["owner"] == 1
    audit = (await server.call("GET", "/audit", reading)).json["data"]
    by_key = [row["action"] for row in audit if row["actor"].startswith("key_")]
    assert sorted(by_key) == ["members.invite", "members.remove", "members.role", "users.remove"]
    status, out, _ = await server.command("teams", "rename", "default", "Acme")
    assert (status, out) == (0, "Team default is Acme now.\n")
    assert (await server.call("GET", "/team", reading)).json["name"] == "Acme"
    await server.kill()
    await server.start()
    status, out, _ = await server.command("teams", "list")
    assert status == 0 and out.startswith("Acme  1 person") and "default" not in out
    assert len((await server.act("keys.list"))["data"]) == 2, "commands that name no team still act for it"


@pytest.mark.engine("sqlite")
async def test_who_guessed_still_waits_after_a_kill(make_server: Callable[..., Server]) -> None:
    server = await make_server(SENDKIT_HTTP_BIND="127.0.0.1:0").start()
    key, wrong = await server.live_key(), "sk_live_" + "x" * 48
    statuses = [(await server.call("GET", "/emails", wrong)).status for _ in range(21)]
    assert statuses == [401] * 20 + [429]
    deadline = asyncio.get_running_loop().time() + 10
    while guesses_on_disk(server) < 20:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    await server.kill()
    await server.start()
    assert (await server.call("GET", "/emails", wrong)).status == 429
    assert (await server.call("GET", "/emails", key)).status == 200


def guesses_on_disk(server: Server) -> int:
    with closing(sqlite3.connect(f"file:{server.data_dir / 'sendkit.db'}?mode=ro", uri=True)) as connection:
        return sum(
            count for (text,) in connection.execute("SELECT counted FROM guess") for *_, count in json.loads(text)
        )
