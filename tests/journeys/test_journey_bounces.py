"""What comes back: a mail is sent, its recipient's server returns it, and the API tells."""

from __future__ import annotations

import asyncio
import smtplib
import subprocess
import sys
from typing import Any

from server import SENDKIT, Server
from sinks import DnsServer, SmtpSink

DSN = """\
From: MAILER-DAEMON@mx.there.test\r
To: {return_path}\r
Subject: Undelivered Mail Returned to Sender\r
Message-ID: <1@mx.there.test>\r
Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r
\r
--b\r
Content-Type: message/delivery-status\r
\r
Reporting-MTA: dns; mx.there.test\r
\r
Final-Recipient: rfc822; ann@there.test\r
Action: failed\r
Status: 5.1.1\r
Diagnostic-Code: smtp; 550 5.1.1 <ann@there.test>: User unknown\r
\r
--b--\r
"""
ARF = """\
From: fbl@provider.test\r
To: {return_path}\r
Subject: FW: Hello\r
Content-Type: multipart/report; report-type=feedback-report; boundary="b"\r
\r
--b\r
Content-Type: message/feedback-report\r
\r
Feedback-Type: abuse\r
User-Agent: Provider/1\r
\r
--b--\r
"""
ABSENCE = """\
From: ann@there.test\r
To: {return_path}\r
Subject: Automatic reply: Hello\r
Auto-Submitted: auto-replied\r
\r
I do not work here any more; 550 5.1.1 user unknown.\r
"""


def bring_back(server: Server, return_path: str, text: str) -> None:
    """As the recipient's server does; smtplib raises for anything but 250."""
    with smtplib.SMTP("127.0.0.1", server.port("Bounces and complaints"), timeout=20) as client:
        client.sendmail("", [return_path], text.format(return_path=return_path))


async def delivered(server: Server, key: str, sink: SmtpSink) -> tuple[str, str]:
    """A delivered mail: its id and its return path."""
    message_id = await server.send(key)
    await server.settled(key, message_id, "delivered")
    return message_id, sink.mails[-1].return_path


async def metric(server: Server, line: str) -> bool:
    reply = await server.call("GET", "/metrics")
    return line in reply.raw.decode()


async def test_a_returned_mail_is_bounced_with_what_to_do_about_it(server: Server, key: str, sink: SmtpSink) -> None:
    message_id, return_path = await delivered(server, key, sink)
    await asyncio.to_thread(bring_back, server, return_path, DSN)
    await asyncio.to_thread(bring_back, server, return_path, DSN)
    found = await server.email(key, message_id)
    assert (found["status"], found["last_event"]) == ("bounced", "bounced")
    assert found["recipients"][0]["bounce"] == {
        "type": "hard",
        "subtype": "no_such_user",
        "code": 550,
        "enhanced": "5.1.1",
        "diagnostic": "550 5.1.1 <ann@there.test>: User unknown",
        "explanation": "There is no such mailbox.",
        "action": "Remove the address; it is suppressed from now on.",
    }
    assert [event["type"] for event in found["events"]] == ["sent", "delivered", "bounced"]
    assert await metric(server, 'sendkit_inbound_total{kind="bounced"} 1.0')
    assert await metric(server, 'sendkit_inbound_total{kind="repeated"} 1.0')


