"""The programs that people already have, unchanged: what each sends arrives, signed so that strangers can verify it."""

from __future__ import annotations

import asyncio
import email
import smtplib
import ssl
import sys
from email import policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from clients import EXAMPLES, PHPMAILER, Ran, needs, node, run
from dkim_checks import both_verify, publish
from sendkit import SendKit, SendKitError
from server import Server, until
from sinks import DnsServer, SmtpSink

PROGRAMS = {
    "curl.sh": ["sh"],
    "python_sendkit.py": [sys.executable],
    "python_smtplib.py": [sys.executable],
    "django_mail.py": [sys.executable],
    "phpmailer.php": ["php"],
    "nodemailer.mjs": ["node"],
}


def environment(server: Server, key: str) -> dict[str, str]:
    """What the examples read."""
    return {
        "SENDKIT_API_KEY": key,
        "SENDKIT_BASE_URL": server.url,
        "SENDKIT_SMTP_HOST": "localhost",
        "SENDKIT_SMTP_PORT": str(server.port("SMTP, STARTTLS")),
        "MAIL_FROM": "app@sender.test",
        "MAIL_TO": "ann@there.test",
        "SSL_CERT_FILE": str(server.ca_file),
        "NODE_EXTRA_CA_CERTS": str(server.ca_file),
        "PHPMAILER_AUTOLOAD": PHPMAILER,
    }


async def example(name: str, variables: dict[str, str]) -> Ran:
    """Runs a program of the examples folder."""
    if name.endswith(".mjs"):
        return await node(name, environment=variables)
    needs(PROGRAMS[name][0])
    if name.endswith(".php"):
        needs(PHPMAILER)
    if name == "curl.sh":
        needs("curl")
    return await run(*PROGRAMS[name], EXAMPLES / name, environment=variables)


def parsed(raw: bytes) -> EmailMessage:
    return email.message_from_bytes(raw, policy=policy.default)


async def test_every_example_sends_a_mail_that_arrives_and_verifies_and_is_found_again(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer, subtests: pytest.Subtests
) -> None:
    await publish(server, dns)
    for name in PROGRAMS:
        with subtests.test(name):
            before = len(sink.mails)
            ran = await example(name, environment(server, key))
            assert ran.status == 0, ran.out + ran.err
            await until(lambda before=before: len(sink.mails) > before)  # type: ignore[misc]  # a default binds it now
            (mail,) = sink.mails[before:]
            message = parsed(mail.raw)
            assert mail.recipients == ["ann@there.test"]
            assert str(message["Subject"]).startswith("Hello from ")
            texts = message.get_body(("plain",)), message.get_body(("html",))
            assert [part.get_content().strip() for part in texts if part] == ["It works", "<p>It works</p>"]
            found = await server.email(key, message["Message-ID"].strip("<>").replace("@", "%40"))
            assert found["message_id"] == message["Message-ID"]
            if name.endswith((".mjs", ".php")):
                assert ran.out.strip() == message["Message-ID"]
    await both_verify([mail.raw for mail in sink.mails], dns)


