"""POST /emails: what is stored and what is answered, from JSON and from form data."""

from __future__ import annotations

import base64
import json
from urllib.parse import urlencode

import pytest
from api_world import MAIL, Answer, Api
from sqlalchemy import select

from sendkit_server.model.mail import PartsContent, Warning_
from sendkit_server.store import schema


def parts(api: Api, index: int = 0) -> PartsContent:
    content = api.handover.jobs[index].content
    assert isinstance(content, PartsContent)
    return content


async def form(api: Api, pairs: list[tuple[str, str]]) -> Answer:
    return await api.call(
        "POST", "/emails", urlencode(pairs).encode(), headers={"Content-Type": "application/x-www-form-urlencoded"}
    )


async def multipart(api: Api, fields: list[tuple[str, str | tuple[str, str, bytes]]]) -> Answer:
    body = b""
    for name, value in fields:
        body += b"--frontier\r\n"
        if isinstance(value, str):
            body += f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        else:
            filename, kind, content = value
            body += f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'.encode()
            body += f"Content-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
    body += b"--frontier--\r\n"
    return await api.call("POST", "/emails", body, headers={"Content-Type": "multipart/form-data; boundary=frontier"})


async def test_the_reply_has_id_status_validation_and_warnings(api: Api) -> None:
    answer = await api.send()
    body = answer.json
    assert answer.status == 200
    assert body["id"].startswith("msg_") and len(body["id"]) == 30
    assert body["status"] == "queued"
    assert body["validation"] == {
        "valid": True,
        "recipients": [{"email": "ann@there.test", "valid": True, "reasons": []}],
    }
    assert body["warnings"] == []
    assert body["data"] == [{"id": body["id"], "to": "ann@there.test", "status": "queued"}]


async def test_html_without_text_is_warned_of(api: Api) -> None:
    warnings = (await api.send(text=..., html="<p>x</p>")).json["warnings"]
    assert [warning["name"] for warning in warnings] == ["no_text_part"]
    assert all(set(warning) == {"name", "message", "fix"} for warning in warnings)


async def test_the_servers_own_warnings_are_told_with_live_keys_only(api: Api) -> None:
    api.warnings = (Warning_("port_25_blocked", "m", "f"),)
    assert [one["name"] for one in (await api.send()).json["warnings"]] == ["port_25_blocked"]
    test_key = await api.make_key(test=True)
    assert (await api.call("POST", "/emails", MAIL, key=test_key)).json["warnings"] == []


async def test_null_and_empty_lists_count_as_absent(api: Api) -> None:
    answer = await api.send(
        html=None, cc=None, bcc=[], reply_to=[], headers=[], tags=[], attachments=[], metadata=[], scheduled_at=None,
        template=None, variables=[], track_opens=None, unknown={"x": 1},
    )  # fmt: skip
    assert answer.status == 200


async def test_phps_filtered_lists_are_lists(api: Api) -> None:
    answer = await api.send(to={"0": "a@x.test", "2": "b@x.test"})
    assert [one["to"] for one in answer.json["data"]] == ["a@x.test", "b@x.test"]


async def test_an_address_given_twice_gets_one_mail(api: Api) -> None:
    answer = await api.send(to=["ann@there.test", "ANN@There.test"], cc=["ann@there.test", "bob@there.test"])
    assert len(answer.json["data"]) == 1
    (job,) = api.handover.jobs
    assert [recipient.mailbox.address for recipient in job.recipients] == ["ann@there.test", "bob@there.test"]


async def test_several_to_addresses_share_one_content(api: Api) -> None:
    await api.send(to=["a@x.test", "b@y.test"], bcc="c@x.test")
    first, second = sorted(api.handover.jobs, key=lambda job: job.site)
    assert first.message.content_id == second.message.content_id
    assert first.message.id != second.message.id
    assert len(first.recipients) == 2 and len(second.recipients) == 1


async def test_check_only_stores_nothing(api: Api) -> None:
    answer = await api.send(check_only=True)
    assert answer.json["status"] == "checked" and "id" not in answer.json
    assert answer.json["validation"]["valid"] is True
    assert api.handover.jobs == []
    assert (await api.call("GET", "/emails")).json["data"] == []
    assert (await api.send(check_only=True, to="nobody")).status == 422


async def test_names_quoted_encoded_and_bare_are_understood(api: Api) -> None:
    for written, name in (
        ('"Jane \\"JD\\" Doe" <jane@x.test>', 'Jane "JD" Doe'),
        ("=?utf-8?Q?J=C3=A9r=C3=B4me?= <jane@x.test>", "Jérôme"),
        ("Doe, Jane <jane@x.test>", "Doe, Jane"),
        (" Jane <jane@x.test> ", "Jane"),
    ):
        assert (await api.send(to=written)).status == 200
        assert api.handover.jobs[-1].recipients[0].mailbox.name == name


async def test_headers_are_unfolded_and_date_and_mime_version_dropped(api: Api) -> None:
    await api.send(headers={"X-Long": "a\r\n b", "Date": "x", "mime-version": "1.0", "Message-ID": "<a@b.test>"})
    assert parts(api).headers == (("X-Long", "a b"),)
    assert api.handover.jobs[0].message.message_id == "<a@b.test>"


async def test_a_reply_to_among_the_headers_is_one(api: Api) -> None:
    await api.send(headers={"Reply-To": '"Doe, Jane" <j@x.test>, k@x.test'})
    assert [box.address for box in parts(api).reply_to] == ["j@x.test", "k@x.test"]


