"""A message from parts: what goes in, the standard library's parser reads back."""

from __future__ import annotations

import email
import email.policy
import re
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendkit_server.model.address import Mailbox
from sendkit_server.model.mail import Attachment, PartsContent
from sendkit_server.wire import mime

FROM = Mailbox("orders", "shop.example", "The Shop")
TO = (Mailbox("jane", "example.org"),)
AT = 1_773_239_405_000
MESSAGE_ID = "<1@shop.example>"

UNICODE = st.characters(exclude_categories=["Cs"])
HEADER_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=80)
BODY = st.text(UNICODE, max_size=400) | st.text(st.sampled_from("ab .=\t\r\n\0-üß€😀\u2028\x85\x0c_"), max_size=400)
CONTENT = st.builds(
    PartsContent,
    subject=HEADER_TEXT,
    html=st.none() | BODY,
    text=st.none() | BODY,
    reply_to=st.lists(st.builds(Mailbox, st.just("reply"), st.just("shop.example"), HEADER_TEXT), max_size=2).map(
        tuple
    ),
    headers=st.lists(st.tuples(st.sampled_from(["X-One", "X-Two"]), HEADER_TEXT), max_size=3).map(tuple),
    attachments=st.lists(
        st.builds(
            Attachment,
            filename=st.text(UNICODE, max_size=60),
            content_type=st.sampled_from(["image/png", "text/plain; charset=iso-8859-1", "message/rfc822", "é", ""])
            | st.text(max_size=40),
            content=st.binary(max_size=200),
            content_id=st.none() | st.text(UNICODE, max_size=30),
        ),
        max_size=3,
    ).map(tuple),
)


def built(content: PartsContent, **changes: object) -> bytes:
    arguments: dict[str, object] = {
        "from_": FROM,
        "to": TO,
        "cc": (),
        "date": AT,
        "message_id": MESSAGE_ID,
        "seed": "s",
    }
    return mime.build(content, **{**arguments, **changes})  # type: ignore[arg-type]


def parsed(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def with_lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_of(part: EmailMessage) -> str:
    raw = part.get_payload(decode=True)
    assert isinstance(raw, bytes)
    return raw.decode("utf-8").replace("\r\n", "\n").removesuffix("\n")


def leaves(message: EmailMessage) -> list[EmailMessage]:
    return [part for part in message.walk() if isinstance(part, EmailMessage) and not part.is_multipart()]


def shape(message: EmailMessage) -> object:
    if not message.is_multipart():
        return message.get_content_subtype()
    return [message.get_content_subtype(), *[shape(part) for part in message.iter_parts()]]  # type: ignore[arg-type]


def assert_travels(raw: bytes) -> None:
    assert raw.isascii()
    assert raw.endswith(b"\r\n")
    assert b"\0" not in raw
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", raw)
    assert max(map(len, raw.split(b"\r\n"))) <= 998


@settings(max_examples=150)
@given(CONTENT)
def test_what_is_composed_is_read_back(content: PartsContent) -> None:
    raw = built(content)
    assert_travels(raw)
    assert len(raw) <= mime.estimated_size(content, (FROM, *TO))
    message = parsed(raw)
    assert str(message["Subject"]) == content.subject
    parts = leaves(message)
    assert not any(part.defects for part in parts if part.get_content_maintype() == "text")
    texts = [part for part in parts if not part.get_content_disposition()]
    expected = [body for body in (content.text, content.html) if body is not None] or [""]
    assert [text_of(part) for part in texts] == [with_lf(body).removesuffix("\n") for body in expected]
    files = [part for part in parts if part.get_content_disposition()]
    assert sorted(part.get_payload(decode=True) for part in files) == sorted(
        attachment.content for attachment in content.attachments
    )
    assert sorted(part.get_filename() or "" for part in files) == sorted(
        mime.safe_filename(attachment.filename) for attachment in content.attachments
    )


@given(CONTENT)
def test_the_header_holds_exactly_the_fields_that_were_meant(content: PartsContent) -> None:
    message = parsed(built(content))
    names = ["From", "To", *(["Reply-To"] if content.reply_to else []), "Subject", "Date", "Message-ID"]
    names += [name for name, _ in content.headers]
    names += ["MIME-Version", "Content-Type"]
    if not message.is_multipart():
        names.append("Content-Transfer-Encoding")
    assert message.keys() == names


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PartsContent("s", None, "t"), "plain"),
        (PartsContent("s", "h", None), "html"),
        (PartsContent("s", "h", "t"), ["alternative", "plain", "html"]),
        (
            PartsContent(
                "s",
                '<img src="cid:logo"> <img src="cid:a%20b">',
                "t",
                attachments=(
                    Attachment("l.png", "image/png", b"l", "logo"),
                    Attachment("b.png", "image/png", b"b", "a b"),
                    Attachment("unseen.png", "image/png", b"u", "unseen"),
                    Attachment("a.pdf", "application/pdf", b"a"),
                ),
            ),
            ["mixed", ["alternative", "plain", ["related", "html", "png", "png"]], "png", "pdf"],
        ),
        (
            PartsContent("s", None, "t", attachments=(Attachment("l.png", "image/png", b"l", "logo"),)),
            ["mixed", "plain", "png"],
        ),
    ],
)
def test_the_tree_has_only_the_levels_it_needs(content: PartsContent, expected: object) -> None:
    assert shape(parsed(built(content))) == expected


def test_to_and_cc_are_shown_and_left_out_when_empty() -> None:
    content = PartsContent("s", None, "t")
    message = parsed(built(content, cc=(Mailbox("c", "example.org", "Cee"),)))
    assert str(message["Cc"]) == "Cee <c@example.org>"
    assert parsed(built(content, to=()))["To"] is None


