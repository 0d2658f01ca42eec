"""An SMTP server on loopback that says what a test tells it to say.

    async with SmtpSink(answers={"RCPT": "550 5.1.1 no such user"}) as sink:
        ... deliver to sink.host:sink.port; sink.mails holds what was taken

An answer is text (one or more lines without the last CRLF), bytes (sent as they are), DROP (the connection is cut),
SILENCE (nothing, for ever), a list (one for each time, the last repeats), or a function of the session and the
command's argument that returns one of these, at once or when it is awaited. Steps: `greeting`, each verb, `content` (what follows 354, before the
message), `dot` (the end of the message, by DATA or BDAT).
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import TypeAlias

from sinks.server import LoopbackServer


class _Cut(Exception):
    pass


DROP = object()
SILENCE = object()

Answer: TypeAlias = "str | bytes | object | Sequence[object] | Callable[[Session, str], object]"

EXTENSIONS = ("PIPELINING", "SIZE 50000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")


@dataclass
class Received:
    """One mail the sink said 250 to."""

    return_path: str
    recipients: list[str]
    raw: bytes
    session: int
    mail_parameters: str = ""
    tls: bool = False


@dataclass
class Session:
    """One connection, as the sink sees it. commands: as they came, without CRLF."""

    number: int
    commands: list[str] = field(default_factory=list)
    return_path: str = ""
    mail_parameters: str = ""
    recipients: list[str] = field(default_factory=list)
    mails: int = 0
    tls: bool = False


class SmtpSink(LoopbackServer):
    """See above. tls: a context to offer STARTTLS with, None to offer none; tls_from_start: to begin with."""

    broken = (*LoopbackServer.broken, _Cut, asyncio.LimitOverrunError)

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        answers: Mapping[str, Answer] | None = None,
        extensions: Sequence[str] = EXTENSIONS,
        tls: ssl.SSLContext | None = None,
        tls_from_start: bool = False,
    ) -> None:
        super().__init__(host, port, tls=tls if tls_from_start else None, limit=2**20, backlog=512)
        self.answers: dict[str, Answer] = dict(answers or {})
        self.extensions = list(extensions)
        self.mails: list[Received] = []
        self.bodies: list[bytes] = []  # all that came whole, whatever was said to it
        self.sessions: list[Session] = []
        self.open_now = 0
        self.most_open = 0
        self.tls = tls
        self._tls_from_start = tls_from_start
        self._times: dict[str, int] = {}

    @property
    def commands(self) -> list[str]:
        """All commands of all sessions."""
        return [command for session in self.sessions for command in session.commands]

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(len(self.sessions), tls=self._tls_from_start)
        self.sessions.append(session)
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            await _Talk(self, session, reader, writer).run()
        finally:
            self.open_now -= 1

    def _answer(self, step: str, session: Session, argument: str, default: object) -> object:
        times = self._times[step] = self._times.get(step, -1) + 1
        answer: object = self.answers.get(step, default)
        if callable(answer):
            answer = answer(session, argument)
        if isinstance(answer, list | tuple):
            answer = answer[min(times, len(answer) - 1)]
        return default if answer is None else answer


class _Talk:
    def __init__(
        self, sink: SmtpSink, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.sink = sink
        self.session = session
        self.reader = reader
        self.writer = writer

    async def run(self) -> None:
        await self.say("greeting", "", "220 sink.test ESMTP")
        while line := await self.reader.readline():
            command = line.rstrip(b"\r\n").decode("utf-8", "replace")
            self.session.commands.append(command)
            verb, _, argument = command.partition(" ")
            if not await self.obey(verb.upper(), argument):
                return

    async def obey(self, verb: str, argument: str) -> bool:
        session = self.session
        match verb:
            case "EHLO":
                await self.say(verb, argument, self.hello())
            case "MAIL":
                if await self.accepted(verb, argument, "250 2.1.0 sender ok"):
                    address, _, session.mail_parameters = argument.partition(">")
                    session.return_path = address.partition("<")[2]
                    session.recipients = []
            case "RCPT":
                if await self.accepted(verb, argument, "250 2.1.5 recipient ok"):
                    session.recipients.append(argument.partition("<")[2].partition(">")[0])
            case "DATA":
                go_on = "354 go ahead" if session.recipients else "503 5.5.1 no valid recipients"
                if (await self.say(verb, argument, go_on)).startswith(b"354"):
                    await self.say("content", "", b"")
                    await self.take(await self.content())
            case "BDAT":
                await self.take(await self.reader.readexactly(int(argument.split()[0])))
            case "STARTTLS":
                if (await self.say(verb, argument, "220 2.0.0 go ahead")).startswith(b"220"):
                    assert self.sink.tls is not None
                    await self.writer.start_tls(self.sink.tls)
                    session.tls = True
            case "AUTH":
                await self.authenticate(argument)
            case "QUIT":
                await self.say(verb, argument, "221 2.0.0 bye")
                return False
            case "HELO" | "RSET" | "NOOP":
                await self.say(verb, argument, "250 2.0.0 ok")
            case _:
                await self.say(verb, argument, "500 5.5.2 unknown command")
        return True

    def hello(self) -> str:
        offered = ["sink.test", *self.sink.extensions]
        if self.sink.tls is not None and not self.session.tls:
            offered.append("STARTTLS")
        return "\n".join([*(f"250-{line}" for line in offered[:-1]), f"250 {offered[-1]}"])

    async def authenticate(self, argument: str) -> None:
        if argument.upper() == "LOGIN":
            for prompt in ("334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"):
                await self.say("AUTH", argument, prompt)
                self.session.commands.append((await self.reader.readline()).decode().strip())
        await self.say("AUTH", argument, "235 2.7.0 welcome")

    async def content(self) -> bytes:
        """The message behind 354, dots unstuffed; only CRLF ends a line."""
        lines = []
        while (line := await self.reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    async def take(self, raw: bytes) -> None:
        session = self.session
        mail = Received(
            session.return_path, session.recipients, raw, session.number, session.mail_parameters.strip(), session.tls
        )
        session.mails += 1
        self.sink.bodies.append(raw)
        answer = await self.say("dot", "", "250 2.0.0 queued as sink")
        if answer.startswith(b"2") and mail.recipients:
            self.sink.mails.append(mail)

    async def accepted(self, verb: str, argument: str, default: str) -> bool:
        return (await self.say(verb, argument, default)).startswith(b"2")

    async def say(self, step: str, argument: str, default: object) -> bytes:
        answer = self.sink._answer(step, self.session, argument, default)
        if isawaitable(answer):
            answer = await answer
        if answer is DROP:
            self.writer.transport.abort()
            raise _Cut
        if answer is SILENCE:
            await asyncio.Event().wait()
        if isinstance(answer, str):
            answer = answer.replace("\n", "\r\n").encode() + b"\r\n"
        assert isinstance(answer, bytes)
        if answer:
            self.writer.write(answer)
            with suppress(ConnectionError):
                await self.writer.drain()
        if answer.startswith(b"421"):
            self.writer.close()
            raise _Cut
        return answer


def own_addresses() -> Iterator[str]:
    """Loopback addresses that no other test process uses, for several hosts on one port."""
    process = os.getpid()
    for n in range(1, 255):
        yield f"127.{1 + process % 250}.{process // 250 % 250}.{n}"
