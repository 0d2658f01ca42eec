"""By what a mail that comes again by SMTP without a key is known: what may differ, and what may not."""

from __future__ import annotations

import pytest

from sendkit_server.accept.once import same_bytes
from sendkit_server.model.address import parse_mailbox
from sendkit_server.model.mail import ApiKey, RawSubmission

KEY = ApiKey("key_1", 1, "", "", frozenset(), test=False)
NAMED = b"From: a@sender.test\r\nMessage-ID: <1@sender.test>\r\n"
NAMELESS = b"From: a@sender.test\r\n"
BODY = b"\r\nbody\r\n"
RELAYED = b"Received: from app (unknown [127.0.0.1])\r\n\tby relay.test (Postfix) with ESMTP id %b\r\n\tfor <ann@there.test>; now\r\n"


def known_by(raw: bytes, *recipients: str, named: bool = True) -> str | None:
    boxes = tuple(parse_mailbox(one) for one in recipients or ("ann@there.test",))
    call = same_bytes(RawSubmission(KEY, "app@sender.test", boxes, raw), named=named)
    return None if call is None else call.key


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(NAMED + b"Date: today\r\n" + BODY, id="a Date at the end of the header"),
        pytest.param(b"Date: today\r\n" + NAMED + BODY, id="a Date at its beginning"),
        pytest.param(b"dATE :\r\n\ttoday\r\n" + NAMED + BODY, id="a folded Date"),
        pytest.param(RELAYED % b"1A" + NAMED + BODY, id="a relay's line"),
        pytest.param(
            RELAYED % b"2B" + RELAYED % b"1A" + NAMED + b"Date: today\r\n" + BODY, id="two of them, and a Date"
        ),
    ],
)
def test_what_is_made_anew_with_each_try_does_not_tell_mails_apart(again: bytes) -> None:
    assert known_by(again) == known_by(NAMED + BODY)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(NAMED + BODY + b"more\r\n", id="another body"),
        pytest.param(NAMED + b"Subject: x\r\n" + BODY, id="one field more"),
        pytest.param(NAMED + b"X-Date: today\r\n" + BODY, id="a field that only ends like one that does not count"),
        pytest.param(NAMED.replace(b"<1", b"<2") + BODY, id="another Message-ID"),
        pytest.param(NAMED + b"\r\nDate: today" + BODY, id="what looks like a Date in the body"),
    ],
)
def test_anything_else_tells_them_apart(other: bytes) -> None:
    assert known_by(other) != known_by(NAMED + BODY)


def test_other_recipients_are_another_mail() -> None:
    assert known_by(NAMED + BODY, "bob@there.test") != known_by(NAMED + BODY)


def test_boundaries_of_parts_are_made_anew_too() -> None:
    def parts(boundary: bytes) -> bytes:
        head = NAMED + b'Content-Type: multipart/mixed; boundary="%b"\r\n\r\n' % boundary
        return head + b"--%b\r\n\r\nx\r\n--%b--\r\n" % (boundary, boundary)

    assert known_by(parts(b"=_of-the-first-try")) == known_by(parts(b"=_of-the-second-try"))


def test_without_a_message_id_the_queue_id_of_a_relay_tells() -> None:
    first, second = RELAYED % b"1A" + NAMELESS + BODY, RELAYED % b"2B" + NAMELESS + BODY
    assert known_by(first, named=False) == known_by(first, named=False) is not None
    assert known_by(first, named=False) != known_by(second, named=False)


@pytest.mark.parametrize("head", [b"", b"Received: from a by b; today\r\n", b"Received: by a with local; id-less\r\n"])
def test_without_either_nothing_tells(head: bytes) -> None:
    assert known_by(head + NAMELESS + b"\r\nReceived: by b id 1A\r\n", named=False) is None
