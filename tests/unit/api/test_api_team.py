"""The team by the API: its name, its people, invitations; and that a key does not reach owners."""

from __future__ import annotations

from typing import Any

import pytest
from api_world import BY, NOW, Api

from sendkit_server.manage import invitations, people, teams
from sendkit_server.manage.audit import list_changes
from sendkit_server.manage.links import Kind, find
from sendkit_server.model.instant import DAY_MS
from sendkit_server.model.roles import Role
from sendkit_server.store.queries import keys as key_queries

NOBODY = ("usr_nope", "nobody%40sender.test", "%40", "a%40b%40c", "bob", "inv_1")


async def changes(api: Api) -> list[tuple[str, str, str]]:
    rows, _ = await list_changes(api.store, 1, 0, 100)
    return sorted((row.action, row.actor, row.target) for row in rows if row.actor != BY.name)


async def key_id(api: Api) -> str:
    found = await api.store.key(api.key, NOW)
    assert found is not None
    return found.id


async def refused(api: Api, method: str, path: str, body: object = None, key: str = "") -> tuple[Any, ...]:
    """Status, name, message and field of what must be an error in the contract's shape."""
    answer = await api.call(method, path, body, key=key)
    told = answer.json
    assert told["statusCode"] == told["status_code"] == answer.status >= 400
    assert told["doc_url"].endswith(f"#{told['name']}") and told["retryable"] is False
    return answer.status, told["name"], told["message"], told.get("field")


# -- the team ------------------------------------------------------------------------------------------------------


async def test_a_key_reads_its_team(api: Api) -> None:
    await api.make_member("ann@sender.test", Role.OWNER)
    await api.make_member("bob@sender.test", Role.VIEWER)
    assert (await api.call("GET", "/team")).json == {
        "object": "team", "id": "team_1", "name": "default", "paused": False, "paused_at": None, "paused_reason": None,
        "members": {"owner": 1, "admin": 0, "member": 0, "viewer": 1}, "created_at": None,
    }  # fmt: skip
    await teams.pause_team(api.store, 1, "Too many complaints.", BY)
    told = (await api.call("GET", "/team")).json
    assert (told["paused"], told["paused_reason"], told["paused_at"]) == (
        True,
        "Too many complaints.",
        "2025-11-24 16:00:00",
    )


async def test_a_team_that_is_paused_already_keeps_the_reason_until_there_is_another_one(api: Api) -> None:
    await api.command("teams.pause", team="default", reason="Too many complaints.")
    since = (await api.call("GET", "/team")).json["paused_at"]
    for reason, told in (("", "Too many complaints."), (" ", "Too many complaints."), ("A bill.", "A bill.")):
        assert (await api.command("teams.pause", team="default", reason=reason))["reason"] == told
        team = (await api.call("GET", "/team")).json
        assert (team["paused_reason"], team["paused_at"]) == (told, since)
    await api.command("teams.resume", team="default")
    assert (await api.command("teams.pause", team="default", reason=""))["reason"] == "", "it is another pause"


async def test_of_two_that_take_a_name_at_the_same_moment_one_is_told_that_it_is_taken(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.make_team("other")
    monkeypatch.setattr(teams, "_check_free", lambda *_: None)  # found free, a moment ago
    taken = (422, "validation_error", "The name has already been taken.", "name")
    assert await refused(api, "PUT", "/team", {"name": "other"}) == taken


@pytest.mark.parametrize("verb", ["PUT", "PATCH"])
async def test_a_team_is_renamed_and_default_goes_on_to_mean_the_first(api: Api, verb: str) -> None:
    other = await api.make_team("other")
    renamed = await api.call(verb, "/team", {"name": "  Acme  "})
    assert (renamed.status, renamed.json["name"]) == (200, "Acme")
    assert (await api.call(verb, "/team", {"name": "Acme"})).status == 200
    assert await changes(api) == [("teams.rename", await key_id(api), "team_1")], "no change is none"
    assert await api.store.read(lambda c: key_queries.team_id(c, "default")) == 1
    taken = (422, "validation_error", "The name has already been taken.", "name")
    assert await refused(api, verb, "/team", {"name": "other"}) == taken
    theirs = await api.make_key(team=other)
    assert await refused(api, verb, "/team", {"name": "default"}, theirs) == taken, "commands would act for it"
    assert await refused(api, verb, "/team", {"name": "Acme"}, theirs) == taken
    assert (await api.call(verb, "/team", {"name": "default"})).json["name"] == "default"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "The name field is required."),
        ({"name": None}, "The name field is required."),
        ({"name": "  "}, "The name field is required."),
        ({"name": 7}, "The name field must be a string."),
        ({"name": "x" * 256}, "The name field must not be greater than 255 characters."),
        ({"name": "a\nb"}, "The name field must be one line of text."),
        ({"name": "a\0b"}, "The name field must be one line of text."),
    ],
)
async def test_a_wrong_name_is_refused_in_words(api: Api, body: object, message: str) -> None:
    assert await refused(api, "PATCH", "/team", body) == (422, "validation_error", message, "name")


