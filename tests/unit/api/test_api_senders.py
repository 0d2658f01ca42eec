"""Senders by the API: made at a domain that may send, listed, changed, deleted."""

from __future__ import annotations

from collections import Counter

import pytest
from api_world import BY, NAMES, Api

from sendkit_server.manage import domains

NEW = {"name": "Ann of Acme", "username": "ann", "domain_id": "sender.test"}


async def test_a_sender_is_made_read_listed_changed_and_deleted(api: Api) -> None:
    made = await api.call("POST", "/senders", {**NEW, "reply_to": "Help <help@sender.test>"})
    assert made.status == 201, made.json
    sender = made.json
    assert sender["id"].startswith("snd_")
    assert (sender["name"], sender["username"], sender["email"]) == ("Ann of Acme", "ann", "ann@sender.test")
    assert sender["reply_to"] == "Help <help@sender.test>"
    assert sender["domain"]["name"] == "sender.test" and "dns_records" not in sender["domain"]
    path = f"/senders/{sender['id']}"
    assert (await api.call("GET", path)).json == sender
    second = (await api.call("POST", "/senders", {**NEW, "username": "bob"})).json
    listed = (await api.call("GET", "/senders?per_page=1")).json
    assert listed["data"][0] in (sender, second), "both are of one millisecond"
    assert (len(listed["data"]), listed["meta"]["total"], listed["has_more"]) == (1, 2, True)
    changed = (await api.call("PUT", path, {"name": "Ann B.", "reply_to": None})).json
    assert (changed["name"], changed["username"], changed["reply_to"]) == ("Ann B.", "ann", None)
    assert (await api.call("PATCH", path, {})).json["name"] == "Ann B."
    assert (await api.call("DELETE", path)).json == {"object": "sender", "id": sender["id"], "deleted": True}
    for method in ("GET", "PUT", "DELETE"):
        assert (await api.call(method, path, {})).status == 404
    assert (await api.call("POST", "/senders", NEW)).status == 201, "its name is free again"
    changes = Counter(row["action"] for row in (await api.call("GET", "/audit")).json["data"])
    assert (changes["senders.create"], changes["senders.set"], changes["senders.delete"]) == (3, 1, 1)


@pytest.mark.parametrize(
    ("members", "field", "words"),
    [
        ({"name": None}, "name", "The name field is required."),
        ({"name": "  "}, "name", "The name field is required."),
        ({"name": "x" * 256}, "name", "not be greater than 255"),
        ({"name": "a\nb"}, "name", "one line"),
        ({"username": None}, "username", "The username field is required."),
        ({"username": "ann@sender.test"}, "username", "before the @"),
        ({"username": ".ann"}, "username", "before the @"),
        ({"username": "x" * 65}, "username", "not be greater than 64"),
        ({"username": 7}, "username", "a string"),
        ({"domain_id": None}, "domain_id", "The domain id field is required."),
        ({"domain_id": "dom_nope"}, "domain_id", "The selected domain id is invalid."),
        ({"domain_id": "unproved.test"}, "domain_id", "The domain unproved.test is not verified."),
        ({"reply_to": "nobody"}, "reply_to", "valid email address"),
        ({"username": "TAKEN"}, "username", "The username has already been taken."),
    ],
)
async def test_what_is_wrong_with_a_sender_is_said(
    api: Api, members: dict[str, object], field: str, words: str
) -> None:
    await domains.add_domain(api.store, 1, "unproved.test", NAMES, trust=False, by=BY)
    assert (await api.call("POST", "/senders", {**NEW, "username": "taken"})).status == 201
    answer = await api.call("POST", "/senders", {**NEW, **members})
    assert (answer.status, answer.json["name"], answer.json["field"]) == (422, "validation_error", field)
    assert words in answer.json["message"]
    # A change is looked at alike, where it says something.
    sender = (await api.call("POST", "/senders", NEW)).json
    if all(members.values()):
        refused = await api.call("PUT", f"/senders/{sender['id']}", members)
        assert (refused.status, refused.json["field"]) == (422, field)
    assert (await api.call("GET", f"/senders/{sender['id']}")).json == sender


async def test_a_sender_goes_with_its_domain_and_may_move_to_another(api: Api) -> None:
    await domains.add_domain(api.store, 1, "second.test", NAMES, trust=True, by=BY)
    sender = (await api.call("POST", "/senders", NEW)).json
    moved = (await api.call("PUT", f"/senders/{sender['id']}", {"domain_id": "second.test"})).json
    assert moved["email"] == "ann@second.test"
    await api.call("DELETE", "/domains/second.test")
    assert (await api.call("GET", "/senders")).json["data"] == []
