"""Mails that came in whole: read far enough, refused when broken, changed only where they could not travel."""

from __future__ import annotations

import email
import email.policy
import time
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendkit_server.wire import raw_message
from sendkit_server.wire.raw_message import CannotTravel

RECEIVED = b"Received: by mx.example (Sendkit) with ESMTPSA\r\n id msg_1;\r\n Wed, 11 Mar 2026 14:30:05 +0000\r\n"
DATE = "Wed, 11 Mar 2026 14:30:05 +0000"
PLAIN = (
    b"From: The Shop <orders@shop.example>\r\nTo: jane@example.org\r\nSubject: Hi\r\n"
    b"Date: Tue, 10 Mar 2026 10:00:00 +0100\r\nMessage-ID: <1@shop.example>\r\n\r\nHello\r\n"
)


def prepared(raw: bytes) -> bytes:
    return raw_message.prepared(raw, date=DATE, message_id="<new@shop.example>", received=RECEIVED)


def parsed(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def mail(*fields: str, body: bytes = b"Hello\r\n") -> bytes:
    return b"".join([f"{field}\r\n".encode() for field in fields]) + b"\r\n" + body


# What is read


def test_the_header_block_is_read() -> None:
    raw = mail(
        "Received: from a by b; x",
        "from : =?utf-8?q?J=C3=BCrgen?= <j@shop.example>",
        "To: a@x.example (a comment, with a comma),",
        ' "Doe, Jane" <jane@x.example>, team: b@x.example, c@x.example;',
        "CC: undisclosed-recipients:;",
        "Subject: =?utf-8?q?Gr=C3=B6?=",
        " =?utf-8?b?w59l?= 42",
        "Message-ID:",
        " <1@shop.example>",
        "Date: now",
        "X-Sendkit-Tag: a=b",
        "X-Tag:  folded",
        "\tvalue",
        "Resend-Idempotency-Key: k1",
        "Received: from c by a; y",
    )
    found = raw_message.headers_of(raw)
    assert found.from_ == ("=?utf-8?q?J=C3=BCrgen?= <j@shop.example>",)
    assert found.from_count == 1
    assert found.to == ("a@x.example", '"Doe, Jane" <jane@x.example>', "b@x.example", "c@x.example")
    assert found.cc == ()
    assert found.subject == "Größe 42"
    assert found.message_id == "<1@shop.example>"
    assert found.received_count == 2
    assert found.extensions == (("X-Sendkit-Tag", "a=b"), ("X-Tag", "folded value"), ("Resend-Idempotency-Key", "k1"))


def test_what_is_not_there_is_empty() -> None:
    found = raw_message.headers_of(mail("X-Other: 1"))
    assert (found.from_, found.from_count, found.to, found.cc, found.subject) == ((), 0, (), (), "")
    assert (found.message_id, found.received_count) == (None, 0)


def test_every_from_is_counted() -> None:
    found = raw_message.headers_of(mail("From: a@x.example, b@x.example", "FROM: c@x.example"))
    assert found.from_ == ("a@x.example", "b@x.example", "c@x.example")
    assert found.from_count == 2


def test_a_group_in_from_is_not_dissolved() -> None:
    assert raw_message.headers_of(mail("From: us: a@x.example;")).from_ == ("us: a@x.example;",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@x.example", ["a@x.example"]),
        ("a@x.example,,b@x.example,", ["a@x.example", "b@x.example"]),
        ('"a, \\"b" <a@x.example>, "q,q"@x.example', ['"a, \\"b" <a@x.example>', '"q,q"@x.example']),
        ("(c (n, e) \\) d) a@x.example (e), b@x.example", ["a@x.example", "b@x.example"]),
        ('a@x.example (a 5" pipe), b@x.example', ["a@x.example", "b@x.example"]),
        ("A <a@x.example>, g:b@x.example;,c@x.example", ["A <a@x.example>", "b@x.example", "c@x.example"]),
        ('"never closed, b@x.example', ['"never closed, b@x.example']),
        ("(never closed, b@x.example", []),
        ("", []),
    ],
)
def test_address_lists_are_split_where_mailboxes_end(text: str, expected: list[str]) -> None:
    assert raw_message.split_addresses(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("=?utf-8?b?w7w=?=", "ü"),
        ("a =?utf-8?b?w7w=?= b", "a ü b"),
        ("=?utf-8?b?w7w=?=  =?utf-8?q?=C3=BC?=", "üü"),
        ("=?utf-8?b?ww==?= =?utf-8?b?vA==?=", "ü"),
        ("=?iso-8859-1*de?q?=FC_x?= =?utf-8?q?=C3=BC?=", "ü xü"),
        ("=?windows-1252?Q?=80?=", "€"),
        ("=?punycode?q?a-b?=", "a-b"),
        ("=?iso-made-up?q?abc?=", "abc"),
        ("=?utf-8?b?w?=", ""),
        ("=?utf-8?b?w7x?=", "ü"),
        ("=?utf-8?q?a=0D=0ABcc:_x?=", "a Bcc: x"),
        ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
        ("=?utf-8?q?never closed", "=?utf-8?q?never closed"),
    ],
)
def test_encoded_words_are_decoded_and_hide_no_line_ends(text: str, expected: str) -> None:
    assert raw_message.decoded(text) == expected


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"no colon here\r\n\r\nx", "no header field: no colon here"),
        (b"From orders Mon Jan 1 10:00:00 2026\r\nTo: a@x\r\n\r\nx", "no header field"),
        (b"\r\nbody", "no header field"),
        (b"", "no header field"),
        (b" folded: first\r\n\r\n", "no header field"),
        (b"Sub ject: x\r\n\r\n", "no header field"),
        ("Sübject: x\r\n\r\n".encode(), "no header field"),
        (b": empty\r\n\r\n", "no header field"),
        (b"Subject: a\rBcc: x\r\n\r\n", "does not end a line"),
        (b"Subject: a\nBcc: x\r\n\r\n", "does not end a line"),
        (b"Subject: a\0\r\n\r\n", "holds NUL"),
        (b"X: y\r\n" * 20_000 + b"\r\n", "larger than 102400 bytes"),
        (b"X: y\r\n" * 20_000, "larger than 102400 bytes"),
        (b"X: " + b"y" * 999 + b"\r\n\r\n", "longer than 998 bytes"),
    ],
)
def test_a_broken_header_block_is_refused_with_the_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        raw_message.headers_of(raw)
    with pytest.raises(ValueError, match=reason):
        prepared(raw)


