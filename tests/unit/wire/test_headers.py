"""Header fields: whatever stands in a value, a reader sees that value, and that field alone."""

from __future__ import annotations

import email
import email.policy
import email.utils
from email.header import decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.model.address import Mailbox
from sendkit_server.wire import headers

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=300)
ODD_TEXT = st.text(
    st.sampled_from(list("ab =?_\"\\,;:<>()@%'*.\tüß€😀\u0301\u202e\u2028\x85\x0b\x0c\x7f")), max_size=120
)
HEADER_TEXT = ANY_TEXT | ODD_TEXT


def read_back(field: bytes) -> email.message.EmailMessage:
    message = email.message_from_bytes(field + b"\r\n", policy=email.policy.default)
    assert isinstance(message, email.message.EmailMessage)
    return message


def assert_well_formed(field: bytes) -> None:
    assert field.endswith(b"\r\n")
    lines = field[:-2].split(b"\r\n")
    assert all(len(line) <= 998 for line in lines)
    assert all(line.startswith(b" ") and line.strip() for line in lines[1:])
    assert b"\r" not in b"".join(lines)
    assert b"\n" not in b"".join(lines)
    assert b"\0" not in field


@given(HEADER_TEXT)
def test_a_subject_reads_back_as_it_was(text: str) -> None:
    field = headers.unstructured("Subject", text)
    assert_well_formed(field)
    assert field.isascii()
    message = read_back(field)
    assert message.keys() == ["Subject"]
    assert str(message["Subject"]) == text


@given(HEADER_TEXT)
def test_encoded_words_are_at_most_75_long_on_lines_of_at_most_78(text: str) -> None:
    for line in headers.unstructured("Subject", f"ü{text}").split(b"\r\n"):
        for word in line.split():
            assert len(word) <= 75 or b"=?utf-8?" not in word
        if line.count(b"=?utf-8?") == 1 and len(line.split()) == 1:
            assert len(line) <= 78


@pytest.mark.parametrize(
    "text",
    [
        "e" + "\u0301" * 10_000,
        "x" * 1_500,
        "😀" * 400,
        "שלום עולם " * 60,
        "a " * 2_000,
        "  ",
        " lead",
        "trail ",
        "two  blanks " + "and more words " * 10,
        "=?utf-8?q?not_encoded?=",
        "=?utf-8?q?a?= =?utf-8?q?b?= ü",
        "?= =?",
    ],
)
def test_unusual_subjects_read_back_as_they_were(text: str) -> None:
    field = headers.unstructured("Subject", text)
    assert_well_formed(field)
    assert str(read_back(field)["Subject"]) == text


def test_short_ascii_stands_as_it_is() -> None:
    assert headers.unstructured("Subject", "Your order, (4711)") == b"Subject: Your order, (4711)\r\n"
    assert headers.unstructured("Subject", "") == b"Subject: \r\n"


def test_long_ascii_is_folded_and_not_encoded() -> None:
    field = headers.unstructured("References", " ".join(f"<{n:030}@shop.example>" for n in range(30)))
    assert b"=?" not in field
    assert max(map(len, field.split(b"\r\n"))) <= 78


def test_only_the_words_that_need_it_are_encoded() -> None:
    field = headers.unstructured("X-Note", "from Jürgen <j@shop.example>")
    assert field == b"X-Note: from =?utf-8?q?J=C3=BCrgen?= <j@shop.example>\r\n"


def test_a_users_encoded_words_stay_when_they_are_meant() -> None:
    value = "=?utf-8?Q?Gr=C3=B6=C3=9Fe?= 42"
    assert headers.unstructured("X-Size", value, keep_encoded_words=True) == f"X-Size: {value}\r\n".encode()


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\r\n"])
def test_line_ends_and_nul_are_refused_everywhere(bad: str) -> None:
    for text in (f"a{bad}Bcc: x@y.example", f"ü{bad}x", bad):
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            headers.unstructured("Subject", text)
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            headers.mailboxes("To", [Mailbox("a", "b.example", text)])
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            headers.parameterised("Content-Disposition", "attachment", [("filename", text)])
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        headers.mailboxes("To", [Mailbox(f"a{bad}b", "c.example")])


