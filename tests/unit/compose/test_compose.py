"""A stored message becomes bytes: the right header, the same bytes every time, signed last, or a clear no."""

from __future__ import annotations

import email
import email.policy
import os
import subprocess
import sys
from email.message import EmailMessage

import dkim as verifier
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendkit_server.compose import CannotCompose, compose
from sendkit_server.model.address import Mailbox
from sendkit_server.model.mail import Attachment, Content, Door, Message, PartsContent, RawContent
from sendkit_server.wire import dkim_keys

HOSTNAME = "mx.sendkit.example"
# Both ways of signing are deterministic: RSA with PKCS #1 v1.5, and Ed25519.
PRIVATE = {"rsa": dkim_keys.generate("rsa-sha256"), "ed": dkim_keys.generate("ed25519-sha256")}
SIGNERS = [dkim_keys.load(private, domain="shop.example", selector=selector) for selector, private in PRIVATE.items()]
MESSAGE = Message(
    id="msg_01hd5v7p3c9k2m4n6q8r0s1t2v",
    team_id=1,
    content_id="c",
    door=Door.HTTP,
    key_id="key",
    from_=Mailbox("orders", "shop.example", "Größe & Söhne"),
    to=(Mailbox("jane", "example.org", "Jane Doe"),),
    cc=(Mailbox("cee", "example.org"),),
    subject="Your order",
    message_id="<01hd5v7p3c9k2m4n6q8r0s1t2v@shop.example>",
    created_at=1_773_239_405_678,
    protocol="ESMTPSA",
)
PARTS = PartsContent(
    "Größe 42",
    '<p>schön <img src="cid:logo"></p>',
    "schön\n",
    reply_to=(Mailbox("help", "shop.example"),),
    headers=(("X-Order", "4711"),),
    attachments=(Attachment("logo.png", "image/png", b"\x89PNG", "logo"), Attachment("a.pdf", "application/pdf", b"%")),
)
RAW = RawContent(
    b"From: orders@shop.example\r\nTo: jane@example.org\r\nBcc: secret@example.org\r\nX-Sendkit-Tag: a\r\n"
    b"Subject: Hi\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n" + "schön\r\n".encode() * 3
)


def changed(**members: object) -> Message:
    return Message(**{name: getattr(MESSAGE, name) for name in MESSAGE.__struct_fields__} | members)  # type: ignore[arg-type]


def bytes_of(content: Content, **arguments: object) -> bytes:
    return compose(MESSAGE, content, (), hostname=HOSTNAME, **arguments).raw  # type: ignore[arg-type]


