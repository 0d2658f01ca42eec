"""Plays the conversations of this folder, each against the bare session and against a real socket, whole and byte by byte.

listener: dev | starttls | plain     plain: STARTTLS listener that allows AUTH without TLS on loopback
limit: N, recipients: N              of the listener, before the first reply
whole only                           what it shows depends on the bytes coming together
C: text                              a line, CRLF is added.     C raw: bytes with \\r \\n \\0 \\xNN
S: beginning                         of one whole reply.        S lines: text of each line of one reply
closed                               the server has hung up
stored: N, stored raw:, stored recipients:, stored protocol:    how many messages were taken; what the last one was
"""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from time import monotonic
from typing import Protocol

import pytest

from sendkit_server.manage.guesses import Guesses
from sendkit_server.model.mail import Accepted, AcceptedMessage, ApiKey, RawSubmission
from sendkit_server.model.permissions import PRESETS
from sendkit_server.model.refusal import Refusal
from sendkit_server.smtp.connection import USERS
from sendkit_server.smtp.door import SubmissionDoor
from sendkit_server.smtp.submission import SubmissionSettings
from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import Reply
from sendkit_server.wire.smtp_server import Mail, Message, StartTls, SubmissionSession
from sendkit_server.wire.smtp_server_auth import AuthAttempt

DIALOGS = sorted(Path(__file__).parent.glob("*.smtp"))
KEY = ApiKey("key_1", 1, "test", "sk_te", PRESETS["full"], test=True)
REPLY = re.compile(rb"(?:\d{3}-[^\r\n]*\r\n)*\d{3}(?: [^\r\n]*)?\r\n")
PATIENCE_S = 10.0


class Dialog:
    """A file, read."""

    def __init__(self, path: Path) -> None:
        self.listener = "dev"
        self.limit = 41_943_040
        self.recipients = 50
        self.whole_only = False
        self.steps: list[tuple[str, str]] = []
        for line in path.read_text("utf-8").splitlines():
            self._read(line)

    def _read(self, line: str) -> None:
        word, _, rest = line.partition(":")
        rest = rest.removeprefix(" ")
        if line == "whole only":
            self.whole_only = True
        elif word == "listener":
            self.listener = rest
        elif word == "limit":
            self.limit = int(rest)
        elif word == "recipients":
            self.recipients = int(rest)
        elif line and not line.startswith("#"):
            self.steps.append((word, rest))


class Player(Protocol):
    stored: list[RawSubmission]

    async def send(self, data: bytes) -> None: ...

    async def reply(self) -> bytes: ...

    async def is_closed(self) -> bool: ...


class SessionPlayer:
    """The bare session; events are answered as a shell would."""

    def __init__(self, dialog: Dialog) -> None:
        dev = dialog.listener == "dev"
        self.stored: list[RawSubmission] = []
        self._dev = dev
        self._said = b""
        self._session = SubmissionSession(
            "mx.example.com",
            max_size_bytes=dialog.limit,
            max_recipients=dialog.recipients,
            tls_offered=not dev,
            auth_offered=dialog.listener != "starttls",
            auth_required=not dev,
        )

    async def send(self, data: bytes) -> None:
        self._session.receive(data)
        while event := self._session.next_event():
            self._session.answer(self._decide(event))
        self._said += self._session.bytes_to_send()

    async def reply(self) -> bytes:
        self._said += self._session.bytes_to_send()
        match = REPLY.match(self._said)
        assert match, f"no whole reply in {self._said!r}"
        self._said = self._said[match.end() :]
        return match[0]

    async def is_closed(self) -> bool:
        return self._session.closed and not self._said

    def _decide(self, event: AuthAttempt | Mail | Message | StartTls) -> Reply:
        match event:
            case AuthAttempt(user, secret):
                right = self._dev or (secret == "good" and user.lower() in USERS)
                return say.AUTHENTICATED if right else say.AUTH_FAILED
            case Mail():
                return say.SENDER_OK
            case Message(return_path, recipients, raw, protocol):
                self.stored.append(RawSubmission(KEY, return_path, recipients, raw, protocol))
                return Reply(250, "2.0.0", f"Ok: msg_{len(self.stored)}")
        raise AssertionError(event)


