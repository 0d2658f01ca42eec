"""The suppression list by API, and what a send to an address on it comes to."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from api_world import BY, NOW, Api
from sqlalchemy import update

from sendkit_server.manage import queue
from sendkit_server.manage.queue import Cancelled
from sendkit_server.model.address import parse_address
from sendkit_server.model.mail import RawSubmission
from sendkit_server.store.queries import suppressions
from sendkit_server.store.schema import message


async def suppress(api: Api, email: str) -> Any:
    answer = await api.call("POST", "/suppressions", {"email": email})
    assert answer.status in (200, 201), answer.body
    return answer.json


async def test_an_address_is_added_once_and_found_in_every_spelling(api: Api) -> None:
    first = await api.call("POST", "/suppressions", {"email": "Ann@BÜCHER.test"})
    again = await api.call("POST", "/suppressions", {"email": "ann@xn--bcher-kva.TEST"})
    assert (first.status, again.status) == (201, 200)
    assert first.json["id"] == again.json["id"]
    assert first.json["email"] == "ann@xn--bcher-kva.test"
    assert (first.json["reason"], first.json["origin"], first.json["evidence"]) == ("manual", "manual", None)
    for name in (first.json["id"], quote("ANN@bücher.test", safe=""), "ann@xn--bcher-kva.test"):
        assert (await api.call("GET", f"/suppressions/{name}")).json["id"] == first.json["id"]


async def test_one_is_removed_by_id_or_by_address(api: Api) -> None:
    by_id = (await suppress(api, "a@there.test"))["id"]
    await suppress(api, "b@there.test")
    assert (await api.call("DELETE", f"/suppressions/{by_id}")).json == {
        "object": "suppression", "id": by_id, "deleted": True,
    }  # fmt: skip
    assert (await api.call("DELETE", "/suppressions/B%40There.test")).status == 200
    assert (await api.call("DELETE", "/suppressions/B%40There.test")).status == 404
    assert (await api.call("GET", f"/suppressions/{by_id}")).status == 404


async def test_the_list_is_newest_first_and_narrowed_by_reason_and_part_of_the_address(api: Api) -> None:
    def write(connection: Any) -> None:
        for n, reason in enumerate(("bounce", "complaint", "manual")):
            suppressions.add(connection, 1, f"{reason}@there.test", reason, {"message_id": "msg_1"}, NOW + n)

    await api.store.write(write)
    listed = (await api.call("GET", "/suppressions?per_page=2")).json
    assert [one["email"] for one in listed["data"]] == ["manual@there.test", "complaint@there.test"]
    assert listed["meta"]["total"] == 3 and listed["has_more"]
    for query, found in (("reason=bounce", "bounce"), ("origin=complaint", "complaint"), ("search=NUAL%40", "manual")):
        listed = (await api.call("GET", f"/suppressions?{query}")).json
        assert [one["reason"] for one in listed["data"]] == [found], query
    assert (await api.call("GET", "/suppressions?reason=bored")).json["field"] == "reason"


async def test_a_bounce_keeps_its_first_evidence_and_a_complaint_wins(api: Api) -> None:
    def write(reason: str, message_id: str, now: int) -> Any:
        detail = {"message_id": message_id, "text": f"words of {message_id}"}
        return lambda connection: suppressions.add(connection, 1, "ann@there.test", reason, detail, now)

    assert await api.store.write(write("bounce", "msg_1", NOW)) is True
    assert await api.store.write(write("bounce", "msg_2", NOW + 5000)) is False
    found = (await api.call("GET", "/suppressions/ann%40there.test")).json
    assert (found["reason"], found["source_id"], found["evidence"]["text"]) == ("bounce", "msg_1", "words of msg_1")
    assert found["updated_at"] > found["created_at"]
    assert await api.store.write(write("complaint", "msg_3", NOW + 6000)) is False
    assert await api.store.write(write("manual", "msg_4", NOW + 7000)) is False
    assert (await api.call("GET", "/suppressions/ann%40there.test")).json["reason"] == "complaint"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "The email field is required."),
        ({"email": None}, "The email field is required."),
        ({"email": 7}, "The email field must be a string."),
        ({"email": "nobody"}, "The email field must be a valid email address."),
        ({"email": "a" * 250 + "@x.test"}, "The email field must not be greater than 255 characters."),
    ],
)
async def test_what_is_no_address_is_refused(api: Api, body: object, message: str) -> None:
    answer = await api.call("POST", "/suppressions", body)
    assert (answer.status, answer.json["message"], answer.json["field"]) == (422, message, "email")


async def test_a_batch_is_added_and_removed(api: Api) -> None:
    added = await api.call("POST", "/suppressions/batch/add", {"emails": ["a@there.test", "B@there.test"]})
    assert added.status == 201
    ids = [one["id"] for one in added.json["data"]]
    removed = await api.call("POST", "/suppressions/batch/remove", {"emails": ["b@there.test", "never@there.test"]})
    assert removed.json == {"data": [{"object": "suppression", "id": ids[1], "deleted": True}]}
    assert (await api.call("POST", "/suppressions/batch/remove", {"ids": ids})).json["data"][0]["id"] == ids[0]
    for body in ({}, {"emails": "a@there.test"}, {"emails": [1]}, {"emails": ["x@y.test"] * 101}, {"emails": ["no"]}):
        assert (await api.call("POST", "/suppressions/batch/add", body)).status == 422, body
    assert (await api.call("GET", "/suppressions")).json["data"] == []


async def test_each_call_needs_its_permission(api: Api) -> None:
    key = await api.make_key("suppressions:read")
    assert (await api.call("GET", "/suppressions", key=key)).status == 200
    assert (await api.call("POST", "/suppressions", {"email": "a@there.test"}, key=key)).status == 401
    assert (await api.call("GET", "/suppressions", key=await api.make_key("send"))).status == 401


async def test_a_send_to_a_suppressed_address_is_recorded_and_goes_nowhere(api: Api) -> None:
    await suppress(api, "ann@there.test")
    answer = await api.send(to="Ann@There.test")
    assert (answer.status, answer.json["status"]) == (200, "suppressed")
    checked = answer.json["validation"]["recipients"][0]
    assert checked["valid"] is False and checked["reasons"][0] == "suppressed" and "by hand" in checked["reasons"][1]
    assert api.handover.jobs == [] and api.handover.foreseen == [] and api.handover.wakes == 0
    found = (await api.call("GET", f"/emails/{answer.json['id']}")).json
    assert (found["status"], found["last_event"], found["next_attempt_at"]) == ("suppressed", "suppressed", None)
    assert "by hand" in found["reason"] and found["recipients"][0]["reason"] == found["reason"]
    assert [event["type"] for event in found["events"]] == ["suppressed"]
    assert found["events"][0]["metadata"]["recipient"] == "Ann@there.test"
    assert (await api.call("GET", "/queue")).json["data"] == []


async def test_of_several_recipients_only_the_suppressed_one_is_left_out(api: Api) -> None:
    await suppress(api, "cc@there.test")
    await suppress(api, "second@there.test")
    answer = await api.send(to=["first@there.test", "second@there.test"], cc=["cc@there.test"])
    assert [one["status"] for one in answer.json["data"]] == ["queued", "suppressed"]
    assert answer.json["status"] == "queued" and answer.json["validation"]["valid"] is False
    (job,) = api.handover.jobs
    assert [one.mailbox.local for one in job.recipients] == ["first"] and job.shared
    found = (await api.call("GET", f"/emails/{answer.json['id']}")).json
    assert [one["status"] for one in found["recipients"]] == ["queued", "suppressed"] and found["status"] == "queued"


async def test_a_removed_address_can_be_sent_to_at_once(api: Api) -> None:
    await suppress(api, "ann@there.test")
    assert (await api.send()).json["status"] == "suppressed"
    await api.call("DELETE", "/suppressions/ann%40there.test")
    assert (await api.send()).json["status"] == "queued"
    assert len(api.handover.jobs) == 1


async def test_a_check_tells_of_suppressions_and_stores_nothing(api: Api) -> None:
    await suppress(api, "ann@there.test")
    answer = await api.send(check_only=True)
    assert answer.json["status"] == "checked" and answer.json["validation"]["valid"] is False
    assert (await api.call("GET", "/emails")).json["data"] == []


async def test_another_team_may_send_to_it(api: Api) -> None:
    def write(connection: Any) -> None:
        suppressions.add(connection, 2, "ann@there.test", "manual", {}, NOW)

    await api.store.write(write)
    assert (await api.send()).json["status"] == "queued"


async def test_smtp_takes_a_mail_whose_recipients_are_all_suppressed(api: Api) -> None:
    await suppress(api, "ann@there.test")
    key = await api.store.key(api.key, NOW)
    assert key is not None
    raw = b"From: hello@sender.test\r\nTo: ann@there.test\r\nSubject: x\r\n\r\nHello\r\n"
    accepted = await api.acceptor.accept_raw(
        RawSubmission(key, "hello@sender.test", (parse_address("ann@there.test"),), raw)
    )
    found = (await api.call("GET", f"/emails/{accepted.messages[0].id}")).json  # type: ignore[union-attr]
    assert (found["status"], found["door"]) == ("suppressed", "smtp") and api.handover.jobs == []


async def test_what_another_process_suppresses_is_known_within_two_seconds(api: Api) -> None:
    assert (await api.send()).json["status"] == "queued"
    # write_quietly: this process's memory is told nothing, as if another one had written.
    await api.store.write_quietly(
        lambda connection: suppressions.add(connection, 1, "ann@there.test", "bounce", {"text": "no such user"}, NOW)
    )
    assert (await api.send()).json["status"] == "queued"
    api.store.suppressed._teams[1].at -= 2.1
    assert (await api.send()).json["status"] == "suppressed"


async def test_a_mail_that_waits_can_be_cancelled_and_no_other(api: Api) -> None:
    api.handover.room = False
    sent = (await api.send()).json["id"]
    answer = await api.call("POST", f"/emails/{sent}/cancel")
    assert answer.json == {"object": "email", "id": sent, "recipients": 1}
    found = (await api.call("GET", f"/emails/{sent}")).json
    assert (found["status"], found["reason"]) == ("cancelled", "Cancelled before it was sent.")
    assert [event["type"] for event in found["events"]] == ["cancelled"]
    again = await api.call("POST", f"/emails/{sent}/cancel")
    assert again.status == 422 and "cancelled" in again.json["message"]
    assert (await api.call("POST", f"/emails/{sent}/retry")).status == 422
    assert (await api.call("POST", "/emails/msg_nope/cancel")).status == 404
    assert (await api.call("POST", f"/emails/{sent}/cancel", key=await api.make_key("send"))).status == 401


async def test_a_mail_that_is_delivered_while_it_is_cancelled_is_said_to_be(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = (await api.send()).json["id"]

    async def too_late(*arguments: object) -> Cancelled:
        delivered = update(message).where(message.c.id == sent).values(status="delivered")
        await api.store.write(lambda connection: connection.execute(delivered).rowcount)
        return Cancelled(0, 0)

    monkeypatch.setattr("sendkit_server.api.emails.queue_cancel", too_late)
    answer = await api.call("POST", f"/emails/{sent}/cancel")
    assert answer.status == 422 and answer.json["message"].endswith("its status is delivered.")


async def test_a_mail_in_delivery_is_not_cancelled(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sendkit_server.manage.queue.HAND_BACK_S", 0.1)
    sent = (await api.send()).json["id"]
    answer = await api.call("POST", f"/emails/{sent}/cancel")
    assert answer.status == 422 and "being delivered" in answer.json["message"]
    assert (await api.call("GET", f"/emails/{sent}")).json["status"] == "queued"


async def test_a_held_destination_is_told_in_the_queue_and_in_each_mail(api: Api) -> None:
    api.handover.room = False
    sent = (await api.send()).json["id"]
    assert await queue.hold(api.store, 1, "There.TEST", BY) is True
    assert await queue.hold(api.store, 1, "there.test", BY) is False
    await queue.hold(api.store, 1, "empty.test", BY)
    lanes = {lane["site"]: lane for lane in (await api.call("GET", "/queue")).json["data"]}
    assert (lanes["there.test"]["held"], lanes["there.test"]["reason"]) == (True, "held by the operator")
    assert (lanes["empty.test"]["held"], lanes["empty.test"]["waiting"]) == (True, 0)
    found = (await api.call("GET", f"/emails/{sent}")).json
    assert found["reason"] == found["recipients"][0]["reason"] == "held by the operator"
    assert await queue.release(api.store, 1, "there.test", BY) is True
    assert (await api.call("GET", f"/emails/{sent}")).json["reason"] == "It waits for its first attempt."
