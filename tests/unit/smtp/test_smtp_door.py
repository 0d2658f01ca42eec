"""The submission door on real loopback sockets, under asyncio's loop and under uvloop."""

from __future__ import annotations

import asyncio
import base64
import smtplib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import pytest
import structlog
import trustme

from sendkit_server.events.refusals import Entry
from sendkit_server.manage.guesses import Guesses
from sendkit_server.model.mail import Accepted, AcceptedMessage, ApiKey, RawSubmission
from sendkit_server.model.permissions import PRESETS
from sendkit_server.model.refusal import DOMAIN_NOT_VERIFIED, INVALID_KEY, Refusal
from sendkit_server.smtp.connection import Connection
from sendkit_server.smtp.door import SubmissionDoor
from sendkit_server.smtp.submission import Acceptor, KeyRing, Mode, SubmissionSettings

SENDER = ApiKey("key_send", 1, "sender", "sk_se", PRESETS["send"], test=False)
READER = ApiKey("key_read", 1, "reader", "sk_re", PRESETS["read"], test=False)
FAULT = "broken"
PATIENCE_S = 10.0
MAIL = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
TEXT = b"Subject: hello\r\n\r\ntext\r\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class Office:
    """Keys and acceptance that a test can steer."""

    def __init__(self) -> None:
        self.stored: list[RawSubmission] = []
        self.verdict: Refusal | None = None
        self.result: Refusal | Exception | None = None
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()
        self.errors: list[str] = []
        self.noted: list[Entry] = []

    def lookup(self, secret: str) -> ApiKey | Awaitable[ApiKey | None] | None:
        if secret == "slow":
            return self._slowly()
        if secret == FAULT:
            raise OSError("no database")
        return {"good": SENDER, "reader": READER}.get(secret)

    async def _slowly(self) -> ApiKey | None:
        await asyncio.sleep(0)
        return SENDER

    def check_mail(self, key: ApiKey, client: str = "") -> Refusal | None:
        return self.verdict

    async def accept_raw(self, submission: RawSubmission) -> Accepted | Refusal:
        self.asked.set()
        if self.gate:
            await self.gate.wait()
        if isinstance(self.result, Exception):
            raise self.result
        if self.result:
            return self.result
        self.stored.append(submission)
        return Accepted((AcceptedMessage(f"msg_{len(self.stored)}", "b@example.org", "queued"),), ())


