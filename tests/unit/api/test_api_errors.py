"""Errors, word for word, on every path: the contract's sentences, names, statuses and members."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from api_world import BY, MAIL, NAMES, Api, running_api

from sendkit_server.manage import domains


async def refused(api: Api, **members: object) -> dict[str, object]:
    answer = await api.send(**members)
    assert answer.status == 422, answer.body
    body = answer.json
    assert body["statusCode"] == body["status_code"] == 422
    assert body["name"] == "validation_error"
    assert api.handover.jobs == []
    return dict(body)


@pytest.mark.parametrize(
    ("members", "message", "field"),
    [
        ({"from": ...}, "The from field is required.", "from"),
        ({"from": None}, "The from field is required.", "from"),
        ({"from": ""}, "The from field is required.", "from"),
        ({"to": ...}, "The to field is required.", "to"),
        ({"to": []}, "The to field is required.", "to"),
        ({"to": None}, "The to field is required.", "to"),
        ({"to": ""}, "The to field is required.", "to"),
        ({"to": [], "bcc": ["x@y.test"]}, "The to field is required.", "to"),
        ({"subject": ...}, "The subject field is required.", "subject"),
        ({"subject": ""}, "The subject field is required.", "subject"),
        ({"text": ...}, "The html field is required when text is not present.", "html"),
        ({"text": "", "html": ""}, "The html field is required when text is not present.", "html"),
        ({"subject": "x" * 999}, "The subject field must not be greater than 998 characters.", "subject"),
        ({"from": "nobody"}, "The 'from' field contains an invalid email address", "from"),
        ({"to": "nobody"}, "The 'to' field contains an invalid email address", "to"),
        ({"to": ["ann@there.test", "b@@c"]}, "The 'to' field contains an invalid email address", "to[1]"),
        ({"to": "a@there.test, b@there.test"}, "The 'to' field contains an invalid email address", "to"),
        ({"cc": "nobody"}, "The 'cc' field contains an invalid email address", "cc"),
        ({"bcc": ["x"]}, "The 'bcc' field contains an invalid email address", "bcc"),
        ({"reply_to": "x y"}, "The 'reply_to' field contains an invalid email address", "reply_to[0]"),
        ({"from": 5}, "The from field must be a string.", "from"),
        ({"subject": ["x"]}, "The subject field must be a string.", "subject"),
        ({"html": 5}, "The html field must be a string.", "html"),
        ({"to": 5}, "The to field must be a string or an array of strings.", "to"),
        ({"to": {"a": "x@y.test"}}, "The to field must be a string or an array of strings.", "to"),
        ({"to": [1]}, "The to field must be a string or an array of strings.", "to[0]"),
        ({"to": [["x@y.test"]]}, "The to field must be a string or an array of strings.", "to[0]"),
        ({"headers": "x"}, "The headers field must be an object of strings.", "headers"),
        ({"headers": {"X-A": 1}}, "The headers field must be an object of strings.", "headers[X-A]"),
        ({"tags": "x"}, "The tags field must be an array of objects with name and value.", "tags"),
        ({"tags": [{"value": "x"}]}, "The tags[0].name field is required.", "tags[0].name"),
        ({"metadata": {"a": 1}}, "The metadata field must be an object of strings.", "metadata[a]"),
        ({"attachments": [{"filename": "x"}]}, "The attachments[0].content field is required.", "attachments[0].content"),
        (
            {"attachments": [{"filename": "x.pdf", "content": "aGk=!!!!"}]},
            "The attachments[0].content field must be valid base64 (attachment 'x.pdf').",
            "attachments[0].content",
        ),
        ({"headers": {"From": "x@y.test"}}, "The header 'From' cannot be set in headers.", "headers[From]"),
        ({"headers": {"dkim-signature": "x"}}, "The header 'dkim-signature' cannot be set in headers.", "headers[dkim-signature]"),
        ({"headers": {"X-A\r\nBcc": "x"}}, "The headers field contains an invalid header name.", "headers"),
        (
            {"headers": {"X-A": "a\r\nBcc: x@y.test"}},
            "The header 'X-A' must not contain line breaks or control characters.",
            "headers[X-A]",
        ),
        (
            {"subject": "a\nBcc: x@y.test"},
            "The subject field must not contain line breaks, NUL or other control characters.",
            "subject",
        ),
        ({"scheduled_at": "2030-01-01 00:00:00"}, "'scheduled_at' is not supported yet", "scheduled_at"),
        ({"template": {"id": "x"}}, "'template' is not supported yet", "template"),
        ({"variables": {}}, "'variables' is not supported yet", "variables"),
        ({"track_opens": True}, "'track_opens' is not supported yet", "track_opens"),
        ({"headers": {"X-Sendkit-Tag": "a=b"}}, "'X-Sendkit-Tag' is not supported yet", "X-Sendkit-Tag"),
        ({"headers": {"X-Metadata-Order": "1"}}, "'X-Metadata-Order' is not supported yet", "X-Metadata-Order"),
        ({"from": "a@elsewhere.test"}, "The from address domain is not verified.", "from"),
        ({"from": "a@sub.sender.test"}, "The from address domain is not verified.", "from"),
    ],
)  # fmt: skip
async def test_a_wrong_member_is_refused_in_the_contracts_words(
    api: Api, members: dict[str, object], message: str, field: str
) -> None:
    body = await refused(api, **members)
    assert body["message"] == message
    assert body["field"] == field
    assert body["retryable"] is False
    assert str(body["doc_url"]).endswith("#validation_error")


@pytest.mark.parametrize("name", ["From", "Sender", "To", "Cc", "Bcc", "Subject", "Return-Path", "Received",
                                  "DKIM-Signature", "Authentication-Results", "ARC-Seal", "Content-Type"])  # fmt: skip
async def test_headers_that_speak_for_others_are_refused_by_name(api: Api, name: str) -> None:
    assert f"'{name}'" in str((await refused(api, headers={name: "x"}))["message"])


@pytest.mark.parametrize("body", [b"{", b'{"to":1,}', b"[1]", b'"x"', b"5", b"\xff\xfe", b"[" * 100_000, b'{"a":NaN}',
                                  b'{"a":' + b"1" * 5000 + b"}", b'{"a":"\\ud800"}', b"\xef\xbb\xbf{}"])  # fmt: skip
async def test_malformed_json_is_422_and_never_a_fault(api: Api, body: bytes) -> None:
    answer = await api.call("POST", "/emails", body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.json["name"]) == (422, "validation_error")


async def test_an_empty_body_is_an_empty_object(api: Api) -> None:
    answer = await api.call("POST", "/emails", b"", headers={"Content-Type": "application/json"})
    assert answer.json["message"] == "The from field is required."


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "text/html"])
async def test_other_content_types_are_415(api: Api, kind: str) -> None:
    answer = await api.call("POST", "/emails", json.dumps(MAIL).encode(), headers={"Content-Type": kind})
    assert (answer.status, answer.json["name"]) == (415, "validation_error")


async def test_a_compressed_body_is_415(api: Api) -> None:
    answer = await api.call(
        "POST", "/emails", b"x", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
    )
    assert answer.status == 415


async def test_a_missing_content_type_is_tried_as_json(api: Api) -> None:
    assert (await api.call("POST", "/emails", json.dumps(MAIL).encode())).status == 200


async def test_a_body_announced_too_large_is_413_before_it_is_read(api: Api) -> None:
    answer = await api.call("POST", "/emails", b"x", headers={"Content-Length": "60000001"})
    assert (answer.status, answer.json["name"]) == (413, "validation_error")
    assert answer.headers["connection"] == "close"


async def test_without_a_key_with_a_wrong_one_and_with_one_that_may_not(api: Api) -> None:
    missing = await api.call("POST", "/emails", MAIL, key=None)
    assert (missing.status, missing.json["name"]) == (401, "missing_api_key")
    for wrong in ("sk_live_wrong", "x", "é", "\u00ff" * 500):
        answer = await api.call("POST", "/emails", MAIL, key=wrong)
        assert (answer.status, answer.json["name"]) == (401, "invalid_api_key")
    sending = await api.make_key("send")
    answer = await api.call("GET", "/emails", key=sending)
    assert (answer.status, answer.json["name"]) == (401, "restricted_api_key")
    assert answer.json["message"] == "This API key needs the permission emails:read."
    assert (await api.call("POST", "/emails", MAIL, key=sending)).status == 200
    reading = await api.make_key("read")
    answer = await api.call("POST", "/emails", MAIL, key=reading)
    assert answer.json["message"] == "This API key needs the permission emails:send."
    assert (await api.call("GET", "/emails", key=reading)).status == 200


async def test_the_scheme_is_case_insensitive_and_blanks_are_trimmed(api: Api) -> None:
    answer = await api.call("GET", "/emails", headers={"Authorization": f"  bEaReR   {api.key}  "}, key=None)
    assert answer.status == 200


async def test_unknown_paths_are_404_and_known_ones_with_a_wrong_verb_405_with_allow(api: Api) -> None:
    for path in ("/nope", "/emails/x/y/z", "/", "/v1", "/%00", "/emails%2F", "/..%2f"):
        answer = await api.call("GET", path)
        assert (answer.status, answer.json["name"], answer.json["message"]) == (404, "not_found", "Not found.")
    answer = await api.call("DELETE", "/emails")
    assert (answer.status, answer.json["name"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST, HEAD"
    assert (await api.call("TRACE", "/emails")).status == 405


async def test_a_path_that_comes_later_is_named(api: Api) -> None:
    answer = await api.call("POST", "/emails/bulk", [])
    assert (answer.status, answer.json["message"]) == (404, "POST /emails/bulk is not supported yet.")


async def test_slashes_and_the_version_prefix_do_not_matter(api: Api) -> None:
    for path in ("/emails", "//emails", "/emails/", "/v1/emails", "/v1//emails//"):
        assert (await api.call("POST", path, MAIL)).status == 200


async def test_a_fault_of_ours_is_a_500_without_its_insides(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(submission: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(api.acceptor, "accept", broken)
    answer = await api.send()
    assert (answer.status, answer.json["name"]) == (500, "internal_server_error")
    assert b"secret" not in answer.body


async def test_a_key_of_one_domain_cannot_send_from_another(api: Api) -> None:
    await domains.add_domain(api.store, 1, "other.test", NAMES, trust=True, by=BY)
    only = await api.make_key("send", domain="other.test")
    assert (await api.call("POST", "/emails", {**MAIL, "from": "a@other.test"}, key=only)).status == 200
    answer = await api.call("POST", "/emails", MAIL, key=only)
    assert answer.json["message"] == "The from address domain is not verified."


async def test_more_than_fifty_recipients_are_refused_and_fifty_are_not(api: Api) -> None:
    many = [f"a{number}@there.test" for number in range(51)]
    assert (await api.send(to=many[:50])).status == 200
    assert "50" in (await api.send(to=many[:49], cc=many[49:])).json["message"]


async def test_an_email_over_the_limit_names_the_limit(tmp_path: Path, database_url: str | None) -> None:
    async with running_api(tmp_path, database_url, max_message_bytes=20_000) as api:
        answer = await api.send(text="x" * 30_000)
        assert (answer.status, answer.json["message"]) == (422, "The email is too large: the limit is 20000 bytes.")
        # Plain text is sent as it is: the estimate says more, the truth fits.
        assert (await api.send(text=("x" * 70 + "\n") * 250)).status == 200
