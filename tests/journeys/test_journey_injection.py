"""Nobody adds a header, a recipient, a part or a mail by what they write into a field or say at the wrong moment."""

from __future__ import annotations

import asyncio
import email
import json
import ssl
from email import policy
from typing import Any
from urllib.parse import urlencode

import pytest
from dkim_checks import both_verify, publish
from raw_talk import connected
from server import Reply, Server, until
from sinks import DnsServer, SmtpSink

KNOWN = {
    "dkim-signature", "from", "to", "cc", "reply-to", "subject", "date", "message-id", "mime-version", "content-type",
    "content-transfer-encoding", "x-a",
    "=?utf-8?q?bcc?=",  # a name like another: nobody decodes the names of fields
}  # fmt: skip
BREAKS = [
    "\r\n", "\n", "\r", "\r\n\r\n", "\n\n", "\r\n ", "\n\t", "\0", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\u560a\u560d",
    "%0d%0a", "\\r\\n", "=0D=0A", "=?utf-8?q?=0D=0A?=", "=?utf-8?b?DQo=?=", "&#13;&#10;", "\r\n.\r\n",
]  # fmt: skip
MEMBERS = ("from", "to", "cc", "bcc", "reply_to", "subject", "text", "html")


def attacks() -> list[dict[str, Any]]:
    """Calls that try to say more than their fields; each on top of an honest one."""
    found: list[dict[str, Any]] = []
    for line_end in BREAKS:
        evil = f"{line_end}Bcc: evil@evil.test{line_end}X-Evil: 1{line_end}"
        for member in ("from", "to", "cc", "bcc", "reply_to"):
            found += [
                {member: f"a@sender.test{evil}"},
                {member: f"Name{evil} <a@sender.test>"},
                {member: f'"Name{evil}" <a@sender.test>'},
                {member: f"a{evil}@sender.test"},
                {member: f"<a@sender.test{evil}>"},
            ]
        found += [
            {"subject": f"s{evil}"},
            {"text": f"t{evil}{line_end}.{line_end}MAIL FROM:<a@evil.test>{line_end}"},
            {"html": f"<p>{evil}{line_end}.{line_end}"},
            {"headers": {"X-A": f"v{evil}"}},
            {"headers": {f"X-A{evil}": "v"}},
            {"headers": {f"X-A: v{line_end}X-Evil": "1"}},
            {"headers": {"Reply-To": f"a@sender.test{evil}"}},
            {"headers": {"Message-ID": f"<a@b>{evil}"}},
            {"headers": {"Message-ID": f"<a{evil}@b>"}},
        ]
    for name in (
        "Bcc", "bcc", "BCC", " Bcc", "Bcc ", "Bcc\t", "Bcc:", "Cc", "To", "From", "Sender", "Resent-Bcc", "Resent-To",
        "Return-Path", "Received", "DKIM-Signature", "Content-Type", "Content-Transfer-Encoding", "content-disposition",
        "ARC-Seal", "Authentication-Results", "Вcc", "Bcc\u200b", "", ":", "X-Evil\0", "=?utf-8?q?Bcc?=",
    ):  # fmt: skip
        found.append({"headers": {name: "evil@evil.test"}})
    for address in (
        "ann@there.test, evil@evil.test", "ann@there.test;evil@evil.test", "ann@there.test evil@evil.test",
        "ann@there.test\0@evil.test", "ann@there.test> RCPT TO:<evil@evil.test", "<ann@there.test>,<evil@evil.test>",
        "<@evil.test:ann@there.test>", "ann%evil.test@there.test", "Team: ann@there.test, evil@evil.test;",
        '"ann@there.test, evil@evil.test" <ann@there.test>', "evil@evil.test <ann@there.test>", "ann@there.test(evil@evil.test)",
        "ann@there.test SIZE=1", "ann@[127.0.0.1]", '"a\\"> X"@there.test', "=?utf-8?q?evil=40evil.test=2C?= <ann@there.test>",
    ):  # fmt: skip
        found += [{"to": address}, {"cc": [address]}, {"bcc": [address]}, {"reply_to": address}]
    return found


