"""API keys: what they may do, on both doors alike and in the same words, and how they are managed."""

from __future__ import annotations

import json

import msgspec
import pytest
from api_world import BY, MAIL, NOW, Answer, Api
from sqlalchemy import select, update

from sendkit_server.api.schema import NewKeyShape
from sendkit_server.manage import domains
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.address import parse_address
from sendkit_server.model.instant import DAY_MS
from sendkit_server.model.mail import Accepted, RawSubmission
from sendkit_server.model.refusal import Refusal
from sendkit_server.store import schema

RAW = b"From: %s\r\nTo: %s\r\nSubject: Hello\r\n\r\nIt works\r\n"


async def make(api: Api, **members: object) -> Answer:
    return await api.call("POST", "/api-keys", {"name": "k", "permission": "full", **members})


async def by_smtp(api: Api, secret: str, from_: str, to: str, client: str = "127.0.0.1") -> Accepted | Refusal:
    key = await api.store.key(secret, NOW)
    assert key is not None
    raw = RAW % (from_.encode(), to.encode())
    return await api.acceptor.accept_raw(RawSubmission(key, from_, (parse_address(to),), raw, client=client))


async def both_doors(api: Api, secret: str, **members: str) -> tuple[Answer, Accepted | Refusal]:
    mail = {**MAIL, **members}
    return (
        await api.call("POST", "/emails", mail, key=secret),
        await by_smtp(api, secret, str(mail["from"]), str(mail["to"])),
    )


async def refused_alike(api: Api, secret: str, words: str, status: int = 401, **members: str) -> None:
    answer, refusal = await both_doors(api, secret, **members)
    assert isinstance(refusal, Refusal), refusal
    assert (answer.status, refusal.smtp_code, refusal.smtp_enhanced) == (status, 550, "5.7.1")
    assert answer.json["message"] == refusal.message
    assert refusal.smtp_text == f"{answer.json['name']}: {refusal.message}"
    assert words in refusal.message


async def allowed_alike(api: Api, secret: str, **members: str) -> None:
    answer, accepted = await both_doors(api, secret, **members)
    assert answer.status == 200, answer.body
    assert isinstance(accepted, Accepted), accepted


async def test_a_key_is_shown_once_listed_without_its_secret_and_dead_when_it_is_revoked(api: Api) -> None:
    made = await make(api, name="billing", permission="send")
    assert made.status == 201 and made.json["token"].startswith("sk_live_") and len(made.json["token"]) == 56
    secret, key_id = made.json["token"], made.json["id"]
    read = await api.call("GET", f"/api-keys/{key_id}")
    assert (read.json["name"], read.json["permission"], read.json["permissions"]) == (
        "billing",
        "send",
        ["emails:send"],
    )
    listed = await api.call("GET", "/api-keys")
    assert listed.json["meta"]["total"] == 2 and key_id in [key["id"] for key in listed.json["data"]]
    assert secret.encode() not in listed.body + read.body
    assert (await api.call("POST", "/emails", MAIL, key=secret)).status == 200
    gone = await api.call("DELETE", f"/api-keys/{key_id}")
    assert gone.json == {"object": "api_key", "id": key_id, "deleted": True}
    answer = await api.call("POST", "/emails", MAIL, key=secret)
    assert (answer.status, answer.json["name"]) == (401, "invalid_api_key")
    for method, path in (
        ("GET", f"/api-keys/{key_id}"),
        ("DELETE", f"/api-keys/{key_id}"),
        ("POST", f"/api-keys/{key_id}/rotate"),
    ):
        assert (await api.call(method, path)).status == 404


