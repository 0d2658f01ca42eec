"""What people write arrives: any text in any field, and mail that came in by SMTP in any shape that could not travel."""

from __future__ import annotations

import asyncio
import base64
import email
import http.client
import json
import quopri
import re
import smtplib
import ssl
import time
from email import policy
from email.message import EmailMessage
from typing import Any

import dkim
import pytest
from dkim_checks import answers_of, both_verify, publish, verified
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server import Server, until
from sinks import DnsServer, SmtpSink

EXAMPLES = 120
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
NAME_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
FOLD = re.compile(r"\r?\n[ \t]+")
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")

any_character = st.characters(exclude_categories=["Cs"])
# What has broken mailers before: line ends of every kind, separators, direction marks, emoji, lone combining marks,
# encoded words, boundaries, dots, and words longer than a line may be.
special = st.sampled_from(
    ["\r", "\n", "\r\n", "\r\n.\r\n", "\0", "\t", " ", "  ", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\u202e",
     "עברית", "👩🏽\u200d🚀", "\u0301", "=?utf-8?q?a?=", "=?", "?=", "--=_", "\n.", "\n..", "From ", "\nFrom ", "=", "=20", ".",
     '"', "\\", "<", ">", ",", ";", ":", "@", "(", "ü" * 90, "w" * 1100, "{{NAME}}", "\n\n", " \n", "\t\n", "\ufeff", "\uffff"]
)  # fmt: skip
any_text = st.lists(
    special | st.text(any_character, max_size=20) | st.text(max_size=8, alphabet="ab c"), max_size=8
).map("".join)
any_body = any_text.filter(bool)
# Mostly what a header can say, sometimes what it must not.
clean_line = any_text.map(lambda text: CONTROL.sub("", text))
line_text = st.integers(0, 15).flatmap(lambda n: clean_line if n else any_text)
plain_name = line_text.map(lambda text: re.sub(r"[\r\n\t\x00-\x1f\x7f-\x9f\u2028\u2029]", "", text)[:200])
short_line = line_text.map(lambda text: text[:400]).filter(bool)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """A call of the API with any text in every field that takes text."""
    call: dict[str, Any] = {
        "from": named(draw(plain_name), "hello@sender.test"),
        "to": [named(draw(plain_name), "ann@there.test")],
        "cc": [named(draw(plain_name), "carl@there.test")],
        "bcc": "dora@there.test",
        "reply_to": named(draw(plain_name), "desk@sender.test"),
        "subject": draw(short_line),
        "text": draw(any_body),
        "headers": {"X-Custom": draw(short_line)},
        "attachments": [
            {"filename": draw(short_line), "content": base64.b64encode(draw(st.binary(max_size=99))).decode()}
        ],
        "tags": [{"name": "kind", "value": draw(line_text)[:200]}],
        "metadata": {"key": draw(any_text)[:200]},
    }
    if draw(st.booleans()):
        call["html"] = draw(any_body)
    return call


