"""Hostile recipients' servers, in a process of their own: `python benchmarks/farm.py PORT`, at the addresses of SITES.

Prints a line once all of them listen, and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from instances import HERE

sys.path.insert(0, str(HERE.parent / "tests"))
from sinks import DROP, SmtpSink, hostile  # type: ignore[import-not-found]  # of the tests


def talking(**answers: object) -> Callable[[str, int], Any]:
    """A server that speaks SMTP and says this."""
    return lambda host, port: SmtpSink(host, port, answers=answers)


def raw(handler: Any, receive_bytes: int | None = None) -> Callable[[str, int], Any]:
    """A server that does not."""
    return lambda host, port: hostile.RawServer(host, port, handler, receive_bytes=receive_bytes)


def hung(host: str, port: int) -> Any:
    """Neither takes a connection nor refuses it: its queue is full, so the kernel answers nobody."""
    stack = AsyncExitStack()
    listener = socket.create_server((host, port), backlog=0)
    stack.callback(listener.close)
    for _ in range(2):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex((host, port))
        stack.callback(filler.close)
    return stack


def dead(host: str, port: int) -> Any:
    """Nobody listens there."""
    return AsyncExitStack()


# By what stands in the last place of its address, 127.1.0.N.
SITES: dict[int, Callable[[str, int], Any]] = {
    11: dead,
    12: hung,
    13: raw(hostile.silent),
    14: raw(hostile.tarpit(1.0)),
    15: raw(hostile.slow_reader, 4096),
    16: raw(hostile.reset),
    17: raw(hostile.endless_lines),
    18: talking(greeting="421 4.3.2 too busy"),
    19: talking(MAIL="421 4.3.2 going down"),
    20: talking(RCPT="451 4.7.1 greylisted"),
    21: talking(RCPT="452 4.2.2 mailbox full"),
    22: talking(dot=DROP),
}


async def main(port: int) -> None:
    """Serve."""
    async with AsyncExitStack() as stack:
        for place, make in SITES.items():
            await stack.enter_async_context(make(f"127.1.0.{place}", port))
        print("listening", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
