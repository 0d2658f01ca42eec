"""`sendkit serve --dev`: whatever a framework's mailer does by default works on the first try, and nothing leaves."""

from __future__ import annotations

import asyncio
import re
import smtplib
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import PEERS, PHPMAILER, needs, node, run
from raw_talk import connected
from server import Server
from sinks import SmtpSink

PLAIN = "SMTP, no TLS, everything captured"
DJANGO = """
import os
from django.conf import settings
from django.core.mail import send_mail
settings.configure(EMAIL_HOST="127.0.0.1", EMAIL_PORT=int(os.environ["PORT"]))
assert send_mail("Django", "It works", "app@example.com", ["you@example.com"]) == 1
"""


@pytest.fixture
async def dev(make_server: Callable[..., Server]) -> Server:
    """A development server."""
    return await make_server(SENDKIT_DEV_SMTP_BIND="127.0.0.1:0").start("--dev")


def printed(server: Server, pattern: str) -> str:
    """What the start printed behind a label."""
    found = re.search(pattern, server.banner)
    assert found is not None, server.banner
    return found[1]


async def captured(server: Server, count: int) -> list[str]:
    """The subjects in the inbox, once so many mails are in it."""
    async with asyncio.timeout(20):
        while len(found := (await server.act("inbox.list"))["data"]) < count:
            await asyncio.sleep(0.02)
    assert len(found) == count
    return [mail["subject"] for mail in found]


def dev_key(server: Server) -> str:
    return printed(server, r"Test key \(nothing leaves with it\): +(\S+)")


async def test_what_mailers_do_by_default_is_captured(dev: Server, sink: SmtpSink, subtests: pytest.Subtests) -> None:
    port = str(dev.port(PLAIN))

    def by_smtplib() -> None:
        with smtplib.SMTP("127.0.0.1", int(port), timeout=20) as client:
            text = "Subject: smtplib\nFrom: app@example.com\nTo: you@example.com\n\nIt works\n"
            client.sendmail("app@example.com", ["you@example.com"], text)
        with smtplib.SMTP("127.0.0.1", int(port), timeout=20) as client:
            client.login("anyone", "anything")

    await asyncio.to_thread(by_smtplib)
    sent = ["smtplib"]
    with subtests.test("Nodemailer"):
        ran = await node("defaults.mjs", environment={"PORT": port})
        assert ran.status == 0, ran.err
        assert [line.rpartition(" ")[0] for line in ran.out.splitlines()] == ["250 2.0.0 Ok:"] * 2
        sent += ["Nodemailer ✓"] * 2
    with subtests.test("Django"):
        ran = await run(sys.executable, "-c", DJANGO, environment={"PORT": port})
        assert ran.status == 0, ran.err
        sent.append("Django")
    with subtests.test("PHPMailer"):
        variables = {"PORT": port, "PHPMAILER_AUTOLOAD": needs(PHPMAILER)}
        ran = await run(needs("php"), PEERS / "php" / "defaults.php", environment=variables)
        assert ran.status == 0, ran.out + ran.err
        sent.append("PHPMailer")
    with subtests.test("swaks"):
        ran = await run(
            needs("swaks"),
            "--server",
            "127.0.0.1",
            "--port",
            port,
            "--to",
            "you@example.com",
            "--from",
            "app@example.com",
            "--header",
            "Subject: from swaks",
        )
        assert ran.status == 0, ran.out
        sent.append("from swaks")
    assert sorted(await captured(dev, len(sent))) == sorted(sent)
    assert sink.sessions == []


async def test_the_lines_that_the_start_prints_work_when_they_are_pasted(dev: Server, sink: SmtpSink) -> None:
    needs("curl")
    line = printed(dev, r"(curl [^\n]+\\\n[^\n]+)")
    ran = await run("sh", "-c", line)
    assert '"status":"captured"' in ran.out, ran.err
    environment = {
        "NODE_EXTRA_CA_CERTS": printed(dev, r"NODE_EXTRA_CA_CERTS=(\S+)"),
        "SENDKIT_API_KEY": dev_key(dev),
        "SENDKIT_SMTP_PORT": str(dev.port("SMTP, STARTTLS")),
    }
    ran = await node("nodemailer.mjs", environment=environment)
    assert ran.status == 0, ran.err
    await captured(dev, 2)
    page = await run("curl", "--silent", printed(dev, r"Inbox page: +(\S+)"))
    assert "Hello from Nodemailer" in page.out and "you@example.com" in page.out
    assert sink.sessions == []


