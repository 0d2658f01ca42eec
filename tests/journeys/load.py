"""Load from both doors, with a journal of every mail whose 200 or 250 was seen."""

from __future__ import annotations

import http.client
import itertools
import json
import smtplib
import threading
from collections.abc import Callable

from server import Server


class Load:
    """Threads that send as fast as they can until stopped or cut off. Each mail has a token of its own as subject."""

    def __init__(
        self, server: Server, key: str, *, http_threads: int = 6, smtp_threads: int = 4, most: int = 5000
    ) -> None:
        self.acknowledged: set[str] = set()
        self.attempted: set[str] = set()
        self._key = key
        self._http_port = server.port("HTTP API")
        self._smtp_port = server.port("SMTP, STARTTLS")
        self._numbers = itertools.count()
        self._most = most
        self._stop = threading.Event()
        works: list[Callable[[], None]] = [self._by_http] * http_threads + [self._by_smtp] * smtp_threads
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads; blocks until they have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _tokens(self, door: str) -> str | None:
        number = next(self._numbers)
        if self._stop.is_set() or number >= self._most:
            return None
        token = f"{door}-{number}"
        self.attempted.add(token)
        return token

    def _by_http(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self._http_port, timeout=20)
        try:
            while token := self._tokens("http"):
                body = {"from": "a@sender.test", "to": f"{token}@there.test", "subject": token, "text": "x" * 500}
                connection.request("POST", "/emails", json.dumps(body), headers)
                response = connection.getresponse()
                response.read()
                if response.status == 200:
                    self.acknowledged.add(token)
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()

    def _by_smtp(self) -> None:
        try:
            with smtplib.SMTP("127.0.0.1", self._smtp_port, timeout=20) as client:
                client.login("sendkit", self._key)
                while token := self._tokens("smtp"):
                    raw = f"From: a@sender.test\r\nTo: {token}@there.test\r\nSubject: {token}\r\n\r\nx\r\n"
                    client.sendmail("a@sender.test", [f"{token}@there.test"], raw)
                    self.acknowledged.add(token)
        except (OSError, smtplib.SMTPException):
            return
