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


class ApiSink:
    """See above."""

    def __init__(self, tls: ssl.SSLContext, *, answers: Sequence[Any] = ((200, {}),)) -> None:
        self.answers = list(answers)
        self.calls: list[Call] = []
        self.connections = 0
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ApiSink:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        try:
            await self._talk(reader, writer, number)
        except (OSError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
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