def named(name: str, address: str) -> str:
    """A mailbox with a quoted name."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}" <{address}>' if name else address


def must_be_refused(call: dict[str, Any]) -> bool:
    """Whether a line of the call holds what no header may say; folds are taken out of subject and headers first."""
    (header,) = call["headers"].values()
    (attachment,) = call["attachments"]
    return any(
        CONTROL.search(line)
        for line in (
            FOLD.sub(" ", call["subject"]), FOLD.sub(" ", header), attachment["filename"], call["tags"][0]["value"],
        )
    ) or "\0" in call["metadata"]["key"]  # fmt: skip


async def test_any_text_in_any_field_arrives_as_it_was_or_is_refused_and_nothing_else_is_added(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    await publish(server, dns)
    connection = http.client.HTTPConnection("127.0.0.1", server.port("HTTP API"), timeout=20)
    arrived: list[bytes] = []
    refused: list[int] = []

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip
    @given(calls())
    def holds(call: dict[str, Any]) -> None:
        before = len(sink.mails)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", "/emails", json.dumps(call), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if must_be_refused(call):
            assert (response.status, answer["name"]) == (422, "validation_error"), answer
            refused.append(before)
            return
        assert response.status == 200, answer
        deadline = time.monotonic() + 20
        while len(sink.mails) == before:
            assert time.monotonic() < deadline, "it never arrived"
            time.sleep(0.001)
        (mail,) = sink.mails[before:]
        assert sorted(mail.recipients) == ["ann@there.test", "carl@there.test", "dora@there.test"]
        travels(mail.raw)
        says(mail.raw, call)
        assert verified(mail.raw, dns)
        arrived.append(mail.raw)
        connection.request("GET", f"/emails/{answer['id']}", headers=headers)
        stored = json.loads(connection.getresponse().read())
        assert stored["subject"] == FOLD.sub(" ", call["subject"])
        assert (stored["tags"], stored["metadata"]) == (call["tags"], call["metadata"])

    try:
        await asyncio.to_thread(holds)
    finally:
        connection.close()
    assert len(arrived) > len(refused) > 0
    await both_verify(arrived[-50:], dns)


def travels(raw: bytes) -> None:
    """Fails unless every server on the way can pass the mail on: CRLF lines of at most 998 bytes of ASCII without NUL."""
    assert BARE.search(raw) is None
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998
    assert raw.isascii() and b"\0" not in raw


def says(raw: bytes, call: dict[str, Any]) -> None:
    """Fails unless the standard library reads the call's texts back from the mail, and no field that was not asked for."""
    message = email.message_from_bytes(raw, policy=policy.default)
    assert not message.defects
    assert sorted(message.keys()) == sorted(
        [
            "DKIM-Signature",
            "From",
            "To",
            "Cc",
            "Reply-To",
            "Subject",
            "Date",
            "Message-ID",
            "X-Custom",
            "MIME-Version",
            "Content-Type",
        ]
    )
    assert str(message["Subject"]) == FOLD.sub(" ", call["subject"])
    (custom,) = call["headers"].values()
    if "=?" not in custom:
        assert str(message["X-Custom"]) == FOLD.sub(" ", custom)
    for field, member in (("From", "from"), ("To", "to"), ("Cc", "cc"), ("Reply-To", "reply_to")):
        (box,) = message[field].addresses
        (wanted,) = call[member] if isinstance(call[member], list) else [call[member]]
        name, _, address = wanted.rpartition("<")
        assert box.addr_spec == address.rstrip(">")
        if "=?" not in name:
            assert shown_name(raw, field) == re.sub(r"\\(.)", r"\1", name.strip(" ")[1:-1], flags=re.DOTALL)
    for kind in ("text", "html"):
        part = message.get_body(("plain" if kind == "text" else "html",))
        if kind in call:
            assert part is not None
            is_text(part, call[kind])
        else:
            assert part is None
    (attached,) = message.iter_attachments()
    assert attached.get_payload(decode=True) == base64.b64decode(call["attachments"][0]["content"])
    filename, wanted_name = attached.get_filename(), call["attachments"][0]["filename"]
    assert filename
    if re.fullmatch(r"[\w. üא-ת👩🏽🚀'-]{1,60}", wanted_name) and wanted_name.strip(" .") == wanted_name:
        assert filename == wanted_name


def shown_name(raw: bytes, field: str) -> str:
    """The name in an address field, by RFC 5322 3.2.4 and RFC 2047 6.2.

    The standard library of Python 3.11 keeps the blanks between two encoded words of a name, so it cannot be asked.
    """
    text = str(email.message_from_bytes(raw, policy=policy.compat32)[field])
    phrase = re.sub(r"\r\n", "", text).rpartition("<")[0].removesuffix(" ")
    if phrase.startswith('"'):
        return re.sub(r"\\(.)", r"\1", phrase[1:-1])
    joined = re.sub(r"\?=[ \t]+=\?", "?==?", phrase)
    return re.sub(r"=\?utf-8\?([bq])\?([^?]*)\?=", _decoded_word, joined)


def _decoded_word(word: re.Match[str]) -> str:
    if word[1] == "b":
        return base64.b64decode(word[2]).decode()
    return quopri.decodestring(word[2].encode(), header=True).decode()


def is_text(part: EmailMessage, wanted: str) -> None:
    """The part's text, line ends apart; a mail ends with a line end where the text did not."""
    got = str(part.get_content()).replace("\r\n", "\n")
    wanted = wanted.replace("\r\n", "\n").replace("\r", "\n")
    assert got in (wanted, wanted + "\n")