async def test_attachments_in_every_accepted_spelling(api: Api) -> None:
    content = base64.b64encode(b"hello").decode()
    await api.send(
        attachments=[
            {"filename": "a.txt", "content": content[:4] + "\r\n " + content[4:]},
            {"filename": None, "content": content, "contentType": "image/png", "content_id": "logo"},
        ]
    )
    first, second = parts(api).attachments
    assert (first.content, first.content_type, first.filename) == (b"hello", "text/plain", "a.txt")
    assert (second.content_type, second.filename, second.content_id) == ("image/png", "attachment", "logo")


async def test_tags_as_objects_and_as_plain_strings(api: Api) -> None:
    sent = (await api.send(tags=[{"name": "campaign", "value": "welcome"}, "plain"], metadata={"order": "17"})).json
    read = (await api.call("GET", f"/emails/{sent['id']}")).json
    assert read["tags"] == [{"name": "campaign", "value": "welcome"}, {"name": "plain", "value": ""}]
    assert read["metadata"] == {"order": "17"}


async def test_a_form_gives_what_the_same_json_gives(api: Api) -> None:
    answer = await form(
        api,
        [
            ("from", "hello@sender.test"), ("to[]", "a@x.test"), ("to[]", "b@x.test"), ("cc", "c@x.test"),
            ("cc", "d@x.test"), ("subject", "Grüße"), ("text", "x\r\ny"), ("headers[X-One]", "1"), ("metadata[order]", "17"),
            ("tags[campaign]", "welcome"), ("unknown", "x"),
        ],
    )  # fmt: skip
    assert answer.status == 200, answer.body
    assert [one["to"] for one in answer.json["data"]] == ["a@x.test", "b@x.test"]
    content = parts(api)
    assert (content.subject, content.text, content.headers) == ("Grüße", "x\r\ny", (("X-One", "1"),))
    read = (await api.call("GET", f"/emails/{answer.json['id']}")).json
    assert (read["metadata"], read["tags"]) == ({"order": "17"}, [{"name": "campaign", "value": "welcome"}])


async def test_json_that_curl_calls_a_form_is_json(api: Api) -> None:
    answer = await api.call(
        "POST", "/emails", json.dumps(MAIL).encode(), headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert answer.status == 200, answer.body


async def test_uploaded_files_are_attachments(api: Api) -> None:
    fields: list[tuple[str, str | tuple[str, str, bytes]]] = [(name, str(value)) for name, value in MAIL.items()]
    answer = await multipart(api, [*fields, ("anything", ("größe.bin", "application/x-thing", b"\x00\xff\r\n--x"))])
    assert answer.status == 200, answer.body
    (attachment,) = parts(api).attachments
    assert attachment.content == b"\x00\xff\r\n--x"
    assert (attachment.filename, attachment.content_type) == ("größe.bin", "application/x-thing")


async def test_a_payload_field_holds_the_whole_json(api: Api) -> None:
    answer = await multipart(api, [("payload", json.dumps(MAIL)), ("file", ("a.txt", "text/plain", b"hi"))])
    assert answer.status == 200, answer.body
    assert len(parts(api).attachments) == 1
    broken = await multipart(api, [("payload", "{")])
    assert (broken.status, broken.json["name"]) == (422, "validation_error")


async def test_a_form_errs_in_the_same_words_as_json(api: Api) -> None:
    assert (await form(api, [("from", "hello@sender.test")])).json["message"] == "The to field is required."
    twice = [("from", "hello@sender.test"), ("to", "a@x.test"), ("subject", "a"), ("subject", "b"), ("text", "x")]
    assert (await form(api, twice)).json["message"] == "The subject field must be a string."
    later = [("from", "hello@sender.test"), ("to", "a@x.test"), ("subject", "a"), ("text", "x"), ("variables[A]", "b")]
    assert (await form(api, later)).json["message"] == "'variables' is not supported yet"


@pytest.mark.parametrize("name", ["headers[X-A\r\nBcc]", "headers[Bcc]", "headers[X\x00]", "headers[From ]"])
async def test_no_form_field_adds_a_header_that_a_caller_may_not_set(api: Api, name: str) -> None:
    answer = await form(api, [*MAIL.items(), (name, "evil@x.test")])
    assert answer.status == 422 and "header" in answer.json["message"], answer.body


async def test_broken_form_data_is_422(api: Api) -> None:
    for body in (
        b"",
        b"--frontier",
        b"\xff\xfe\x00",
        b"--frontier\r\nContent-Disposition: form-data\r\n\r\nx\r\n--frontier--",
    ):
        answer = await api.call(
            "POST", "/emails", body, headers={"Content-Type": "multipart/form-data; boundary=frontier"}
        )
        assert answer.status == 422, (body, answer.body)
    answer = await api.call("POST", "/emails", b"x", headers={"Content-Type": "multipart/form-data"})
    assert answer.status == 422
    answer = await form(api, [("a", "b")] * 1001)
    assert answer.status == 422
    answer = await api.call(
        "POST", "/emails", b"from=%ff%fe", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert answer.status == 422


async def test_of_one_call_delivery_gets_what_it_has_room_for_and_the_rest_is_stored_for_later_claims(api: Api) -> None:
    api.handover.most = 3
    to = [f"u{n}@there.test" for n in range(5)]
    assert (await api.send(to=to)).status == 200
    assert [job.message.to[0].address for job in api.handover.jobs] == to[:3]
    assert api.handover.wakes == 1
    owned = await api.store.read(
        lambda connection: connection.execute(select(schema.recipient.c.owner.is_not(None))).scalars().all()
    )
    assert sorted(owned) == [False, False, True, True, True]


async def test_without_room_in_delivery_the_mail_is_stored_for_a_later_claim(api: Api) -> None:
    api.handover.room = False
    assert (await api.send()).status == 200
    assert api.handover.jobs == [] and api.handover.wakes == 1