ATTACHED = [
    {"filename": f"a{line_end}X-Evil: 1{line_end}.txt", "content": "eA=="} for line_end in BREAKS
] + [
    {"filename": 'a"; x="', "content": "eA=="},
    {"filename": "a", "content": "eA==", "content_type": "text/plain\r\nX-Evil: 1"},
    {"filename": "a", "content": "eA==", "content_type": "multipart/mixed; boundary=x"},
    {"filename": "a", "content": "eA==", "content_type": 'text/plain; name="\r\nX-Evil: 1"'},
    {"filename": "a", "content": "eA==", "content_id": "a>\r\nX-Evil: 1"},
    {"filename": "../../etc/passwd", "content": "eA=="},
]  # fmt: skip

HONEST = {"from": "a@sender.test", "to": "ann@there.test", "subject": "s", "text": "t"}


def as_form(call: dict[str, Any]) -> tuple[bytes, str]:
    """The call percent-encoded, as a browser or an old client posts it."""
    pairs = [(name, value) for name in MEMBERS if name in call for value in listed(call[name])]
    pairs += [(f"headers[{name}]", value) for name, value in call.get("headers", {}).items()]
    return urlencode(pairs).encode(), "application/x-www-form-urlencoded"


def as_multipart(call: dict[str, Any]) -> tuple[bytes, str]:
    """The call as multipart/form-data, its values as they are."""
    parts = [(name, value) for name in MEMBERS if name in call for value in listed(call[name])]
    parts += [(f"headers[{name}]", value) for name, value in call.get("headers", {}).items()]
    body = "".join(
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts
    )
    return f"{body}--xyz--\r\n".encode(), "multipart/form-data; boundary=xyz"


def as_json(call: dict[str, Any]) -> tuple[bytes, str]:
    return json.dumps(call).encode(), "application/json"


def listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("encoded", [as_json, as_form, as_multipart])
async def test_no_field_adds_a_header_or_a_recipient(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer, encoded: Any
) -> None:
    await publish(server, dns)
    dns.zone["evil.test"] = dns.zone["sender.test"] = {"MX": ["10 mx.there.test."]}
    calls = [{**HONEST, **attack} for attack in attacks()]
    if encoded is as_json:
        calls += [{**HONEST, "attachments": [attached]} for attached in ATTACHED]
    asked: dict[str, set[str]] = {}

    async def send(call: dict[str, Any]) -> None:
        body, kind = encoded(call)
        reply = await server.call("POST", "/emails", key, body, {"Content-Type": kind})
        assert reply.status in (200, 401, 415, 422), (call, reply.raw)
        if reply.status == 200:
            assert len(reply.json["data"]) == 1
            valid = {one["email"] for one in reply.json["validation"]["recipients"]}
            assert len(valid) <= 1 + sum(name in call for name in ("cc", "bcc"))
            asked[reply.json["id"]] = valid

    limit = asyncio.Semaphore(8)

    async def one(call: dict[str, Any]) -> None:
        async with limit:
            await send(call)

    await asyncio.gather(*map(one, calls))
    assert 20 < len(asked) < len(calls) - 100
    await until(lambda: sum(len(mail.recipients) for mail in sink.mails) >= sum(map(len, asked.values())))
    for mail in sink.mails:
        message = email.message_from_bytes(mail.raw, policy=policy.compat32)
        names = [name.lower() for name in message]
        assert set(names) <= KNOWN and len(names) == len(set(names)), mail.raw
        for part in message.walk():
            assert part["X-Evil"] is None
            assert part.get_content_maintype() != "message"
        assert not any("evil.test" in recipient.rpartition("@")[2] for recipient in mail.recipients)
    assert sum(len(mail.recipients) for mail in sink.mails) == sum(map(len, asked.values()))
    assert all(session.commands[0].startswith("EHLO") for session in sink.sessions)
    await both_verify([mail.raw for mail in sink.mails][-20:], dns)


async def test_no_json_value_in_any_member_is_a_fault_of_ours(server: Server, key: str) -> None:
    odd: list[Any] = [
        None, True, False, 0, -1, 1e308, 10**30, "", " ", [], {}, [[]], [None], [{}], {"0": "ann@there.test"}, {"a": 1}, [1],
        ["ann@there.test", None], {"name": []}, [{"name": 1}], [{"content": "!"}], [{"filename": None, "content": ""}],
        "x" * 100_000, ["ann@there.test"] * 60, "\ud83d\ude00",
    ]  # fmt: skip
    names = (
        *MEMBERS,
        "headers",
        "attachments",
        "tags",
        "metadata",
        "check_only",
        "scheduled_at",
        "template",
        "unknown",
    )
    statuses = set()
    for name in names:
        for value in odd:
            reply = await server.call("POST", "/emails", key, {**HONEST, "check_only": True, name: value})
            assert reply.status in (200, 422), (name, value, reply.raw)
            statuses.add(reply.status)
            if reply.status == 422:
                assert reply.json["name"] == "validation_error", (name, value)
    assert statuses == {200, 422}


