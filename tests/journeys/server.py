"""The real program as a test drives it: started as users start it, talked to over its sockets, killed at will."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import smtplib
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SENDKIT = str(Path(sys.executable).parent / "sendkit")
START_S = 30.0
WAIT_S = 20.0
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Reply:
    """An HTTP answer: status, headers, and the body's JSON."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.raw = body

    @property
    def json(self) -> Any:
        """The body, which every answer of the API has as JSON."""
        return json.loads(self.raw)


class Server:
    """One data directory and the process that serves it."""

    def __init__(self, data_dir: Path, settings: Mapping[str, str]) -> None:
        self.data_dir = data_dir
        self.settings = {
            "SENDKIT_HTTP_BIND": "127.0.0.1:0",
            "SENDKIT_SMTP_BIND": "127.0.0.1:0",
            "SENDKIT_SMTPS_BIND": "127.0.0.1:0",
            "SENDKIT_INBOUND_BIND": "127.0.0.1:0",
            "SENDKIT_HOSTNAME": "mail.sender.test",
            "SENDKIT_LOG_FORMAT": "json",
            **settings,
        }
        self.process: asyncio.subprocess.Process | None = None
        self.banner = ""
        self.log = ""
        self._reading: list[asyncio.Task[None]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What the program and its commands are started with."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SENDKIT_")}
        return {**inherited, "SENDKIT_DATA_DIR": str(self.data_dir), **self.settings}

    async def start(self, *arguments: str) -> Server:
        """Starts it and waits until it says that it is ready."""
        self.banner = ""
        self.process = await asyncio.create_subprocess_exec(
            SENDKIT, "serve", *arguments, env=self.environment, cwd=self.data_dir.parent,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stderr is not None
        self._reading = [
            asyncio.create_task(self._read_banner(self.process.stdout)),
            asyncio.create_task(self._read_log(self.process.stderr)),
        ]
        await until(lambda: ("is ready" in self.banner and self.banner.endswith("\n\n")) or self._ended(), START_S)
        assert not self._ended(), f"the server ended at once:\n{self.log}"
        return self

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> int:
        """SIGKILL."""
        return await self._end(signal.SIGKILL)

    async def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
        status = await asyncio.wait_for(self.process.wait(), 30)
        await asyncio.gather(*self._reading)
        return status

    def port(self, label: str) -> int:
        """The port that the banner names for a door."""
        found = re.search(rf"^ *{re.escape(label)}: .*?:(\d+)$", self.banner, re.MULTILINE)
        assert found is not None, self.banner
        return int(found[1])

    @property
    def url(self) -> str:
        """The API's base."""
        return f"http://127.0.0.1:{self.port('HTTP API')}"

    @property
    def ca_file(self) -> Path:
        """The local CA that signs the server's certificate."""
        return self.data_dir / "tls" / "ca.pem"

    async def act(self, action: str, **arguments: Any) -> Any:
        """What the `sendkit` command would do, without the second that a new process takes."""
        control = json.loads((self.data_dir / "control").read_text())
        body = json.dumps({"action": action, "arguments": arguments}).encode()
        reply = await self._call(f"http://127.0.0.1:{control['port']}/", control["token"], "POST", body, {})
        assert reply.status == 200, reply.raw
        return reply.json

    async def live_key(self, domain: str = "sender.test", permission: str = "full") -> str:
        """A live key, and a trusted domain to send from."""
        await self.act("domains.add", name=domain, trust=True)
        made = await self.act("keys.create", name="tests", permission=permission, test=False)
        return str(made["token"])

    async def call(
        self,
        method: str,
        path: str,
        key: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """A request to the API. body: bytes as they are, anything else as JSON."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        return await self._call(self.url + path, key, method, body, sent)

    async def _call(self, url: str, key: str | None, method: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(url, body, headers, method=method)
        return await asyncio.to_thread(_open, request)

    async def send(self, key: str, **members: Any) -> str:
        """Sends a mail by the API; its id."""
        reply = await self.call("POST", "/emails", key, {**MAIL, **members})
        assert reply.status == 200, reply.raw
        return str(reply.json["id"])

    async def email(self, key: str, message_id: str) -> Any:
        """What became of a mail."""
        reply = await self.call("GET", f"/emails/{message_id}", key)
        assert reply.status == 200, reply.raw
        return reply.json

    async def settled(self, key: str, message_id: str, status: str) -> Any:
        """The mail, once it has this status."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while True:
            found = await self.email(key, message_id)
            if found["status"] == status:
                return found
            assert asyncio.get_running_loop().time() < deadline, f"still {found['status']}: {found['reason']}"
            await asyncio.sleep(0.02)

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        """Runs a `sendkit` command: status, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            SENDKIT, *arguments, env=self.environment, cwd=self.data_dir.parent,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    def smtp_send(self, key: str, recipients: list[str], raw: bytes, sender: str = "app@sender.test") -> str:
        """Submits with smtplib over verified STARTTLS; the id in the 250. Runs in the caller's thread."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with smtplib.SMTP("localhost", self.port("SMTP, STARTTLS"), timeout=20) as client:
            client.starttls(context=context)
            client.login("sendkit", key)
            client.mail(sender)
            for recipient in recipients:
                assert client.rcpt(recipient)[0] == 250
            code, text = client.data(raw)
        assert code == 250, text
        return text.decode().rpartition(" ")[2]

    def _ended(self) -> bool:
        return self.process is not None and self.process.returncode is not None

    async def _read_banner(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self.banner += line.decode()

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self.log += line.decode()


MAIL = {
    "from": "Acme <hello@sender.test>",
    "to": "ann@there.test",
    "subject": "Hello",
    "text": "It works",
    "html": "<p>It works</p>",
}


def _open(request: urllib.request.Request) -> Reply:
    try:
        with _NO_PROXY.open(request, timeout=30) as response:
            return Reply(response.status, dict(response.headers.items()), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, dict(error.headers.items()), error.read())


async def until(condition: Callable[[], object], seconds: float = WAIT_S, what: str = "") -> None:
    """Waits for a condition."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain for {what or 'a condition'}"
        await asyncio.sleep(0.01)
