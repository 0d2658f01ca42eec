"""Behind a proxy: who its clients are, on every listener, by HAProxy as it is; and that nobody else is believed."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from server import MAIL, Server, until
from sinks import free_ports, proxy_header

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
OFFICE, ELSEWHERE = "127.0.0.9", "127.0.0.10"
CONFIG = """\
global
    maxconn 200
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
"""
WITH_HEADERS = """\
listen http
    bind 127.0.0.1:{http}
    mode http
    option forwardfor
    server sendkit 127.0.0.1:{http_to}
"""
PASSED_ON = """\
listen {name}
    bind 127.0.0.1:{port}
    mode tcp
    server sendkit 127.0.0.1:{to} send-proxy-v2
"""
PASSED = {"HTTP API": "api", "HTTPS API": "https", "SMTP, STARTTLS": "starttls", "SMTP, TLS": "smtps"}


@asynccontextmanager
async def haproxy(server: Server, folder: Path) -> AsyncIterator[dict[str, int]]:
    """Its ports: `http` adds X-Forwarded-For, the others pass bytes on behind a PROXY header."""
    ports = dict(zip(["http", *PASSED.values()], free_ports(1 + len(PASSED)), strict=True))
    text = CONFIG + WITH_HEADERS.format(http=ports["http"], http_to=server.port("HTTP API"))
    for door, name in PASSED.items():
        text += PASSED_ON.format(name=name, port=ports[name], to=server.port(door))
    (folder / "haproxy.cfg").write_text(text)
    assert HAPROXY is not None
    process = await asyncio.create_subprocess_exec(HAPROXY, "-db", "-f", str(folder / "haproxy.cfg"))
    try:
        for port in ports.values():
            await until(lambda port=port: listens(port), 10, "HAProxy")  # type: ignore[misc]
        yield ports
    finally:
        process.terminate()
        await process.wait()


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def by_http(
    port: int, key: str, source: str, *, tls: ssl.SSLContext | None = None, first: bytes = b"", **headers: str
) -> tuple[int, str]:
    """POST /emails from an address: status and message. first: what is said before everything else."""
    with socket.create_connection(("127.0.0.1", port), 20, source_address=(source, 0)) as plain:
        plain.sendall(first)
        with tls.wrap_socket(plain, server_hostname="localhost") if tls else plain as sock:
            client = http.client.HTTPConnection("localhost")
            client.sock = sock
            client.request("POST", "/emails", json.dumps(MAIL), {"Authorization": f"Bearer {key}", **headers})
            reply = client.getresponse()
            found = json.loads(reply.read())
            return reply.status, found.get("message", "")


def by_smtp(port: int, key: str, source: str, server: Server, *, implicit: bool) -> str:
    """What the end of a mail from an address is answered, or the log-in when that is refused."""
    context = ssl.create_default_context(cafile=str(server.ca_file))
    options = {"timeout": 20, "source_address": (source, 0)}
    made = smtplib.SMTP_SSL("localhost", port, context=context, **options) if implicit else None  # type: ignore[arg-type]
    with made or smtplib.SMTP("localhost", port, **options) as client:  # type: ignore[arg-type]
        if not implicit:
            client.starttls(context=context)
        try:
            client.login("sendkit", key)
            client.sendmail(
                "app@sender.test", ["ann@there.test"], "From: app@sender.test\r\nSubject: s\r\n\r\ntext\r\n"
            )
        except smtplib.SMTPResponseException as refused:
            return f"{refused.smtp_code} {refused.smtp_error!r}"
        return "250"


@pytest.fixture
async def proxied(make_server: Callable[..., Server]) -> Server:
    """A server that believes proxies at 127.0.0.1."""
    return await make_server(SENDKIT_TRUSTED_PROXIES="127.0.0.1", SENDKIT_HTTPS_BIND="127.0.0.1:0").start()


async def office_key(server: Server) -> str:
    """A key that may be used from one address only."""
    key = await server.live_key()
    made = await server.call("POST", "/api-keys", key, {"name": "office", "permission": "send", "networks": [OFFICE]})
    assert made.status in (200, 201), made.raw
    return str(made.json["token"])


@pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed (apt install haproxy)")
@pytest.mark.engine("sqlite")
async def test_the_clients_of_a_proxy_are_told_apart_on_every_listener(proxied: Server, tmp_path: Path) -> None:
    key = await office_key(proxied)
    tls = ssl.create_default_context(cafile=str(proxied.ca_file))
    async with haproxy(proxied, tmp_path) as ports:
        for name, context in (("http", None), ("api", None), ("https", tls)):
            ok = await asyncio.to_thread(by_http, ports[name], key, OFFICE, tls=context)
            assert ok[0] == 200, (name, ok)
            refused = await asyncio.to_thread(by_http, ports[name], key, ELSEWHERE, tls=context)
            assert refused[0] == 401 and f"not from {ELSEWHERE}" in refused[1], (name, refused)
        for name, implicit in (("starttls", False), ("smtps", True)):
            assert await asyncio.to_thread(by_smtp, ports[name], key, OFFICE, proxied, implicit=implicit) == "250"
            told = await asyncio.to_thread(by_smtp, ports[name], key, ELSEWHERE, proxied, implicit=implicit)
            assert f"not from {ELSEWHERE}" in told, (name, told)
        # What a client says of itself stands further left than what the proxy adds.
        lie = await asyncio.to_thread(by_http, ports["http"], key, ELSEWHERE, **{"X-Forwarded-For": OFFICE})
        assert lie[0] == 401 and f"not from {ELSEWHERE}" in lie[1]

        # Who guesses keys has to wait; who sits behind the same proxy has not.
        for _ in range(20):
            assert (await asyncio.to_thread(by_http, ports["http"], "sk_live_wrong", ELSEWHERE))[0] == 401
        assert (await asyncio.to_thread(by_http, ports["http"], "sk_live_wrong", ELSEWHERE))[0] == 429
        assert (await asyncio.to_thread(by_http, ports["api"], "sk_live_wrong", ELSEWHERE))[0] == 429
        assert (await asyncio.to_thread(by_http, ports["http"], "sk_live_wrong", OFFICE))[0] == 401

        async with asyncio.timeout(10):
            found: set[str] = set()
            while found != {OFFICE, ELSEWHERE}:
                found = {row["address"] for row in (await proxied.act("logs.list"))["data"]}
                assert found <= {OFFICE, ELSEWHERE}
                await asyncio.sleep(0.05)


@pytest.mark.engine("sqlite")
async def test_without_a_proxy_between_a_trusted_address_is_a_client_like_any(proxied: Server) -> None:
    key = await proxied.live_key()
    assert (await proxied.call("POST", "/emails", key, MAIL)).status == 200
    for door in ("SMTP, STARTTLS", "SMTP, TLS"):
        told = await asyncio.to_thread(
            by_smtp, proxied.port(door), key, "127.0.0.1", proxied, implicit=door == "SMTP, TLS"
        )
        assert told == "250"


@pytest.mark.engine("sqlite")
async def test_nobody_else_is_believed(make_server: Callable[..., Server]) -> None:
    for settings in ({}, {"SENDKIT_TRUSTED_PROXIES": "127.0.0.1"}):
        server = await make_server(**settings).start()
        key = await office_key(server)
        port = server.port("HTTP API")
        told = await asyncio.to_thread(by_http, port, key, ELSEWHERE, **{"X-Forwarded-For": OFFICE})
        assert told[0] == 401 and f"not from {ELSEWHERE}" in told[1]
        told = await asyncio.to_thread(by_http, port, key, ELSEWHERE, first=proxy_header(OFFICE))
        assert told[0] == 400
        with socket.create_connection(
            ("127.0.0.1", server.port("SMTP, STARTTLS")), 20, source_address=(ELSEWHERE, 0)
        ) as sock:
            sock.sendall(proxy_header(OFFICE) + b"EHLO x\r\n")
            said = await asyncio.to_thread(sock.recv, 1000)
            assert said.startswith((b"554", b"220"))  # somebody's bytes in front of the greeting, or behind it
        async with asyncio.timeout(10):
            while len(rows := (await server.act("logs.list"))["data"]) < 2:
                await asyncio.sleep(0.05)
        assert {row["address"] for row in rows} == {ELSEWHERE}
        assert await server.stop() == 0