async def test_a_refusal_names_the_permission_that_is_missing(api: Api) -> None:
    billing = (await make(api, permission="send")).json["token"]
    answer = await api.call("GET", "/emails", key=billing)
    assert (answer.status, answer.json["name"]) == (401, "restricted_api_key")
    assert answer.json["message"] == "This API key needs the permission emails:read."
    reader = (await make(api, permission="read")).json["token"]
    await refused_alike(api, reader, "needs the permission emails:send")
    assert (await api.call("GET", "/emails", key=reader)).status == 200
    custom = await make(api, permissions=["analytics:read", "queue:read"])
    assert (custom.json["permission"], custom.json["permissions"]) == ("custom", ["analytics:read", "queue:read"])
    assert (await api.call("GET", "/queue", key=custom.json["token"])).status == 200
    assert (await api.call("GET", "/emails", key=custom.json["token"])).status == 401


async def test_resend_s_words_for_permissions_are_taken(api: Api) -> None:
    assert (await make(api, permission="full_access")).json["permission"] == "full"
    assert (await make(api, permission="sending_access")).json["permission"] == "send"


@pytest.mark.parametrize(
    ("members", "field", "words"),
    [
        ({"name": None}, "name", "The name field is required."),
        ({"name": "x" * 256}, "name", "1 to 255"),
        ({"permission": None}, "permission", "The permission field is required."),
        ({"permission": "emails:fly"}, "permission", "emails:fly"),
        ({"permissions": ["emails:send", "nothing"]}, "permission", "nothing"),
        ({"domain_id": "dom_nowhere"}, "domain_id", "There is no domain dom_nowhere"),
        ({"senders": ["nobody"]}, "senders", "no sender"),
        ({"recipient_domains": ["not a domain"]}, "recipient_domains", "no domain name"),
        ({"networks": ["everywhere"]}, "networks", "192.0.2.0/24"),
        ({"networks": ["fe80::1%eth0"]}, "networks", "what follows the %"),
        ({"networks": ["::ffff:10.0.0.0/8"]}, "networks", "give the IPv4 network"),
        ({"networks": ""}, "networks", "must not be empty"),
        ({"senders": ""}, "senders", "must not be empty"),
        ({"recipient_domains": ""}, "recipient_domains", "must not be empty"),
        ({"domain_ids": ""}, "domain_ids", "must not be empty"),
        ({"domain_id": ""}, "domain_id", "There is no domain"),
        ({"networks": [""]}, "networks", "192.0.2.0/24"),
        ({"daily_limit": 0}, "daily_limit", "from 1 to 1000000000"),
        ({"daily_limit": 1_000_000_001}, "daily_limit", "from 1 to 1000000000"),
        ({"daily_limit": "many"}, "daily_limit", "a whole number"),
        ({"rewrite_from": True}, "senders", "whole address in senders"),
        ({"rewrite_from": True, "senders": ["*@sender.test"]}, "senders", "whole address in senders"),
        ({"expires_at": "soon"}, "expires_at", "must be a time"),
        ({"expires_at": "2020-01-01 00:00:00"}, "expires_at", "in the future"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at", "must be a time such as"),
        ({"test": "perhaps"}, "test", "true or false"),
    ],
)
async def test_what_is_wrong_with_a_new_key_is_said_with_its_field(
    api: Api, members: dict[str, object], field: str, words: str
) -> None:
    answer = await make(api, **members)
    assert (answer.status, answer.json["name"], answer.json.get("field")) == (422, "validation_error", field)
    assert words in answer.json["message"]


async def test_a_restriction_left_blank_in_a_form_does_not_make_a_key_without_it(api: Api) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    for field in ("networks", "senders", "recipient_domains", "domain_ids", "networks[]"):
        body = f"name=k&permission=full&{field}=".encode()
        assert (await api.call("POST", "/api-keys", body, headers=form)).status == 422, field
    none = await make(api, networks=[], senders=None)
    assert (none.status, none.json["networks"], none.json["senders"]) == (201, [], [])


async def test_a_network_of_mapped_addresses_is_the_ipv4_network_that_it_means(api: Api) -> None:
    made = await make(
        api, networks=["::ffff:127.0.0.1/128", "::ffff:10.1.2.3/104", "::ffff:0:0/96", "192.0.2.7/24", "::/0"]
    )
    assert made.json["networks"] == ["127.0.0.1/32", "10.0.0.0/8", "0.0.0.0/0", "192.0.2.0/24", "::/0"]
    own = (await make(api, networks=["::ffff:127.0.0.1"])).json["token"]
    assert (await api.call("GET", "/emails", key=own)).status == 200


@pytest.mark.parametrize(
    "member",
    [
        "permission", "permissions", "test", "domain_id", "domain_ids", "senders", "recipient_domains", "networks", "daily_limit",
        "rewrite_from", "shadow", "expires_at",
    ],
)  # fmt: skip
async def test_what_a_key_keeps_for_ever_is_refused_by_name_and_what_is_unknown_is_ignored(
    api: Api, member: str
) -> None:
    key_id = (await make(api)).json["id"]
    answer = await api.call("PATCH", f"/api-keys/{key_id}", {"name": "other", member: None})
    assert (answer.status, answer.json["field"]) == (422, member)
    assert f"The {member} field" in answer.json["message"] and "make a new key" in answer.json["message"]
    renamed = await api.call("PATCH", f"/api-keys/{key_id}", {"name": "other", "colour": "red"})
    assert (renamed.status, renamed.json["name"]) == (200, "other")


async def test_a_key_of_one_domain_sends_from_no_other_on_both_doors(api: Api) -> None:
    await domains.add_domain(api.store, 1, "other.test", api_names(), trust=True, by=BY)
    own = (await make(api, domain_ids=["sender.test"])).json["token"]
    await allowed_alike(api, own)
    await refused_alike(api, own, "The from address domain is not verified.", 422, **{"from": "a@other.test"})
    both = await make(api, domain_ids=["sender.test", "other.test"])
    assert both.json["domain_id"] is None and len(both.json["domain_ids"]) == 2
    await allowed_alike(api, both.json["token"], **{"from": "a@other.test"})


def api_names() -> domains.DnsNames:
    return domains.DnsNames("mail.sender.test", ("ip4:192.0.2.1",))


async def test_senders_recipients_and_networks_are_held_on_both_doors_in_the_same_words(api: Api) -> None:
    billing = (await make(api, senders=["Billing@Sender.test", "*@news.sender.test"])).json["token"]
    await allowed_alike(api, billing, **{"from": "Billing <billing@sender.test>"})
    await refused_alike(
        api, billing, "may send only from billing@sender.test, *@news.sender.test", **{"from": "hello@sender.test"}
    )
    staff = (await make(api, recipient_domains=["There.test"])).json["token"]
    await allowed_alike(api, staff)
    await refused_alike(api, staff, "only to there.test, not to bob@else.test", to="bob@else.test")
    office = (await make(api, networks=["192.0.2.0/24", "2001:db8::/32"])).json["token"]
    await refused_alike_from_here(api, office)
    assert isinstance(await by_smtp(api, office, "hello@sender.test", "ann@there.test", "192.0.2.7"), Accepted)
    assert isinstance(await by_smtp(api, office, "hello@sender.test", "ann@there.test", "2001:db8::1"), Accepted)
    assert isinstance(await by_smtp(api, office, "hello@sender.test", "ann@there.test", "::ffff:192.0.2.7"), Accepted)
    assert (await api.call("GET", "/emails", key=office)).status == 401, "on every route"


async def refused_alike_from_here(api: Api, secret: str) -> None:
    answer = await api.call("POST", "/emails", MAIL, key=secret)
    refusal = await by_smtp(api, secret, "hello@sender.test", "ann@there.test")
    assert isinstance(refusal, Refusal)
    assert answer.json["message"] == refusal.message
    assert "only from 192.0.2.0/24, 2001:db8::/32, not from 127.0.0.1" in refusal.message


async def test_who_makes_a_restricted_key_that_may_do_more_than_send_is_warned(api: Api) -> None:
    for restricted in (
        {"senders": ["a@sender.test"]}, {"domain_id": "sender.test"}, {"recipient_domains": ["a.test"]}, {"daily_limit": 5},
    ):  # fmt: skip
        made = await make(api, permissions=["emails:send", "domains:write"], **restricted)
        (warning,) = msgspec.json.decode(made.body, type=NewKeyShape).warnings
        assert (made.status, warning.name) == (201, "restrictions_bind_sending")
        assert (await make(api, permission="send", **restricted)).json["warnings"] == []
    assert (await make(api, networks=["127.0.0.0/8"])).json["warnings"] == [], "that binds all that it does"
    wish = {"name": "k", "permission": "full", "test": False, "senders": ["a@sender.test"]}
    assert [one["name"] for one in (await api.command("keys.create", **wish))["warnings"]] == [warning.name]


async def test_rewrite_from_sends_as_the_key_s_sender_and_keeps_the_original_for_replies(api: Api) -> None:
    forms = (await make(api, senders=["forms@sender.test"], rewrite_from=True)).json["token"]
    answer = await api.call("POST", "/emails", {**MAIL, "from": "Visitor <visitor@gmail.test>"}, key=forms)
    assert answer.status == 200
    assert "from_rewritten" in [warning["name"] for warning in answer.json["warnings"]]
    job = api.handover.jobs[-1]
    assert (job.message.from_.display(), [box.address for box in job.content.reply_to]) == (
        "Visitor <forms@sender.test>", ["visitor@gmail.test"],
    )  # fmt: skip
    assert isinstance(await by_smtp(api, forms, "Visitor <visitor@gmail.test>", "ann@there.test"), Accepted)
    raw = api.handover.jobs[-1].content.raw
    assert b"From: Visitor <forms@sender.test>\r\nReply-To: Visitor <visitor@gmail.test>\r\nTo: ann" in raw
    assert raw.endswith(b"\r\n\r\nIt works\r\n")
    assert api.handover.jobs[-1].message.from_.address == "forms@sender.test"
    own = await api.call("POST", "/emails", {**MAIL, "from": "forms@sender.test"}, key=forms)
    assert own.json["warnings"] == [] and api.handover.jobs[-1].content.reply_to == ()


async def test_a_shadow_key_does_everything_but_deliver(api: Api) -> None:
    shadow = (await make(api, shadow=True)).json["token"]
    answer = await api.call("POST", "/emails", MAIL, key=shadow)
    assert (answer.status, answer.json["status"]) == (200, "captured")
    assert api.handover.jobs[-1].message.capture
    answer = await api.call("POST", "/emails", {**MAIL, "from": "a@gmail.test"}, key=shadow)
    assert answer.status == 422, "all checks are those of a live key"


async def test_a_key_ends_when_its_time_is_over_and_stays_listed_as_expired(api: Api) -> None:
    made = await make(api, expires_at="2099-01-01 00:00:00")
    assert (made.json["status"], made.json["expires_at"]) == ("active", "2099-01-01 00:00:00")
    past = update(schema.api_key).where(schema.api_key.c.id == made.json["id"]).values(expires_at=NOW - 1)
    await api.store.write(lambda connection: connection.execute(past))
    assert (await api.call("POST", "/emails", MAIL, key=made.json["token"])).json["name"] == "invalid_api_key"
    assert (await api.call("GET", f"/api-keys/{made.json['id']}")).json["status"] == "expired"


async def test_a_command_makes_no_key_whose_end_cannot_be_worded(api: Api) -> None:
    with pytest.raises(ManageError, match="before the year 10000"):
        await api.command("keys.create", name="k", permission="full", test=False, expires_in_ms=99_999_999 * DAY_MS)
    assert (await api.call("GET", "/api-keys")).json["meta"]["total"] == 1


async def test_rotation_makes_a_key_with_the_same_rights_and_lets_the_old_one_go_on_for_a_while(api: Api) -> None:
    old = await make(api, permission="send", senders=["*@sender.test"], daily_limit=9)
    new = await api.call("POST", f"/api-keys/{old.json['id']}/rotate", {"overlap": "2h"})
    assert new.status == 201 and new.json["token"] != old.json["token"]
    same = ("name", "permissions", "senders", "daily_limit", "test")
    assert [new.json[name] for name in same] == [old.json[name] for name in same]
    for secret in (old.json["token"], new.json["token"]):
        assert (await api.call("POST", "/emails", MAIL, key=secret)).status == 200
    row = await api.store.read(
        lambda connection: connection.execute(select(schema.api_key).where(schema.api_key.c.id == old.json["id"])).one()
    )
    assert row.expires_at == NOW + 2 * 3_600_000
    again = await api.call("POST", f"/api-keys/{new.json['id']}/rotate", {"overlap": "0s"})
    assert again.status == 201
    assert (await api.call("POST", "/emails", MAIL, key=new.json["token"])).status == 401
    for wrong in ("soon", "31d"):
        assert (await api.call("POST", f"/api-keys/{new.json['id']}/rotate", {"overlap": wrong})).json[
            "field"
        ] == "overlap"


async def test_what_was_rotated_or_has_ended_is_not_rotated_as_the_new_key_would_end_with_it(api: Api) -> None:
    old = (await make(api)).json["id"]
    new = (await api.call("POST", f"/api-keys/{old}/rotate")).json["id"]
    answer = await api.call("POST", f"/api-keys/{old}/rotate")
    assert (answer.status, answer.json["message"]) == (
        422,
        f"The API key was rotated already: rotate its successor {new}, or make a new key.",
    )
    with pytest.raises(ManageError, match=f"rotate its successor {new}"):
        await api.command("keys.rotate", id=old, overlap_ms=0)
    ended = (await make(api, expires_at="2099-01-01 00:00:00")).json["id"]
    past = update(schema.api_key).where(schema.api_key.c.id == ended).values(expires_at=NOW)
    await api.store.write(lambda connection: connection.execute(past))
    answer = await api.call("POST", f"/api-keys/{ended}/rotate")
    assert answer.status == 422 and "has expired" in answer.json["message"] and "make a new" in answer.json["message"]
    assert (await api.call("GET", "/api-keys")).json["meta"]["total"] == 4, "no other key was made"


async def test_a_key_makes_and_rotates_none_that_ends_later_than_itself(api: Api) -> None:
    ends, sooner, later = (f"2099-01-0{day} 00:00:00" for day in (2, 1, 3))
    made = await make(api, expires_at=ends)
    key, wish = made.json["token"], {"name": "k", "permission": "send"}
    for expires_at in (None, later):
        answer = await api.call("POST", "/api-keys", {**wish, "expires_at": expires_at}, key=key)
        assert (answer.status, answer.json["field"], answer.json["message"]) == (
            422, "expires_at",
            f"This API key ends at {ends} UTC, and cannot make one that ends later. Give expires_at, no later than that.",
        )  # fmt: skip
    for expires_at in (sooner, ends):
        assert (await api.call("POST", "/api-keys", {**wish, "expires_at": expires_at}, key=key)).status == 201
    for_ever = (await make(api)).json["id"]
    answer = await api.call("POST", f"/api-keys/{for_ever}/rotate", key=key)
    assert (answer.status, answer.json["field"]) == (422, "expires_at")
    own = await api.call("POST", f"/api-keys/{made.json['id']}/rotate", key=key)
    assert (own.status, own.json["expires_at"]) == (201, ends)


async def test_a_test_key_neither_revokes_nor_renames_nor_rotates_a_live_key(api: Api) -> None:
    test, live = await api.make_key(test=True), (await make(api)).json["id"]
    for method, path, body, verb in (
        ("DELETE", "", None, "revoke"), ("PATCH", "", {"name": "mine"}, "rename"), ("POST", "/rotate", {}, "make"),
    ):  # fmt: skip
        answer = await api.call(method, f"/api-keys/{live}{path}", body, key=test)
        assert (answer.status, answer.json["message"]) == (422, f"A test key can {verb} only test keys.")
    assert (await api.call("GET", f"/api-keys/{live}")).json["name"] == "k"
    own = (await make(api, test=True)).json["id"]
    assert (await api.call("PATCH", f"/api-keys/{own}", {"name": "mine"}, key=test)).json["name"] == "mine"
    assert (await api.call("DELETE", f"/api-keys/{own}", key=test)).status == 200
    assert (await api.call("DELETE", "/api-keys/key_nope", key=test)).status == 404


async def test_a_key_cannot_make_one_that_may_do_more_than_itself(api: Api) -> None:
    limited = (await make(api, permissions=["keys:write", "keys:read", "emails:send"])).json["token"]
    answer = await api.call("POST", "/api-keys", {"name": "k", "permission": "full"}, key=limited)
    assert (
        answer.status == 422 and "does not have" in answer.json["message"] and "domains:write" in answer.json["message"]
    )
    assert (await api.call("POST", "/api-keys", {"name": "k", "permission": "send"}, key=limited)).status == 201
    full = await make(api)
    rotated = await api.call("POST", f"/api-keys/{full.json['id']}/rotate", key=limited)
    assert rotated.status == 422, "by rotation neither"
    test = await api.make_key(test=True)
    assert (await api.call("POST", "/api-keys", {"name": "k", "permission": "full"}, key=test)).json["field"] == "test"
    assert (
        await api.call("POST", "/api-keys", {"name": "k", "permission": "full", "test": True}, key=test)
    ).status == 201
    bound = await api.make_key(senders=("a@sender.test",))
    answer = await api.call("POST", "/api-keys", {"name": "k", "permission": "send"}, key=bound)
    assert answer.status == 422 and "restrictions" in answer.json["message"]


async def test_another_team_s_keys_do_not_exist(api: Api) -> None:
    made = await make(api)
    await api.store.write(
        lambda connection: connection.execute(
            update(schema.api_key).where(schema.api_key.c.id == made.json["id"]).values(team_id=7)
        )
    )
    for method, path, body in (
        ("GET", "", None), ("DELETE", "", None), ("PATCH", "", {"name": "mine"}), ("POST", "/rotate", {}),
    ):  # fmt: skip
        assert (await api.call(method, f"/api-keys/{made.json['id']}{path}", body)).status == 404
    assert made.json["id"] not in [key["id"] for key in (await api.call("GET", "/api-keys")).json["data"]]


async def test_every_change_is_on_the_audit_log_without_the_secret(api: Api) -> None:
    made = await make(api, name="billing")
    await api.call("PATCH", f"/api-keys/{made.json['id']}", {"name": "bills"})
    await api.call("POST", f"/api-keys/{made.json['id']}/rotate")
    await api.call("DELETE", f"/api-keys/{made.json['id']}")
    rows = await api.store.read(
        lambda connection: connection.execute(select(schema.audit).order_by(schema.audit.c.id)).all()
    )
    mine = [row for row in rows if row.target == made.json["id"]]
    assert sorted(row.action for row in mine) == ["keys.create", "keys.rename", "keys.revoke", "keys.rotate"]
    assert all(row.actor.startswith("key_") for row in mine)
    assert made.json["token"] not in json.dumps([row.detail for row in rows])


async def test_a_paused_team_sends_nothing_and_is_told_why(api: Api) -> None:
    pause = update(schema.team).where(schema.team.c.id == 1).values(paused_at=NOW, paused_reason="Too many complaints.")
    await api.store.write(lambda connection: connection.execute(pause))
    await refused_alike(api, api.key, "Sending is paused for this account. Too many complaints.", 422)
    assert (await api.call("GET", "/emails")).status == 200
