"""The SMTP client as bytes and values: replies, the opening, one mail."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.wire.smtp_client import (
    Capabilities,
    Login,
    Mail,
    Opening,
    ProtocolError,
    Reply,
    ReplyReader,
    Step,
    TlsWish,
    Transaction,
    Trouble,
    dot_stuffed,
    has_bare_line_end,
    parse_capabilities,
    printable,
)


def replies(data: bytes, cut: int | None = None) -> list[Reply]:
    """All replies in data, fed whole or in pieces of `cut` bytes."""
    reader = ReplyReader()
    found = []
    for start in range(0, len(data), cut or len(data) or 1):
        reader.feed(data[start : start + (cut or len(data))])
        while (reply := reader.next_reply()) is not None:
            found.append(reply)
    assert not reader.pending
    return found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 ok\r\n", [Reply(250, ("ok",))]),
        (b"250\r\n", [Reply(250, ("",))]),
        (b"250 \r\n", [Reply(250, ("",))]),
        (b"250-a\r\n250-b\r\n250 c\r\n", [Reply(250, ("a", "b", "c"))]),
        (b"250-a\r\n250\r\n", [Reply(250, ("a", ""))]),
        (b"220 hi\n250 there\r\n", [Reply(220, ("hi",)), Reply(250, ("there",))]),
        (b"550 5.1.1 caf\xc3\xa9\r\n", [Reply(550, ("5.1.1 café",))]),
        (b"550 \xff\x00\x1b[0m\r\n", [Reply(550, ("\\xff\\x00\\x1b[0m",))]),
        (b"550 a\rb\r\n", [Reply(550, ("a\\rb",))]),
    ],
)
def test_replies_are_read_whole_and_byte_by_byte(data: bytes, expected: list[Reply]):
    assert replies(data) == expected
    assert replies(data, 1) == expected
    assert replies(data + b"221 bye\r\n", 3) == [*expected, Reply(221, ("bye",))]


@pytest.mark.parametrize(
    "data",
    [
        b"25\r\n",
        b"\r\n",
        b"000 ok\r\n",
        b"999 ok\r\n",
        b"299 ok\r\n",
        b"160 ok\r\n",
        b"2x0 ok\r\n",
        b"250ok\r\n",
        b"hello\r\n",
    ],
)
def test_what_is_no_reply_is_a_protocol_error(data: bytes):
    with pytest.raises(ProtocolError):
        replies(data)


@pytest.mark.parametrize("data", [b"550-first\r\n250 second\r\n", b"250-first\r\n250-more\r\n450 last\r\n"])
def test_a_reply_whose_lines_differ_in_code_is_no_reply_and_told_as_it_came(data: bytes):
    with pytest.raises(ProtocolError) as told:
        replies(data)
    for line in data.decode().splitlines()[-2:]:
        assert line in str(told.value)


def test_long_lines_are_cut_and_endless_ones_refused():
    assert len(replies(b"250 " + b"x" * 3000 + b"\r\n")[0].text) == 508
    with pytest.raises(ProtocolError, match="longer"):
        replies(b"250 " + b"x" * 5000)
    with pytest.raises(ProtocolError):
        replies(b"250 " + b"x" * 5000 + b"\r\n")
    with pytest.raises(ProtocolError, match="100 lines"):
        replies(b"250-x\r\n" * 100)


@given(st.binary(max_size=300), st.integers(1, 40))
def test_garbage_raises_nothing_but_protocol_errors(data: bytes, cut: int):
    reader = ReplyReader()
    try:
        for start in range(0, len(data), cut):
            reader.feed(data[start : start + cut])
            while (reply := reader.next_reply()) is not None:
                assert reply.text.isprintable() or not reply.text
    except ProtocolError as error:
        assert str(error).isprintable()


@given(st.binary(max_size=60))
def test_printable_text_is_printable(raw: bytes):
    assert printable(raw).isprintable()


@pytest.mark.parametrize(
    ("reply", "enhanced"),
    [
        (Reply(550, ("5.1.1 no",)), "5.1.1"),
        (Reply(550, ("5.7.26",)), "5.7.26"),
        (Reply(550, ("4.1.1 other class",)), None),
        (Reply(550, ("5.1 no",)), None),
        (Reply(550, ("no 5.1.1",)), None),
        (Reply(550, ("",)), None),
    ],
)
def test_an_enhanced_code_counts_at_the_start_and_in_its_class(reply: Reply, enhanced: str | None):
    assert reply.enhanced == enhanced


def test_capabilities_are_read_from_ehlo():
    reply = Reply(
        250, ("mx.test hi", "PIPELINING", "size 1000", "8BITMIME", "AUTH PLAIN LOGIN", "AUTH=LOGIN", "CHUNKING")
    )
    assert parse_capabilities(reply) == Capabilities(
        pipelining=True, chunking=True, eightbit=True, size=True, size_bytes=1000, auth=frozenset({"PLAIN", "LOGIN"})
    )
    assert parse_capabilities(Reply(250, ("mx.test", "SIZE 0"))).size_bytes is None
    assert parse_capabilities(Reply(250, ("PIPELINING",))) == Capabilities()


def test_an_empty_line_in_ehlo_is_no_capability():
    assert parse_capabilities(Reply(250, ("mx.test", "", "SMTPUTF8"))).smtputf8


@pytest.mark.parametrize(
    ("raw", "stuffed"),
    [
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".a\r\n.\r\n..b\r\n", b"..a\r\n..\r\n...b\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
    ],
)
def test_dots_are_stuffed(raw: bytes, stuffed: bytes):
    assert dot_stuffed(raw) == stuffed


def test_bare_line_ends_are_seen():
    assert not has_bare_line_end(b"a\r\nb\r\n")
    assert has_bare_line_end(b"a\nb\r\n")
    assert has_bare_line_end(b"a\rb\r\n")
    assert has_bare_line_end(b"\r\n.\n\r")


MAIL = Mail("b@out.test", ("a@x.test", "b@x.test"), b"Subject: x\r\n\r\n.hi\r\n")
OK = Reply(250, ("ok",))
NO = Reply(550, ("5.1.1 no",))
GO = Reply(354, ("go",))


def talk(transaction: Transaction, *said: Reply) -> list[bytes]:
    """What the client sends, one item for the start and for each reply."""
    return [transaction.start(0), *(transaction.take(reply, 0) for reply in said)]


def codes(transaction: Transaction) -> list[tuple[str, int | None]]:
    """Step and code of each verdict."""
    return [(v.step.value, v.reply.code if v.reply else None) for v in transaction.verdicts if v is not None]


def test_a_pipelined_envelope_goes_in_one_piece():
    transaction = Transaction(Capabilities(pipelining=True, size=True, eightbit=True), MAIL)
    sent = talk(transaction, OK, OK, OK, GO, OK)
    assert sent == [
        b"MAIL FROM:<b@out.test> SIZE=19\r\nRCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n",
        b"",
        b"",
        b"",
        b"Subject: x\r\n\r\n..hi\r\n.\r\n",
        b"",
    ]
    assert transaction.done and transaction.clean
    assert codes(transaction) == [("message", 250)] * 2
    assert "[19 bytes]" in [line.text for line in transaction.log]


def test_without_pipelining_each_command_waits():
    transaction = Transaction(Capabilities(), MAIL)
    sent = talk(transaction, OK, OK, NO, GO, OK)
    assert sent[:4] == [
        b"MAIL FROM:<b@out.test>\r\n",
        b"RCPT TO:<a@x.test>\r\n",
        b"RCPT TO:<b@x.test>\r\n",
        b"DATA\r\n",
    ]
    assert codes(transaction) == [("message", 250), ("RCPT", 550)]


def test_bdat_carries_the_bytes_unstuffed_after_the_envelopes_replies():
    transaction = Transaction(Capabilities(pipelining=True, chunking=True), MAIL)
    sent = talk(transaction, OK, OK, OK, OK)
    assert b"DATA\r\n" not in sent[0]
    assert sent[3] == b"BDAT 19 LAST\r\n" + MAIL.raw
    assert codes(transaction) == [("message", 250)] * 2


def test_bdat_is_not_sent_when_nobody_was_accepted():
    transaction = Transaction(Capabilities(pipelining=True, chunking=True), MAIL)
    assert talk(transaction, OK, NO, NO)[1:] == [b"", b"", b""]
    assert transaction.done and not transaction.clean


def test_a_refused_sender_decides_over_all_but_the_replies_are_still_read():
    transaction = Transaction(Capabilities(pipelining=True), MAIL)
    talk(transaction, NO, Reply(503, ("what",)), OK)
    assert not transaction.done
    transaction.take(Reply(503, ("what",)), 0)
    assert transaction.done
    assert codes(transaction) == [("MAIL", 550)] * 2


@pytest.mark.parametrize("refusal", [451, 554])
def test_data_refused_decides_over_those_who_were_accepted(refusal: int):
    transaction = Transaction(Capabilities(pipelining=True), MAIL)
    talk(transaction, OK, OK, NO, Reply(refusal, ("no",)))
    assert codes(transaction) == [("DATA", refusal), ("RCPT", 550)]


def test_354_after_all_were_refused_is_answered_with_the_dot_alone():
    transaction = Transaction(Capabilities(pipelining=True), MAIL)
    assert talk(transaction, OK, NO, NO, GO)[-1] == b".\r\n"
    transaction.take(OK, 0)
    assert codes(transaction) == [("RCPT", 550)] * 2
    assert transaction.clean


@pytest.mark.parametrize("said", [(GO,), (OK, GO), (OK, OK, OK, OK), (OK, OK, OK, GO, GO)])
def test_a_reply_of_the_wrong_kind_is_a_protocol_error(said: tuple[Reply, ...]):
    transaction = Transaction(Capabilities(pipelining=True), MAIL)
    with pytest.raises(ProtocolError):
        talk(transaction, *said)


@pytest.mark.parametrize(("before", "step"), [((), Step.MAIL), ((OK,), Step.RCPT), ((OK, OK, OK), Step.DATA)])
def test_what_stands_at_the_wrong_place_is_told_of_the_step_that_it_answers(before: tuple[Reply, ...], step: Step):
    transaction = Transaction(Capabilities(pipelining=True), MAIL)
    talk(transaction, *before)
    with pytest.raises(ProtocolError) as error:
        transaction.take(OK if step is Step.DATA else GO, 0)
    transaction.lost(Trouble.PROTOCOL, str(error.value), 1)
    assert {verdict.step for verdict in transaction.verdicts if verdict} == {step}


@pytest.mark.parametrize("before", [(), (OK,), (OK, OK), (OK, OK, OK), (OK, OK, OK, GO)])
def test_421_and_a_lost_connection_end_it_at_any_point(before: tuple[Reply, ...]):
    closing, lost = (Transaction(Capabilities(pipelining=True), MAIL) for _ in range(2))
    talk(closing, *before, Reply(421, ("bye",)))
    talk(lost, *before)
    lost.lost(Trouble.LOST, "gone", 5)
    for transaction in (closing, lost):
        assert transaction.done and transaction.hung_up
        assert None not in transaction.verdicts
        assert transaction.untouched == (not before)
    assert [verdict.trouble for verdict in lost.verdicts if verdict] == [Trouble.LOST] * 2


def test_rset_goes_first_after_a_transaction_that_was_left():
    transaction = Transaction(Capabilities(pipelining=True), MAIL, reset=True)
    sent = talk(transaction, OK, OK, OK, OK, GO, OK)
    assert sent[0].startswith(b"RSET\r\nMAIL FROM")
    assert codes(transaction) == [("message", 250)] * 2


def test_parameters_are_sent_only_where_offered_and_needed():
    mail = Mail("b@out.test", ("jörg@x.test",), b"x\r\n", eightbit=True, smtputf8=True)
    everything = Capabilities(pipelining=True, eightbit=True, smtputf8=True, size=True)
    assert (
        Transaction(everything, mail)
        .start(0)
        .startswith(b"MAIL FROM:<b@out.test> SIZE=3 BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<j\xc3\xb6rg@x.test>\r\n")
    )
    assert Transaction(everything, MAIL).start(0).startswith(b"MAIL FROM:<b@out.test> SIZE=19\r\n")


def test_an_address_cannot_bring_a_command_along():
    with pytest.raises(ValueError, match="line break"):
        Transaction(Capabilities(), Mail("b@out.test", ("a@x.test>\r\nDATA",), b""))


EHLO = Reply(250, ("mx", "STARTTLS", "AUTH PLAIN"))


def test_the_opening_asks_again_after_starttls_and_believes_only_that():
    opening = Opening("out.test", TlsWish.OFFERED)
    assert opening.take(Reply(220, ("hi",)), 0) == b"EHLO out.test\r\n"
    assert opening.take(Reply(250, ("mx", "STARTTLS", "SIZE 5")), 0) == b"STARTTLS\r\n"
    assert opening.take(Reply(220, ("go",)), 0) == b""
    assert opening.wants_tls
    assert opening.secured("TLSv1.3 X", 1) == b"EHLO out.test\r\n"
    opening.take(Reply(250, ("mx", "PIPELINING")), 2)
    assert opening.done and opening.refused is None
    assert opening.capabilities == Capabilities(pipelining=True)


def test_auth_plain_is_sent_and_its_secret_is_not_logged():
    opening = Opening("out.test", TlsWish.REQUIRED, Login("user", "secret"), encrypted=True)
    opening.take(Reply(220, ("hi",)), 0)
    sent = opening.take(EHLO, 0)
    assert base64.b64decode(sent.split()[2]) == b"\0user\0secret"
    opening.take(Reply(235, ("in",)), 0)
    assert opening.done and opening.refused is None
    assert not any(sent.split()[2].decode() in line.text for line in opening.log)


def test_auth_in_clear_is_refused_by_ourselves():
    opening = Opening("out.test", TlsWish.OFFERED, Login("user", "secret"))
    opening.take(Reply(220, ("hi",)), 0)
    assert opening.take(Reply(250, ("mx", "AUTH PLAIN")), 0) == b""
    assert opening.refused is not None and opening.refused.trouble is Trouble.POLICY


def test_tls_that_is_required_and_not_offered_ends_it():
    opening = Opening("out.test", TlsWish.REQUIRED)
    opening.take(Reply(220, ("hi",)), 0)
    assert opening.take(Reply(250, ("mx",)), 0) == b""
    assert opening.refused is not None and opening.refused.step is Step.STARTTLS


@pytest.mark.parametrize("code", [421, 450, 554])
def test_a_refusing_greeting_is_told(code: int):
    opening = Opening("out.test", TlsWish.OFFERED)
    assert opening.take(Reply(code, ("no",)), 0) == b""
    assert opening.done and opening.refused is not None and opening.refused.reply is not None


def test_a_password_is_not_shown_by_repr():
    assert "secret" not in repr(Login("user", "secret"))
