from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.wire.smtp_server_content import ChunkReader, DataReader, has_bare_line_ends

LIMIT = 1_000_000
MESSAGES = [
    b"",
    b"\r\n",
    b"a\r\n",
    b".\r\n",
    b"..\r\n.a\r\na.\r\n\r\n.\r\n",
    b"Subject: x\r\n\r\n" + b"0123456789" * 100 + b"\r\n.\r\n\r\n",
    b"\0\r\n\0.\r\n",
]


def stuffed(message: bytes) -> bytes:
    """What a client sends for a message of whole lines, line by line."""
    lines = message.split(b"\r\n")
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines) + b".\r\n"


def read(data: bytes, cuts: list[int], limit: int = LIMIT) -> tuple[bytes | None, bytes]:
    """The message read from data in pieces, and what was left over."""
    reader = DataReader(limit)
    borders = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(borders):
        if start == end:
            continue
        stopped = reader.feed(data[start:end], 0)
        if stopped is not None:
            return reader.raw, data[start + stopped :]
    raise AssertionError("the end was not found")


@pytest.mark.parametrize("message", MESSAGES)
def test_every_cut_gives_the_same_message(message: bytes) -> None:
    data = stuffed(message)
    for cut in range(len(data) + 1):
        assert read(data + b"NEXT\r\n", [cut]) == (message, b"NEXT\r\n")


@pytest.mark.parametrize("message", MESSAGES)
def test_byte_by_byte_gives_the_same_message(message: bytes) -> None:
    data = stuffed(message)
    assert read(data, list(range(len(data)))) == (message, b"")


@given(
    st.lists(st.sampled_from([b".", b"..", b"a", b"", b"\0", b".a"]), max_size=20),
    st.lists(st.integers(0, 80), max_size=8),
)
def test_random_lines_and_cuts_give_the_same_message(lines: list[bytes], cuts: list[int]) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    data = stuffed(message)
    assert read(data + b".\r\n", [cut for cut in cuts if cut < len(data)]) == (message, b".\r\n")


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"x", b"\0"]), max_size=30), st.lists(st.integers(0, 40)))
def test_the_message_ends_at_the_first_crlf_dot_crlf_and_nowhere_else(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces) + b"\r\n.\r\nrest"
    end = (b"\r\n" + data).index(b"\r\n.\r\n") + 3
    raw, rest = read(data, [cut for cut in cuts if cut < end])
    assert rest == data[end:]
    assert raw is not None
    text = data[: end - 3]
    assert has_bare_line_ends(text) == (text.replace(b"\r\n", b"") != text.replace(b"\r", b"").replace(b"\n", b""))
    assert has_bare_line_ends(raw) == has_bare_line_ends(text)


@pytest.mark.parametrize("border", [4_096, 65_536])
def test_the_end_is_found_at_every_place_round_a_read_buffers_size(border: int) -> None:
    for shift in range(-5, 6):
        text = b"x" * (border + shift) + b"\r\n"
        data = text + b".\r\n"
        assert read(data, list(range(border, len(data), border))) == (text, b"")


def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    for cuts in ([], list(range(1, 110))):
        assert read(b"x" * 98 + b"\r\n.\r\n", cuts, limit=100)[0] == b"x" * 98 + b"\r\n"
        assert read(b"x" * 99 + b"\r\n.\r\n", cuts, limit=100)[0] is None


def test_what_is_over_the_limit_is_not_held() -> None:
    reader = DataReader(1_000)
    for _ in range(1_000):
        assert reader.feed(b"x" * 10_000, 0) is None
        assert len(reader._held) < 12_000
    assert reader.received_bytes == 10_000_000
    assert reader.feed(b"\r\n.\r\nNOOP", 0) == 5
    assert reader.raw is None


def test_chunks_take_exactly_their_bytes() -> None:
    data = bytes(random.Random(1).randrange(256) for _ in range(500))
    for step in (1, 7, 500):
        reader = ChunkReader(LIMIT)
        reader.expect(400, last=True)
        at, taken = 0, None
        while taken is None:
            taken = reader.feed(data[at : at + step], 0)
            at += step if taken is None else taken
        assert at == 400
        assert reader.raw == data[:400] + b"\r\n"


def test_chunks_over_the_limit_are_not_held() -> None:
    reader = ChunkReader(100)
    reader.expect(60, last=False)
    assert reader.feed(b"x" * 60, 0) == 60
    reader.expect(60, last=True)
    assert reader.feed(b"y" * 70, 0) == 60
    assert reader.too_large
    assert reader.raw is None
    assert not reader._held
