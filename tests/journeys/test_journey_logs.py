"""A site owner whose plugin only says "could not send" finds the reason: `GET /logs`, `sendkit logs`."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import ssl
from typing import Any

from server import MAIL, SENDKIT, Server


async def logs(server: Server, key: str, count: int, query: str = "") -> list[Any]:
    """The log, once it has as many rows: they are written within a second."""
    deadline = asyncio.get_running_loop().time() + 10
    while True:
        reply = await server.call("GET", f"/logs{query}", key)
        assert reply.status == 200, reply.raw
        if len(reply.json["data"]) >= count:
            return list(reply.json["data"])
        assert asyncio.get_running_loop().time() < deadline, reply.raw
        await asyncio.sleep(0.05)


def refused_from(server: Server, key: str) -> None:
    """Sends from a domain that is not ours, as a plugin would."""
    context = ssl.create_default_context(cafile=str(server.ca_file))
    with smtplib.SMTP("localhost", server.port("SMTP, STARTTLS"), timeout=20) as client:
        client.starttls(context=context)
        client.login("sendkit", key)
        with contextlib.suppress(smtplib.SMTPDataError):
            client.sendmail(
                "a@sender.test", ["ann@there.test"], b"From: a@elsewhere.test\r\nSubject: private\r\n\r\nprivate\r\n"
            )


def wrong_password(server: Server, password: str) -> None:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    with (
        smtplib.SMTP_SSL("localhost", server.port("SMTP, TLS"), timeout=20, context=context) as client,
        contextlib.suppress(smtplib.SMTPAuthenticationError),
    ):
        client.login("sendkit", password)


def no_trust(server: Server) -> None:
    """A client that does not know our CA."""
    try:
        with smtplib.SMTP_SSL("localhost", server.port("SMTP, TLS"), timeout=20, context=ssl.create_default_context()):
            pass
    except ssl.SSLError:
        pass


def only_looks(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port("SMTP, TLS"))):
        pass


async def test_the_reason_of_a_refusal_is_found_on_both_doors(server: Server, key: str) -> None:
    await server.send(key)
    await asyncio.to_thread(only_looks, server)
    assert (await server.call("POST", "/emails", key, {**MAIL, "from": "a@elsewhere.test"})).status == 422
    await asyncio.to_thread(refused_from, server, key)
    await asyncio.to_thread(wrong_password, server, "hunter2-hunter2")
    await asyncio.to_thread(no_trust, server)
    by_smtp, by_http = await logs(server, key, 2)
    assert by_http["reply"] == "422 validation_error: The from address domain is not verified."
    assert by_smtp["reply"] == "550 5.7.1 validation_error: The from address domain is not verified."
    assert (by_smtp["method"], by_smtp["endpoint"], by_smtp["key_prefix"]) == ("SMTP", "DATA", key[:12])
    said = "\n".join(text for _, text in by_smtp["transcript"])
    assert "AUTH PLAIN [hidden]" in said and "mail FROM:<a@sender.test>" in said
    assert "private" not in said and key not in said
    status, out, _ = await server.command("logs")
    assert status == 0 and "hunter2" not in out and key not in out
    assert "AUTH  →  535 5.7.8 Authentication failed" in out
    assert "TLS handshake  →  The TLS handshake failed: " in out
    assert out.count("→") == 4


async def test_the_log_is_followed_and_what_was_noted_last_survives_the_stop(server: Server, key: str) -> None:
    process = await asyncio.create_subprocess_exec(
        SENDKIT, "logs", "--follow", "--json", "--limit", "0", env=server.environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = b""
        while b"msg_nope" not in line:
            await server.call("GET", "/emails/msg_nope", key)
            try:
                line = await asyncio.wait_for(process.stdout.readline(), 0.5)
            except TimeoutError:
                continue
    finally:
        process.terminate()
        await process.wait()
    before = len(await logs(server, key, 1, "?per_page=100"))
    await server.call("GET", "/emails/msg_last", key)
    await server.stop()
    status, out, _ = await server.command("logs", "--limit", "1")
    assert status == 0 and "msg_last" in out and before >= 1