class Client:
    """A client that says bytes and reads replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> str:
        said = b""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = await self.reader.readline()
                assert line, f"hung up after {said!r}"
                said += line
                if line[3:4] != b"-":
                    return said.decode()

    async def say(self, data: bytes) -> str:
        self.writer.write(data)
        return await self.reply()

    async def is_closed(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def log_in(self, secret: str = "good", user: str = "sendkit") -> str:
        credentials = base64.b64encode(f"\0{user}\0{secret}".encode())
        return await self.say(b"AUTH PLAIN " + credentials + b"\r\n")

    async def send(self) -> str:
        """One mail, pipelined; the reply to its end."""
        assert [(await self.say(MAIL))[:3], (await self.reply())[:3], (await self.reply())[:3]] == ["250", "250", "354"]
        return await self.say(TEXT + b".\r\n")

    async def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def opened(office: Office, mode: Mode = Mode.DEV, **changes: object) -> AsyncIterator[tuple[SubmissionDoor, int]]:
    context = changes.pop("context", None)
    plain = bool(changes.pop("plain", False))
    settings = SubmissionSettings("mx.example.com", **changes)  # type: ignore[arg-type]
    keys: KeyRing = office
    acceptor: Acceptor = office
    door = SubmissionDoor(
        settings,
        keys,
        acceptor,
        Guesses(monotonic),
        tls=None if mode is Mode.DEV else context or (lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)),
        mode=mode,
        dev_key=SENDER if mode is Mode.DEV else None,
        plain_auth_loopback=plain,
        on_error=office.errors.append,
        note_refusal=office.noted.append,
    )
    _, port = await door.start("127.0.0.1", 0)
    try:
        yield door, port
    finally:
        await door.close(0)


@asynccontextmanager
async def client_of(port: int, tls: ssl.SSLContext | None = None, greeted: bool = True) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="mx.example.com" if tls else None
    )
    client = Client(reader, writer)
    if greeted:
        assert (await client.reply()).startswith("220 mx.example.com ESMTP Sendkit")
        assert (await client.say(b"EHLO client.example\r\n")).startswith("250-")
    try:
        yield client
    finally:
        writer.close()


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mx.example.com").configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_a_mail_is_stored_and_its_id_stands_in_the_reply() -> None:
    office = Office()
    async with opened(office) as (_, port), client_of(port) as client:
        assert await client.send() == "250 2.0.0 Ok: msg_1\r\n"
    stored = office.stored[0]
    assert (stored.key, stored.raw, stored.return_path, stored.capture) == (SENDER, TEXT, "a@example.com", True)


async def test_after_starttls_everything_said_before_is_forgotten(authority: trustme.CA) -> None:
    office = Office()
    context = server_context(authority)
    async with (
        opened(office, Mode.STARTTLS, context=lambda: context, plain=True) as (door, port),
        client_of(port) as client,
    ):
        assert (await client.log_in())[:3] == "235"
        (connection,) = connections_of(door)
        assert connection.key is SENDER
        assert await client.say(b"STARTTLS\r\n") == "220 2.0.0 Ready to start TLS\r\n"
        await client.writer.start_tls(client_context(authority), server_hostname="mx.example.com")
        assert (await client.say(b"MAIL FROM:<a@example.com>\r\n")).startswith("503 5.5.1")
        assert connection.key is None
        hello = await client.say(b"EHLO client.example\r\n")
        assert "STARTTLS" not in hello
        assert "AUTH PLAIN LOGIN" in hello
        assert await client.say(b"MAIL FROM:<a@example.com>\r\n") == "530 5.7.0 Authentication required\r\n"
        assert (await client.say(b"STARTTLS\r\n")).startswith("503 5.5.1")
        assert await client.log_in() == "235 2.7.0 Authentication successful\r\n"
        assert await client.send() == "250 2.0.0 Ok: msg_1\r\n"
    assert (office.stored[0].protocol, office.stored[0].capture) == ("ESMTPSA", False)


async def test_implicit_tls_greets_after_the_handshake(authority: trustme.CA) -> None:
    office = Office()
    context = server_context(authority)
    async with (
        opened(office, Mode.TLS, context=lambda: context) as (_, port),
        client_of(port, client_context(authority)) as client,
    ):
        assert (await client.log_in())[:3] == "235"
        assert (await client.send())[:3] == "250"
    assert office.stored[0].protocol == "ESMTPSA"


async def test_words_in_clear_between_starttls_and_the_handshake_are_never_run() -> None:
    office = Office()
    async with opened(office, Mode.STARTTLS) as (_, port), client_of(port) as client:
        assert (await client.say(b"STARTTLS\r\n"))[:3] == "220"
        client.writer.write(b"EHLO x\r\nNOOP\r\n")
        async with asyncio.timeout(PATIENCE_S):
            try:
                rest = await client.reader.read()
            except ConnectionResetError:
                rest = b""
        assert b"250" not in rest


async def test_reading_rests_from_the_yes_to_starttls_until_tls_has_taken_over() -> None:
    async with opened(Office(), Mode.STARTTLS) as (door, port), client_of(port):
        (connection,) = connections_of(door)
        transport = connection._transport
        assert transport is not None
        assert transport.is_reading()
        connection.data_received(b"STARTTLS\r\n")
        assert not transport.is_reading()


async def test_each_handshake_takes_the_certificate_of_the_day(authority: trustme.CA) -> None:
    renewed = trustme.CA()
    contexts = [server_context(authority), server_context(renewed)]
    async with (
        opened(Office(), Mode.TLS, context=lambda: contexts[0]) as (_, port),
        client_of(port, client_context(authority)) as old,
    ):
        del contexts[0]
        async with client_of(port, client_context(renewed)):
            assert (await old.say(b"NOOP\r\n"))[:3] == "250"


@pytest.mark.parametrize("mode", [Mode.STARTTLS, Mode.TLS])
async def test_a_handshake_that_stalls_is_given_up(mode: Mode) -> None:
    async with opened(Office(), mode, handshake_s=0.1) as (_, port), client_of(port, greeted=False) as client:
        if mode is Mode.STARTTLS:
            assert (await client.reply())[:3] == "220"
            assert (await client.say(b"EHLO x\r\n"))[:3] == "250"
            assert (await client.say(b"STARTTLS\r\n"))[:3] == "220"
        assert await client.is_closed()


@pytest.mark.parametrize("last_words", [b"", b"\x16\x03\x01\x02"], ids=["before", "in-the-middle"])
@pytest.mark.parametrize("mode", [Mode.STARTTLS, Mode.TLS])
async def test_a_client_that_resets_the_handshake_leaves_a_free_place_and_one_log_line(
    mode: Mode, last_words: bytes
) -> None:
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    with structlog.testing.capture_logs() as logs:
        async with opened(Office(), mode) as (door, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if mode is Mode.STARTTLS:
                client = Client(reader, writer)
                await client.reply()
                await client.say(b"EHLO x\r\n")
                await client.say(b"STARTTLS\r\n")
            writer.write(last_words)
            await writer.drain()
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # close resets
            while not connections_of(door):
                await asyncio.sleep(0)
            writer.transport.abort()
            await asyncio.wait_for(door._service.empty.wait(), PATIENCE_S)
    assert faults == []
    assert [line["event"] for line in logs if line["event"] != "smtp.drain_timed_out"] == ["smtp.handshake_failed"]


async def test_a_certificate_that_cannot_be_read_leaves_the_session_alive() -> None:
    def unreadable() -> ssl.SSLContext:
        raise OSError("no such file")

    async with opened(Office(), Mode.STARTTLS, context=unreadable) as (_, port), client_of(port) as client:
        assert (await client.say(b"STARTTLS\r\n")).startswith("454 4.7.0")
        assert (await client.say(b"NOOP\r\n"))[:3] == "250"


async def test_a_client_that_talks_before_the_greeting_is_sent_away() -> None:
    office = Office()
    async with opened(office) as (door, _):
        listener = socket.create_server(("127.0.0.1", 0))
        with socket.create_connection(listener.getsockname()) as early:
            early.sendall(b"EHLO x\r\n")
            early.setblocking(False)
            door.serve(listener)
            loop = asyncio.get_running_loop()
            assert (await loop.sock_recv(early, 999)) == b"554 5.5.0 Wait for the greeting\r\n"


async def test_http_before_the_greeting_gets_the_answer_for_http() -> None:
    async with opened(Office()) as (door, _):
        listener = socket.create_server(("127.0.0.1", 0))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@example.com>\r\n")
        door.serve(listener)
        async with asyncio.timeout(PATIENCE_S):
            said = await reader.read()
        assert said.splitlines()[1:] == [b"502 5.7.0 This is an SMTP server"]
        writer.close()


@pytest.mark.parametrize("part", [b"", b"NOO"])
async def test_an_idle_client_is_timed_out(part: bytes) -> None:
    office = Office()
    async with opened(office, idle_s=0.1, command_s=5.0) as (_, port), client_of(port) as client:
        client.writer.write(part)
        assert await client.reply() == "421 4.4.2 Timeout\r\n"
        assert await client.is_closed()
    assert office.errors == ["timeout"]


async def test_a_command_that_comes_byte_by_byte_has_a_deadline_as_a_whole() -> None:
    async with opened(Office(), command_s=0.1) as (_, port), client_of(port) as client:
        client.writer.write(b"NOO")
        assert await client.reply() == "421 4.4.2 Timeout\r\n"


@pytest.mark.parametrize(
    "clocks",
    [
        {"data_grace_s": 0.0, "data_rate_bytes": 1_000_000, "data_rate_s": 1.0},
        {"data_stall_s": 0.1},
        {"message_s": 0.1},
    ],
    ids=["rate", "stall", "whole"],
)
async def test_a_message_that_comes_too_slowly_is_timed_out(clocks: dict[str, float]) -> None:
    office = Office()
    async with opened(office, idle_s=0.4, **clocks) as (_, port), client_of(port) as client:
        await client.say(MAIL)
        await client.reply()
        await client.reply()
        assert await client.say(b"Subject: slow\r\n") == "421 4.4.2 Timeout\r\n"
        assert await client.is_closed()
    assert office.stored == []


async def test_no_clock_runs_while_we_owe_the_reply() -> None:
    office = Office()
    office.gate = asyncio.Event()
    async with opened(office, idle_s=0.05, command_s=0.05) as (door, port), client_of(port) as client:
        sending = asyncio.create_task(client.send())
        await office.asked.wait()
        later = asyncio.get_running_loop().time() + 3_600
        for connection in connections_of(door):
            connection.check_clocks(later)
        office.gate.set()
        assert (await sending)[:3] == "250"


def connections_of(door: SubmissionDoor) -> list[Connection]:
    return list(door._service.connections)


async def test_when_places_are_short_strangers_wait_less() -> None:
    async with (
        opened(Office(), Mode.STARTTLS, max_connections=2, crowded_idle_s=0.1, command_s=1.0) as (_, port),
        client_of(port) as first,
        client_of(port) as second,
    ):
        assert await first.reply() == "421 4.4.2 Timeout\r\n"
        assert await second.reply() == "421 4.4.2 Timeout\r\n"


@pytest.mark.parametrize("caps", [{"max_connections": 1}, {"max_connections_per_address": 1}], ids=["all", "address"])
async def test_connections_are_capped_and_places_become_free(caps: dict[str, int]) -> None:
    office = Office()
    async with opened(office, **caps) as (door, port):
        async with client_of(port) as client:
            async with client_of(port, greeted=False) as second:
                assert await second.reply() == "421 4.7.0 Too many connections, try again later\r\n"
                assert await second.is_closed()
            assert (await client.say(b"QUIT\r\n"))[:3] == "221"
        await asyncio.wait_for(door._service.empty.wait(), PATIENCE_S)
        async with client_of(port) as third:
            assert (await third.send())[:3] == "250"
    assert office.errors == ["too_many_connections"]


async def test_a_client_that_never_reads_cannot_make_us_hold_more_than_a_little() -> None:
    async with opened(Office(), idle_s=0.3) as (door, port):
        flood = socket.create_connection(("127.0.0.1", port))
        flood.setblocking(False)
        loop = asyncio.get_running_loop()
        with pytest.raises(ConnectionError), flood:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    await loop.sock_sendall(flood, b"EHLO x\r\n" * 10_000)
                    for connection in connections_of(door):
                        transport = connection._transport
                        assert transport is None or transport.get_write_buffer_size() < 400_000
                        assert len(connection.session._buffer) < 1_000_000


async def test_what_comes_while_a_message_waits_is_answered_in_order_and_not_heaped_up() -> None:
    office = Office()
    office.gate = asyncio.Event()
    async with opened(office) as (door, port), client_of(port) as client:
        sending = asyncio.create_task(client.send())
        await office.asked.wait()
        client.writer.write(b"NOOP\r\n" * 200_000)
        (connection,) = connections_of(door)
        async with asyncio.timeout(PATIENCE_S):
            while not connection._reading_paused:
                await asyncio.sleep(0)
        assert len(connection.session._buffer) < 600_000
        office.gate.set()
        assert (await sending)[:3] == "250"
        for _ in range(200_000):
            line = await client.reader.readline()
            assert line == b"250 2.0.0 Ok\r\n"


async def test_too_many_wrong_keys_close_the_door_but_never_to_a_right_one() -> None:
    office = Office()
    async with opened(office, Mode.STARTTLS, plain=True, max_errors=100) as (_, port), client_of(port) as client:
        for n in range(20):
            assert await client.log_in(f"bad{n}") == "535 5.7.8 Authentication failed\r\n"
        assert await client.log_in("bad") == "421 4.7.0 Too many failed logins, try again later\r\n"
        assert await client.is_closed()
        async with client_of(port) as right:
            assert (await right.log_in("good"))[:3] == "235"
        for _ in range(2):
            async with client_of(port) as again:
                assert (await again.log_in("bad"))[:3] == "421"
    assert office.errors == ["invalid_api_key"] * 23
    assert [entry.detail["refusals"] for entry in office.noted] == [21], "the same is not said of every session"


async def test_a_wrong_key_that_is_said_again_by_another_mechanism_is_one_guess() -> None:
    office = Office()
    answers: list[int] = []

    def log_in(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE_S) as client:
            for secret in ("bad", "worse", "good"):
                try:
                    answers.append(client.login("sendkit", secret)[0])
                except smtplib.SMTPAuthenticationError as refused:
                    answers.append(refused.smtp_code)

    async with opened(office, Mode.STARTTLS, plain=True) as (door, port):
        await asyncio.to_thread(log_in, port)
        assert answers == [535, 535, 235]
        assert sum(door._service.guesses.take_untold(100).values()) == 2


@pytest.mark.parametrize(
    ("secret", "user", "reply"),
    [
        ("good", "Resend", "235 2.7.0 Authentication successful"),
        ("slow", "apikey", "235 2.7.0 Authentication successful"),
        ("good", "root", "535 5.7.8 Authentication failed"),
        ("bad", "sendkit", "535 5.7.8 Authentication failed"),
        ("schlüssel", "api", "535 5.7.8 Authentication failed"),
        ("reader", "sendkit", "535 5.7.8 Authentication failed: this API key has no permission to send"),
        ("reader", "root", "535 5.7.8 Authentication failed"),
        (FAULT, "sendkit", "454 4.7.0 Temporary authentication failure"),
    ],
)
async def test_a_login_is_answered_by_key_and_user(secret: str, user: str, reply: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with opened(Office(), Mode.STARTTLS, plain=True) as (_, port), client_of(port) as client:
            assert await client.log_in(secret, user) == reply + "\r\n"
    assert not any(secret in str(line) for line in logs)


@pytest.mark.parametrize(
    ("result", "reply", "name"),
    [
        (
            DOMAIN_NOT_VERIFIED,
            "550 5.7.1 validation_error: The from address domain is not verified.",
            "validation_error",
        ),
        (RuntimeError("disk"), "451 4.3.0 Temporary failure, try again", "internal_server_error"),
    ],
)
async def test_a_refused_mail_says_why_and_the_session_goes_on(
    result: Refusal | Exception, reply: str, name: str
) -> None:
    office = Office()
    office.result = result
    with structlog.testing.capture_logs() as logs:
        async with opened(office) as (_, port), client_of(port) as client:
            assert await client.send() == reply + "\r\n"
            office.result = None
            assert (await client.send())[:3] == "250"
    assert office.errors == [name]
    assert ("smtp.fault" in [line["event"] for line in logs]) == isinstance(result, Exception)


async def test_a_key_revoked_since_auth_ends_the_session_at_mail() -> None:
    office = Office()
    async with opened(office, Mode.STARTTLS, plain=True) as (_, port), client_of(port) as client:
        await client.log_in()
        office.verdict = INVALID_KEY
        assert await client.say(b"MAIL FROM:<a@example.com>\r\n") == "535 5.7.8 Authentication failed\r\n"
        assert await client.is_closed()


async def test_a_key_revoked_during_data_ends_the_session_and_nothing_is_stored() -> None:
    office = Office()
    async with opened(office, Mode.STARTTLS, plain=True) as (_, port), client_of(port) as client:
        await client.log_in()
        await client.say(MAIL)
        await client.reply()
        await client.reply()
        office.verdict = INVALID_KEY
        assert await client.say(TEXT + b".\r\n") == "535 5.7.8 Authentication failed\r\n"
        assert await client.is_closed()
    assert office.stored == []


async def test_closing_tells_idle_clients_and_lets_a_message_finish() -> None:
    office = Office()
    office.gate = asyncio.Event()
    async with (
        opened(office) as (door, port),
        client_of(port) as idle,
        client_of(port) as busy,
        client_of(port) as late,
    ):
        await late.say(MAIL)
        await late.reply()
        await late.reply()
        sending = asyncio.create_task(busy.send())
        await office.asked.wait()
        closing = asyncio.create_task(door.close(PATIENCE_S))
        assert await idle.reply() == "421 4.3.2 Service shutting down\r\n"
        assert await idle.is_closed()
        office.gate.set()
        assert (await sending)[:3] == "250"
        assert await busy.reply() == "421 4.3.2 Service shutting down\r\n"
        assert (await late.say(TEXT + b".\r\n"))[:3] == "250"
        assert await late.reply() == "421 4.3.2 Service shutting down\r\n"
        await closing
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
    assert len(office.stored) == 2


async def test_closing_waits_no_longer_than_told() -> None:
    office = Office()
    office.gate = asyncio.Event()
    async with opened(office) as (door, port), client_of(port) as client:
        sending = asyncio.create_task(client.send())
        await office.asked.wait()
        async with asyncio.timeout(PATIENCE_S):
            await door.close(0.05)
        with pytest.raises((AssertionError, ConnectionError)):
            await sending
    assert office.stored == []


@pytest.mark.parametrize("mode", [Mode.STARTTLS, Mode.TLS])
async def test_closing_ends_a_handshake_that_is_under_way(mode: Mode) -> None:
    async with opened(Office(), mode) as (door, port), client_of(port, greeted=False) as client:
        if mode is Mode.STARTTLS:
            await client.reply()
            await client.say(b"EHLO x\r\n")
            await client.say(b"STARTTLS\r\n")
        while not connections_of(door):
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await door.close(0)
        assert await client.is_closed()
        assert door._service.counts.total == 0


async def test_closing_twice_is_closing_once() -> None:
    async with opened(Office()) as (door, _):
        await door.close(1)
        await door.close(1)


async def test_a_client_that_leaves_before_the_reply_leaves_a_stored_mail_and_a_free_place() -> None:
    office = Office()
    office.gate = asyncio.Event()
    async with opened(office) as (door, port):
        async with client_of(port) as client:
            client.writer.write(MAIL + TEXT + b".\r\n")
            await office.asked.wait()
        await asyncio.wait_for(door._service.empty.wait(), PATIENCE_S)
        office.gate.set()
        while not office.stored:
            await asyncio.sleep(0)
        async with client_of(port) as other:
            assert (await other.send())[:3] == "250"


async def test_pythons_own_client_sends_over_starttls(authority: trustme.CA) -> None:
    office = Office()
    context = server_context(authority)

    def send(port: int) -> None:
        with smtplib.SMTP("localhost", port, timeout=PATIENCE_S) as smtp:
            smtp._host = "mx.example.com"  # type: ignore[attr-defined]
            smtp.starttls(context=client_context(authority))
            smtp.login("sendkit", "good")
            smtp.sendmail("a@example.com", ["b@example.org", "c@example.org"], "Subject: x\r\n\r\n.dot\r\n")

    async with opened(office, Mode.STARTTLS, context=lambda: context) as (_, port):
        await asyncio.to_thread(send, port)
    assert office.stored[0].raw == b"Subject: x\r\n\r\n.dot\r\n"
    assert [mailbox.address for mailbox in office.stored[0].recipients] == ["b@example.org", "c@example.org"]


async def test_logs_hold_no_address_and_no_body() -> None:
    with structlog.testing.capture_logs() as logs:
        async with opened(Office()) as (_, port), client_of(port) as client:
            await client.send()
    assert not any("example.org" in str(line) or "hello" in str(line) for line in logs)


@pytest.mark.parametrize(
    ("mode", "dev_key", "tls"),
    [("dev", None, None), ("starttls", SENDER, ssl.create_default_context), ("tls", None, None)],
)
async def test_a_door_that_could_not_work_is_not_made(
    mode: str, dev_key: ApiKey | None, tls: Callable[[], ssl.SSLContext] | None
) -> None:
    office = Office()
    with pytest.raises(ValueError, match="mode"):
        SubmissionDoor(SubmissionSettings("x"), office, office, Guesses(monotonic), mode=mode, dev_key=dev_key, tls=tls)
