"""What the sans-IO client costs a mail: one recipient, pipelined, replies already there. `python benchmarks/smtp_client.py`"""

from __future__ import annotations

import time

from sendkit_server.wire.smtp_client import Capabilities, Mail, ReplyReader, Transaction

MAILS = 50_000
REPLIES = (b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n", b"250 2.0.0 Ok: queued as 1\r\n")


def run(capabilities: Capabilities, raw: bytes) -> float:
    """Microseconds a mail."""
    reader = ReplyReader()
    mail = Mail("b-0123456789abcdefghijklmnop-all-0123456789abcdefghij@send.here.test", ("ann@there.test",), raw)
    started = time.perf_counter()
    for _ in range(MAILS):
        transaction = Transaction(capabilities, mail)
        transaction.start(0)
        for packet in REPLIES:
            reader.feed(packet)
            while not transaction.done and (reply := reader.next_reply()) is not None:
                transaction.take(reply, 0)
    return (time.perf_counter() - started) / MAILS * 1e6


if __name__ == "__main__":
    body = b"Subject: Hello\r\n\r\n" + b"All work and no play makes Jack a dull boy.\r\n" * 100
    everything = Capabilities(pipelining=True, eightbit=True, size=True)
    print(f"{run(everything, body):.1f} µs a mail of {len(body)} bytes, pipelined")