def test_plain_text_stays_readable() -> None:
    assert built(PartsContent("s", None, "Hello\nworld")).endswith(b"7bit\r\n\r\nHello\r\nworld\r\n")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("a" * 998, b"7bit"),
        ("a" * 999, b"quoted-printable"),
        ("b\n" + "a" * 998 + "\nb", b"7bit"),
        ("b\n" + "a" * 999 + "\nb", b"quoted-printable"),
        ("Größe 42 geht morgen aus dem Haus", b"quoted-printable"),
        ("наша посылка", b"base64"),
        ("nul \0 stays", b"quoted-printable"),
    ],
)
def test_the_shortest_encoding_that_can_travel_is_taken(text: str, encoding: bytes) -> None:
    taken, _ = mime.transfer_encoded(text.replace("\n", "\r\n").encode())
    assert taken == encoding


@given(st.text(st.sampled_from("abcdefghij \t=ü.\n"), min_size=60, max_size=400))
def test_quoted_printable_lines_have_at_most_76_characters(text: str) -> None:
    encoding, body = mime.shortest_encoded(text.replace("\n", "\r\n").encode())
    assert encoding in (b"quoted-printable", b"base64")
    assert max(map(len, body.split(b"\r\n"))) <= 76
    assert not re.search(rb"[ \t](\r\n|\Z)", body)


def test_binary_with_lone_line_ends_becomes_base64() -> None:
    assert mime.shortest_encoded(b"one\ntwo\rthree" + b"." * 40)[0] == b"base64"


@given(st.lists(st.integers(min_value=990, max_value=1_003), max_size=6), st.booleans())
def test_long_lines_are_found_whatever_surrounds_them(lengths: list[int], ended: bool) -> None:
    raw = b"\r\n".join([b"x" * length for length in lengths]) + (b"\r\n" if ended else b"")
    assert mime.has_long_line(raw) == any(length > 998 for length in lengths)


def test_a_boundary_that_stands_in_a_text_is_not_used() -> None:
    raw = built(PartsContent("s", "h", "t"))
    boundary = re.findall(rb'boundary="=_alternative_(.*)"', raw)[0].decode()
    raw = built(PartsContent("s", "h", f"--=_alternative_{boundary}--"))
    assert shape(parsed(raw)) == ["alternative", "plain", "html"]
    assert text_of(leaves(parsed(raw))[0]) == f"--=_alternative_{boundary}--"


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others() -> None:
    content = PartsContent("s", "h", "t")
    assert built(content) == built(content)
    assert built(content) != built(content, seed="other")


@pytest.mark.parametrize("name", ["From", "bcc", "Content-Type", "content-foo", "DKIM-Signature", "Received", "SENDER"])
def test_a_users_header_cannot_stand_in_for_ours(name: str) -> None:
    with pytest.raises(ValueError, match="is not the user's to set"):
        built(PartsContent("s", None, "t", headers=((name, "x"),)))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        built(PartsContent("s", None, "\ud800"))


@pytest.mark.parametrize(
    ("given_name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\docs\\report.pdf", "report.pdf"),
        ("", "attachment"),
        ("..", "attachment"),
        ("a/", "attachment"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("a\r\nBcc: x.txt", "aBcc: x.txt"),
        ("👨‍👩‍👧.png", "👨‍👩‍👧.png"),
        ("Rechnung Größe.pdf", "Rechnung Größe.pdf"),
        ("x" * 5_000 + ".pdf", "x" * 251 + ".pdf"),
        ("ü" * 300, "ü" * 127),
    ],
)
def test_file_names_are_made_safe(given_name: str, safe: str) -> None:
    assert mime.safe_filename(given_name) == safe


@pytest.mark.parametrize(
    ("given_type", "safe"),
    [
        ("image/png", ("image/png", [])),
        ("Text/CSV; Charset=utf-8; header=present", ("text/csv", [("charset", "utf-8"), ("header", "present")])),
        ('application/pdf; name="evil.exe"; boundary=x', ("application/pdf", [])),
        ("message/rfc822", ("application/octet-stream", [])),
        ("multipart/mixed; boundary=x", ("application/octet-stream", [])),
        ("png", ("application/octet-stream", [])),
        ("image/png\r\nBcc: x", ("application/octet-stream", [])),
        ("imäge/png", ("application/octet-stream", [])),
        ("", ("application/octet-stream", [])),
    ],
)
def test_content_types_are_made_safe(given_type: str, safe: tuple[str, list[tuple[str, str]]]) -> None:
    assert mime.safe_content_type(given_type) == safe


@pytest.mark.parametrize(
    ("content_id", "field"),
    [("logo", "<logo>"), ("<a@b>", "<a@b>"), ("a b\r\n", "<a%20b>"), ("ü", "<%C3%BC>"), ("", None), ("ü" * 500, None)],
)
def test_content_ids_are_bracketed_encoded_or_left_out(content_id: str, field: str | None) -> None:
    attachment = Attachment("f", "image/png", b"x", content_id)
    part = leaves(parsed(built(PartsContent("s", None, "t", attachments=(attachment,)))))[1]
    assert part["Content-ID"] == field


def test_an_ascii_likeness_of_the_file_name_helps_old_programs() -> None:
    attachment = Attachment("Größe.pdf", "application/pdf", b"x")
    raw = built(PartsContent("s", None, "t", attachments=(attachment,)))
    assert b"name=Gr__e.pdf" in raw
    assert b"filename*=utf-8''Gr%C3%B6%C3%9Fe.pdf" in raw