def written(body: bytes, *fields: str) -> bytes:
    """A mail as an SMTP client hands it in."""
    head = ["From: app@sender.test", "To: ann@there.test", "Subject: s", "MIME-Version: 1.0", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


# Pieces that mails are made of, well-formed or not; any sequence of them may come in by SMTP.
head_line = st.sampled_from(
    [b"Subject: s", b"Subject: \xc3\xbc\xff", b"Subject: " + b"x" * 1500, b"subject:", b"X-Long: " + b"a b " * 600,
     b"To: ann@there.test", b"Cc: =?utf-8?q?x?= <carl@there.test>", b"Bcc: evil@evil.test", b"Bcc:\r\n evil@evil.test",
     b"Date: yesterday", b"Date: Tue, 24 Nov 2026 08:00:00 +0000", b"Message-ID: <a@b>", b"Message-ID: broken",
     b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=utf-8", b"Content-Type: text/html", b"Content-Type: nonsense",
     b'Content-Type: multipart/mixed; boundary="b"', b"Content-Type: multipart/alternative; boundary=b",
     b"Content-Type: message/rfc822", b"Content-Transfer-Encoding: 8bit", b"Content-Transfer-Encoding: base64",
     b"Content-Transfer-Encoding: quoted-printable", b"Content-Transfer-Encoding: binary", b"DKIM-Signature: v=1; a=x",
     b"Return-Path: <evil@evil.test>", b"Received: from x by y; Tue, 24 Nov 2026 08:00:00 +0000", b"X-Fold: a\r\n\tb\r\n c",
     b"X-Empty:", b"X-Nul: a\0b", b"Sender: other@sender.test", b"Reply-To: desk@sender.test", b"no colon at all", b" folded"]
)  # fmt: skip
body_piece = st.sampled_from(
    [b"text\r\n", b"\r\n", b".\r\n", b"..\r\n", b"--b\r\n", b"--b--\r\n", b"\xc3\xbc\r\n", b"\xff\xfe\r\n", b"\0\r\n",
     b"x" * 1200 + b"\r\n", b"\xc3\xbc" * 700 + b"\r\n", b"Content-Type: text/plain\r\n\r\n", b"eA==\r\n", b"a=20=\r\n",
     b"Content-Transfer-Encoding: 8bit\r\n", b"Content-Type: multipart/mixed; boundary=c\r\n\r\n", b"--c\r\n", b"--c--\r\n",
     b"From here\r\n", b"no line end", b" \r\n", b"\t\r\n"]
)  # fmt: skip
raw_mails = st.tuples(
    st.lists(head_line, max_size=6), st.lists(body_piece, max_size=8) | st.lists(st.binary(max_size=80), max_size=3)
)


@pytest.mark.parametrize("extensions", [("8BITMIME", "SMTPUTF8", "PIPELINING"), ()], ids=["8BITMIME", "bare"])
async def test_whatever_comes_in_by_smtp_leaves_so_that_it_can_travel_and_verifies_or_is_refused_at_once(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer, extensions: tuple[str, ...]
) -> None:
    sink.extensions = list(extensions)
    await publish(server, dns)
    dns.zone["evil.test"] = dns.zone["there.test"]
    answers: dict[int, int] = {}
    failed: list[bytes] = []
    seen: set[str] = set()
    context = ssl.create_default_context(cafile=str(server.ca_file))
    client = smtplib.SMTP_SSL("localhost", server.port("SMTP, TLS"), context=context, timeout=20)

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(raw_mails)
    def holds(mail: tuple[list[bytes], list[bytes]]) -> None:
        head, body = mail
        before = len(sink.mails)
        fields = b"".join(line + b"\r\n" for line in (b"From: app@sender.test", *head))
        raw = fields + b"\r\n" + b"".join(body).replace(b"\r\n", b"\n").replace(b"\r", b"").replace(b"\n", b"\r\n")
        client.mail("app@sender.test", ["BODY=8BITMIME"])
        client.rcpt("ann@there.test")
        code, text = client.data(raw)
        answers[code] = answers.get(code, 0) + 1
        if code != 250:
            assert code == 550, text
            return
        message_id = text.decode().rpartition(" ")[2]
        if message_id in seen:
            return  # with another Date the same mail is known again by its Message-ID
        seen.add(message_id)
        found = arrived_or_failed(server, key, sink, before, message_id)
        if found is not None:
            # What says that it is encoded and is not, or is nobody's MIME, cannot be mended without a guess.
            assert re.search("5[.]6[.][13]", json.dumps(found)) and (
                b"\0" in raw or b"x" * 1200 in raw or not raw.isascii()
            ), found
            failed.append(raw)
            return
        (received,) = sink.mails[before:]
        assert received.recipients == ["ann@there.test"]
        assert BARE.search(received.raw) is None
        assert extensions or received.raw.isascii()
        assert max(len(line) for line in received.raw.split(b"\r\n")) <= 998
        message = email.message_from_bytes(received.raw, policy=policy.compat32)
        assert message["Bcc"] is None and message["Return-Path"] is None
        assert len(message.get_all("Date", [])) >= 1 and len(message.get_all("Message-ID", [])) >= 1
        assert dkim.verify(received.raw, dnsfunc=answers_of(dns))

    try:
        client.login("sendkit", key)
        await asyncio.to_thread(holds)
    finally:
        client.close()
    assert answers[250] > answers.get(550, 0)
    assert len(failed) < answers[250] / 2


def arrived_or_failed(server: Server, key: str, sink: SmtpSink, before: int, message_id: str) -> Any:
    """Waits, outside the loop's thread, until one more mail has arrived (None) or this one has failed (its record)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port("HTTP API"), timeout=20)
    deadline = time.monotonic() + 20
    try:
        while len(sink.mails) == before:
            connection.request("GET", f"/emails/{message_id}", headers={"Authorization": f"Bearer {key}"})
            found = json.loads(connection.getresponse().read())
            if found["status"] == "failed":
                return found
            assert time.monotonic() < deadline, f"it neither arrived nor failed: {found}"
    finally:
        connection.close()
    return None


LONG_LINE = "ü" * 20 + "x" * 5000
SIGNED = b"--b\r\nContent-Type: text/plain\r\n\r\nsigned\r\n--b\r\nContent-Type: application/pkcs7-signature\r\n\r\nAA==\r\n--b--\r\n"


@pytest.mark.parametrize("extensions", [("8BITMIME", "SMTPUTF8", "PIPELINING"), ()], ids=["8BITMIME", "bare"])
async def test_mail_from_smtp_arrives_so_that_every_server_can_pass_it_on_and_nothing_is_lost(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer, extensions: tuple[str, ...]
) -> None:
    sink.extensions = list(extensions)
    await publish(server, dns)
    plain = "Content-Type: text/plain; charset=utf-8"
    eight_bit = "Content-Transfer-Encoding: 8bit"
    bodies = {
        "8bit": (written("Grüße ✓\r\n".encode(), plain, eight_bit), "Grüße ✓\n"),
        "long": (written(f"{LONG_LINE}\r\nend\r\n".encode(), plain, eight_bit), f"{LONG_LINE}\nend\n"),
        "nul": (written(b"a\0b\r\n", plain), "a\0b\n"),
        "dots": (written(b".\r\n..\r\n...\r\n.x\r\n", plain), ".\n..\n...\n.x\n"),
        "empty": (written(b"", plain), ""),
    }
    for raw, _ in bodies.values():
        await asyncio.to_thread(server.smtp_send, key, ["ann@there.test"], raw)
    await until(lambda: len(sink.mails) == len(bodies))
    texts = []
    for mail in sink.mails:
        assert BARE.search(mail.raw) is None and b"\0" not in mail.raw
        assert max(len(line) for line in mail.raw.split(b"\r\n")) <= 998
        assert mail.raw.isascii() or ("8BITMIME" in extensions and "BODY=8BITMIME" in mail.mail_parameters)
        message = email.message_from_bytes(mail.raw, policy=policy.default)
        texts.append(message.get_content().replace("\r\n", "\n"))
    assert sorted(texts) == sorted(wanted for _, wanted in bodies.values())
    await both_verify([mail.raw for mail in sink.mails], dns)


async def test_signed_mail_is_never_touched_and_ends_where_it_cannot_travel(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    await publish(server, dns)
    signed = 'Content-Type: multipart/signed; protocol="application/pkcs7-signature"; micalg=sha-256; boundary=b'
    await asyncio.to_thread(server.smtp_send, key, ["ann@there.test"], written(SIGNED, signed))
    await until(lambda: sink.mails)
    assert sink.mails[0].raw.endswith(b"\r\n\r\n" + SIGNED)
    long = SIGNED.replace(b"signed\r\n", b"x" * 1200 + b"\r\n")
    message_id = await asyncio.to_thread(server.smtp_send, key, ["ann@there.test"], written(long, signed))
    found = await server.settled(key, message_id, "failed")
    assert "5.6.3" in json.dumps(found)
    assert len(sink.mails) == 1


async def test_the_same_addresses_arrive_whatever_their_script(
    server: Server, key: str, sink: SmtpSink, dns: DnsServer
) -> None:
    await publish(server, dns)
    dns.zone["xn--80ak6aa92e.test"] = {"MX": ["10 mx.there.test."]}
    for to, envelope in (
        ("Ännchen <ann@bücher.test>", "ann@xn--bcher-kva.test"),
        ("ann@BÜCHER.test", "ann@xn--bcher-kva.test"),
        ("ann@xn--bcher-kva.test", "ann@xn--bcher-kva.test"),
        ("δοκιμή@there.test", "δοκιμή@there.test"),
        ('"ann smith"@there.test', '"ann smith"@there.test'),
    ):
        before = len(sink.mails)
        await server.send(key, to=to)
        await until(lambda before=before: len(sink.mails) > before, what=to)  # type: ignore[misc]  # a default binds it now
        mail = sink.mails[-1]
        assert mail.recipients == [envelope]
        assert ("SMTPUTF8" in mail.mail_parameters) == (not envelope.isascii())
    await both_verify([mail.raw for mail in sink.mails], dns)


async def test_an_international_address_fails_by_name_where_the_server_cannot_take_it(
    server: Server, key: str, sink: SmtpSink
) -> None:
    sink.extensions = ["PIPELINING", "8BITMIME"]
    message_id = await server.send(key, to="δοκιμή@there.test")
    found = await server.settled(key, message_id, "failed")
    assert "SMTPUTF8" in found["reason"]
    assert sink.mails == []