@pytest.mark.engine("sqlite")
async def test_a_second_start_has_the_same_key_and_the_same_mails_until_the_inbox_is_cleared(dev: Server) -> None:
    key = dev_key(dev)
    message_id = await dev.send(key, subject="Kept ✓")
    await dev.settled(key, message_id, "delivered")
    assert (await dev.stop(), (dev.data_dir / "dev-key").stat().st_mode & 0o777) == (0, 0o600)
    status, out, _ = await dev.command("inbox")
    assert status == 0 and "Kept ✓" in out and message_id in out
    await dev.start("--dev")
    assert dev_key(dev) == key
    assert (await dev.email(key, message_id))["status"] == "delivered"
    status, out, _ = await dev.command("inbox")
    assert status == 0 and "ann@there.test" in out and "Kept ✓" in out
    assert (await dev.command("inbox", "--clear"))[:2] == (0, "Removed 1 mails.\n")
    assert (await dev.command("inbox"))[:2] == (0, "The inbox is empty.\n")


@pytest.mark.engine("sqlite")
async def test_a_taken_port_moves_to_the_next_free_one_and_the_banner_says_which(
    make_server: Callable[..., Server],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        server = await make_server(
            SENDKIT_HTTP_BIND=f"127.0.0.1:{taken}", SENDKIT_DEV_SMTP_BIND=f"127.0.0.1:{taken}"
        ).start("--dev")
        assert taken < server.port("HTTP API") <= taken + 100
        assert server.port(PLAIN) != server.port("HTTP API")
        assert f":{server.port('HTTP API')}/emails" in server.banner
        assert (await server.call("GET", "/health")).status == 200


async def test_the_inbox_page_is_for_this_machine_alone(dev: Server) -> None:
    key = dev_key(dev)
    await dev.settled(key, await dev.send(key, subject="Secret plans"), "delivered")
    for host, seen in (("127.0.0.1", True), ("localhost", True), ("evil.test", False), ("127.0.0.1.evil.test", False)):
        async with connected(dev.port("HTTP API")) as talk:
            port = dev.port("HTTP API")
            await talk.say(f"GET /ui/inbox HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/html\r\n\r\n".encode())
            reply = await talk.http()
        assert (reply.status == 200) == seen, host
        assert (b"Secret plans" in reply.raw) == seen, host


async def test_a_live_key_still_delivers_beside_dev_mode(dev: Server, sink: SmtpSink) -> None:
    key = await dev.live_key()
    message_id = await dev.send(key)
    await dev.settled(key, message_id, "delivered")
    assert len(sink.mails) == 1


async def test_html_in_a_captured_mail_never_runs_on_the_inbox_page(dev: Server) -> None:
    key = dev_key(dev)
    message_id = await dev.send(key, subject="<script>alert(1)</script>", html="<script>alert(2)</script>")
    await dev.settled(key, message_id, "delivered")
    for path in ("/ui/inbox", f"/ui/inbox/{message_id}"):
        reply = await dev.call("GET", path)
        assert reply.status == 200
        assert b"<script>alert(1)" not in reply.raw
        page_policy = reply.headers.get("content-security-policy", "")
        assert "script-src 'none'" in page_policy or "default-src 'none'" in page_policy


async def test_the_dev_listener_without_dev_is_refused_with_the_reason(make_server: Callable[..., Server]) -> None:
    server = make_server(SENDKIT_DEV_SMTP_BIND="127.0.0.1:0")
    status, _, err = await server.command("serve")
    assert status == 1
    assert "dev_smtp_bind needs `sendkit serve --dev`" in err
    server = make_server(SENDKIT_DEV_SMTP_BIND="0.0.0.0:0")
    status, _, err = await server.command("serve", "--dev")
    assert status == 1
    assert "keep it on loopback" in err


async def test_verified_tls_works_on_both_ports_with_the_printed_ca(dev: Server) -> None:
    ca = Path(printed(dev, r"SSL_CERT_FILE=(\S+)"))
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT

    def both() -> None:
        with smtplib.SMTP_SSL("localhost", dev.port("SMTP, TLS"), context=context, timeout=20) as client:
            client.login("sendkit", dev_key(dev))
        with smtplib.SMTP("127.0.0.1", dev.port("SMTP, STARTTLS"), timeout=20) as client:
            client.starttls(context=context)
            client.login("sendkit", dev_key(dev))
            client.sendmail("a@example.com", ["you@example.com"], "From: a@example.com\n\nx")

    await asyncio.to_thread(both)
    await captured(dev, 1)
