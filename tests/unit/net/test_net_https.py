"""The HTTPS client against a server that does what it should not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme
from sinks import DRIP, EXPIRED, PATIENT_S, SILENCE, DnsServer, HttpsSink, reply, server_context

from sendkit_server.net.guard import Guard
from sendkit_server.net.https import BUFFERED_BYTES, HttpsConnection, HttpsTrouble, open_https
from sendkit_server.net.resolver import Resolver
from sendkit_server.net.tls_client import TlsClient

LOOPBACK = Guard((ip_network("127.0.0.0/8"),))
AUTHORITY = trustme.CA()


@pytest.fixture
def tls(tmp_path: Path) -> TlsClient:
    path = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(path)
    return TlsClient(path)


@pytest.fixture
async def site() -> AsyncIterator[HttpsSink]:
    async with HttpsSink(server_context(AUTHORITY, "web.there.test")) as running:
        yield running


@asynccontextmanager
async def connected(site: HttpsSink, tls: TlsClient, guard: Guard = LOOPBACK) -> AsyncIterator[HttpsConnection]:
    async with DnsServer({"web.there.test": {"A": ["127.0.0.1"]}}) as dns:
        resolver = Resolver([dns.address], deadline_s=PATIENT_S)
        made = await open_https(
            "web.there.test", site.port, resolver=resolver, tls=tls, guard=guard, deadline_s=PATIENT_S
        )
        try:
            yield made
        finally:
            made.close()


async def refused(site: HttpsSink, tls: TlsClient, guard: Guard = LOOPBACK) -> HttpsTrouble:
    with pytest.raises(HttpsTrouble) as caught:
        async with connected(site, tls, guard):
            pass
    return caught.value


async def test_several_requests_go_over_one_connection(site, tls):
    site.pages = {
        "/a": reply(200, "one", more="X-Twice: 1\r\nX-Twice: 2\r\n"),
        "/b": reply(302, "", more="Location: /a\r\n"),
    }
    async with connected(site, tls) as made:
        first = await made.request("GET", "/a", headers=[("Accept", "text/plain")])
        assert (first.status, first.body, first.header("x-twice"), first.header("none")) == (200, b"one", "1", None)
        second = await made.request("POST", "/b", body=b"x" * 300_000)
        assert (second.status, second.header("location")) == (302, "/a")
        assert made.is_open and made.tls.endswith(" verified")
    assert site.connections == 1
    assert site.requests == [(f"web.there.test:{site.port}", "/a"), (f"web.there.test:{site.port}", "/b")]


@pytest.mark.parametrize(
    "page",
    [
        b"HTTP/1.1 200 ok\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        b"HTTP/1.1 103 hints\r\nLink: x\r\n\r\n" + reply(200, "one"),
    ],
    ids=["chunked", "hints first"],
)
async def test_an_answer_may_come_in_any_form_that_http_knows(site, tls, page):
    site.pages["/"] = page
    async with connected(site, tls) as made:
        assert (await made.request("GET", "/")).body == b"one"


async def test_a_server_that_wants_to_close_is_let_go(site, tls):
    site.pages["/"] = reply(200, "one", more="Connection: close\r\n")
    async with connected(site, tls) as made:
        assert (await made.request("GET", "/")).body == b"one"
        assert not made.is_open


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (b"garbage\r\n\r\n", "no valid answer"),
        (b"HTTP/1.1 200 ok\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "no valid answer"),
        (b"HTTP/1.1 200 ok\r\nX: " + b"y" * 100_000, "no valid answer"),
        (reply(200, b"x" * 1001), "longer than 1000 bytes"),
        (b"HTTP/1.1 200 ok\r\n\r\n" + b"x" * (3 * BUFFERED_BYTES), "longer than 1000 bytes"),
        (SILENCE, "no whole answer within 0.3 s"),
        (DRIP, "no whole answer within 0.3 s"),
    ],
    ids=["garbage", "two lengths", "long head", "long body", "endless body", "silence", "slow drip"],
)
async def test_what_is_no_answer_says_why_and_ends_the_connection(site, tls, page, why):
    site.pages["/"] = page
    async with connected(site, tls) as made:
        with pytest.raises(HttpsTrouble, match=why) as caught:
            await made.request("GET", "/", deadline_s=0.3, max_body_bytes=1000)
        assert caught.value.sent and not caught.value.unproved
        assert not made.is_open


async def test_a_request_that_is_given_up_ends_the_connection(site, tls):
    site.pages["/"] = SILENCE
    async with connected(site, tls) as made:
        task = asyncio.create_task(made.request("GET", "/"))
        while not site.requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not made.is_open


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: server_context(AUTHORITY, "other.test"), "not valid for 'web.there.test'"),
        (lambda: server_context(trustme.CA(), "web.there.test"), "unable to get local issuer certificate"),
        (lambda: server_context(AUTHORITY, "web.there.test", **EXPIRED), "expired"),
    ],
    ids=["wrong name", "unknown authority", "expired"],
)
async def test_a_server_that_does_not_prove_its_name_is_told_nothing(tls, made, why):
    async with HttpsSink(made()) as site:
        error = await refused(site, tls)
        assert why in str(error) and error.unproved and not error.sent
        assert not site.requests


async def test_addresses_that_nobody_allowed_are_not_connected_to(site, tls):
    assert "is a loopback address" in str(await refused(site, tls, Guard()))
    assert "is this server itself" in str(
        await refused(site, tls, Guard(LOOPBACK.allowed, frozenset({("127.0.0.1", site.port)})))
    )
    assert not site.connections


async def test_a_host_that_is_not_there_or_speaks_no_tls_is_trouble(site, tls):
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\r\n")
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server, DnsServer({"web.there.test": {"A": ["127.0.0.1"]}}) as dns:
        resolver = Resolver([dns.address], deadline_s=PATIENT_S)
        port = server.sockets[0].getsockname()[1]
        for host, said in (("web.there.test", "no TLS with web.there.test"), ("no.there.test", "does not exist")):
            with pytest.raises(HttpsTrouble, match=said) as caught:
                await open_https(host, port, resolver=resolver, tls=tls, guard=LOOPBACK, deadline_s=PATIENT_S)
            assert not caught.value.unproved