async def test_an_unknown_address_is_suppressed_whatever_its_domain_is_called(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    sink.answers["RCPT"] = "550 5.1.1 User unknown"
    dns.zone.update({"greylist.test": {"MX": ["10 mx.greylist.test."]}, "mx.greylist.test": dns.zone["mx.there.test"]})
    for domain, subtype in (("greylist.test", "no_such_user"), ("spamhaus.test", "no_such_domain")):
        message_id = await server.send(key, to=[f"joe@{domain}"])
        found = await server.settled(key, message_id, "bounced")
        bounce = found["recipients"][0]["bounce"]
        assert (bounce["type"], bounce["subtype"]) == ("hard", subtype)
        again = await server.send(key, to=[f"joe@{domain}"])
        await server.settled(key, again, "suppressed")


async def test_a_recipient_cannot_make_one_at_another_domain_bounce(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    dns.zone.update({"also.test": {"MX": ["10 mx.also.test."]}, "mx.also.test": dns.zone["mx.there.test"]})
    message_id = await server.send(key, to=["ann@there.test"], cc=["eve@also.test"])
    await server.settled(key, message_id, "delivered")
    (to_eve,) = [mail.return_path for mail in sink.mails if "eve@also.test" in mail.recipients]
    await asyncio.to_thread(bring_back, server, to_eve, DSN)
    assert (await server.email(key, message_id))["status"] == "delivered"
    assert await metric(server, 'sendkit_inbound_total{kind="nobody"} 1.0')


async def test_a_complaint_is_told(server: Server, key: str, sink: SmtpSink) -> None:
    message_id, return_path = await delivered(server, key, sink)
    await asyncio.to_thread(bring_back, server, return_path, ARF)
    found = await server.email(key, message_id)
    assert (found["status"], found["recipients"][0]["bounce"]) == ("complained", None)
    assert found["recipients"][0]["reason"].startswith("The recipient complained (abuse); Provider/1 told it at ")


async def test_an_answering_machine_and_a_forged_return_path_change_nothing(
    server: Server, key: str, sink: SmtpSink
) -> None:
    message_id, return_path = await delivered(server, key, sink)
    await asyncio.to_thread(bring_back, server, return_path, ABSENCE)
    forged = return_path.replace("@", "0@") if return_path[10] != "0" else return_path.replace("@", "1@")
    refused = await asyncio.to_thread(refusal, server, forged)
    assert refused[forged][0] == 550
    assert refused[forged][1].startswith(b"5.7.1 ")
    found = await server.email(key, message_id)
    assert [event["type"] for event in found["events"]] == ["sent", "delivered"]
    assert await metric(server, 'sendkit_inbound_total{kind="ignored"} 1.0')
    assert await metric(server, 'sendkit_errors_total{door="inbound",name="not_a_return_path"} 1.0')


def refusal(server: Server, return_path: str) -> Any:
    try:
        bring_back(server, return_path, DSN)
    except smtplib.SMTPRecipientsRefused as error:
        return error.recipients
    raise AssertionError("it was taken")


def pipe(server: Server, text: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, SENDKIT, "inbound", *arguments], input=text.replace("\r\n", "\n").encode(), capture_output=True,
        env=server.environment, cwd=server.data_dir.parent, timeout=60, check=False,
    )  # fmt: skip


async def test_a_mail_servers_pipe_brings_mail_back_while_the_server_runs_and_while_it_does_not(
    server: Server, key: str, sink: SmtpSink
) -> None:
    message_id, return_path = await delivered(server, key, sink)
    text = DSN.format(return_path=return_path)
    assert (
        await asyncio.to_thread(pipe, server, text.replace(return_path, "bounces@mail.sender.test"))
    ).returncode == 65
    done = await asyncio.to_thread(pipe, server, text)
    assert (done.returncode, done.stderr) == (0, b"bounced\n")
    assert (await server.email(key, message_id))["status"] == "bounced"
    await server.stop()
    again = await asyncio.to_thread(pipe, server, text, "--to", return_path)
    assert (again.returncode, again.stderr) == (0, b"repeated\n")


async def test_a_pipe_that_finds_no_store_says_that_it_has_to_be_tried_again(server: Server, key: str) -> None:
    (server.data_dir / "control").unlink()
    server.settings["SENDKIT_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    server.settings.setdefault("SENDKIT_SECRET_KEY", "k" * 48)
    assert (await asyncio.to_thread(pipe, server, DSN, "--to", "b-1@mail.sender.test")).returncode == 75
