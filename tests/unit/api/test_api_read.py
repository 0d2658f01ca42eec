"""Reading: one mail, lists with pages and filters, the queue, domains."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from api_world import BY, NAMES, Api

from sendkit_server.manage import domains


async def sent(api: Api, **members: object) -> str:
    answer = await api.send(**members)
    assert answer.status == 200, answer.body
    return str(answer.json["id"])


async def ids(api: Api, query: str) -> list[str]:
    answer = await api.call("GET", f"/emails?{query}")
    assert answer.status == 200, answer.body
    return [mail["id"] for mail in answer.json["data"]]


async def test_a_fresh_mail_reads_as_queued_and_says_what_it_waits_for(api: Api) -> None:
    message_id = await sent(api, cc=["Carl <carl@there.test>"])
    mail = (await api.call("GET", f"/emails/{message_id}")).json
    assert (mail["id"], mail["status"], mail["last_event"]) == (message_id, "queued", "queued")
    assert (mail["from"], mail["to"], mail["cc"]) == ("hello@sender.test", "ann@there.test", ["Carl <carl@there.test>"])
    assert mail["reason"] and mail["next_attempt_at"] == "2025-11-24 16:00:00"
    assert mail["created_at"] == "2025-11-24 16:00:00" and mail["sent_at"] is None
    assert mail["domain"]["name"] == "sender.test"
    assert mail["template"] is None and mail["scheduled_at"] is None and mail["door"] == "http"
    assert [(one["email"], one["role"], one["status"]) for one in mail["recipients"]] == [
        ("ann@there.test", "to", "queued"),
        ("carl@there.test", "cc", "queued"),
    ]


async def test_a_mail_is_found_by_its_message_id_in_every_spelling(api: Api) -> None:
    message_id = await sent(api, headers={"Message-ID": "<order+17@shop.test>"})
    for name in ("<order+17@shop.test>", "order+17@shop.test", quote("<order+17@shop.test>", safe="")):
        assert (await api.call("GET", f"/emails/{name}")).json["id"] == message_id


@pytest.mark.parametrize("name", ["msg_nope", "nobody@nowhere.test", "x" * 2000, "%ff", "'; DROP TABLE message; --"])
async def test_an_unknown_mail_is_404(api: Api, name: str) -> None:
    answer = await api.call("GET", f"/emails/{quote(name, safe='%')}")
    assert (answer.status, answer.json["name"], answer.json["message"]) == (404, "not_found", "Email not found.")


async def test_another_teams_mail_is_404(api: Api) -> None:
    from sqlalchemy import update

    from sendkit_server.store import schema

    message_id = await sent(api)
    await api.store.write(lambda connection: connection.execute(update(schema.message).values(team_id=2)))
    assert (await api.call("GET", f"/emails/{message_id}")).status == 404
    assert (await api.call("GET", f"/emails/{message_id}/attempts")).status == 404
    assert await ids(api, "") == []


async def test_pages_tell_where_they_are(api: Api) -> None:
    for number in range(5):
        await sent(api, subject=f"mail {number}")
    first = (await api.call("GET", "/emails?per_page=2&stream=transactional")).json
    assert first["object"] == "list" and first["has_more"] is True and len(first["data"]) == 2
    assert first["meta"] == {
        "current_page": 1, "from": 1, "last_page": 3, "per_page": 2, "to": 2, "total": 5, "path": "http://api.test/emails",
    }  # fmt: skip
    assert first["links"]["prev"] is None
    assert first["links"]["next"] == "http://api.test/emails?per_page=2&stream=transactional&page=2"
    last = (await api.call("GET", "/emails?per_page=2&page=3")).json
    assert (len(last["data"]), last["has_more"], last["links"]["next"]) == (1, False, None)
    assert last["meta"]["from"] == last["meta"]["to"] == 5
    beyond = (await api.call("GET", "/emails?page=9")).json
    assert beyond["data"] == [] and beyond["meta"]["from"] is None
    assert (
        len({*await ids(api, "per_page=2"), *await ids(api, "per_page=2&page=2"), *await ids(api, "per_page=2&page=3")})
        == 5
    )


async def test_an_empty_list_is_one_page(api: Api) -> None:
    body = (await api.call("GET", "/emails")).json
    assert body["data"] == [] and body["has_more"] is False
    assert (body["meta"]["from"], body["meta"]["to"], body["meta"]["last_page"], body["meta"]["total"]) == (
        None,
        None,
        1,
        0,
    )


@pytest.mark.parametrize("query", ["page=0", "page=-1", "page=x", "per_page=101", "per_page=0", "page=99999999999999999999",
                                   "per_page=１", "status=nope", "door=fax", "start_date=2026-13-01", "end_date=x", "limit=5",
                                   "q=%00", "q=%ff", "a=" + "x" * 9000])  # fmt: skip
async def test_a_wrong_query_is_422(api: Api, query: str) -> None:
    answer = await api.call("GET", f"/emails?{query}")
    assert (answer.status, answer.json["name"]) == (422, "validation_error")


async def test_filters_narrow_the_list(api: Api) -> None:
    plain = await sent(api)
    tagged = await sent(
        api, to="Bob <bob_x@elsewhere.test>", subject="100% off", tags=[{"name": "campaign", "value": "spring"}],
        metadata={"order": "17"}, headers={"Message-ID": "<17@shop.test>"},
    )  # fmt: skip
    for query in (
        "tag=campaign:spring", "tag=campaign", "metadata[order]=17", "search=bob_x@elsewhere.test", "recipient=BOB_X",
        "to=elsewhere", "q=100%25", "q=bob", "message_id=17@shop.test", "message_id=<17@shop.test>",
        "tag=campaign:spring&metadata[order]=17&door=http&stream=transactional&status=queued",
    ):  # fmt: skip
        assert await ids(api, query) == [tagged], query
    for query in ("tag=campaign:autumn", "tag=spring", "metadata[order]=18", "search=b%25b", "q=b_b", "door=smtp", "status=bounced",
                  "stream=broadcast", "domain_id=dom_x", "start_date=2025-11-25", "end_date=2025-11-23"):  # fmt: skip
        assert await ids(api, query) == [], query
    both = await ids(api, "start_date=2025-11-24&end_date=2025-11-24")
    assert sorted(both) == sorted([plain, tagged])


async def test_what_is_handed_to_delivery_is_not_said_to_be_on_the_wire(api: Api) -> None:
    found = (await api.call("GET", f"/emails/{await sent(api)}")).json
    assert found["reason"] == "It is in delivery: on its way, or waiting for its turn."


async def test_the_queue_shows_what_waits_by_site(api: Api) -> None:
    assert (await api.call("GET", "/queue")).json["data"] == []
    await sent(api, to=["a@one.test", "b@one.test", "c@two.test"])
    api.handover.room = False
    await sent(api, to="d@two.test")
    lanes = {lane["site"]: lane for lane in (await api.call("GET", "/queue")).json["data"]}
    assert (lanes["one.test"]["waiting"], lanes["one.test"]["in_flight"]) == (0, 2)
    assert (lanes["two.test"]["waiting"], lanes["two.test"]["in_flight"]) == (1, 1)
    assert set(lanes["one.test"]) == {
        "site", "waiting", "in_flight", "oldest", "last_answer", "next_attempt_at", "reason", "waits_for", "held",
    }  # fmt: skip


async def test_domains_have_the_contracts_shape(api: Api) -> None:
    listed = (await api.call("GET", "/domains")).json
    (found,) = listed["data"]
    one = (await api.call("GET", f"/domains/{found['id']}")).json
    assert one == found == (await api.call("GET", "/domains/sender.test")).json
    assert (one["name"], one["status"], one["tls"], one["sending_enabled"]) == (
        "sender.test",
        "pending",
        "opportunistic",
        True,
    )
    records = {record["record_type"]: record for record in one["dns_records"]}
    assert set(records) == {"DKIM", "SPF", "MX", "DMARC"}
    assert records["DKIM"]["name"] == "sendkit._domainkey.sender.test"
    assert records["DKIM"]["value"].startswith("v=DKIM1; k=rsa; p=MII")
    assert (records["SPF"]["name"], records["SPF"]["value"]) == ("send.sender.test", "v=spf1 ip4:192.0.2.1 ~all")
    assert (records["MX"]["value"], records["MX"]["priority"]) == ("mail.sender.test", 10)
    assert records["DMARC"]["value"] == "v=DMARC1; p=none;"
    for record in records.values():
        assert set(record) == {
            "id", "record_type", "name", "value", "ttl", "status", "priority", "created_at", "updated_at",
        }  # fmt: skip
    answer = await api.call("GET", "/domains/dom_nope")
    assert (answer.status, answer.json["message"]) == (404, "Domain not found.")


async def test_a_domain_that_is_not_trusted_cannot_send_until_it_is(api: Api) -> None:
    await domains.add_domain(api.store, 1, "new.test", NAMES, trust=False, by=BY)
    assert (await api.send(**{"from": "a@new.test"})).status == 422
    await domains.add_domain(api.store, 1, "new.test", NAMES, trust=True, by=BY)
    assert (await api.send(**{"from": "a@new.test"})).status == 200


async def test_health_and_ready_need_no_key(api: Api) -> None:
    assert (await api.call("GET", "/health", key=None)).json == {"status": "ok"}
    assert (await api.call("GET", "/ready", key=None)).json == {"status": "ready", "problems": [], "warnings": []}
    metrics = (await api.call("GET", "/metrics", key=None)).body.decode()
    for name in ("sendkit_accepted_total", "sendkit_delivered_total", "sendkit_deferred_total", "sendkit_failed_total",
                 "sendkit_errors_total", "sendkit_queue_recipients", "sendkit_accept_seconds"):  # fmt: skip
        assert name in metrics


async def test_a_head_request_gets_the_same_head(api: Api) -> None:
    answer = await api.call("HEAD", "/health", key=None)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "15")
