from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import Reply
from sendkit_server.wire.smtp_server import (
    COMMANDS,
    MAX_AUTH_LINE_BYTES,
    MAX_LINE_BYTES,
    Event,
    Mail,
    Message,
    StartTls,
    SubmissionSession,
    speaks_other_protocol,
)
from sendkit_server.wire.smtp_server_auth import AuthAttempt
from sendkit_server.wire.smtp_server_states import REFUSED, State

EHLO = b"EHLO client.example\r\n"
AUTH = b"AUTH PLAIN AGFwaQBnb29k\r\n"
MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"RCPT TO:<b@example.org>\r\n"

WAY_TO: dict[State, tuple[dict[str, bool], bytes]] = {
    State.GREETED: ({"tls_offered": True}, b""),
    State.INSECURE: ({"tls_offered": True}, EHLO),
    State.ANONYMOUS: ({"tls_offered": True, "auth_offered": True}, EHLO),
    State.OPEN: ({"auth_offered": True, "auth_required": False, "tls_offered": True}, EHLO),
    State.READY: ({"tls_offered": True, "auth_offered": True}, EHLO + AUTH),
    State.MAIL: ({"tls_offered": True, "auth_offered": True}, EHLO + AUTH + MAIL),
    State.RECIPIENTS: ({"tls_offered": True, "auth_offered": True}, EHLO + AUTH + MAIL + RCPT),
    State.CHUNKS: ({"tls_offered": True, "auth_offered": True}, EHLO + AUTH + MAIL + RCPT + b"BDAT 1\r\nx"),
}
LINE = {
    "EHLO": EHLO,
    "HELO": b"HELO client.example\r\n",
    "STARTTLS": b"STARTTLS\r\n",
    "AUTH": AUTH,
    "MAIL": MAIL,
    "RCPT": RCPT,
    "DATA": b"DATA\r\n",
    "BDAT": b"BDAT 1\r\nx",
    "RSET": b"RSET\r\n",
    "QUIT": b"QUIT\r\n",
    "NOOP": b"NOOP\r\n",
    "VRFY": b"VRFY root\r\n",
    "HELP": b"HELP\r\n",
}
ALWAYS = {
    "EHLO": "250",
    "HELO": "250",
    "RSET": "250 2.0.0",
    "QUIT": "221 2.0.0",
    "NOOP": "250 2.0.0",
    "VRFY": "252",
    "HELP": "214",
}
# What each state says to the commands that depend on it, and the state they lead to.
EXPECTED: dict[State, dict[str, tuple[str, State]]] = {
    State.GREETED: dict.fromkeys(("STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT"), ("503 5.5.1", State.GREETED)),
    State.INSECURE: {
        "STARTTLS": ("220 2.0.0", State.INSECURE),
        "AUTH": ("530 5.7.0 Must issue a STARTTLS command first", State.INSECURE),
        "MAIL": ("530 5.7.0 Authentication required", State.INSECURE),
        "RCPT": ("530 5.7.0 Authentication required", State.INSECURE),
        "DATA": ("530 5.7.0 Authentication required", State.INSECURE),
        "BDAT": ("530 5.7.0 Authentication required", State.INSECURE),
    },
    State.ANONYMOUS: {
        "STARTTLS": ("220 2.0.0", State.ANONYMOUS),
        "AUTH": ("235 2.7.0", State.READY),
        "MAIL": ("530 5.7.0 Authentication required", State.ANONYMOUS),
        "RCPT": ("530 5.7.0 Authentication required", State.ANONYMOUS),
        "DATA": ("530 5.7.0 Authentication required", State.ANONYMOUS),
        "BDAT": ("530 5.7.0 Authentication required", State.ANONYMOUS),
    },
    State.OPEN: {
        "STARTTLS": ("220 2.0.0", State.OPEN),
        "AUTH": ("235 2.7.0", State.READY),
        "MAIL": ("250 2.1.0", State.MAIL),
        "RCPT": ("503 5.5.1", State.OPEN),
        "DATA": ("503 5.5.1", State.OPEN),
        "BDAT": ("503 5.5.1", State.OPEN),
    },
    State.READY: {
        "STARTTLS": ("220 2.0.0", State.READY),
        "AUTH": ("503 5.5.1", State.READY),
        "MAIL": ("250 2.1.0", State.MAIL),
        "RCPT": ("503 5.5.1", State.READY),
        "DATA": ("503 5.5.1", State.READY),
        "BDAT": ("503 5.5.1", State.READY),
    },
    State.MAIL: {
        "STARTTLS": ("503 5.5.1", State.MAIL),
        "AUTH": ("503 5.5.1", State.MAIL),
        "MAIL": ("503 5.5.1", State.MAIL),
        "RCPT": ("250 2.1.5", State.RECIPIENTS),
        "DATA": ("554 5.5.1", State.MAIL),
        "BDAT": ("554 5.5.1", State.MAIL),
    },
    State.RECIPIENTS: {
        "STARTTLS": ("503 5.5.1", State.RECIPIENTS),
        "AUTH": ("503 5.5.1", State.RECIPIENTS),
        "MAIL": ("503 5.5.1", State.RECIPIENTS),
        "RCPT": ("250 2.1.5", State.RECIPIENTS),
        "DATA": ("354", State.RECIPIENTS),
        "BDAT": ("250 2.0.0", State.CHUNKS),
    },
    State.CHUNKS: {
        "STARTTLS": ("503 5.5.1", State.CHUNKS),
        "AUTH": ("503 5.5.1", State.CHUNKS),
        "MAIL": ("503 5.5.1", State.CHUNKS),
        "RCPT": ("503 5.5.1", State.CHUNKS),
        "DATA": ("503 5.5.1", State.CHUNKS),
        "BDAT": ("250 2.0.0", State.CHUNKS),
    },
}
RESTING = {state: state for state in (State.GREETED, State.INSECURE, State.ANONYMOUS, State.OPEN)}