@given(st.binary(max_size=300) | st.text(st.sampled_from('ab: \t\r\n,;<>()"\\=?@é'), max_size=200).map(str.encode))
def test_garbage_raises_nothing_but_value_error(raw: bytes) -> None:
    try:
        found = raw_message.headers_of(raw)
    except ValueError:
        return
    assert all(address == address.strip() != "" for address in found.to + found.cc + found.from_)
    assert prepared(raw).startswith(b"Received: ")


# What leaves


def test_a_complete_mail_only_gets_its_received_line() -> None:
    assert prepared(PLAIN) == RECEIVED + PLAIN


@pytest.mark.parametrize(
    ("field", "becomes"),
    [
        ("Subject: Grüße".encode(), b"Subject: =?utf-8?b?R3LDvMOfZQ==?="),
        ("Subject: Grüße".encode("cp1252"), b"Subject: =?utf-8?b?R3LDvMOfZQ==?="),
        ("To: Jürgen <j@x.example>, b@x.example".encode(), b"To: =?utf-8?q?J=C3=BCrgen?= <j@x.example>, b@x.example"),
        ("X-Note: naïve".encode(), b"X-Note: =?utf-8?b?bmHDr3Zl?="),
        ("Cc: j@bücher.example".encode(), b"Cc: j@xn--bcher-kva.example"),
        ("Cc: ü@x.example".encode(), "Cc: ü@x.example".encode()),
        ("Cc: a@x.example (Änne)".encode(), "Cc: a@x.example (Änne)".encode()),
        ("Cc: Größe: a@x.example;".encode(), "Cc: Größe: a@x.example;".encode()),
        ("List-Id: Größe <a.example>".encode(), "List-Id: Größe <a.example>".encode()),
        (b"Cc: " + "(ü)".encode(), b"Cc: " + "(ü)".encode()),
    ],
)
def test_plain_text_beyond_ascii_becomes_encoded_words_where_they_may_stand(field: bytes, becomes: bytes) -> None:
    raw = PLAIN.replace(b"Subject: Hi", field)
    assert prepared(raw) == RECEIVED + PLAIN.replace(b"Subject: Hi", becomes)


