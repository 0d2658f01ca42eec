"""What is kept of a session that was refused something: enough to see why, and nothing secret."""

from __future__ import annotations

from base64 import b64encode

from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import Reply
from sendkit_server.wire.smtp_server import Mail, Message, SubmissionSession
from sendkit_server.wire.smtp_server_auth import AuthAttempt
from sendkit_server.wire.smtp_server_transcript import MAX_KEPT_CHARACTERS

SECRET = "sk_live_0123456789"


def session() -> SubmissionSession:
    return SubmissionSession("mail.test", max_size_bytes=1000, auth_offered=True)


def talk(talking: SubmissionSession, *lines: str, login: Reply = say.AUTH_FAILED) -> SubmissionSession:
    """Says lines; credentials get the given answer, a sender is taken, a message refused."""
    for line in lines:
        talking.receive(line.encode() + b"\r\n")
        while (event := talking.next_event()) is not None:
            if isinstance(event, AuthAttempt):
                talking.answer(login)
            elif isinstance(event, Mail):
                talking.answer(say.SENDER_OK)
            elif isinstance(event, Message):
                talking.answer(Reply(550, "5.7.1", "restricted_api_key: no"))
    return talking


def text(talking: SubmissionSession) -> str:
    return "\n".join(f"{side} {line}" for side, line in talking.transcript.lines)


def test_a_session_without_a_refusal_keeps_nothing() -> None:
    done = talk(session(), "EHLO a", "NOOP", "QUIT").transcript
    assert (done.step, done.refusals, done.lines) == (None, 0, [])


def test_the_words_of_a_login_are_hidden_however_they_come() -> None:
    plain = b64encode(f"\0sendkit\0{SECRET}".encode()).decode()
    word = b64encode(SECRET.encode()).decode()
    for lines in (
        ["EHLO a", f"AUTH PLAIN {plain}"],
        ["EHLO a", "AUTH PLAIN", plain],
        ["EHLO a", "AUTH LOGIN", b64encode(b"sendkit").decode(), word],
        ["EHLO a", f"AUTH LOGIN {b64encode(b'sendkit').decode()}", word],
        ["EHLO a", f"AUTH {plain}"],
        ["EHLO a", "AUTH CRAM-MD5", word],
        [word, plain],
    ):
        talking = talk(session(), *lines)
        assert talking.transcript.refusals >= 1, lines
        assert plain not in text(talking) and word not in text(talking), text(talking)
    assert talk(session(), "EHLO a", f"AUTH PLAIN {plain}").transcript.step == "AUTH"


def test_what_led_to_a_refusal_is_there_and_the_message_is_not() -> None:
    talking = talk(session(), "EHLO a", "AUTH PLAIN AHgAeQ==", login=say.AUTHENTICATED)
    talk(talking, "MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA", "Subject: private", "", "private", ".")
    done = talking.transcript
    assert (done.step, done.reply, done.refusals) == ("DATA", Reply(550, "5.7.1", "restricted_api_key: no"), 1)
    assert "C MAIL FROM:<a@b.test>\nS 250 2.1.0 Ok\nC RCPT TO:<c@d.test>" in text(talking)
    assert "private" not in text(talking) and "C AUTH PLAIN [hidden]" in text(talking)


def test_a_long_session_keeps_the_first_refusal_and_its_bounds() -> None:
    talking = talk(session(), "EHLO a", *["NOOP"] * 100, "MAIL", *["NOOP", f"VRFY {'x' * 900}"] * 100)
    assert talking.transcript.step == "MAIL"
    assert talking.transcript.lines[0] == ("", "…")
    assert sum(len(line) for _, line in talking.transcript.lines) <= MAX_KEPT_CHARACTERS


def test_a_shutdown_is_no_refusal_and_a_time_out_is_one() -> None:
    ended = session()
    ended.end(say.SHUTTING_DOWN)
    assert ended.transcript.step is None
    late = talk(session(), "EHLO a")
    late.end(say.TIMEOUT)
    assert late.transcript.step == "timeout"
