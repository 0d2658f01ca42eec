"""The HTTP door on the wire: every wrong is answered in the contract's JSON, and every framing that clients use is understood."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from raw_talk import connected
from server import MAIL, Reply, Server, until
from sinks import SmtpSink

MISSING = "Missing API key. Send it as 'Authorization: Bearer sk_...'."


def is_contract_error(reply: Reply, status: int, name: str, message: str | None = None) -> None:
    """Fails unless the reply has the contract's four members, both codes as integers, as JSON."""
    assert reply.status == status, reply.raw
    assert reply.headers.get("content-type", "").partition(";")[0] == "application/json"
    body = reply.json
    assert (body["name"], body["statusCode"], body["status_code"]) == (name, status, status)
    assert isinstance(body["message"], str) and body["message"]
    assert isinstance(body["retryable"], bool) and body["doc_url"].startswith("http")
    if message is not None:
        assert body["message"] == message


def request(method: str, path: str, key: str | None = None, body: bytes = b"", **headers: str) -> bytes:
    """A request's bytes. headers: underscores stand for hyphens; Content_Length is made unless given."""
    fields = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if key is not None:
        fields.setdefault("Authorization", f"Bearer {key}")
    if body and "Transfer-Encoding" not in fields:
        fields.setdefault("Content-Length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def mail(**members: Any) -> bytes:
    return json.dumps({**MAIL, **members}).encode()


async def test_every_wrong_request_is_answered_in_the_contracts_words(
    server: Server, key: str, sink: SmtpSink, subtests: pytest.Subtests
) -> None:
    reader = (await server.act("keys.create", name="r", permission="read", test=False))["token"]
    sender = (await server.act("keys.create", name="s", permission="send", test=False))["token"]
    json_type = {"Content_Type": "application/json"}
    cases: list[tuple[tuple[str, str, str | None, bytes, Mapping[str, str]], tuple[int, str, str | None]]] = [
        (("GET", "/nothing", None, b"", {}), (404, "not_found", "Not found.")),
        (("POST", "/nothing", key, b"{}", json_type), (404, "not_found", "Not found.")),
        (("GET", "/%00", key, b"", {}), (404, "not_found", "Not found.")),
        (("GET", "/" + "a" * 5000, key, b"", {}), (404, "not_found", "Not found.")),
        (("GET", "/emails/msg_nothing", key, b"", {}), (404, "not_found", "Email not found.")),
        (("GET", "/v1//emails//msg_x/", key, b"", {}), (404, "not_found", "Email not found.")),
        (("DELETE", "/emails", key, b"", {}), (405, "method_not_allowed", None)),
        (("PUT", "/v1/emails", None, b"{}", json_type), (405, "method_not_allowed", None)),
        (("OPTIONS", "/emails", None, b"", {}), (405, "method_not_allowed", None)),
        (("POST", "/health", None, b"", {}), (405, "method_not_allowed", None)),
        (("POST", "/emails", None, mail(), json_type), (401, "missing_api_key", MISSING)),
        (("POST", "/emails", None, mail(), {"Authorization": "Basic c2VuZGtpdA=="}), (401, "missing_api_key", MISSING)),
        (("POST", "/emails", "sk_wrong", mail(), json_type), (401, "invalid_api_key", None)),
        (("POST", "/emails", "é", mail(), json_type), (401, "invalid_api_key", None)),
        (
            ("POST", "/emails", reader, mail(), json_type),
            (401, "restricted_api_key", "This API key needs the permission emails:send."),
        ),
        (
            ("GET", "/emails", sender, b"", {}),
            (401, "restricted_api_key", "This API key needs the permission emails:read."),
        ),
        (("POST", "/emails", key, b"{", json_type), (422, "validation_error", None)),
        (("POST", "/emails", key, b'{"to": NaN}', json_type), (422, "validation_error", None)),
        (("POST", "/emails", key, b"\xff\xfe", json_type), (422, "validation_error", None)),
        (("POST", "/emails", key, b'{"subject": "\\ud800"}', json_type), (422, "validation_error", None)),
        (("POST", "/emails", key, b"[" * 100_000, json_type), (422, "validation_error", None)),
        (("POST", "/emails", key, b"null", json_type), (422, "validation_error", None)),
        (("POST", "/emails", key, b'"text"', json_type), (422, "validation_error", None)),
        (("POST", "/emails", key, b"[]", json_type), (422, "validation_error", None)),
        (("POST", "/emails", key, b"", json_type), (422, "validation_error", "The from field is required.")),
        (("POST", "/emails", key, mail(), {"Content_Type": "text/plain"}), (415, "validation_error", None)),
        (("POST", "/emails", key, mail(), {"Content_Type": "multipart/form-data"}), (422, "validation_error", None)),
        (("POST", "/emails", key, mail(), {"Content_Encoding": "gzip"}), (415, "validation_error", None)),
        (("POST", "/emails", key, mail(to=[]), json_type), (422, "validation_error", "The to field is required.")),
        (
            ("POST", "/emails", key, mail(to="a@b@c"), json_type),
            (422, "validation_error", "The 'to' field contains an invalid email address"),
        ),
        (
            ("POST", "/emails", key, mail(subject="x" * 999), json_type),
            (422, "validation_error", "The subject field must not be greater than 998 characters."),
        ),
        (
            ("POST", "/emails", key, mail(**{"from": "a@foreign.test"}), json_type),
            (422, "validation_error", "The from address domain is not verified."),
        ),
        (("GET", "/emails?per_page=0", key, b"", {}), (422, "validation_error", None)),
        (("GET", "/emails?q=%ff", key, b"", {}), (422, "validation_error", None)),
        (("GET", "/emails?status=lost", key, b"", {}), (422, "validation_error", None)),
    ]
    # One connection for all: an answered refusal does not end it, and no body is taken for the next request.
    async with connected(server.port("HTTP API")) as talk:
        for (method, path, given, body, headers), expected in cases:
            with subtests.test(f"{method} {path[:40]} {body[:40]!r}"):
                await talk.say(request(method, path, given, body, **headers))
                reply = await talk.http()
                is_contract_error(reply, *expected)
                if reply.status == 405:
                    assert reply.headers["allow"]
                if reply.status == 401:
                    assert reply.headers["www-authenticate"] == "Bearer"
    assert sink.mails == []
    counted = (await server.call("GET", "/metrics")).raw.decode()
    assert 'sendkit_errors_total{door="http",name="restricted_api_key"} 2.0' in counted


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad header\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 300 + b"\r\n", 431),
        (b"GET /" + b"a" * 10_000_000, 431),
        (b"POST /emails HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400),
        (b"POST /emails HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST /emails HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
            400,
        ),
    ],
    ids=[
        "no colon",
        "nonsense",
        "TLS hello",
        "long header",
        "many headers",
        "10 MB line",
        "two lengths",
        "minus",
        "both",
    ],
)
async def test_what_is_no_http_is_answered_once_in_json_and_the_connection_ends(
    server: Server, raw: bytes, status: int
) -> None:
    async with connected(server.port("HTTP API")) as talk:
        await talk.say(raw)
        is_contract_error(await talk.http(), status, "validation_error")
        assert await talk.rest() == b""