# -- members -------------------------------------------------------------------------------------------------------


async def test_members_are_listed_in_the_order_in_which_they_came(api: Api) -> None:
    ids = [await api.make_member(f"m{n}@sender.test", Role.MEMBER) for n in range(3)]
    await api.make_member("eve@there.test", Role.OWNER, await api.make_team())
    page = (await api.call("GET", "/team/members?per_page=2")).json
    assert (page["object"], page["has_more"], page["meta"]["total"], page["meta"]["last_page"]) == ("list", True, 3, 2)
    assert page["links"]["next"] == "http://api.test/team/members?per_page=2&page=2"
    rest = (await api.call("GET", "/team/members?per_page=2&page=2")).json["data"]
    assert sorted(row["id"] for row in page["data"] + rest) == sorted(ids)
    shown = next(row for row in page["data"] + rest if row["id"] == ids[0])
    assert shown == {
        "object": "member", "id": ids[0], "email": "m0@sender.test", "name": "m0", "team": "default", "role": "member",
        "joined_at": "2025-11-24 16:00:00", "last_seen_at": None,
    }  # fmt: skip
    for name in (ids[0], "m0%40sender.test", "M0%40Sender.test"):
        assert (await api.call("GET", f"/team/members/{name}")).json == shown
    assert (await refused(api, "GET", "/team/members?page=0"))[3] == "page"


@pytest.mark.parametrize("verb", ["PUT", "PATCH"])
async def test_a_role_is_changed_by_id_or_address_and_recorded_with_the_key(api: Api, verb: str) -> None:
    bob = await api.make_member("bob@sender.test", Role.VIEWER)
    for name, role in ((bob, "member"), ("Bob%40Sender.test", "admin"), (bob, "admin")):
        answer = await api.call(verb, f"/team/members/{name}", {"role": role})
        assert (answer.status, answer.json["id"], answer.json["role"]) == (200, bob, role)
    assert await changes(api) == [("members.role", await key_id(api), bob)] * 2, "no change is none"


async def test_who_is_removed_is_gone_with_the_last_team(api: Api) -> None:
    bob, cid = [await api.make_member(f"{name}@sender.test", Role.ADMIN) for name in ("bob", "cid")]
    assert (await api.call("DELETE", f"/team/members/{bob}")).json == {"object": "member", "id": bob, "deleted": True}
    assert (await api.call("DELETE", "/team/members/cid%40sender.test")).json["id"] == cid
    assert await refused(api, "DELETE", f"/team/members/{bob}") == (404, "not_found", "Member not found.", None)
    assert (await api.call("GET", "/team/members")).json["data"] == []
    mine = await key_id(api)
    expected = [(action, mine, who) for action in ("members.remove", "users.remove") for who in (bob, cid)]
    assert await changes(api) == sorted(expected)


@pytest.mark.parametrize("who", NOBODY)
async def test_nobody_is_not_found(api: Api, who: str) -> None:
    await api.make_member("ann@sender.test", Role.OWNER)
    for method, body in (("GET", None), ("PUT", {"role": "viewer"}), ("PATCH", {"role": "viewer"}), ("DELETE", None)):
        told = await refused(api, method, f"/team/members/{who}", body)
        assert told == (404, "not_found", "Member not found.", None), method


