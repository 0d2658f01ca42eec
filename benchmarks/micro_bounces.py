"""What judging a refusal and reading a returned mail cost. Run: .venv/bin/python benchmarks/micro_bounces.py"""

from __future__ import annotations

import time
from collections.abc import Callable

from sendkit_server.model.bounce import classify
from sendkit_server.wire.inbound_mail import read

SECONDS_EACH = 0.4

USUAL = (
    "550-5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's "
    "email address for typos or unnecessary spaces."
)
UNKNOWN = "550 no thanks, we said that we would not take it and here are quite a few more words to look at for nothing"
NOTIFICATION = (
    b"From: MAILER-DAEMON@mx.there.test\r\nSubject: Undelivered Mail Returned to Sender\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n--b\r\n\r\n'
    b"This is the mail system at host mx.there.test.\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
    b"Reporting-MTA: dns; mx.there.test\r\n\r\nFinal-Recipient: rfc822; ann@there.test\r\nAction: failed\r\n"
    b"Status: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 <ann@there.test>: User unknown\r\n\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\nFrom: a@here.test\r\nSubject: Hello\r\n\r\n%s\r\n--b--\r\n"
) % (b"A line of the mail that is returned, as long as such lines are.\r\n" * 80)
IN_WORDS = b"From: MAILER-DAEMON@there.test\r\nSubject: failure notice\r\n\r\n<ann@there.test>:\r\nno mailbox here (#5.1.1)\r\n"


def microseconds(step: Callable[[], object]) -> float:
    """The best of five rounds, each long enough for the clock."""
    step()
    best = float("inf")
    for _ in range(5):
        count = 0
        started = time.perf_counter()
        while time.perf_counter() - started < SECONDS_EACH / 5:
            step()
            count += 1
        best = min(best, (time.perf_counter() - started) / count)
    return best * 1e6


def main() -> None:
    """Prints microseconds."""
    for name, step in (
        ("classify, a usual refusal", lambda: classify(550, "5.1.1", USUAL)),
        ("classify, words that no phrase fits", lambda: classify(550, None, UNKNOWN)),
        ("classify, codes alone", lambda: classify(550, "5.7.1", "")),
        ("read a notification with a mail of 5 KB", lambda: read(NOTIFICATION)),
        ("read a bounce in words", lambda: read(IN_WORDS)),
    ):
        print(f"{microseconds(step):8.1f} µs  {name}")


if __name__ == "__main__":
    main()