def session_with(**options: object) -> SubmissionSession:
    settings: dict[str, object] = {"max_size_bytes": 10_000, "auth_offered": True, **options}
    session = SubmissionSession("mx.example.com", **settings)  # type: ignore[arg-type]
    session.bytes_to_send()
    return session


def decide(event: Event) -> Reply:
    match event:
        case AuthAttempt():
            return say.AUTHENTICATED
        case Mail():
            return say.SENDER_OK
        case Message():
            return Reply(250, "2.0.0", "Ok: msg_1")
        case StartTls():
            return say.READY_FOR_TLS


def talk(session: SubmissionSession, data: bytes) -> str:
    """What the session says to this, its events answered with yes."""
    said = b""
    session.receive(data)
    while True:
        while event := session.next_event():
            session.answer(decide(event))
        now = session.bytes_to_send()
        if not now:
            return said.decode()
        said += now


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("state", State)
def test_every_command_in_every_state(state: State, command: str) -> None:
    options, way = WAY_TO[state]
    session = session_with(**{"auth_offered": False, **options})
    talk(session, way)
    assert session.state is state
    said = talk(session, LINE[command])
    if command in ALWAYS:
        assert said.startswith(ALWAYS[command])
        if command == "QUIT":
            assert session.closed
        elif command in ("EHLO", "HELO") and state is State.GREETED:
            assert session.state is State.INSECURE
        elif command in ("EHLO", "HELO", "RSET"):
            assert session.state is RESTING.get(state, State.READY)
        else:
            assert session.state is state
    else:
        reply, after = EXPECTED[state][command]
        assert said.startswith(reply)
        assert session.state is after


def test_the_table_names_only_states_and_commands_that_exist() -> None:
    assert set(REFUSED) == set(State)
    assert {command for row in REFUSED.values() for command in row} <= set(COMMANDS)


def test_after_the_handshake_the_session_begins_anew() -> None:
    session = session_with(tls_offered=True)
    talk(session, EHLO + AUTH + MAIL + RCPT + b"RSET\r\n")
    assert talk(session, b"STARTTLS\r\n") == "220 2.0.0 Ready to start TLS\r\n"
    session.secured()
    assert session.state is State.GREETED
    assert talk(session, MAIL).startswith("503 5.5.1")
    assert "STARTTLS" not in talk(session, EHLO)
    assert talk(session, MAIL).startswith("530 5.7.0")


