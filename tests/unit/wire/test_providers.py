"""What providers' APIs are sent, and what their answers mean; after their documented requests and answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.wire.providers import CannotCarry, Meaning, Provider
from sendkit_server.wire.providers.exchange import words
from sendkit_server.wire.providers.message import take_apart
from sendkit_server.wire.providers.postmark import Postmark
from sendkit_server.wire.providers.resend import Resend
from sendkit_server.wire.providers.sendgrid import SendGrid
from sendkit_server.wire.providers.ses import Ses
from sendkit_server.wire.smtp_client import Mail

NOW = int(datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC).timestamp() * 1000)
RAW = (
    "DKIM-Signature: v=1; a=rsa-sha256; d=here.test; s=s1; b=abc\r\n"
    "From: =?utf-8?q?Sh=C3=B6p?= <shop@here.test>\r\n"
    "To: Ann <ann@there.test>, bob@there.test\r\n"
    "Cc: Carol <carol@there.test>\r\n"
    "Reply-To: help@here.test\r\n"
    "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    "Message-ID: <1@here.test>\r\n"
    "Date: Tue, 24 Nov 2026 12:00:00 +0000\r\n"
    "X-Order: 17\r\n"
    "MIME-Version: 1.0\r\n"
    'Content-Type: multipart/mixed; boundary="m"\r\n\r\n'
    '--m\r\nContent-Type: multipart/alternative; boundary="a"\r\n\r\n'
    "--a\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nHällo\r\n"
    '--a\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Hello <img src="cid:logo"></p>\r\n--a--\r\n'
    '--m\r\nContent-Type: image/png; name="logo.png"\r\nContent-Transfer-Encoding: base64\r\nContent-ID: <logo>\r\n'
    'Content-Disposition: inline; filename="logo.png"\r\n\r\niVBORw==\r\n'
    '--m\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename="terms.txt"\r\n\r\nterms\r\n--m--\r\n'
).encode()
MAIL = Mail("bounce@here.test", ("ann@there.test", "carol@there.test", "dave@there.test"), RAW, True, False)
POSTMARK, RESEND, SENDGRID = Postmark(server_token="token"), Resend(api_key="re_123"), SendGrid(api_key="SG.1")
SES = Ses("eu-west-1", "AKIDEXAMPLE", "wJalrXUtnFEMI")
ALL: list[Provider] = [POSTMARK, RESEND, SENDGRID, SES]


def body(provider: Provider, mail: Mail = MAIL) -> Any:
    return json.loads(provider.request(mail, NOW).body)


def test_only_the_envelope_s_recipients_are_named_each_where_its_header_has_it():
    parts = take_apart(RAW, MAIL.recipients)
    assert [person.address for person in parts.to] == ["ann@there.test"]
    assert [person.address for person in parts.cc] == ["carol@there.test"]
    assert [person.address for person in parts.bcc] == ["dave@there.test"]
    assert take_apart(RAW, ["carol@there.test"]).to[0].address == "carol@there.test"
    assert take_apart(RAW, ["dave@there.test"]).to[0].address == "dave@there.test"


def test_a_mail_is_taken_apart_without_a_loss_for_its_reader():
    parts = take_apart(RAW, MAIL.recipients)
    assert (parts.from_.name, parts.from_.address, parts.subject) == ("Shöp", "shop@here.test", "Grüße")
    assert (parts.text, parts.html) == ("Hällo", '<p>Hello <img src="cid:logo"></p>')
    assert parts.headers == (("Message-ID", "<1@here.test>"), ("X-Order", "17"))
    logo, terms = parts.attachments
    assert (logo.filename, logo.content_type, logo.content_id, base64.b64decode(logo.content)) == (
        "logo.png", "image/png", "logo", b"\x89PNG",
    )  # fmt: skip
    assert (terms.filename, terms.content_id) == ("terms.txt", None)


@pytest.mark.parametrize("kind", ["multipart/signed", "multipart/encrypted"])
def test_what_would_not_be_the_same_any_more_is_not_carried(kind: str):
    raw = f'From: a@here.test\r\nContent-Type: {kind}; boundary="b"\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n'.encode()
    with pytest.raises(CannotCarry):
        take_apart(raw, ["ann@there.test"])


def test_resend_is_asked_in_its_shape_and_a_retry_has_the_same_key():
    request = RESEND.request(MAIL, NOW)
    sent = json.loads(request.body)
    assert (request.method, request.path) == ("POST", "/emails")
    assert dict(request.headers)["Authorization"] == "Bearer re_123"
    assert (
        sent["to"] == ["ann@there.test"] and sent["bcc"] == ["dave@there.test"] and "help@here.test" in sent["reply_to"]
    )
    assert sent["headers"]["X-Order"] == "17" and sent["attachments"][0]["content_id"] == "logo"
    assert dict(RESEND.request(MAIL, NOW + 5).headers)["Idempotency-Key"] == dict(request.headers)["Idempotency-Key"]


def test_postmark_is_asked_in_its_shape_and_keeps_our_message_id():
    request = POSTMARK.request(MAIL, NOW)
    sent = json.loads(request.body)
    assert (request.path, dict(request.headers)["X-Postmark-Server-Token"]) == ("/email", "token")
    assert sent["To"] == "Ann <ann@there.test>" and sent["MessageStream"] == "outbound"
    assert {"Name": "X-PM-KeepID", "Value": "true"} in sent["Headers"]
    assert {"Name": "Message-ID", "Value": "<1@here.test>"} in sent["Headers"]
    assert sent["Attachments"][0]["ContentID"] == "cid:logo"


def test_sendgrid_is_asked_in_its_shape_with_text_before_html():
    request = SENDGRID.request(MAIL, NOW)
    sent = json.loads(request.body)
    assert request.path == "/v3/mail/send"
    assert sent["personalizations"] == [
        {
            "to": [{"email": "ann@there.test", "name": "Ann"}],
            "cc": [{"email": "carol@there.test", "name": "Carol"}],
            "bcc": [{"email": "dave@there.test"}],
        }
    ]
    assert [part["type"] for part in sent["content"]] == ["text/plain", "text/html"]
    assert sent["attachments"][0]["disposition"] == "inline" and "content_id" not in sent["attachments"][1]


def test_ses_gets_the_message_as_it_is_and_the_call_is_signed():
    request = SES.request(MAIL, NOW)
    sent = json.loads(request.body)
    assert base64.b64decode(sent["Content"]["Raw"]["Data"]) == RAW
    assert sent["Destination"]["BccAddresses"] == list(MAIL.recipients)
    headers = dict(request.headers)
    assert headers["x-amz-date"] == "20261124T120000Z"
    # Signature Version 4, written out once more by hand.
    canonical = (
        "POST\n/v2/email/outbound-emails\n\ncontent-type:application/json\nhost:email.eu-west-1.amazonaws.com\n"
        "x-amz-date:20261124T120000Z\n\ncontent-type;host;x-amz-date\n" + hashlib.sha256(request.body).hexdigest()
    )
    wanted = (
        "AWS4-HMAC-SHA256\n20261124T120000Z\n20261124/eu-west-1/ses/aws4_request\n"
        + hashlib.sha256(canonical.encode()).hexdigest()
    )
    key = b"AWS4wJalrXUtnFEMI"
    for part in (b"20261124", b"eu-west-1", b"ses", b"aws4_request"):
        key = hmac.new(key, part, hashlib.sha256).digest()
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/eu-west-1/ses/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, Signature="
        + hmac.new(key, wanted.encode(), hashlib.sha256).hexdigest()
    )


@pytest.mark.parametrize(
    ("provider", "status", "answer", "kind", "meaning"),
    [
        (RESEND, 200, {"id": "49a3999c"}, "", Meaning.TAKEN),
        (RESEND, 401, {"name": "missing_api_key", "message": "Missing API key"}, "", Meaning.BROKEN),
        (RESEND, 403, {"message": "The here.test domain is not verified."}, "", Meaning.NOT_HERE),
        (RESEND, 422, {"message": "Invalid `to` field."}, "", Meaning.REFUSED),
        (RESEND, 429, {"message": "Too many requests."}, "", Meaning.BUSY),
        (RESEND, 429, {"message": "You have reached your daily email sending quota."}, "", Meaning.NOT_HERE),
        (RESEND, 500, {"message": "Internal"}, "", Meaning.LATER),
        (RESEND, 409, {"message": "concurrent_idempotent_requests"}, "", Meaning.LATER),
        (POSTMARK, 200, {"ErrorCode": 0, "MessageID": "b7bc2f4a"}, "", Meaning.TAKEN),
        (POSTMARK, 422, {"ErrorCode": 406, "Message": "You tried to send to an inactive recipient."}, "", Meaning.REFUSED),
        (POSTMARK, 422, {"ErrorCode": 400, "Message": "The 'From' address is not a Sender Signature."}, "", Meaning.NOT_HERE),
        (POSTMARK, 401, {"ErrorCode": 10, "Message": "No Account or Server API tokens were supplied."}, "", Meaning.BROKEN),
        (POSTMARK, 422, {"ErrorCode": 300, "Message": "Invalid email request."}, "", Meaning.REFUSED),
        (POSTMARK, 503, b"<html>unavailable</html>", "", Meaning.LATER),
        (SENDGRID, 202, b"", "", Meaning.TAKEN),
        (SENDGRID, 401, {"errors": [{"message": "The provided authorization grant is invalid"}]}, "", Meaning.BROKEN),
        (SENDGRID, 403, {"errors": [{"message": "The from address does not match a verified Sender Identity."}]}, "", Meaning.NOT_HERE),
        (SENDGRID, 413, {"errors": [{"message": "payload too large"}]}, "", Meaning.REFUSED),
        (SES, 200, {"MessageId": "0100018"}, "", Meaning.TAKEN),
        (SES, 400, {"message": "Email address is not verified."}, "MessageRejected", Meaning.NOT_HERE),
        (SES, 400, {"message": "Illegal address"}, "BadRequestException:http://x", Meaning.REFUSED),
        (SES, 429, {"message": "Rate exceeded"}, "TooManyRequestsException", Meaning.BUSY),
        (SES, 403, {"message": "The security token is invalid."}, "UnrecognizedClientException", Meaning.BROKEN),
        (SES, 400, {"message": "suspended"}, "AccountSuspendedException", Meaning.BROKEN),
    ],
)  # fmt: skip
def test_an_answer_means_what_the_provider_documents(
    provider: Provider, status: int, answer: Any, kind: str, meaning: Meaning
):
    headers = {"x-amzn-errortype": kind} if kind else {}
    found = provider.answer(status, answer if isinstance(answer, bytes) else json.dumps(answer).encode(), headers)
    assert found.meaning is meaning
    assert not isinstance(answer, dict) or not answer.get("message") or str(answer["message"]) in found.text


@pytest.mark.parametrize(
    "answer",
    [b"<html>Please log in</html>", b"{}", b'{"error":"x"}', b'{"id":7}', b'{"MessageID":"1","ErrorCode":300}', b"[]"],
)
@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.parametrize("provider", ALL, ids=lambda one: type(one).__name__)
def test_a_2xx_that_names_no_mail_proves_nothing(provider: Provider, status: int, answer: bytes):
    found = provider.answer(status, answer, {})
    assert found.meaning is Meaning.UNCLEAR
    assert answer.decode() in found.text


def test_sendgrid_names_the_mail_in_a_header():
    assert SENDGRID.answer(202, b"", {"x-message-id": "14c5d75ce93"}).text == "14c5d75ce93"
    assert SENDGRID.answer(200, b"", {}).meaning is Meaning.UNCLEAR


@pytest.mark.parametrize("provider", ALL, ids=lambda one: type(one).__name__)
def test_no_secret_is_shown(provider: Provider):
    shown = repr(provider)
    assert not any(secret in shown for secret in ("token", "re_123", "SG.1", "wJalr"))


@given(st.binary(max_size=300))
def test_whatever_an_answer_holds_its_words_are_one_printable_line(data: bytes):
    found = words(data, "message", "errors")
    assert found.isprintable() and len(found) <= 300


@given(st.binary(max_size=400), st.lists(st.emails(), min_size=1, max_size=3))
def test_whatever_a_message_holds_it_is_carried_or_refused(data: bytes, recipients: list[str]):
    mail = Mail("b@here.test", tuple(recipients), b"From: shop@here.test\r\n" + data, True, False)
    for provider in ALL:
        try:
            json.loads(provider.request(mail, NOW).body)
        except CannotCarry:
            assert provider is not SES
