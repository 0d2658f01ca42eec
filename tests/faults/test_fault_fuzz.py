"""Requests that nobody would send: every answer is JSON in the contract's shape, and none is a fault of ours."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import string
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from server import Server, until
from sinks import SmtpSink

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PURGE")
ADDRESSES = (
    "ann@there.test", "Ann <ann@there.test>", "a@b", "@", "a@@b.test", '"a b"@there.test', "ann@there.test\r\nBcc: x@y.test",
    "ann@bücher.test", "ü@there.test", "a@[127.0.0.1]", "<>", "a@" + "x" * 300 + ".test", "ann@there.test, b@there.test",
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "\0", "\r\n", "\u202e", "💌", "\ud800", "a" * 1_000, "=?utf-8?q?x?=", "{{ x }}", "%s%n", "../../etc/passwd",
    "' OR 1=1 --", "<script>", "é́", "2026-02-30", "-1", "1e999", "null",
)  # fmt: skip
QUERY_NAMES = (
    "limit", "after", "before", "cursor", "status", "tag", "tags", "metadata", "from", "to", "since", "until", "domain",
    "domain_id", "stream", "door", "q", "search", "message_id", "x",
)  # fmt: skip


class Requests:
    """An endless row of them, by the description that the server gives of itself."""

    def __init__(self, description: Any, chance: random.Random) -> None:
        self._chance = chance
        self._paths = list(description["paths"])
        self._members = sorted(
            {name for shape in description["components"]["schemas"].values() for name in shape.get("properties", {})}
        )

    def next(self, key: str) -> tuple[str, str, bytes | None, dict[str, str]]:
        """Verb, target, body and headers."""
        pick = self._chance.choice
        send = self._chance.random() < 0.5
        path = "/emails" if send else self._path()
        verb = "POST" if send else pick(VERBS)
        headers = {
            "Authorization": f"Bearer {key}"
            if self._chance.random() < 0.95
            else pick(("", "Bearer", "Basic eA==", "Bearer sk_x"))
        }
        body = None
        if verb in ("POST", "PUT", "PATCH", "DELETE"):
            body = self._body()
            headers["Content-Type"] = (
                "application/json"
                if self._chance.random() < 0.9
                else pick(("text/plain", "x/y; charset=z", "multipart/form-data"))
            )
            if self._chance.random() < 0.2:
                headers[pick(("Idempotency-Key", "Content-Encoding", "Accept", "Expect", "X-Request-Id"))] = pick(
                    ("gzip", "x" * 300, "é", "*/*")
                )
        return verb, path, body, headers

    def _path(self) -> str:
        chance = self._chance
        path = chance.choice([*self._paths, "/", "/nothing", "//", "/%00", "/%ff/%2e%2e", "/emails/%E2%82%AC"])
        path = path.replace(
            "{id}", chance.choice(("msg_" + "0" * 26, "dom_1", "%00", "..", "a" * 500, "%3Cx%40y%3E", "%ff"))
        )
        if chance.random() < 0.2:
            path = "/v1" + path
        if chance.random() < 0.5:
            values = (
                "1",
                "0",
                "-1",
                "99999999999999999999",
                "%00",
                "%ff",
                "delivered",
                "a:b",
                "2026-01-01",
                "2026-13-45",
                "%27",
                "",
            )
            path += "?" + "&".join(
                f"{chance.choice(QUERY_NAMES)}={chance.choice(values)}" for _ in range(chance.randint(1, 4))
            )
        return path

    def _body(self) -> bytes:
        chance = self._chance
        kind = chance.random()
        if kind < 0.05:
            return chance.choice(
                (
                    b"",
                    b"{",
                    b"\xff\xfe",
                    b"[" * 5_000,
                    b'{"to":' * 500,
                    b"NaN",
                    b'{"to":1,"to":2}',
                    chance.randbytes(200),
                )
            )
        if kind < 0.1:
            return dumped(self._value(0))
        mail: dict[str, Any] = {"from": "a@sender.test", "to": chance.choice(ADDRESSES), "subject": "s", "text": "t"}
        for _ in range(chance.randint(0, 4)):
            mail[chance.choice([*self._members, "from", "to", "subject", "html", "headers", "attachments", "tags"])] = (
                self._value(0)
            )
        return dumped(mail)

    def _value(self, depth: int) -> Any:
        chance = self._chance
        simple = (None, True, 0, -1, 2**70, 1.5, *ADDRESSES, *ODD_TEXTS)
        kind = chance.random()
        if depth > 3 or kind < 0.6:
            return chance.choice(simple)
        if kind < 0.8:
            return [self._value(depth + 1) for _ in range(chance.choice((0, 1, 2, 60)))]
        names = (
            "name",
            "value",
            "filename",
            "content",
            "content_type",
            "path",
            "X-A",
            "From",
            "Bcc",
            "a\r\nb",
            "",
            *self._members,
        )
        return {chance.choice(names): self._value(depth + 1) for _ in range(chance.randint(0, 4))}


def dumped(value: Any) -> bytes:
    """JSON, with what JSON can hold and UTF-8 cannot left as escapes."""
    return json.dumps(value).encode()


async def test_whatever_is_asked_the_answer_has_the_contracts_shape(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    await fuzzed(make_server, 3_000)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_whatever_is_asked_often_the_answer_has_the_contracts_shape(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    await fuzzed(make_server, 40_000)


async def fuzzed(make_server: Callable[..., Server], count: int) -> None:
    """Asks, checks each answer, and lets all that was accepted be delivered or bounced."""
    server = await make_server(SENDKIT_LOG_LEVEL="warning").start()
    key = await server.live_key()
    seed = random.randrange(2**32)
    requests = Requests((await server.call("GET", "/openapi.json")).json, random.Random(seed))
    port = server.port("HTTP API")
    statuses = await asyncio.to_thread(ask, port, key, requests, count, seed)
    assert statuses[200] > count / 100 and statuses[422] > count / 100, statuses
    assert "fault" not in server.log and "Traceback" not in server.log, server.log[:5000]
    await until(lambda: server.process is not None and server.process.returncode is None, 1)
    assert (await server.call("GET", "/ready")).json["status"] == "ready"


def ask(port: int, key: str, requests: Requests, count: int, seed: int) -> Counter[int]:
    """Sends them over as few connections as the server allows; how often each status came."""
    statuses: Counter[int] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        for number in range(count):
            verb, path, body, headers = requests.next(key)
            connection.putrequest(verb, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value.encode())
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            answered(
                response.status,
                response.headers.get("Content-Type", ""),
                response.read(),
                f"seed {seed}, request {number}: {verb} {path[:200]} {body!r:.300}",
                verb,
            )
            statuses[response.status] += 1
    finally:
        connection.close()
    return statuses


def answered(status: int, kind: str, raw: bytes, what: str, verb: str) -> None:
    """One answer as every answer must be."""
    assert status < 500, f"{what}: {status} {raw!r:.300}"
    assert all(character in string.printable for character in kind), what
    if verb == "HEAD":
        assert raw == b"", what
    elif status >= 400:
        told = json.loads(raw)
        assert told["statusCode"] == status and told["name"] and told["message"], f"{what}: {told}"
    elif kind.startswith("application/json"):
        json.loads(raw)
    else:
        assert kind.startswith(("text/plain", "text/html", "application/openmetrics-text")), f"{what}: {kind}"