async def test_a_pool_of_nodemailer_sends_many_mails_and_each_is_answered_with_its_own_id(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    await publish(server, dns)
    variables = {
        "PORT": str(server.port("SMTP, TLS")),
        "KEY": key,
        "COUNT": "12",
        "NODE_EXTRA_CA_CERTS": str(server.ca_file),
    }
    ran = await node("pooled.mjs", environment=variables)
    assert ran.status == 0, ran.err
    replies = [line.split("\t") for line in ran.out.splitlines()]
    ids = [reply.removeprefix("250 2.0.0 Ok: ") for reply, _ in replies]
    assert len(set(ids)) == 12
    await until(lambda: len(sink.mails) == 12)
    for mail in sink.mails:
        message = parsed(mail.raw)
        assert sorted(mail.recipients) == ["ann@there.test", "carl@there.test", "hidden@there.test"]
        assert b"hidden@" not in mail.raw
        number = str(message["Subject"]).split()[1]
        assert str(message["Subject"]) == f"Grüße {number} ✓"
        assert str(message["From"].addresses[0].display_name) == "Ácme, Inc."
        body = message.get_body(("plain",))
        assert body is not None
        assert body.get_content().replace("\r\n", "\n") == f"ünïcode {number}\n.\n..dots\nFrom here\n"
        (attached,) = message.iter_attachments()
        assert (attached.get_filename(), attached.get_content().strip()) == ("größe ☃.txt", "fünf")
    found = await server.email(key, replies[0][1])
    assert found["id"] == ids[0] and found["door"] == "smtp"
    await both_verify([mail.raw for mail in sink.mails], dns)


async def test_node_refuses_the_certificate_without_the_printed_ca(server: Server, key: str) -> None:
    variables = environment(server, key) | {"NODE_EXTRA_CA_CERTS": ""}
    ran = await node("nodemailer.mjs", environment=variables)
    assert ran.status != 0
    assert "certificate" in ran.err


async def test_swaks_sends_over_verified_starttls_and_verified_tls(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    swaks = needs("swaks")
    await publish(server, dns)
    for label, flag, mechanism in (
        ("SMTP, STARTTLS", "--tls", "PLAIN"),
        ("SMTP, STARTTLS", "--tls", "LOGIN"),
        ("SMTP, TLS", "--tls-on-connect", "LOGIN"),
    ):
        ran = await run(
            swaks, "--server", "localhost", "--port", str(server.port(label)), flag, "--tls-verify",
            "--tls-ca-path", server.ca_file, "--auth", mechanism, "--auth-user", "sendkit", "--auth-password", key,
            "--from", "app@sender.test", "--to", "ann@there.test,bob@there.test", "--header", "Subject: from swaks",
            "--body", "one\n.two\n..three\n", "--header", "X-Mailer: swaks",
        )  # fmt: skip
        assert ran.status == 0, ran.out
        assert "250 2.0.0 Ok: msg_" in ran.out
    await until(lambda: len(sink.mails) == 3)
    for mail in sink.mails:
        assert sorted(mail.recipients) == ["ann@there.test", "bob@there.test"]
        assert b"one\r\n.two\r\n..three\r\n" in mail.raw
    await both_verify([mail.raw for mail in sink.mails], dns)


async def test_curl_sends_by_smtp_and_smtps(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer, tmp_path: Path
) -> None:
    curl = needs("curl")
    await publish(server, dns)
    mail = tmp_path / "mail.eml"
    mail.write_bytes(b"From: app@sender.test\nTo: ann@there.test\nSubject: by curl\n\n.\nline\n")
    for url in (
        f"smtp://localhost:{server.port('SMTP, STARTTLS')}",
        f"smtps://localhost:{server.port('SMTP, TLS')}",
    ):
        ran = await run(
            curl, "--silent", "--show-error", "--ssl-reqd", "--cacert", server.ca_file, "--url", url,
            "--user", f"sendkit:{key}", "--mail-from", "app@sender.test", "--mail-rcpt", "ann@there.test",
            "--upload-file", mail, "--crlf",
        )  # fmt: skip
        assert ran.status == 0, ran.err
    await until(lambda: len(sink.mails) == 2)
    for received in sink.mails:
        assert received.raw.endswith(b"\r\n\r\n.\r\nline\r\n")
    await both_verify([received.raw for received in sink.mails], dns)


async def test_curl_uploads_a_form_with_a_file(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer, tmp_path: Path
) -> None:
    curl = needs("curl")
    await publish(server, dns)
    file = tmp_path / "invoice 1.pdf"
    file.write_bytes(bytes(range(256)))
    ran = await run(
        curl, "--silent", "--fail-with-body", f"{server.url}/emails", "-H", f"Authorization: Bearer {key}",
        "-F", "from=Acme <app@sender.test>", "-F", "to[]=ann@there.test", "-F", "cc=carl@there.test",
        "-F", "subject=Ünïcode", "-F", "text=It works", "-F", "headers[X-Order]=17", "-F", f"attachments=@{file}",
    )  # fmt: skip
    assert ran.status == 0, ran.out
    await until(lambda: sink.mails)
    (mail,) = sink.mails
    message = parsed(mail.raw)
    assert mail.recipients == ["ann@there.test", "carl@there.test"]
    assert (message["Subject"], message["X-Order"]) == ("Ünïcode", "17")
    (attached,) = message.iter_attachments()
    assert attached.get_filename() == "invoice 1.pdf"
    assert attached.get_content_type() == "application/pdf"
    assert attached.get_content() == bytes(range(256))
    await both_verify([mail.raw], dns)


async def test_the_python_package_reads_refusals_word_for_word(server: Server, key: str) -> None:
    calls = {
        (422, "validation_error", "The to field is required."): {"to": []},
        (422, "validation_error", "The 'to' field contains an invalid email address"): {"to": "nobody"},
        (422, "validation_error", "The from address domain is not verified."): {"from_": "a@foreign.test"},
        (422, "validation_error", "'scheduled_at' is not supported yet"): {"scheduled_at": "2030-01-01T00:00:00Z"},
    }
    mail = {"from_": "a@sender.test", "to": "ann@there.test", "subject": "s", "text": "t"}

    def refused(client: SendKit, members: dict[str, object]) -> tuple[int | None, str, str]:
        with pytest.raises(SendKitError) as caught:
            client.emails.send(**{**mail, **members})
        return caught.value.status_code, caught.value.name, caught.value.message

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        for expected, members in calls.items():
            # A slash at the end of the base makes `//emails`.
            assert await asyncio.to_thread(refused, SendKit(key, base_url=f"{server.url}/"), members) == expected
        found = await asyncio.to_thread(refused, SendKit("sk_wrong", base_url=f"{server.url}/v1"), {})
    assert found == (401, "invalid_api_key", "The API key is invalid.")


async def test_ed25519_adds_a_second_signature_and_both_verify(make_server, sink: SmtpSink, dns: DnsServer) -> None:
    server = await make_server(SENDKIT_DKIM="rsa,ed25519").start()
    key = await server.live_key()
    await publish(server, dns)
    await server.send(key, subject="Grüße", to=["ann@there.test", "bob@elsewhere.test"])
    await until(lambda: len(sink.mails) == 2)
    await both_verify([mail.raw for mail in sink.mails], dns, ("rsa-sha256", "ed25519-sha256"))


async def test_a_wrong_or_revoked_key_is_refused_by_smtp_word_for_word(server: Server, key: str) -> None:
    def login(user: str, password: str) -> tuple[int, str]:
        with smtplib.SMTP("localhost", server.port("SMTP, STARTTLS"), timeout=20) as client:
            client.starttls(context=ssl.create_default_context(cafile=str(server.ca_file)))
            try:
                code, text = client.login(user, password)
            except smtplib.SMTPAuthenticationError as error:
                code, text = error.smtp_code, error.smtp_error
            return code, text.decode()

    for user in ("sendkit", "resend", "apikey", "api"):
        assert await asyncio.to_thread(login, user, key) == (235, "2.7.0 Authentication successful")
    assert await asyncio.to_thread(login, "sendkit", "sk_wrong") == (535, "5.7.8 Authentication failed")
    assert await asyncio.to_thread(login, "somebody", key) == (535, "5.7.8 Authentication failed")
    (row,) = (await server.act("keys.list"))["data"]
    await server.act("keys.revoke", id=row["id"])
    assert await asyncio.to_thread(login, "sendkit", key) == (535, "5.7.8 Authentication failed")