def test_bytes_between_the_yes_to_starttls_and_the_handshake_end_the_session() -> None:
    session = session_with(tls_offered=True)
    talk(session, EHLO + b"STARTTLS\r\n")
    assert talk(session, EHLO).startswith("554 5.5.0")
    assert session.closed


def test_a_starttls_that_is_refused_changes_nothing() -> None:
    session = session_with(tls_offered=True)
    talk(session, EHLO)
    session.receive(b"STARTTLS\r\n")
    assert isinstance(session.next_event(), StartTls)
    session.answer(say.TLS_FAULT)
    assert talk(session, AUTH).startswith("454 4.7.0 TLS is not available right now\r\n235")


def test_nothing_is_read_while_an_event_waits_for_its_answer() -> None:
    session = session_with()
    session.receive(EHLO + AUTH + b"NOOP\r\n")
    assert session.next_event() == AuthAttempt("api", "good")
    assert session.next_event() is None
    session.bytes_to_send()
    session.answer(say.AUTH_FAILED)
    assert session.next_event() is None
    assert session.bytes_to_send() == b"535 5.7.8 Authentication failed\r\n250 2.0.0 Ok\r\n"


def test_a_refused_sender_leaves_no_transaction() -> None:
    session = session_with(auth_required=False)
    talk(session, EHLO)
    session.receive(MAIL)
    assert session.next_event() == Mail("a@example.com")
    session.answer(Reply(550, "5.7.1", "restricted_api_key: no"))
    session.bytes_to_send()
    assert talk(session, RCPT).startswith("503 5.5.1")


@pytest.mark.parametrize(
    ("reply", "closed"),
    [(Reply(535, "5.7.8", "x"), True), (Reply(421, "4.3.2", "x"), True), (Reply(451, "4.3.0", "x"), False)],
)
def test_a_lost_key_or_a_421_ends_the_session_with_the_message(reply: Reply, closed: bool) -> None:
    session = session_with(auth_required=False)
    talk(session, EHLO + MAIL + RCPT + b"DATA\r\n")
    session.receive(b"x\r\n.\r\n")
    assert isinstance(session.next_event(), Message)
    session.answer(reply)
    assert session.closed is closed
    assert session.state is State.OPEN


def test_wrong_logins_count_as_errors() -> None:
    session = session_with(max_errors=2)
    talk(session, EHLO)
    session.receive(AUTH + AUTH)
    for _ in range(2):
        assert session.next_event()
        session.answer(say.AUTH_FAILED)
    assert session.bytes_to_send().endswith(b"421 4.7.0 Too many errors\r\n")
    assert session.closed


def test_wrong_recipients_do_not_count_as_errors() -> None:
    session = session_with(auth_required=False)
    talk(session, EHLO + MAIL)
    assert talk(session, b"RCPT TO:<nobody>\r\n" * 30).count("553 5.1.3") == 30
    assert not session.closed


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"NOOP " + b"x" * (MAX_LINE_BYTES - 7) + b"\r\n", "250"),
        (b"NOOP " + b"x" * (MAX_LINE_BYTES - 6) + b"\r\n", "500 5.5.2"),
        (b"AUTH PLAIN " + b"A" * (MAX_AUTH_LINE_BYTES - 13) + b"\r\n", "501 5.5.2"),
        (b"AUTH PLAIN " + b"A" * (MAX_AUTH_LINE_BYTES - 12) + b"\r\n", "500 5.5.6"),
        (b"AUTH PLAIN\r\n" + b"A" * (MAX_AUTH_LINE_BYTES - 1) + b"\r\n", "334 \r\n500 5.5.6"),
    ],
    ids=["longest", "too-long", "longest-auth", "too-long-auth", "too-long-response"],
)
def test_a_line_may_be_as_long_as_the_limit_and_the_session_lives_on(line: bytes, reply: str) -> None:
    session = session_with()
    talk(session, EHLO)
    assert talk(session, line).startswith(reply)
    assert talk(session, b"NOOP\r\n") == "250 2.0.0 Ok\r\n"


