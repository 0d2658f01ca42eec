"""One mail at a time through either door, and what the door said to it."""

from __future__ import annotations

import asyncio
import re
import smtplib
from collections.abc import Iterable

from server import Server, until
from sinks import SmtpSink

SUBJECT = re.compile(rb"^Subject: (\S+)\r$", re.MULTILINE)
TRY_AGAIN = {503, 507}


async def by_http(server: Server, key: str, token: str, site: str = "there.test") -> int:
    """The HTTP status. The mail's subject is its token."""
    body = {"from": "a@sender.test", "to": f"{token}@{site}", "subject": token, "text": "x" * 500}
    return (await server.call("POST", "/emails", key, body)).status


async def by_smtp(server: Server, key: str, token: str, site: str = "there.test") -> int:
    """The code that decided: of the first command that was not answered as wished, else of the message's end."""
    return await asyncio.to_thread(_by_smtp, server.port("SMTP, STARTTLS"), key, token, site)


def _by_smtp(port: int, key: str, token: str, site: str) -> int:
    raw = f"From: a@sender.test\r\nTo: {token}@{site}\r\nSubject: {token}\r\n\r\nx\r\n"
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            client.login("sendkit", key)
            client.sendmail("a@sender.test", [f"{token}@{site}"], raw)
    except smtplib.SMTPResponseException as error:
        return error.smtp_code
    except smtplib.SMTPRecipientsRefused as error:
        return next(iter(error.recipients.values()))[0]
    return 250


class Journal:
    """What both doors said to mails that were sent one after the other."""

    def __init__(self, server: Server, key: str) -> None:
        self.acknowledged: set[str] = set()
        self.refused: dict[str, int] = {}
        self._server = server
        self._key = key

    async def send(self, name: str) -> None:
        """One mail through each door. Each is acknowledged, or refused for now; nothing else is right."""
        for door, send, good in (("http", by_http, 200), ("smtp", by_smtp, 250)):
            token = f"{door}-{name}"
            status = await send(self._server, self._key, token)
            if status == good:
                self.acknowledged.add(token)
            else:
                assert status in TRY_AGAIN or (400 <= status < 500 and door == "smtp"), f"{token}: {status}"
                self.refused[token] = status


def tokens(sink: SmtpSink) -> list[str]:
    """The token of each mail that has arrived, once for each time."""
    return [token_of(mail.raw) for mail in sink.mails]


def token_of(raw: bytes) -> str:
    """A mail's token."""
    found = SUBJECT.search(raw)
    assert found is not None
    return found[1].decode()


async def all_arrived(sink: SmtpSink, wanted: Iterable[str], seconds: float = 30.0) -> None:
    """Waits for each of these to have arrived."""
    missing, seen = set(wanted), 0

    def arrived() -> bool:
        # Only what is new: the sink lives in this process and has better things to do.
        nonlocal seen
        missing.difference_update(token_of(mail.raw) for mail in sink.mails[seen:])
        seen = len(sink.mails)
        return not missing

    await until(arrived, seconds, "every acknowledged mail to arrive")
