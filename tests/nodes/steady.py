"""A load that does not give up: applications that send at their own pace and come back after every refusal."""

from __future__ import annotations

import http.client
import itertools
import json
import smtplib
import threading
import time
from collections.abc import Callable

from server import Server

PAUSE_S = 0.01  # between two mails of one client
COME_BACK_S = 0.2


class Steady:
    """Clients of one node, on both of its doors, each mail with a token of its own as subject.

    acknowledged: the door said 200 or 250.  refused: it said no.  unknown: the connection broke before it said anything.
    """

    def __init__(self, server: Server, key: str, name: str, *, http_clients: int = 3, smtp_clients: int = 2) -> None:
        self.acknowledged: set[str] = set()
        self.refused: dict[str, int] = {}
        self.unknown: set[str] = set()
        self._key = key
        self._name = name
        self._ports = server.port("HTTP API"), server.port("SMTP, STARTTLS")
        self._numbers = itertools.count()
        self._over = threading.Event()
        works: list[Callable[[], None]] = [self._by_http] * http_clients + [self._by_smtp] * smtp_clients
        self._threads = [threading.Thread(target=self._steadily, args=(work,), daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the clients; blocks until they have ended."""
        self._over.set()
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive()

    def _steadily(self, work: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                work()
            except (OSError, http.client.HTTPException, smtplib.SMTPException):
                time.sleep(COME_BACK_S)

    def _token(self, door: str) -> str:
        time.sleep(PAUSE_S)
        token = f"{self._name}-{door}-{next(self._numbers)}"
        self.unknown.add(token)
        return token

    def _answered(self, token: str, status: int, *, good: bool) -> None:
        if good:
            self.acknowledged.add(token)
        else:
            self.refused[token] = status
        self.unknown.discard(token)

    def _by_http(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[0], timeout=30)
        try:
            while not self._over.is_set():
                token = self._token("http")
                body = {"from": "a@sender.test", "to": f"{token}@there.test", "subject": token, "text": "x" * 500}
                connection.request("POST", "/emails", json.dumps(body), headers)
                response = connection.getresponse()
                response.read()
                self._answered(token, response.status, good=response.status == 200)
        finally:
            connection.close()

    def _by_smtp(self) -> None:
        with smtplib.SMTP("127.0.0.1", self._ports[1], timeout=30) as client:
            client.login("sendkit", self._key)
            while not self._over.is_set():
                token = self._token("smtp")
                raw = f"From: a@sender.test\r\nTo: {token}@there.test\r\nSubject: {token}\r\n\r\nx\r\n"
                try:
                    client.sendmail("a@sender.test", [f"{token}@there.test"], raw)
                except smtplib.SMTPResponseException as error:
                    self._answered(token, error.smtp_code, good=False)
                else:
                    self._answered(token, 250, good=True)