def test_blind_copies_and_what_was_meant_for_us_are_removed() -> None:
    removed = mail(
        "Bcc: secret@x.example,",
        "\tother@x.example",
        "Return-Path: <a@x.example>",
        "bcc : more@x.example",
        "x-sendkit-tag: a",
        "X-Sendkit-Metadata: {}",
        "Idempotency-Key: k",
        "Resent-Bcc: secret@x.example",
        body=b"",
    ).removesuffix(b"\r\n")
    assert prepared(removed + PLAIN) == RECEIVED + PLAIN
    assert prepared(PLAIN.replace(b"\r\n\r\n", b"\r\n" + removed + b"\r\n", 1)) == RECEIVED + PLAIN


def test_missing_date_and_message_id_are_added() -> None:
    raw = mail("From: a@x.example")
    for given_raw in (raw, mail("Date:", "From: a@x.example", "Message-ID: ", " ")):
        assert raw_message.headers_of(given_raw).message_id is None
        assert prepared(given_raw) == RECEIVED + f"Date: {DATE}\r\nMessage-ID: <new@shop.example>\r\n".encode() + raw


def test_odd_but_valid_folding_stays_byte_for_byte() -> None:
    raw = mail("Subject:", "\t folded", " \t ", "  twice", "TO  :a@x.example", body=b"\r\n.\r\n  \r\n")
    raw = PLAIN.partition(b"Subject")[0] + b"Date: x\r\nMessage-ID: <1@x>\r\n" + raw
    assert prepared(raw) == RECEIVED + raw


def test_a_mail_without_a_body_gets_an_empty_one() -> None:
    head = PLAIN.partition(b"\r\n\r\n")[0]
    for raw in (head, head + b"\r\n", head + b"\r\n\r\n"):
        assert prepared(raw) == RECEIVED + head + b"\r\n\r\n"


def test_a_body_without_a_last_line_end_gets_one() -> None:
    assert prepared(PLAIN.removesuffix(b"\r\n")) == RECEIVED + PLAIN


def test_overlong_header_lines_are_folded_at_their_blanks() -> None:
    recipients = ", ".join(f"recipient-number-{n}@some-domain.example" for n in range(100))
    raw = prepared(PLAIN.replace(b"To: jane@example.org", f"To: {recipients}".encode()))
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert len(parsed(raw)["To"].addresses) == 100
    assert raw.replace(b"\r\n ", b" ").count(f"To: {recipients}\r\n".encode()) == 1


@pytest.mark.parametrize(
    ("raw", "eightbit", "unsafe", "smtputf8"),
    [
        (PLAIN, False, False, False),
        (PLAIN + "ü\r\n".encode(), True, False, False),
        (PLAIN + b"\0\r\n", False, True, False),
        (PLAIN + b"x" * 999 + b"\r\n", False, True, False),
        (PLAIN.replace(b"Hi", "Grüße".encode()), False, False, True),
    ],
)
def test_needs_are_told_apart(raw: bytes, eightbit: bool, unsafe: bool, smtputf8: bool) -> None:
    assert raw_message.needs(raw) == raw_message.Needs(eightbit, unsafe, smtputf8)


# What is mended

LONG = b"word " * 300 + b"end\r\n"
UTF8 = "Grüße aus Köln\r\n".encode() * 5


def content_of(part: EmailMessage) -> bytes:
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw


def tree(*parts: bytes, boundary: str = "b1", kind: str = "mixed", fields: str = "") -> bytes:
    head = f'MIME-Version: 1.0\r\n{fields}Content-Type: multipart/{kind};\r\n\tboundary="{boundary}"\r\n\r\n'.encode()
    delimiter = f"--{boundary}".encode()
    return head + b"".join([delimiter + b"\r\n" + part + b"\r\n" for part in parts]) + delimiter + b"--\r\n"


