"""What stands between the program and its database, and breaks at the worst moment."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

SOCKET = ".s.PGSQL.5432"
COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"  # CommandComplete


class Proxy:
    """Passes connections on to a server's unix socket, in a thread of its own; `url` is a database's URL through it.

    lose_commits: that many times, the server's answer to COMMIT is withheld and the connection cut: it has happened, and
    the client cannot know.  refuse: new connections are closed at once.
    """

    def __init__(self, server_url: str) -> None:
        self._target, _, self._folder = server_url.partition("?host=")
        self._own = TemporaryDirectory(prefix="pgproxy-", dir="/tmp")
        self.url = f"{self._target}?host={self._own.name}"
        self.lose_commits = 0
        self.lost = 0
        self.refuse = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._own.cleanup()

    def cut(self) -> None:
        """Cuts every connection."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        path = str(Path(self._own.name) / SOCKET)
        server = self._loop.run_until_complete(asyncio.start_unix_server(self._serve, path))
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._cut()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        to_server: asyncio.StreamWriter | None = None
        try:
            from_server, to_server = await asyncio.open_unix_connection(str(Path(self._folder) / SOCKET))
            self._writers |= {writer, to_server}
            await asyncio.gather(self._pass(reader, to_server), self._answers(from_server, writer, to_server))
        except OSError:
            pass
        finally:
            for one in (writer, to_server):
                if one is not None:
                    one.transport.abort()
                    self._writers.discard(one)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.transport.abort()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_server: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            if self.lose_commits and COMMITTED in data:
                self.lose_commits -= 1
                self.lost += 1
                break
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.transport.abort()
            to_server.transport.abort()
