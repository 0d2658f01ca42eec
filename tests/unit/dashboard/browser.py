"""A browser as the pages see it: it keeps cookies, follows nothing by itself, and finds a form's token."""

from __future__ import annotations

import re
from html import unescape
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

from sendkit_server.dashboard.door import Pages

TOKEN = re.compile(r'name="token" value="([0-9a-f]{64})"')


class Answer:
    """A page: status, headers (the last of a name), source, and text as a reader sees it."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = dict(headers)
        self.cookies = [value for name, value in headers if name == "set-cookie"]
        self.raw = body.decode()
        self.text = unescape(re.sub("</?b>", "", self.raw))


class Browser:
    """One browser at one address."""

    def __init__(self, pages: Pages, address: str = "192.0.2.7", scheme: str = "http") -> None:
        self._pages = pages
        self._address = address
        self._scheme = scheme
        self.cookies: dict[str, str] = {}
        self.token = ""

    async def get(self, path: str, **headers: str) -> Answer:
        """A page; the token of its forms is kept for the next post."""
        return await self._ask("GET", path, b"", headers)

    async def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Answer:
        """Sends a form of the page that was seen last, unless a token is given."""
        body = urlencode({"token": self.token, **fields}).encode()
        return await self._ask("POST", path, body, {"sec-fetch-site": "same-origin", **(headers or {})})

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        sent = {"host": "mail.test", **headers}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "client": (self._address, 1),
            "scheme": self._scheme, "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }  # fmt: skip
        answered: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            answered.append(message)

        await self._pages(scope, receive, send)
        found = [(name.decode(), value.decode()) for name, value in answered[0]["headers"]]
        answer = Answer(answered[0]["status"], found, answered[1]["body"])
        for cookie in answer.cookies:
            for name, morsel in SimpleCookie(cookie).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        if shown := TOKEN.search(answer.text):
            self.token = shown[1]
        return answer