async def test_a_key_makes_no_owner_and_neither_changes_nor_removes_one(api: Api) -> None:
    ann, owner = [await api.make_member(f"{name}@sender.test", Role.OWNER) for name in ("ann", "owner")]
    bob = await api.make_member("bob@sender.test", Role.ADMIN)
    message = "The role field must be one of admin, member, viewer."
    assert await refused(api, "PATCH", f"/team/members/{bob}", {"role": "owner"}) == (
        422,
        "validation_error",
        message,
        "role",
    )
    invite = {"email": "eve@sender.test", "role": "owner"}
    assert await refused(api, "POST", "/team/invitations", invite) == (422, "validation_error", message, "role")
    for name in (ann, owner, "ann%40sender.test"):
        told = await refused(api, "PATCH", f"/team/members/{name}", {"role": "viewer"})
        assert told == (422, "validation_error", "An API key cannot turn owner into viewer.", "role")
        told = await refused(api, "DELETE", f"/team/members/{name}")
        assert told == (422, "validation_error", "An API key cannot remove one who is owner.", None)
    link = await people.invite(api.store, 1, "cid@sender.test", Role.OWNER, BY)
    told = await refused(api, "DELETE", f"/team/invitations/{link.id}")
    assert told[2] == "An API key cannot withdraw the invitation of one who is to be owner."
    assert (await api.call("GET", "/team")).json["members"]["owner"] == 2
    assert await changes(api) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "The role field is required."),
        ({"role": ""}, "The role field is required."),
        ({"role": ["admin"]}, "The role field must be a string."),
        ({"role": "king"}, "The role field must be one of admin, member, viewer."),
        ({"role": "Admin"}, "The role field must be one of admin, member, viewer."),
    ],
)
async def test_a_wrong_role_is_refused_in_words(api: Api, body: dict[str, object], message: str) -> None:
    bob = await api.make_member("bob@sender.test", Role.VIEWER)
    expected = (422, "validation_error", message, "role")
    assert await refused(api, "PATCH", f"/team/members/{bob}", body) == expected
    assert await refused(api, "POST", "/team/invitations", {"email": "eve@sender.test", **body}) == expected


async def test_a_body_that_is_none_is_refused(api: Api) -> None:
    for method, path in (("PATCH", "/team"), ("PUT", "/team/members/x"), ("POST", "/team/invitations")):
        assert (await refused(api, method, path, b"{"))[0] == 422


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"test": True}, "A test key cannot change the team or who is in it."),
        ({"senders": ("shop@sender.test",)}, "restricted to domains, senders or recipients"),
        ({"domain": "sender.test"}, "restricted to domains, senders or recipients"),
        ({"recipient_domains": ("sender.test",)}, "restricted to domains, senders or recipients"),
        ({"shadow": True}, "restricted to domains, senders or recipients"),
        ({"networks": ("127.0.0.0/8",), "daily_limit": 5}, None),
    ],
)
async def test_a_key_that_is_bound_to_less_than_the_team_does_not_get_around_it(
    api: Api, wish: dict[str, Any], message: str | None
) -> None:
    key = await api.make_key(**wish)
    bob = await api.make_member("bob@sender.test", Role.VIEWER)
    made = await people.invite(api.store, 1, "cid@sender.test", Role.MEMBER, BY)
    for method, path, body in (
        ("PATCH", "/team", {"name": "x"}),
        ("PATCH", f"/team/members/{bob}", {"role": "admin"}),
        ("POST", "/team/invitations", {"email": "eve@sender.test", "role": "admin"}),
        ("DELETE", f"/team/invitations/{made.id}", None),
        ("DELETE", f"/team/members/{bob}", None),
    ):
        answer = await api.call(method, path, body, key=key)
        if message is None:
            assert answer.status in (200, 201), path
        else:
            assert answer.status == 422 and message in answer.json["message"], path
    assert (await api.call("GET", "/team/members", key=key)).status == 200


# -- invitations ---------------------------------------------------------------------------------------------------


