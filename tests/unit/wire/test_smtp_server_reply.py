from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.wire.reply import MAX_LINE_BYTES, Reply

ONE_REPLY = re.compile(rb"(?:550-5\.6\.0 [ -~]*\r\n)*550 5\.6\.0 [ -~]*\r\n")


@pytest.mark.parametrize(
    ("reply", "raw"),
    [
        (Reply(250, "2.0.0", "Ok"), b"250 2.0.0 Ok\r\n"),
        (Reply(354, "", "Go on"), b"354 Go on\r\n"),
        (Reply(334), b"334 \r\n"),
        (Reply(250, "", "a\nb\nc"), b"250-a\r\n250-b\r\n250 c\r\n"),
        (Reply(550, "5.7.1", "a\r\nb"), b"550-5.7.1 a\r\n550 5.7.1 b\r\n"),
        (Reply(550, "5.7.1", "a\rb"), b"550-5.7.1 a\r\n550 5.7.1 b\r\n"),
        (Reply(550, "5.7.1", "für\t\x1b[1m"), b"550 5.7.1 f?r??[1m\r\n"),
    ],
)
def test_a_reply_is_written_as_rfc_5321_says(reply: Reply, raw: bytes) -> None:
    assert reply.to_bytes() == raw


@given(st.text(max_size=3_000))
def test_no_text_can_break_out_of_its_reply(text: str) -> None:
    raw = Reply(550, "5.6.0", text).to_bytes()
    assert ONE_REPLY.fullmatch(raw)
    assert max(len(line) for line in raw.splitlines(keepends=True)) <= MAX_LINE_BYTES


def test_a_reply_of_endless_lines_ends() -> None:
    assert Reply(550, "5.6.0", "x\n" * 1_000_000).to_bytes().count(b"\r\n") == 64