@pytest.mark.parametrize("before", [b"", b"AUTH PLAIN\r\n"])
def test_a_line_without_end_ends_the_session_before_it_fills_the_memory(before: bytes) -> None:
    session = session_with()
    talk(session, EHLO + before)
    piece = b"x" * 4_096
    tracemalloc.start()
    for _ in range(2_500):
        talk(session, piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert session.closed
    assert peak < 500_000


def test_replies_that_nobody_takes_stop_the_reading() -> None:
    session = session_with()
    session.receive(EHLO * 100_000)
    assert session.next_event() is None
    first = session.bytes_to_send()
    assert len(first) < 70_000
    assert session.next_event() is None
    assert session.bytes_to_send()


def test_a_session_of_the_shell_ends_once() -> None:
    session = session_with()
    session.end(say.TIMEOUT)
    session.end(say.SHUTTING_DOWN)
    assert talk(session, EHLO) == "421 4.4.2 Timeout\r\n"


def test_the_size_of_the_message_so_far_is_known_while_it_comes() -> None:
    session = session_with(auth_required=False)
    talk(session, EHLO + MAIL + RCPT)
    assert session.content_bytes is None
    talk(session, b"DATA\r\n")
    assert session.content_bytes == 0
    talk(session, b"x" * 100)
    assert session.content_bytes == 100
    talk(session, b"\r\n.\r\n")
    assert session.content_bytes is None


@pytest.mark.parametrize(
    ("options", "hello", "parameters", "protocol"),
    [
        ({"auth_required": False}, EHLO, b"", "ESMTP"),
        ({"auth_required": False}, b"HELO x\r\n", b"", "SMTP"),
        ({}, EHLO + AUTH, b"", "ESMTPA"),
        ({"tls_active": True}, EHLO + AUTH, b"", "ESMTPSA"),
        ({"tls_active": True}, EHLO + AUTH, b" SMTPUTF8", "UTF8SMTPSA"),
    ],
)
def test_the_protocols_name_tells_how_a_message_came(
    options: dict[str, bool], hello: bytes, parameters: bytes, protocol: str
) -> None:
    session = session_with(**options)
    talk(session, hello)
    talk(session, MAIL.replace(b"\r\n", parameters + b"\r\n") + RCPT + b"DATA\r\n")
    session.receive(b".\r\n")
    event = session.next_event()
    assert isinstance(event, Message)
    assert event.protocol == protocol


def test_a_secret_is_not_shown_when_an_event_is_printed() -> None:
    assert "hunter2" not in repr(AuthAttempt("api", "hunter2"))


@pytest.mark.parametrize(
    ("first", "other"),
    [(b"GET / HTTP/1.1", True), (b"\x16\x03\x01", True), (b"EHLO x", False), (b"", False), (b"\xff\xfe", False)],
)
def test_the_first_bytes_tell_http_and_tls(first: bytes, other: bool) -> None:
    assert speaks_other_protocol(first) is other


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([*LINE.values(), b".\r\n", b"\r\n"])), max_size=20))
def test_garbage_is_answered_or_ends_the_session(pieces: list[bytes]) -> None:
    session = session_with(auth_required=False)
    for piece in pieces:
        said = talk(session, piece)
        assert all(line[:3].isdigit() for line in said.splitlines())


def test_random_cuts_give_the_same_talk() -> None:
    script = (
        EHLO
        + AUTH
        + MAIL
        + RCPT * 3
        + b"DATA\r\n..x\r\n.\r\n"
        + MAIL
        + RCPT
        + b"BDAT 5\r\nab\r\nc"
        + b"BDAT 2 LAST\r\n\r\nWRONG\r\nMAIL\r\nQUIT\r\n"
    )
    whole = talk(session_with(), script)
    chance = random.Random(7)
    for _ in range(200):
        session = session_with()
        said, at = "", 0
        while at < len(script):
            step = chance.randrange(1, 40)
            said += talk(session, script[at : at + step])
            at += step
        assert said == whole