def leaf(body: bytes, content_type: str = "text/plain; charset=utf-8", encoding: str = "") -> bytes:
    label = f"Content-Transfer-Encoding: {encoding}\r\n" if encoding else ""
    return f"Content-Type: {content_type}\r\n{label}\r\n".encode() + body


def test_a_plain_8bit_mail_becomes_7bit() -> None:
    raw = (
        PLAIN.replace(
            b"\r\n\r\n",
            b"\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\n\r\n",
            1,
        )
        + UTF8
    )
    mended = raw_message.made_7bit(raw)
    assert mended.isascii()
    assert parsed(mended)["Content-Transfer-Encoding"] == "base64"
    assert content_of(parsed(mended)) == content_of(parsed(raw))
    assert mended.partition(b"Content-Transfer")[0] == raw.partition(b"Content-Transfer")[0]
    assert raw_message.made_safe(raw) == raw


@pytest.mark.parametrize(("body", "charset"), [(UTF8, "utf-8"), ("Gr\xfc\xdfe\r\n".encode("latin-1"), "unknown-8bit")])
def test_a_mail_without_mime_gets_the_fields_it_needs(body: bytes, charset: str) -> None:
    message = parsed(raw_message.made_7bit(PLAIN + body))
    assert message["MIME-Version"] == "1.0"
    assert message.get_content_charset() == charset
    assert content_of(message) == b"Hello\r\n" + body


def test_only_the_part_that_cannot_travel_is_changed() -> None:
    first, second, third = leaf(b"fine\r\n"), leaf(LONG), leaf(b"aGVsbG8=", "image/png", "base64")
    raw = tree(first, second, third)
    mended = raw_message.made_safe(raw)
    head, tail = raw.split(second)
    assert mended.startswith(head)
    assert mended.endswith(tail)
    parts = [content_of(part) for part in parsed(mended).iter_parts()]  # type: ignore[arg-type]
    assert parts == [b"fine\r\n", LONG, b"hello"]
    assert not raw_message.needs(mended).unsafe


def test_nul_becomes_base64_or_quoted_printable_and_survives() -> None:
    for body in (b"a\0b\r\n" * 3, bytes(range(128)) * 9):
        mended = raw_message.made_safe(tree(leaf(body, "application/x-data")))
        assert b"\0" not in mended
        assert [content_of(part) for part in parsed(mended).iter_parts()] == [body]  # type: ignore[arg-type]


def test_base64_in_one_line_is_wrapped() -> None:
    raw = tree(leaf(b"QUJD" * 1_000, "image/png", "base64"))
    mended = raw_message.made_safe(raw)
    assert max(map(len, mended.split(b"\r\n"))) <= 76
    assert [content_of(part) for part in parsed(mended).iter_parts()] == [b"ABC" * 1_000]  # type: ignore[arg-type]
    assert mended.count(b"Content-Transfer-Encoding: base64") == 1


def test_broken_quoted_printable_is_made_whole() -> None:
    raw = tree(leaf(b"a=3Db " + b"x" * 1_000 + b"=0Aend", "text/plain", "quoted-printable"))
    mended = raw_message.made_safe(raw)
    assert not raw_message.needs(mended).unsafe
    assert [content_of(part) for part in parsed(mended).iter_parts()] == [b"a=b " + b"x" * 1_000 + b"\nend"]  # type: ignore[arg-type]


def test_nested_parts_and_enclosed_messages_are_reached_and_relabelled() -> None:
    inner = tree(leaf(UTF8, encoding="8bit"), leaf(b"plain"), boundary="b2", kind="alternative")
    enclosed = PLAIN.replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", 1) + UTF8
    raw = tree(
        inner,
        leaf(enclosed, "message/rfc822", "8bit"),
        leaf(b"last"),
        fields="Content-Transfer-Encoding: 8bit\r\n",
    )
    mended = raw_message.made_7bit(raw)
    assert mended.isascii()
    assert b"8bit" not in mended
    leaves = [part for part in parsed(mended).walk() if not part.is_multipart()]
    assert [content_of(part) for part in leaves] == [  # type: ignore[arg-type]
        UTF8,
        b"plain",
        b"Hello\r\n" + UTF8,
        b"last",
    ]


