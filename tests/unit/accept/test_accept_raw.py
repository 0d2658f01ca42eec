"""Mails that came in whole: whose they are, who they go to, and what is refused."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from api_world import NOW, Api, running_api

from sendkit_server.accept.limits import Limits, LimitSettings
from sendkit_server.model.address import parse_mailbox
from sendkit_server.model.mail import Accepted, RawContent, RawSubmission, Role
from sendkit_server.model.refusal import SHUTTING_DOWN, Refusal
from sendkit_server.store.usage import Usage


@pytest.fixture
async def api(tmp_path: Path, database_url: str | None) -> AsyncIterator[Api]:
    async with running_api(tmp_path, database_url) as running:
        yield running


async def accept(api: Api, raw: bytes, *recipients: str, key: str | None = None) -> Accepted | Refusal:
    found = await api.store.key(key or api.key, NOW)
    assert found is not None
    boxes = tuple(parse_mailbox(recipient) for recipient in recipients or ("ann@there.test",))
    return await api.acceptor.accept_raw(RawSubmission(found, "app@sender.test", boxes, raw))


RAW = b"From: App <app@sender.test>\r\nTo: Ann <ann@there.test>\r\nCc: c@there.test\r\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n\r\nbody\r\n"


async def test_one_message_with_every_envelope_recipient_and_its_role(api: Api) -> None:
    accepted = await accept(api, RAW, "ann@there.test", "C@there.test", "hidden@other.test")
    assert isinstance(accepted, Accepted)
    (message,) = accepted.messages
    assert (message.to, message.status) == ("ann@there.test", "queued")
    roles = {one.mailbox.address: (one.role, one.mailbox.name) for job in api.handover.jobs for one in job.recipients}
    assert roles == {
        "ann@there.test": (Role.TO, "Ann"),
        "C@there.test": (Role.CC, ""),
        "hidden@other.test": (Role.BCC, ""),
    }
    assert len(api.handover.jobs) == 2
    read = (await api.call("GET", f"/emails/{message.id}")).json
    assert (read["subject"], read["door"], read["from"]) == ("Grüße", "smtp", "App <app@sender.test>")


async def test_the_bytes_are_stored_as_they_came(api: Api) -> None:
    await accept(api, RAW)
    assert api.handover.jobs[0].content == RawContent(RAW)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"Subject: x\r\n", "The from field is required."),
        (b"From: a@sender.test\r\nFrom: b@sender.test\r\n", "exactly one From"),
        (b"From: a@sender.test, b@sender.test\r\n", "exactly one From"),
        (b"From: nobody\r\n", "The 'from' field contains an invalid email address"),
        (b"From: a@sender.test\r\nX-Sendkit-Tag: a=b\r\n", "'X-Sendkit-Tag' is not supported yet"),
        (b"From: a@sender.test\r\nX-PM-Tag: a\r\n", "'X-PM-Tag' is not supported yet"),
        (b"From: a@sender.test\r\nthis is no header\r\n", "cannot be read"),
        (b"From: a@sender.test\r\n" + b"Received: x\r\n" * 51, "loop"),
        (b"From: a@elsewhere.test\r\n", "The from address domain is not verified."),
        (b"From: a@elsewhere.test <b@sender.test>, c@d.test\r\n", "exactly one From"),
    ],
)
async def test_what_is_wrong_with_the_headers_is_said(api: Api, head: bytes, words: str) -> None:
    refused = await accept(api, head + b"\r\nbody\r\n")
    assert isinstance(refused, Refusal)
    assert words in refused.message
    assert 500 <= refused.smtp_code < 600
    assert api.handover.jobs == []


async def test_a_foreign_from_is_550_5_7_1_in_the_contracts_words(api: Api) -> None:
    refused = await accept(api, b"From: a@elsewhere.test\r\n\r\nx\r\n")
    assert isinstance(refused, Refusal)
    assert (refused.smtp_code, refused.smtp_enhanced) == (550, "5.7.1")
    assert refused.smtp_text == "validation_error: The from address domain is not verified."


async def test_a_test_key_may_use_any_from_and_is_captured(api: Api) -> None:
    accepted = await accept(api, b"From: a@elsewhere.test\r\n\r\nx\r\n", key=await api.make_key(test=True))
    assert isinstance(accepted, Accepted)
    assert accepted.messages[0].status == "captured"
    assert api.handover.jobs[0].message.capture is True


async def test_a_message_id_that_is_none_is_replaced_for_reading_and_a_good_one_kept(api: Api) -> None:
    await accept(api, b"From: a@sender.test\r\nMessage-ID: <x@y.test>\r\n\r\nx\r\n")
    await accept(api, b"From: a@sender.test\r\nMessage-ID: nonsense\r\n\r\nx\r\n")
    first, second = (job.message.message_id for job in api.handover.jobs)
    assert first == "<x@y.test>"
    assert second.startswith("<msg_") and second.endswith("@sender.test>")


async def test_a_closed_door_and_a_key_that_may_not_send_refuse(api: Api) -> None:
    reading = await api.make_key("read")
    refused = await accept(api, RAW, key=reading)
    assert isinstance(refused, Refusal) and refused.name == "restricted_api_key"
    api.acceptor.closed = SHUTTING_DOWN
    refused = await accept(api, RAW)
    assert isinstance(refused, Refusal) and (refused.smtp_code, refused.http_status) == (421, 503)
    assert (await api.send()).status == 503


@pytest.mark.engine("sqlite")
async def test_a_store_that_cannot_commit_is_451_and_503_and_the_door_goes_on(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.store.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1").scalar())
    big = RAW + os.urandom(300_000).hex().encode() + b"\r\n"
    refused = await accept(api, big)
    assert isinstance(refused, Refusal)
    assert (refused.smtp_code, refused.http_status) == (452, 507)
    assert api.handover.jobs == [] and api.handover.foreseen == []
    assert isinstance(await accept(api, big), Accepted)
    assert api.handover.foreseen == api.handover.jobs != []


KNOWN = RAW.replace(b"Subject:", b"Message-ID: <1@app.sender.test>\r\nSubject:", 1)


async def test_the_same_mail_once_more_is_answered_alike_and_not_taken_again(api: Api) -> None:
    first, second = await accept(api, KNOWN), await accept(api, KNOWN)
    assert isinstance(first, Accepted) and isinstance(second, Accepted)
    assert first.messages == second.messages
    assert (first.replayed, second.replayed, len(api.handover.jobs)) == (False, True, 1)
    found = (await api.call("GET", f"/emails/{first.messages[0].id}")).json
    assert found["deduplicated"] is True
    assert found["events"][-1]["type"] == "deduplicated"


async def test_other_bytes_recipients_or_keys_and_mail_without_a_message_id_are_other_mail(api: Api) -> None:
    await accept(api, KNOWN)
    key = await api.make_key()
    for again in (
        await accept(api, KNOWN + b"more"),
        await accept(api, KNOWN, "bob@there.test"),
        await accept(api, KNOWN, key=key),
        await accept(api, RAW),
        await accept(api, RAW),
    ):
        assert isinstance(again, Accepted) and not again.replayed
    assert len(api.handover.jobs) == 6


async def test_a_key_in_the_headers_goes_before_the_bytes(api: Api) -> None:
    keyed = b"Idempotency-Key: order-17\r\n" + KNOWN
    first, second = await accept(api, keyed), await accept(api, keyed)
    assert isinstance(first, Accepted) and isinstance(second, Accepted) and second.replayed
    other = await accept(api, keyed + b"more")
    assert isinstance(other, Refusal)
    assert (other.smtp_code, other.smtp_enhanced, other.name) == (550, "5.7.1", "invalid_idempotent_request")
    assert (await api.call("GET", f"/emails/{first.messages[0].id}")).json["deduplicated"] is False


async def test_beside_a_key_what_a_mailer_makes_anew_with_each_try_does_not_count(api: Api) -> None:
    def keyed(date: bytes, named: bytes) -> bytes:
        return b"Idempotency-Key: order-17\r\nDate: %b\r\nMessage-ID: <%b@app.sender.test>\r\n" % (date, named) + RAW

    first, second = await accept(api, keyed(b"today", b"1")), await accept(api, keyed(b"tomorrow", b"2"))
    assert isinstance(first, Accepted) and isinstance(second, Accepted)
    assert second.replayed and first.messages == second.messages


async def test_what_a_test_key_captured_is_no_answer_to_a_live_one(api: Api) -> None:
    keyed = b"Idempotency-Key: order-17\r\n" + KNOWN
    first = await accept(api, keyed, key=await api.make_key(test=True))
    second = await accept(api, keyed)
    assert isinstance(first, Accepted) and isinstance(second, Accepted)
    assert not second.replayed and (first.messages[0].status, second.messages[0].status) == ("captured", "queued")


async def test_the_same_mail_is_answered_though_its_first_coming_has_used_a_limit_up(api: Api) -> None:
    api.acceptor._limits = Limits(LimitSettings(), Usage(api.store, lambda: NOW))
    key = await api.make_key(daily_limit=1)
    first, second = await accept(api, KNOWN, key=key), await accept(api, KNOWN, key=key)
    assert isinstance(first, Accepted) and isinstance(second, Accepted)
    assert second.replayed and first.messages == second.messages
    assert isinstance(await accept(api, KNOWN + b"more", key=key), Refusal)


PARTS = (
    b"From: App <app@sender.test>\r\nMessage-ID: <2@app.sender.test>\r\nDate: %s\r\nSubject: x\r\n"
    b'Content-Type: multipart/mixed; boundary="--_NmP-%s-Part_1"\r\n\r\n'
    b"----_NmP-%s-Part_1\r\n\r\n%s\r\n----_NmP-%s-Part_1--\r\n"
)


async def test_what_a_library_makes_anew_each_time_does_not_make_another_mail(api: Api) -> None:
    def parts(date: bytes, boundary: bytes, text: bytes = b"body") -> bytes:
        return PARTS % (date, boundary, boundary, text, boundary)

    first = await accept(api, parts(b"Mon, 24 Nov 2026 10:00:00 +0000", b"1a2b3c4d5e6f"))
    again = await accept(api, parts(b"Mon, 24 Nov 2026 10:00:09 +0000", b"ffffeeeedddd"))
    other = await accept(api, parts(b"Mon, 24 Nov 2026 10:00:09 +0000", b"ffffeeeedddd", b"another body"))
    assert isinstance(first, Accepted) and isinstance(again, Accepted) and isinstance(other, Accepted)
    assert (again.replayed, again.messages) == (True, first.messages)
    assert not other.replayed
