"""strace on the running server: what it did in which order, and system calls that fail."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from clients import needs
from server import Server


@asynccontextmanager
async def traced(server: Server, *options: str, log: Path | None = None) -> AsyncIterator[None]:
    """Traces all threads of the server for a while. log: where what was seen is written."""
    assert server.process is not None
    strace = await asyncio.create_subprocess_exec(
        needs("strace"), "-f", *options, "-o", str(log or "/dev/null"), "-p", str(server.process.pid),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert strace.stderr is not None
    said = (await asyncio.wait_for(strace.stderr.readline(), 10)).decode()
    assert "attached" in said, said
    reading = asyncio.create_task(strace.stderr.read())
    try:
        yield
    finally:
        strace.send_signal(signal.SIGINT)  # lets go of the server, which goes on untraced
        await asyncio.wait_for(strace.wait(), 10)
        await reading


def failing(calls: str, error: str, when: str) -> tuple[str, ...]:
    """Options: these calls fail with this error. when: `3` the third of each thread, `3+` from then on, `1+7` each seventh."""
    return "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}"