def test_an_enclosed_message_without_mime_gets_the_fields_it_needs() -> None:
    mended = raw_message.made_7bit(tree(leaf(PLAIN + UTF8, "message/rfc822")))
    (enclosed,) = [part for part in parsed(mended).walk() if part["Subject"]]
    assert enclosed["MIME-Version"] == "1.0"
    assert enclosed.get_content_charset() == "utf-8"


def test_a_label_padded_to_an_overlong_line_is_replaced_once() -> None:
    label = b"Content-Transfer-Encoding:" + b" " * 1_000 + b"8bit\r\n"
    mended = raw_message.made_7bit(tree(label + leaf(UTF8)))
    assert mended.count(b"Content-Transfer-Encoding") == 1
    assert [content_of(part) for part in parsed(mended).iter_parts()] == [UTF8]  # type: ignore[arg-type]


def test_dashes_in_a_text_are_no_borders() -> None:
    raw = PLAIN + b"--\r\n" * 600_000 + LONG
    assert not raw_message.needs(raw_message.made_safe(raw)).unsafe


def test_an_unclean_preamble_or_epilogue_is_dropped() -> None:
    raw = tree(leaf(b"text"))
    with_filler = raw.replace(b"--b1\r\n", UTF8 + b"--b1\r\n", 1) + UTF8
    assert raw_message.made_7bit(with_filler) == raw.replace(b"\r\n\r\n--b1", b"\r\n\r\n\r\n--b1", 1)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (tree(leaf(UTF8), leaf(b"sig"), boundary="s", kind="signed"), "multipart/signed"),
        (tree(leaf(UTF8), leaf(b"x"), boundary="s", kind="encrypted"), "multipart/encrypted"),
        (tree(leaf(UTF8), boundary="s", kind="digest"), "multipart/digest"),
        (leaf(LONG + UTF8, "application/pkcs7-mime; smime-type=signed-data"), "application/pkcs7-mime"),
        (leaf(LONG + UTF8, "application/pgp-encrypted"), "application/pgp-encrypted"),
        (leaf(UTF8, "message/delivery-status"), "message/delivery-status"),
        (leaf(UTF8, "text/plain", "x-uuencode"), "x-uuencode"),
        (leaf(UTF8, "multipart/mixed"), "multipart/mixed"),
        (leaf(UTF8, 'multipart/mixed; boundary="never"'), "no part"),
        (leaf(UTF8, 'multipart/mixed; boundary="b1"'), "repeats another's boundary"),
        (leaf(b"x", 'text/plain; name="ü"'), "header of a part"),
        (b"X-Long: " + b"x" * 999 + b"\r\n" + leaf(UTF8), "longer than 998 bytes"),
        (b"Content-Type: text/plain", "x"),
        (b"Broken\r\n\r\n" + UTF8, "unknown"),
        (b"Content-Type: text/html\r\n" + leaf(UTF8), "text/plain"),
        (b"Content-Transfer-Encoding: base64\r\n" + leaf(UTF8, encoding="8bit"), "text/plain"),
    ],
)
def test_what_must_not_be_changed_cannot_travel(part: bytes, reason: str) -> None:
    raw = tree(leaf(b"fine"), part)
    if raw.isascii():
        assert raw_message.made_7bit(raw) == raw
        return
    with pytest.raises(CannotTravel, match=reason):
        raw_message.made_7bit(raw)


def test_a_signed_part_that_can_travel_stays_beside_one_that_is_mended() -> None:
    signed = tree(leaf(b"signed text"), leaf(b"sig"), boundary="s", kind="signed")
    raw = tree(signed, leaf(LONG))
    mended = raw_message.made_safe(raw)
    assert signed in mended
    assert not raw_message.needs(mended).unsafe


