"""The pages under /ui as a browser gets them from the real program."""

from __future__ import annotations

import asyncio
import http.client
import re
import urllib.error
import urllib.request
from functools import partial
from http.cookiejar import CookieJar
from urllib.parse import urlencode


class From(urllib.request.HTTPHandler):
    """Connects from one address of this machine."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._connection = partial(http.client.HTTPConnection, source_address=(address, 0))

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)  # type: ignore[arg-type]


class Browser:
    """Keeps cookies and follows redirects, as browsers do. address: where it connects from.  status: of the last page."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.jar = CookieJar()
        self.status = 0
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.jar), From(address)
        )
        self._token = ""

    async def get(self, url: str) -> str:
        """The page that is shown in the end."""
        return await asyncio.to_thread(self._open, urllib.request.Request(url))

    async def post(self, url: str, **fields: str) -> str:
        """Sends the form that was seen last."""
        body = urlencode({"token": self._token, **fields}).encode()
        headers = {"Sec-Fetch-Site": "same-origin"}
        return await asyncio.to_thread(self._open, urllib.request.Request(url, body, headers))

    def _open(self, request: urllib.request.Request) -> str:
        try:
            with self._opener.open(request, timeout=30) as response:
                self.status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                self.status, text = error.code, error.read().decode()
        if found := re.search(r'name="token" value="([0-9a-f]{64})"', text):
            self._token = found[1]
        return str(re.sub("</?b>", "", text))