async def test_every_framing_that_clients_use_is_understood(server: Server, key: str, sink: SmtpSink) -> None:
    port = server.port("HTTP API")
    json_type = {"Content_Type": "application/json; charset=utf-8"}
    async with connected(port) as talk:
        # PHP asks before it sends a body over 1 MB.
        big = mail(text="x" * 1_100_000)
        await talk.say(
            request("POST", "/emails", key, b"", Expect="100-continue", Content_Length=str(len(big)), **json_type)
        )
        assert (await talk.line(), await talk.line()) == ("HTTP/1.1 100 Continue", "")
        await talk.say(big)
        assert (await talk.http()).status == 200
        # .NET sends chunks, in pieces of any size, with an extension and a trailer.
        body = mail(subject="chunked ✓")
        chunks = b"".join(b"%x;q=1\r\n%b\r\n" % (len(piece), piece) for piece in (body[:1], body[1:50], body[50:]))
        await talk.say(request("POST", "/emails", key, b"", Transfer_Encoding="chunked", **json_type))
        for at in range(0, len(chunks), 7):
            await talk.say(chunks[at : at + 7])
        await talk.say(b"0\r\nX-Trailer: 1\r\n\r\n")
        assert (await talk.http()).status == 200
        # Java's client offers HTTP/2 on every request.
        await talk.say(
            request(
                "POST", "/v1/emails", key, mail(subject="h2c"), Connection="Upgrade, HTTP2-Settings", Upgrade="h2c",
                HTTP2_Settings="AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA", **json_type,
            )
        )  # fmt: skip
        assert (await talk.http()).status == 200
        # Pipelined requests are answered in their order.
        await talk.say(
            request("POST", "/emails", key, mail(subject="pipelined"), **json_type)
            + request("GET", "/emails?q=nothing", key)
            + request("HEAD", "/health")
            + request("GET", "//emails/", key)
        )
        assert (await talk.http()).json["status"] == "queued"
        assert (await talk.http()).json["data"] == []
        assert (await talk.http(head=True)).status == 200
        assert len((await talk.http()).json["data"]) == 4
        # PHP and Node announce JSON on a GET without a body.
        await talk.say(request("GET", "/emails", key, b"", **json_type))
        assert (await talk.http()).status == 200
        # A key in any spelling of the scheme.
        await talk.say(request("GET", "/emails", None, b"", Authorization=f"bEARER   {key}  "))
        assert (await talk.http()).status == 200
    async with connected(port) as talk:
        await talk.say(f"GET /health HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        assert (await talk.http()).json == {"status": "ok"}
        assert await talk.rest() == b""
    await until(lambda: len(sink.mails) == 4)


@pytest.mark.engine("sqlite")
async def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Server, key: str) -> None:
    async with connected(server.port("HTTP API")) as talk:
        await talk.say(request("POST", "/emails", key, b"", Content_Length="60000001", Expect="100-continue"))
        is_contract_error(await talk.http(), 413, "validation_error")
        assert await talk.rest() == b""
    async with connected(server.port("HTTP API")) as talk:
        await talk.say(request("POST", "/emails", key, b"", Transfer_Encoding="chunked"))
        chunk = b"100000\r\n" + b" " * 1_048_576 + b"\r\n"
        sending = asyncio.create_task(say_often(talk, chunk, 80))
        is_contract_error(await talk.http(), 413, "validation_error")
        sending.cancel()