CLEAN = st.sampled_from([b"text\r\n", b"", b"--b1x\r\n", b"a\r\n\r\nb"])
ANY_BODY = CLEAN | st.sampled_from([UTF8, LONG, b"\0\r\n", LONG + UTF8, b"\x00\xff" * 700])
LEAF = st.builds(
    leaf, ANY_BODY, st.sampled_from(["text/plain; charset=utf-8", "image/png"]), st.sampled_from(["", "8bit"])
)
ANY_TREE = st.lists(
    LEAF | st.builds(lambda parts: tree(*parts, boundary="inner"), st.lists(LEAF, min_size=1, max_size=3)),
    min_size=1,
    max_size=4,
).map(lambda parts: tree(*parts))


@settings(max_examples=100)
@given(ANY_TREE, st.booleans())
def test_every_tree_is_mended_and_reads_back_the_same(raw: bytes, seven_bit: bool) -> None:
    mended = (raw_message.made_7bit if seven_bit else raw_message.made_safe)(raw)
    found = raw_message.needs(mended)
    assert not found.unsafe
    assert not (seven_bit and found.eightbit)
    before, after = ([part for part in parsed(one).walk() if not part.is_multipart()] for one in (raw, mended))
    assert [content_of(part) for part in after] == [content_of(part) for part in before]  # type: ignore[arg-type]


@given(st.text(st.sampled_from('ab-\r\n:;="ü\0'), max_size=300), st.booleans())
def test_garbage_behind_a_header_raises_nothing_but_cannot_travel(text: str, seven_bit: bool) -> None:
    raw = b'Content-Type: multipart/mixed; boundary="a"\r\n\r\n--a\r\n' + text.encode()
    try:
        mended = (raw_message.made_7bit if seven_bit else raw_message.made_safe)(raw)
    except CannotTravel:
        return
    assert not (seven_bit and raw_message.needs(mended).eightbit)


def deep(levels: int) -> bytes:
    heads = [f'Content-Type: multipart/mixed; boundary="{n}"\r\n\r\n--{n}\r\n'.encode() for n in range(levels)]
    return b"".join(heads) + b"Content-Type: text/plain\r\n\r\n" + UTF8


@pytest.mark.parametrize(
    "raw",
    [
        deep(1_000),
        tree(*[leaf(UTF8)] * 100_000),
        tree(*[b"\r\n"] * 100_000),
        tree(leaf(UTF8), boundary="b" * 1_000_000),
        tree(leaf(UTF8)).removesuffix(b"--b1--\r\n") + b"\r\n--" * 2_000_000,
        tree(leaf(UTF8)) + b"--" * 4_000_000,
        leaf(UTF8, "multipart/mixed" + ";" * 90_000),
        leaf(UTF8, "multipart/mixed" + '; a="' * 20_000),
        leaf(UTF8, "message/rfc822") + b"Content-Type: message/rfc822\r\n\r\n" * 100_000 + UTF8,
        tree(b"X: y\r\n" * 1_000_000 + UTF8),
        leaf(b"\r\n" * 4_000_000 + UTF8),
    ],
    ids=[
        "deep",
        "parts",
        "empty parts",
        "boundary",
        "dashes",
        "one line",
        "semicolons",
        "quotes",
        "enclosed",
        "header",
        "lines",
    ],
)
def test_hostile_mails_take_linear_time(raw: bytes) -> None:
    started = time.process_time()
    try:
        mended = raw_message.made_7bit(raw)
    except CannotTravel:
        mended = b""
    assert mended.isascii()
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "field",
    [
        "Subject: " + "=?utf-8?q?" * 9_000,
        "Subject: " + "=?utf-8?q?a?= " * 6_000,
        "To: " + '"' * 90_000,
        "To: " + "(" * 90_000,
        "To: " + "<" * 90_000,
        "To: " + "a@b.example," * 8_000,
        "References: " + "<a@b.example> " * 6_000,
    ],
    ids=lambda field: field[:16],
)
def test_hostile_headers_take_linear_time(field: str) -> None:
    raw = mail("From: a@x.example", "\r\n ".join(field[at : at + 900] for at in range(0, len(field), 900)))
    started = time.process_time()
    raw_message.headers_of(raw)
    prepared(raw)
    assert time.process_time() - started < 1