class Mailroom:
    """Keys and acceptance for a door: one key, everything is taken."""

    def __init__(self, stored: list[RawSubmission]) -> None:
        self._stored = stored

    def lookup(self, secret: str) -> ApiKey | None:
        return KEY if secret == "good" else None

    def check_mail(self, key: ApiKey, client: str = "") -> Refusal | None:
        return None

    async def accept_raw(self, submission: RawSubmission) -> Accepted | Refusal:
        self._stored.append(submission)
        return Accepted((AcceptedMessage(f"msg_{len(self._stored)}", "", "queued"),), ())


class DoorPlayer:
    """A real door on loopback, and a client's socket."""

    def __init__(self, dialog: Dialog) -> None:
        dev = dialog.listener == "dev"
        self.stored: list[RawSubmission] = []
        mailroom = Mailroom(self.stored)
        self._door = SubmissionDoor(
            SubmissionSettings("mx.example.com", max_message_bytes=dialog.limit, max_recipients=dialog.recipients),
            mailroom,
            mailroom,
            Guesses(monotonic),
            tls=None if dev else lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
            mode="dev" if dev else "starttls",
            dev_key=KEY if dev else None,
            plain_auth_loopback=dialog.listener == "plain",
        )

    async def __aenter__(self) -> DoorPlayer:
        host, port = await self._door.start("127.0.0.1", 0)
        self._reader, self._writer = await asyncio.open_connection(host, port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()
        await self._door.close(0)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self) -> bytes:
        said = b""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                line = await self._reader.readline()
                assert line, f"hung up after {said!r}"
                said += line
                if line[3:4] != b"-":
                    return said

    async def is_closed(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read() == b""


def _unescape(text: str) -> bytes:
    return re.sub(
        rb"\\(?:x([0-9a-f]{2})|([rn0\\]))",
        lambda match: bytes([int(match[1], 16)]) if match[1] else {b"r": b"\r", b"n": b"\n", b"0": b"\0"}[match[2]],
        text.encode(),
    )


async def _play(dialog: Dialog, player: Player, byte_by_byte: bool) -> None:
    for word, rest in dialog.steps:
        match word:
            case "C" | "C raw":
                data = _unescape(rest) if word == "C raw" else rest.encode() + b"\r\n"
                for piece in [data[n : n + 1] for n in range(len(data))] if byte_by_byte else [data]:
                    await player.send(piece)
            case "S":
                reply = (await player.reply()).decode()
                assert reply.splitlines()[-1].startswith(rest), f"expected {rest!r}"
            case "S lines":
                lines = (await player.reply()).decode().splitlines()
                assert [line[4:] for line in lines] == rest.split(", ")
            case "closed":
                assert await player.is_closed()
            case "stored":
                assert len(player.stored) == int(rest)
            case "stored raw":
                assert player.stored[-1].raw == _unescape(rest)
            case "stored recipients":
                assert " ".join(mailbox.address for mailbox in player.stored[-1].recipients) == rest
            case "stored protocol":
                assert player.stored[-1].protocol == rest
            case _:
                raise AssertionError(f"the dialog says {word!r}, which means nothing")


@pytest.mark.parametrize("byte_by_byte", [False, True], ids=["whole", "byte-by-byte"])
@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
async def test_the_session_says_what_the_dialog_says(path: Path, byte_by_byte: bool) -> None:
    dialog = Dialog(path)
    await _play(dialog, SessionPlayer(dialog), byte_by_byte and not dialog.whole_only)


@pytest.mark.parametrize("byte_by_byte", [False, True], ids=["whole", "byte-by-byte"])
@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
async def test_the_door_says_what_the_dialog_says(path: Path, byte_by_byte: bool) -> None:
    dialog = Dialog(path)
    async with DoorPlayer(dialog) as player:
        await _play(dialog, player, byte_by_byte and not dialog.whole_only)