async def say_often(talk: Any, raw: bytes, times: int) -> None:
    for _ in range(times):
        await talk.say(raw)


async def test_a_mail_of_forty_megabytes_of_json_is_taken_and_others_are_answered_meanwhile(
    server: Server, key: str
) -> None:
    content = "QUJD" * 9_500_000
    sending = asyncio.create_task(
        server.call("POST", "/emails", key, {**MAIL, "attachments": [{"filename": "a", "content": content}]})
    )
    slowest = 0.0
    while not sending.done():
        started = time.monotonic()
        assert (await server.call("GET", "/health")).status == 200
        slowest = max(slowest, time.monotonic() - started)
    assert (await sending).status == 200
    assert slowest < 2.0


async def test_one_byte_over_the_mails_limit_is_422_naming_the_limit(make_server) -> None:
    server = await make_server(SENDKIT_MAX_MESSAGE_BYTES="100000").start()
    key = await server.live_key()
    reply = await server.call("POST", "/emails", key, {**MAIL, "text": "x\n" * 60_000})
    is_contract_error(reply, 422, "validation_error", "The email is too large: the limit is 100000 bytes.")
    assert (await server.call("POST", "/emails", key, {**MAIL, "text": "x\n" * 20_000})).status == 200


async def test_a_refusal_before_the_body_has_come_leaves_the_connection_in_order(server: Server) -> None:
    async with connected(server.port("HTTP API")) as talk:
        await talk.say(request("POST", "/emails", "sk_wrong", b"", Content_Length="30000000"))
        is_contract_error(await talk.http(), 401, "invalid_api_key")
        await say_often(talk, b"GET /emails HTTP/1.1\r\n\r\n123456" * 1_000, 1_000)
        await talk.say(request("GET", "/health"))
        assert (await talk.http()).json == {"status": "ok"}


@pytest.mark.long
async def test_a_head_that_comes_too_slowly_is_408(server: Server) -> None:
    async with connected(server.port("HTTP API")) as talk:
        await talk.say(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        answer = asyncio.create_task(talk.http(seconds=45))
        while not answer.done():
            await talk.say(b"X: y\r\n")
            await asyncio.wait([answer], timeout=1)
        is_contract_error(answer.result(), 408, "validation_error")


async def test_a_browser_is_sent_to_the_pages_and_everyone_else_gets_json(server: Server) -> None:
    async with connected(server.port("HTTP API")) as talk:
        await talk.say(request("GET", "/", Accept="text/html"))
        reply = await talk.http()
        assert (reply.status // 100, reply.headers["location"]) == (3, "/ui")
        for path in ("/ui", "/ui/"):
            await talk.say(request("GET", path, Accept="text/html"))
            reply = await talk.http()
            assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
        await talk.say(request("GET", "/", Accept="application/json"))
        is_contract_error(await talk.http(), 404, "not_found")
