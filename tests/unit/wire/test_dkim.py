"""What we sign, another implementation verifies; what somebody changes afterwards, it does not."""

from __future__ import annotations

import dkim as verifier
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sendkit_server.wire import dkim, dkim_keys

DOMAIN = "shop.example"
PRIVATE = {"rsa": dkim_keys.generate("rsa-sha256"), "ed": dkim_keys.generate("ed25519-sha256")}
SIGNERS = [dkim_keys.load(private, domain=DOMAIN, selector=selector) for selector, private in PRIVATE.items()]
MAIL = (
    b"From: The Shop <orders@shop.example>\r\nTo: jane@example.org\r\nSubject: Your order\r\n"
    b"Date: Wed, 11 Mar 2026 14:30:05 +0000\r\nMessage-ID: <1@shop.example>\r\n\r\nIt is on its way.\r\n"
)


def zone(name: bytes, timeout: int = 5) -> bytes | None:
    for selector, private in PRIVATE.items():
        if name == f"{selector}._domainkey.{DOMAIN}.".encode():
            return dkim_keys.public_record(private).encode()
    return None


def verified(raw: bytes) -> list[bool]:
    def one(at: int) -> bool:
        try:
            return bool(verifier.DKIM(raw).verify(idx=at, dnsfunc=zone))
        except verifier.ValidationError:
            return False

    return [one(at) for at in range(len(SIGNERS))]


def signed(raw: bytes) -> bytes:
    return dkim.sign(raw, SIGNERS, 1_773_239_405) + raw


FIELD = st.tuples(
    st.sampled_from(["X-Other", "Reply-To", "List-Unsubscribe", "references", "SENDER", "Subject", "Content-Type"]),
    st.text(st.sampled_from("ab \t:;="), max_size=40).map(lambda text: text.replace(" a", "\r\n\t a")),
)
BODY = st.lists(
    st.sampled_from([b"a", b" ", b"  ", b"\t", b"\r\n", b"\r\n\r\n", b"x" * 70, "ü".encode(), b"."]), max_size=40
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(FIELD, max_size=8), BODY)
def test_another_verifier_agrees_whatever_the_mail_is_made_of(fields: list[tuple[str, str]], body: list[bytes]) -> None:
    head = b"".join([f"{name}:  {value}\r\n".encode() for name, value in fields])
    raw = b"From: orders@shop.example\r\n" + head + b"\r\n" + b"".join(body) + b"\r\n"
    assert verified(signed(raw)) == [True, True]


@pytest.mark.parametrize("tail", [b"\r\n", b"\r\n\r\n\r\n", b" \r\n", b"\t \r\n \r\n"])
def test_bodies_that_end_oddly_verify(tail: bytes) -> None:
    head = MAIL.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    for body in (b"", b"text", b"text  "):
        assert verified(signed(head + body + tail)) == [True, True]


@pytest.mark.parametrize(
    "added",
    [
        f"{name}: x\r\n".encode()
        for name in ("From", "Subject", "To", "Cc", "Date", "Reply-To", "List-Unsubscribe", "Content-Type", "Sender")
    ],
)
def test_a_field_added_on_the_way_breaks_the_signature(added: bytes) -> None:
    raw = signed(MAIL)
    assert verified(raw) == [True, True]
    assert verified(added + raw) == [False, False]


def test_a_changed_or_longer_body_breaks_the_signature() -> None:
    assert verified(signed(MAIL).replace(b"on its way", b"on our way")) == [False, False]
    assert verified(signed(MAIL) + b"And buy this.\r\n") == [False, False]


def test_the_field_is_folded_and_says_no_length() -> None:
    field = dkim.sign(MAIL, SIGNERS[:1], 1_773_239_405)
    assert max(map(len, field.split(b"\r\n"))) <= 78
    assert b" l=" not in field
    assert b"t=1773239405;" in field
    assert b"a=rsa-sha256; c=relaxed/relaxed;" in field


@pytest.mark.parametrize(
    ("body", "relaxed"),
    [
        (b"", b""),
        (b"\r\n\r\n", b""),
        (b"  \r\n\t\r\n", b""),
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
        (b"no end", b"no end\r\n"),
        (b"a" + b" " * 100_000 + b"b \r\n", b"a b\r\n"),
    ],
)
def test_the_relaxed_body_is_as_the_standard_shows_it(body: bytes, relaxed: bytes) -> None:
    assert dkim.relaxed_body(body) == relaxed
