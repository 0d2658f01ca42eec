"""An HTTPS server on loopback that says what a test tells it to say: a provider's API, or a policy's web server.

    async with ApiSink(context, answers=[(200, {"id": "1"})]) as api:
        ... call https://localhost:{api.port}; api.calls holds what came

Answers go in turn, the last repeats: (status, JSON), (status, bytes, headers), DROP (the connection is cut), or SILENCE.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h11

from sinks.server import LoopbackServer
from sinks.smtp import DROP, SILENCE


@dataclass
class Call:
    """One request. headers: names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ApiSink(LoopbackServer):
    """See above."""

    broken = (*LoopbackServer.broken, h11.RemoteProtocolError)

    def __init__(self, tls: ssl.SSLContext, *, answers: Sequence[Any] = ((200, {}),)) -> None:
        super().__init__(tls=tls)
        self.answers = list(answers)
        self.calls: list[Call] = []

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        talk = h11.Connection(h11.SERVER)
        request: h11.Request | None = None
        body = b""
        while True:
            event = talk.next_event()
            if event is h11.NEED_DATA:
                talk.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                headers = {name.decode(): value.decode() for name, value in request.headers}
                self.calls.append(Call(request.method.decode(), request.target.decode(), headers, body, number))
                if not await self._answer(talk, writer):
                    return
                talk.start_next_cycle()
            else:
                return

    async def _answer(self, talk: h11.Connection, writer: asyncio.StreamWriter) -> bool:
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if answer is SILENCE:
            await asyncio.sleep(3600)
        if answer is DROP:
            writer.transport.abort()
            return False
        status, content, *more = answer
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = [("Content-Length", str(len(data))), *(more[0] if more else [("Content-Type", "application/json")])]
        writer.write(
            (talk.send(h11.Response(status_code=status, headers=headers)) or b"")
            + (talk.send(h11.Data(data=data)) or b"")
        )
        writer.write(talk.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return True
