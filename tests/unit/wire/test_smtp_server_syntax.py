from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.model.address import Mailbox
from sendkit_server.wire.reply import ProtocolError
from sendkit_server.wire.smtp_server_auth import decode_base64, parse_plain
from sendkit_server.wire.smtp_server_syntax import (
    MailCommand,
    parse_chunk,
    parse_mail,
    parse_recipient,
    parse_size,
)

A = Mailbox("a", "example.com")


@pytest.mark.parametrize(
    ("argument", "command"),
    [
        ("FROM:<a@example.com>", MailCommand(A)),
        ("from: <a@EXAMPLE.com>", MailCommand(A)),
        ("FROM:<>", MailCommand(None)),
        ("FROM:<> SIZE=0", MailCommand(None, size_bytes=0)),
        ("FROM:<a@example.com> BODY=8BITMIME SIZE=12 SMTPUTF8", MailCommand(A, True, 12)),
        ("FROM:<a@example.com> AUTH=a+40b", MailCommand(A)),
        ('FROM:<"a>b"@example.com> SIZE=1', MailCommand(Mailbox('"a>b"', "example.com"), size_bytes=1)),
    ],
)
def test_mail_is_read(argument: str, command: MailCommand) -> None:
    assert parse_mail(argument) == command


def test_the_path_ends_at_the_bracket_that_is_in_no_quotes() -> None:
    assert parse_recipient('TO:<"victim@evil.example x"@good.example>', False).domain == "good.example"


@pytest.mark.parametrize("text", ["-1", "9e9", "1_000", "+5", "１", "", " 1", "1 ", "0x10", "1" * 21])
def test_a_size_is_ascii_digits_and_nothing_else(text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_size(text)
    assert (caught.value.reply.code, caught.value.reply.enhanced) == (501, "5.5.4")


@pytest.mark.parametrize(
    ("argument", "chunk"),
    [
        ("10", (10, False)),
        ("10 last", (10, True)),
        ("0 LAST", (0, True)),
        ("", None),
        ("-1", None),
        ("１", None),
        ("1 LAST LAST", None),
        ("18446744073709551616", None),
    ],
)
def test_a_chunks_size_is_known_or_it_is_not(argument: str, chunk: tuple[int, bool] | None) -> None:
    assert parse_chunk(argument) == chunk


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_plain_credentials_are_read_or_refused(identity: str, user: str, secret: str) -> None:
    parts = (identity, user, secret)
    encodable = all(not any("\ud800" <= char <= "\udfff" for char in part) for part in parts)
    if not encodable:
        return
    raw = "\0".join(parts).encode()
    if raw.count(b"\0") == 2:
        assert parse_plain(decode_base64(base64.b64encode(raw).decode() or "=")) == parts
    else:
        with pytest.raises(ProtocolError):
            parse_plain(raw)


@given(st.text(max_size=200))
def test_garbage_raises_nothing_but_protocol_errors(text: str) -> None:
    for parse in (parse_mail, lambda text: parse_recipient(text, True), decode_base64, parse_size):
        for argument in (text, f"FROM:{text}", f"FROM:<{text}> {text}", f"TO:<{text}>", f"FROM:<a@b.example> {text}"):
            try:
                parse(argument)
            except ProtocolError as error:
                assert error.reply.code in (501, 553, 555)


@pytest.mark.parametrize("argument", ['TO:<"' + "\\" * 4_000, "TO:<" + '"a"' * 1_300, "TO:<" + "a" * 4_000])
def test_a_path_without_its_end_is_refused_in_linear_time(argument: str) -> None:
    began = time.process_time()
    with pytest.raises(ProtocolError):
        parse_recipient(argument, False)
    assert time.process_time() - began < 0.5