@pytest.mark.parametrize("name", ["", "X Y", "X:Y", "Ünicode", "X\r\nBcc", "X" * 77, "X\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a header name"):
        headers.unstructured(name, "x")


@given(st.lists(HEADER_TEXT, min_size=1, max_size=12))
def test_display_names_read_back_and_addresses_stay_whole(names: list[str]) -> None:
    boxes = [Mailbox(f"user{n}", "shop.example", name) for n, name in enumerate(names)]
    field = headers.mailboxes("To", boxes)
    assert_well_formed(field)
    message = read_back(field)
    assert message.keys() == ["To"]
    assert [address.addr_spec for address in message["To"].addresses] == [box.address for box in boxes]
    # Not by the same parser: before Python 3.13 it puts a blank between two encoded words of a name.
    pairs = email.utils.getaddresses([field.decode()[4:].replace("\r\n", "")])
    assert [str(make_header(decode_header(name))) for name, _ in pairs] == names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", b"jane@x.example"),
        ("Jane Doe", b"Jane Doe <jane@x.example>"),
        ("Doe, Jane", b'"Doe, Jane" <jane@x.example>'),
        ("J. R.", b'"J. R." <jane@x.example>'),
        ('Jane "JD"', b"=?utf-8?b?SmFuZSAiSkQi?= <jane@x.example>"),
        ("Jürgen", b"=?utf-8?q?J=C3=BCrgen?= <jane@x.example>"),
    ],
)
def test_names_take_the_plainest_form_that_is_safe(name: str, expected: bytes) -> None:
    assert headers.mailboxes("To", [Mailbox("jane", "x.example", name)]) == b"To: " + expected + b"\r\n"


def test_an_international_local_part_stands_as_utf8() -> None:
    assert (
        headers.mailboxes("To", [Mailbox("用户", "xn--r8jz45g.jp", "Li")])
        == "To: Li <用户@xn--r8jz45g.jp>\r\n".encode()
    )


def test_a_line_that_could_not_travel_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 998 bytes"):
        headers.mailboxes("To", [Mailbox("a" * 1_000, "shop.example")])


def test_fifty_recipients_are_folded_between_mailboxes() -> None:
    field = headers.mailboxes("To", [Mailbox(f"user{n}", "shop.example", "Some Name") for n in range(50)])
    assert max(map(len, field.split(b"\r\n"))) <= 78


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=120)
    | ODD_TEXT.filter(bool)
)
def test_file_names_read_back(name: str) -> None:
    field = headers.parameterised("Content-Disposition", "attachment", [("filename", name)])
    assert_well_formed(field)
    assert field.isascii()
    message = read_back(field)
    assert message.keys() == ["Content-Disposition"]
    assert dict(message["Content-Disposition"].params) == {"filename": name}


def test_parameters_are_read_one_by_one() -> None:
    value = 'multipart/mixed; Name="a; boundary=fake\\""; charset=utf-8 (a comment); boundary="b c"'
    assert list(headers.parameters_of(value)) == [
        ("name", 'a; boundary=fake"'),
        ("charset", "utf-8"),
        ("boundary", "b c"),
    ]
    assert list(headers.parameters_of("text/plain")) == []
    assert list(headers.parameters_of("text/plain" + ";" * 100_000)) == []


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("<1@shop.example>", True),
        ("<no-at>", True),
        ("<>", False),
        ("1@shop.example", False),
        ("<a b@c>", False),
        ("<ü@c>", False),
        ("<a>\r\nBcc: <b>", False),
        ("<a>\n", False),
        (f"<{'a' * 901}>", False),
    ],
)
def test_a_message_id_is_one_bracketed_word(text: str, valid: bool) -> None:
    assert headers.is_message_id(text) is valid
    if valid:
        assert headers.message_id(text) == f"Message-ID: {text}\r\n".encode()
    else:
        with pytest.raises(ValueError, match="not a Message-ID"):
            headers.message_id(text)