async def test_an_invitation_s_link_is_shown_once_and_leads_into_the_team(api: Api) -> None:
    answer = await api.call("POST", "/team/invitations", {"email": "Eve <Eve@There.test>", "role": "admin"})
    made = answer.json
    assert answer.status == 201 and made["id"].startswith("inv_") and len(made["id"]) == 30
    link = made.pop("link")
    assert made == {
        "object": "invitation", "id": made["id"], "email": "eve@there.test", "role": "admin",
        "created_at": "2025-11-24 16:00:00", "expires_at": "2025-12-01 16:00:00",
    }  # fmt: skip
    assert (await api.call("GET", f"/team/invitations/{made['id']}")).json == made
    listed = await api.call("GET", "/team/invitations")
    assert listed.json["data"] == [made] and listed.json["meta"]["total"] == 1
    prefix, _, secret = link.rpartition("/")
    assert prefix == "http://api.test/ui/invite" and secret.encode() not in listed.body
    assert (found := await find(api.store, Kind.INVITE, secret, NOW)) is not None and found.role == "admin"
    assert await changes(api) == [("members.invite", await key_id(api), "eve@there.test")]


async def test_a_withdrawn_invitation_s_link_works_no_more(api: Api) -> None:
    made = (await api.call("POST", "/team/invitations", {"email": "eve@there.test", "role": "viewer"})).json
    gone = await api.call("DELETE", f"/team/invitations/{made['id']}")
    assert gone.json == {"object": "invitation", "id": made["id"], "deleted": True}
    assert await find(api.store, Kind.INVITE, made["link"].rpartition("/")[2], NOW) is None
    for method in ("GET", "DELETE"):
        told = await refused(api, method, f"/team/invitations/{made['id']}")
        assert told == (404, "not_found", "Invitation not found.", None)
    mine = await key_id(api)
    assert await changes(api) == [
        ("members.invite", mine, "eve@there.test"),
        ("members.uninvite", mine, "eve@there.test"),
    ]


async def test_links_of_other_kinds_and_over_ones_are_no_invitations(api: Api) -> None:
    await api.make_member("ann@sender.test", Role.OWNER)
    reset = await people.reset_link(api.store, "ann@sender.test", BY)
    made = await people.invite(api.store, 1, "eve@there.test", Role.MEMBER, BY)
    assert (await api.call("GET", f"/team/invitations/{reset.id}")).status == 404
    assert [row["id"] for row in (await api.call("GET", "/team/invitations")).json["data"]] == [made.id]
    later = NOW + 7 * DAY_MS
    assert await invitations.invitations(api.store, 1, later) == ([], 0)
    assert await invitations.invitation(api.store, 1, made.id, later) is None


@pytest.mark.parametrize(
    "name", ["nope", "inv_", "inv_" + "v" * 26, "inv_" + "0" * 26, "inv_" + "0" * 27, "usr_" + "0" * 26, "inv_%00"]
)
async def test_what_is_no_invitation_is_not_found(api: Api, name: str) -> None:
    for method in ("GET", "DELETE"):
        assert (await refused(api, method, f"/team/invitations/{name}"))[:2] == (404, "not_found")


@pytest.mark.parametrize(
    ("email", "message"),
    [
        (None, "The email field is required."),
        ("", "The email field is required."),
        (["a@b.test"], "The email field must be a string."),
        ("nobody", "The email field must be a valid email address."),
        ("a@b.test, c@d.test", "The email field must be a valid email address."),
        ("x" * 250 + "@b.test", "The email field must not be greater than 255 characters."),
        ("ann@sender.test", "ann@sender.test belongs to this team already."),
    ],
)
async def test_a_wrong_address_is_refused_in_words(api: Api, email: object, message: str) -> None:
    await api.make_member("ann@sender.test", Role.OWNER)
    told = await refused(api, "POST", "/team/invitations", {"email": email, "role": "member"})
    assert told == (422, "validation_error", message, "email")


async def test_open_invitations_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "MAX_INVITATIONS", 2)
    made = [
        await api.call("POST", "/team/invitations", {"email": f"e{n}@there.test", "role": "viewer"}) for n in range(3)
    ]
    assert [answer.status for answer in made] == [201, 201, 422]
    assert made[2].json["message"] == "A team has at most 2 open invitations: withdraw some first."
    await api.call("DELETE", f"/team/invitations/{made[0].json['id']}")
    again = await api.call("POST", "/team/invitations", {"email": "e3@there.test", "role": "viewer"})
    assert again.status == 201