def parsed(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def verified(raw: bytes) -> list[bool]:
    def zone(name: bytes, timeout: int = 5) -> bytes | None:
        private = PRIVATE.get(name.decode().partition(".")[0])
        return dkim_keys.public_record(private).encode() if private else None

    return [verifier.DKIM(raw).verify(idx=at, dnsfunc=zone) for at in range(len(SIGNERS))]


def test_parts_become_a_message_with_the_stored_header() -> None:
    message = parsed(bytes_of(PARTS))
    assert str(message["From"]) == "Größe & Söhne <orders@shop.example>"
    assert str(message["To"]) == "Jane Doe <jane@example.org>"
    assert str(message["Cc"]) == "cee@example.org"
    assert str(message["Reply-To"]) == "help@shop.example"
    assert str(message["Subject"]) == "Größe 42"
    assert message["Date"] == "Wed, 11 Mar 2026 14:30:05 +0000"
    assert message["Message-ID"] == MESSAGE.message_id
    assert message["X-Order"] == "4711"
    assert message["Received"] is None


def test_a_raw_mail_keeps_its_bytes_but_for_what_is_not_for_recipients() -> None:
    raw = bytes_of(RAW)
    received = (
        b"Received: by mx.sendkit.example (Sendkit) with ESMTPSA\r\n id msg_01hd5v7p3c9k2m4n6q8r0s1t2v;\r\n"
        b" Wed, 11 Mar 2026 14:30:05 +0000\r\n"
    )
    added = f"Date: Wed, 11 Mar 2026 14:30:05 +0000\r\nMessage-ID: {MESSAGE.message_id}\r\n".encode()
    kept = RAW.raw.replace(b"Bcc: secret@example.org\r\nX-Sendkit-Tag: a\r\n", b"")
    assert raw == received + added + kept


def test_a_raw_mail_from_the_api_names_http() -> None:
    composed = compose(changed(protocol=""), RAW, (), hostname=HOSTNAME)
    assert composed.raw.startswith(b"Received: by mx.sendkit.example (Sendkit) with HTTP\r\n")


@pytest.mark.parametrize("content", [PARTS, RAW], ids=["parts", "raw"])
def test_the_same_stored_values_give_the_same_bytes_in_every_process(content: Content) -> None:
    here = compose(MESSAGE, content, SIGNERS, hostname=HOSTNAME)
    assert compose(MESSAGE, content, SIGNERS, hostname=HOSTNAME) == here
    script = (
        "import sys, msgspec\n"
        "from sendkit_server.compose import compose\n"
        "from sendkit_server.model.mail import Content, Message\n"
        "from sendkit_server.wire import dkim_keys\n"
        "stored = tuple[Message, Content, dict[str, bytes]]\n"
        "message, content, private = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=stored)\n"
        "signers = [dkim_keys.load(key, domain='shop.example', selector=selector) for selector, key in private.items()]\n"
        f"sys.stdout.buffer.write(compose(message, content, signers, hostname={HOSTNAME!r}).raw)\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", script],
        input=msgspec.msgpack.encode((MESSAGE, content, PRIVATE)),
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert there.stdout == here.raw


def test_both_signatures_stand_on_top_and_verify() -> None:
    for content in (PARTS, RAW):
        raw = compose(MESSAGE, content, SIGNERS, hostname=HOSTNAME).raw
        assert raw.startswith(b"DKIM-Signature: v=1; a=rsa-sha256;")
        assert verified(raw) == [True, True]


def test_signing_comes_after_rewriting_for_a_hop_without_8bitmime() -> None:
    composed = compose(MESSAGE, RAW, SIGNERS, hostname=HOSTNAME, eightbit_allowed=False)
    assert composed.raw.isascii()
    assert not composed.eightbit
    assert verified(composed.raw) == [True, True]
    assert parsed(composed.raw).get_content() == "schön\r\n" * 3


def test_what_the_hop_must_offer_is_told() -> None:
    assert compose(MESSAGE, RAW, (), hostname=HOSTNAME).eightbit
    parts = compose(MESSAGE, PARTS, (), hostname=HOSTNAME)
    assert (parts.eightbit, parts.smtputf8) == (False, False)
    international = compose(changed(to=(Mailbox("用户", "example.org"),)), PARTS, (), hostname=HOSTNAME)
    assert (international.eightbit, international.smtputf8) == (False, True)
    header = RawContent(RAW.raw.replace(b"To: jane@", "To: 用户@".encode()))
    assert compose(MESSAGE, header, (), hostname=HOSTNAME).smtputf8
    plain_text = RawContent(RAW.raw.replace(b"Subject: Hi", "Subject: Grüße".encode()))
    assert not compose(MESSAGE, plain_text, (), hostname=HOSTNAME).smtputf8


def test_unsafe_raw_mails_are_mended_even_where_8bit_may_stay() -> None:
    content = RawContent(RAW.raw + b"x" * 2_000 + b"\r\n")
    composed = compose(MESSAGE, content, SIGNERS, hostname=HOSTNAME)
    assert max(map(len, composed.raw.split(b"\r\n"))) <= 998
    assert verified(composed.raw) == [True, True]


def test_signed_mail_that_would_have_to_change_cannot_travel() -> None:
    content = RawContent(b"From: a@shop.example\r\nContent-Type: application/pkcs7-mime\r\n\r\n" + "schön\r\n".encode())
    with pytest.raises(CannotCompose) as caught:
        compose(MESSAGE, content, SIGNERS, hostname=HOSTNAME, eightbit_allowed=False)
    assert (caught.value.reason, caught.value.enhanced) == ("cannot_travel", "5.6.3")
    assert "application/pkcs7-mime" in caught.value.text


@pytest.mark.parametrize(
    "content",
    [RawContent(b"no header"), PartsContent("a\r\nBcc: x@example.org", None, "t"), PartsContent("s", None, "\ud800")],
    ids=["raw", "injection", "surrogate"],
)
def test_what_accept_should_have_refused_is_no_fault(content: Content) -> None:
    with pytest.raises(CannotCompose) as caught:
        compose(MESSAGE, content, SIGNERS, hostname=HOSTNAME)
    assert (caught.value.reason, caught.value.enhanced) == ("broken_message", "5.6.0")


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=100)


@settings(max_examples=40, deadline=None)
@given(TEXT, TEXT, st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.binary(max_size=300))
def test_whatever_is_written_verifies_and_never_shows_a_blind_copy(
    subject: str, name: str, text: str, file: bytes
) -> None:
    content = PartsContent(subject, text, text, attachments=(Attachment(name, "image/png", file),))
    message = changed(from_=Mailbox("orders", "shop.example", name), cc=())
    raw = compose(message, content, SIGNERS, hostname=HOSTNAME).raw
    assert verified(raw) == [True, True]
    assert parsed(raw).keys() == [
        *("DKIM-Signature", "DKIM-Signature", "From", "To", "Subject", "Date", "Message-ID", "MIME-Version"),
        "Content-Type",
    ]