REFUSED_ENDS = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n\n.\r\n", b"\r\r\n.\r\r\n",
]  # fmt: skip
TAKEN_ENDS = [b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\x85.\x85", b"\xe2\x80\xa8.\xe2\x80\xa8"]


async def test_only_crlf_dot_crlf_ends_a_mail_and_a_bare_cr_or_lf_is_refused(
    server: Server, key: str, sink: SmtpSink
) -> None:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    smuggled = b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<evil@there.test>\r\nDATA\r\n"
    for end in (*REFUSED_ENDS, *TAKEN_ENDS):
        async with connected(server.port("SMTP, TLS"), context) as talk:
            assert (await talk.smtp()).startswith("220 ")
            await talk.login(key)
            await talk.smtp("MAIL FROM:<a@sender.test>")
            await talk.smtp("RCPT TO:<ann@there.test>")
            assert (await talk.smtp("DATA")).startswith("354")
            await talk.say(b"From: a@sender.test\r\nSubject: s\r\n\r\nhello" + end + smuggled + b"x\r\n.\r\n")
            reply = await talk.smtp()
            if end in TAKEN_ENDS:
                assert reply.startswith("250 2.0.0 Ok: msg_"), end
            else:
                assert reply == "550 5.5.2 Bare <CR> or <LF> is not allowed", end
            assert (await talk.smtp("NOOP")).startswith("250"), end
    await until(lambda: len(sink.mails) == len(TAKEN_ENDS))
    assert all(mail.recipients == ["ann@there.test"] for mail in sink.mails)


async def test_nothing_said_before_starttls_counts_after_it(server: Server, key: str, sink: SmtpSink) -> None:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    port = server.port("SMTP, STARTTLS")
    async with connected(port) as talk:
        await talk.smtp()
        await talk.smtp("EHLO client.test")
        # What came in the same packet could be another's words.
        await talk.say(b"STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<a@sender.test>\r\n")
        reply = await talk.smtp()
        assert reply.startswith("5"), reply
    async with connected(port) as talk:
        await talk.smtp()
        await talk.smtp("EHLO client.test")
        assert await talk.smtp("MAIL FROM:<a@sender.test>") == "530 5.7.0 Authentication required"
        assert await talk.smtp("AUTH PLAIN AHNlbmRraXQAeA==") == "530 5.7.0 Must issue a STARTTLS command first"
        assert (await talk.smtp("STARTTLS")).startswith("220 ")
        await talk.start_tls(context)
        assert (await talk.smtp("MAIL FROM:<a@sender.test>")).startswith("503 ")
        await talk.login(key)
        assert (await talk.smtp("MAIL FROM:<a@sender.test>")).startswith("250 ")
        assert (await talk.smtp("RSET")).startswith("250 ")


async def test_ten_megabytes_without_a_line_end_are_cut_off_and_others_are_served(server: Server, key: str) -> None:
    async with connected(server.port("SMTP, STARTTLS")) as talk:
        await talk.smtp()
        await talk.say(b"A" * 10_000_000)
        assert (await talk.smtp()).startswith("500 5.5.2 ")
    assert await is_sent(server, key)


async def is_sent(server: Server, key: str) -> bool:
    reply: Reply = await server.call("POST", "/emails", key, HONEST)
    return reply.status == 200


async def test_a_browsers_post_to_the_smtp_door_does_nothing(server: Server, sink: SmtpSink) -> None:
    async with connected(server.port("SMTP, STARTTLS")) as talk:
        await talk.say(
            b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\nMAIL FROM:<a@sender.test>\r\nRCPT TO:<ann@there.test>\r\n"
        )
        said = (await talk.rest()).decode()
    assert said.startswith("220 ")
    assert "\r\n250" not in said
    assert sink.mails == []
