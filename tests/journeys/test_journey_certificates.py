"""Certificates that are ordered by ACME, with the whole program: on every listener, across a restart, renewed under open
connections, and what is told when the authority fails."""

from __future__ import annotations

import asyncio
import json
import smtplib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from server import Server, until
from sinks import AcmeRefusal, AcmeSink, DnsServer, Pebble, free_ports, server_context
from sinks.pebble import PROGRAM

HOST = "mail.sender.test"
DOORS = ("HTTPS API", "SMTP, TLS", "SMTP, STARTTLS", "Bounces and complaints")


@pytest.fixture
async def acme(tmp_path: Path) -> AsyncIterator[AcmeSink]:
    """The authority; its own HTTPS is proved by tmp_path/web-ca.pem."""
    web = trustme.CA()
    web.cert_pem.write_to_path(tmp_path / "web-ca.pem")
    async with AcmeSink(server_context(web, "localhost")) as running:
        yield running


@pytest.fixture
def certified(make_server: Callable[..., Server], acme: AcmeSink, tmp_path: Path) -> Callable[..., Server]:
    """Makes servers (not started) that order from the authority, for mail.sender.test alone."""

    def make(**settings: str) -> Server:
        return make_server(
            **{
                "SENDKIT_ACME_EMAIL": "ops@sender.test",
                "SENDKIT_ACME_DIRECTORY": acme.directory,
                "SENDKIT_CA_FILE": str(tmp_path / "web-ca.pem"),
                "SENDKIT_HTTPS_BIND": "127.0.0.1:0",
                **settings,
            }
        )

    return make


async def start(server: Server, acme: AcmeSink) -> Server:
    """Started, and its ports known to the authority."""
    await server.start()
    acme.look_at(http=server.port("HTTP API"), tls=server.port("HTTPS API"))
    return server


async def issued(server: Server, acme: AcmeSink, count: int) -> None:
    """Waits until so many certificates were issued and shown."""
    await until(lambda: len(acme.issued) >= count and server.log.count('"acme.issued"') >= count, 20, "a certificate")


def shown(port: int, context: ssl.SSLContext, *, starttls: bool, name: str = HOST) -> x509.Certificate:
    """What a client that verifies sees. ssl.SSLCertVerificationError."""
    if starttls:
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client._host = name  # the name that smtplib checks
            client.starttls(context=context)
            return x509.load_der_x509_certificate(client.sock.getpeercert(True))  # type: ignore[union-attr]
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        return x509.load_der_x509_certificate(secure.getpeercert(True) or b"")


async def serials(server: Server, root: str) -> list[int]:
    """What each door shows to a client that trusts the root alone."""
    context = ssl.create_default_context(cadata=root)
    return [
        (await asyncio.to_thread(shown, server.port(door), context, starttls=door in DOORS[2:])).serial_number
        for door in DOORS
    ]


async def listed(server: Server) -> list[dict[str, Any]]:
    """What `sendkit certificates --json` prints."""
    found: list[dict[str, Any]] = (await server.act("certificates.list"))["data"]
    return found


async def ordered_anew(server: Server) -> None:
    """`sendkit certificates renew`."""
    assert await server.act("certificates.renew") == {"names": [HOST]}


async def test_an_ordered_certificate_is_on_every_door_and_a_restart_orders_no_other(
    certified: Callable[..., Server], acme: AcmeSink
) -> None:
    acme.bad_nonces = 2
    server = await start(certified(SENDKIT_ACME_CHALLENGE="http-01"), acme)
    await issued(server, acme, 1)
    first = await serials(server, acme.root)
    assert len(set(first)) == 1
    assert acme.issued == [HOST]
    assert [account["contact"] for account in acme.accounts.values()] == [["mailto:ops@sender.test"]]
    await server.stop()

    await server.start()
    assert await serials(server, acme.root) == first
    assert acme.tried == 1
    rows = await listed(server)
    assert [(row["source"], row["name"], row["status"], row["error"]) for row in rows] == [("acme", HOST, "ok", None)]
    assert rows[0]["issuer"] == "ACME sink" and rows[0]["next_order_at"] < rows[0]["expires_at"]
    assert (await server.call("GET", "/ready")).json["warnings"] == []


@pytest.mark.engine("sqlite")
async def test_a_certificate_is_renewed_under_open_connections(
    certified: Callable[..., Server], acme: AcmeSink
) -> None:
    acme.lifetime_s = 6
    server = await start(certified(SENDKIT_ACME_CHALLENGE="tls-alpn-01"), acme)
    await issued(server, acme, 1)
    context = ssl.create_default_context(cadata=acme.root)
    first = await serials(server, acme.root)

    def open_session() -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", server.port("SMTP, STARTTLS"), timeout=20)
        client._host = HOST  # type: ignore[attr-defined]  # the name that smtplib checks
        client.starttls(context=context)
        return client

    client = await asyncio.to_thread(open_session)
    before = client.sock.getpeercert(True)  # type: ignore[union-attr]
    await issued(server, acme, 2)
    assert set(await serials(server, acme.root)).isdisjoint(first)
    assert (await asyncio.to_thread(client.noop))[0] == 250
    assert client.sock.getpeercert(True) == before  # type: ignore[union-attr]
    await asyncio.to_thread(client.quit)


async def test_a_failing_authority_leaves_what_there_was_and_is_not_asked_again_by_a_restart(
    certified: Callable[..., Server], acme: AcmeSink
) -> None:
    acme.refusing = AcmeRefusal(429, "rateLimited", "too many orders of late", "7200")
    server = certified(SENDKIT_ACME_HTTP_BIND="127.0.0.1:0")
    await server.start()
    acme.look_at(http=server.port("Certificate challenges"))
    await until(lambda: '"acme.failed"' in server.log)
    failure = next(json.loads(line) for line in server.log.splitlines() if '"acme.failed"' in line)
    next_at = datetime.strptime(failure["next_at"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert timedelta(hours=1.9) < next_at - datetime.now(UTC) < timedelta(hours=2.1)
    assert failure["error"] == "rateLimited: too many orders of late"
    assert failure["names"] == [HOST] and "tried again by itself" in failure["fix"]
    # The self-made certificate serves meanwhile.
    local = await serials(server, server.ca_file.read_text())
    warning = (await server.call("GET", "/ready")).json["warnings"][0]
    assert warning["name"] == "certificate_missing" and "too many orders of late" in warning["fix"]
    await server.stop()
    await server.start()
    acme.look_at(http=server.port("Certificate challenges"))
    (row,) = (await listed(server))[1:]
    assert row["status"] == "missing" and row["error"] == "rateLimited: too many orders of late"
    assert acme.tried == 1

    acme.refusing = None
    await ordered_anew(server)
    await until(lambda: acme.issued == [HOST] and '"acme.issued"' in server.log)
    first = await serials(server, acme.root)
    assert set(first).isdisjoint(local)
    assert (await server.call("GET", "/ready")).json["warnings"] == []

    acme.refusing = AcmeRefusal(503, "serverInternal", "down for the day")
    await ordered_anew(server)
    await until(lambda: "down for the day" in server.log)
    assert await serials(server, acme.root) == first
    (row,) = await listed(server)
    assert row["status"] == "ok" and row["error"] == "serverInternal: down for the day"


@pytest.mark.engine("sqlite")
async def test_a_silent_authority_keeps_no_server_from_ending_and_the_port_for_challenges_answers_nothing_else(
    certified: Callable[..., Server],
) -> None:
    asked = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        while await reader.read(1024):
            pass
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        directory = f"https://localhost:{silent.sockets[0].getsockname()[1]}/dir"
        server = certified(SENDKIT_ACME_HTTP_BIND="127.0.0.1:0", SENDKIT_ACME_DIRECTORY=directory)
        await server.start()
        await asyncio.wait_for(asked.wait(), 10)
        port = server.port("Certificate challenges")
        unknown = f"/.well-known/acme-challenge/{'x' * 40}"
        for path in ("/", "/emails", "/.well-known/acme-challenge/", unknown):
            reply = await server._call(f"http://127.0.0.1:{port}{path}", None, "GET", None, {})
            assert reply.status == 404, path
        assert (await server.call("GET", unknown)).status == 404
        began = time.monotonic()
        assert await server.stop() == 0
        assert time.monotonic() - began < 8


@pytest.mark.engine("sqlite")
async def test_the_operators_files_win_and_are_loaded_again_when_they_change(
    certified: Callable[..., Server], acme: AcmeSink, tmp_path: Path
) -> None:
    own = trustme.CA()
    root = own.cert_pem.bytes().decode()

    def put(key_type: trustme.KeyType) -> int:
        made = own.issue_cert("*.sender.test", key_type=key_type)
        made.private_key_pem.write_to_path(tmp_path / "own.key")
        made.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
        return x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes()).serial_number

    first = put(trustme.KeyType.RSA)
    server = certified(SENDKIT_TLS_CERT=str(tmp_path / "own.pem"), SENDKIT_TLS_KEY=str(tmp_path / "own.key"))
    await server.start()
    assert set(await serials(server, root)) == {first}
    second = put(trustme.KeyType.ECDSA)
    await until(lambda: '"tls.reloaded"' in server.log)
    assert set(await serials(server, root)) == {second}
    assert acme.tried == 0
    (row,) = await listed(server)
    assert row["name"] == "*.sender.test" and row["source"] == "file"
    status, _, err = await server.command("certificates", "renew", HOST)
    assert status == 1 and HOST in err


@pytest.mark.engine("sqlite")
async def test_without_an_address_nothing_is_ordered_and_the_commands_say_so(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    assert (await server.command("certificates"))[1].startswith("There are no certificates yet")
    await server.start()
    status, out, _ = await server.command("certificates")
    assert status == 0 and out.startswith("mail.sender.test, localhost  local  ok  by Sendkit local CA  until ")
    status, _, err = await server.command("certificates", "renew")
    assert status == 1 and "SENDKIT_ACME_EMAIL" in err


@pytest.mark.skipif(PROGRAM is None, reason="Pebble is not installed (apt install pebble)")
@pytest.mark.engine("sqlite")
@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
async def test_lets_encrypts_own_test_authority_issues_by_either_challenge(
    make_server: Callable[..., Server], dns: DnsServer, tmp_path: Path, challenge: str
) -> None:
    http, tls = free_ports(2)
    dns.zone[HOST] = {"A": ["127.0.0.1"]}
    dns.zone["links.sender.test"] = {"A": ["127.0.0.1"]}
    async with Pebble(tmp_path, dns=dns.address, http=http, tls=tls) as pebble:
        server = make_server(
            SENDKIT_ACME_EMAIL="ops@sender.test",
            SENDKIT_ACME_DIRECTORY=pebble.directory,
            SENDKIT_ACME_CHALLENGE=challenge,
            SENDKIT_CA_FILE=str(pebble.ca_file),
            SENDKIT_PUBLIC_URL="https://links.sender.test",
            SENDKIT_HTTP_BIND=f"127.0.0.1:{http}",
            SENDKIT_HTTPS_BIND=f"127.0.0.1:{tls}",
        )
        await server.start()
        await until(lambda: server.log.count('"acme.issued"') == 2, what="two certificates")
        context = ssl.create_default_context(cadata=await asyncio.to_thread(pebble.root))
        for name in (HOST, "links.sender.test"):
            for door in DOORS:
                found = await asyncio.to_thread(
                    shown, server.port(door), context, starttls=door in DOORS[2:], name=name
                )
                names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                assert names.get_values_for_type(x509.DNSName) == [name]
        assert await server.stop() == 0


@pytest.mark.skipif(PROGRAM is None, reason="Pebble is not installed (apt install pebble)")
@pytest.mark.engine("sqlite")
async def test_an_authority_that_wants_accounts_of_its_pages_gets_what_they_showed(
    make_server: Callable[..., Server], dns: DnsServer, tmp_path: Path
) -> None:
    kid, key = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
    (http,) = free_ports(1)
    dns.zone[HOST] = {"A": ["127.0.0.1"]}
    async with Pebble(tmp_path, dns=dns.address, http=http, tls=0, bindings={kid: key}) as pebble:
        server = make_server(
            SENDKIT_ACME_EMAIL="ops@sender.test",
            SENDKIT_ACME_DIRECTORY=pebble.directory,
            SENDKIT_ACME_CHALLENGE="http-01",
            SENDKIT_CA_FILE=str(pebble.ca_file),
            SENDKIT_HTTP_BIND=f"127.0.0.1:{http}",
        )

        async def told(**more: str) -> str:
            """What it says until the order that it begins with these settings is at its end: nothing has to be waited for."""
            server.log = ""
            server.settings |= {f"SENDKIT_ACME_{name}": value for name, value in more.items()}
            await server.start()
            await until(lambda: '"acme.issued"' in server.log or '"acme.failed"' in server.log, 20, "an order's end")
            assert await server.stop() == 0
            return server.log

        missing = await told()
        assert "SENDKIT_ACME_EAB_KID and SENDKIT_ACME_EAB_HMAC_KEY" in missing and '"acme.issued"' not in missing
        unknown = await told(EAB_KID="kid-2", EAB_HMAC_KEY=key)
        assert "unauthorized" in unknown and '"acme.issued"' not in unknown
        wrong = await told(EAB_KID=kid, EAB_HMAC_KEY=key[::-1])
        assert '"acme.failed"' in wrong and key[::-1] not in wrong
        right = await told(EAB_KID=kid, EAB_HMAC_KEY=key)
        assert right.count('"acme.registered"') == 1 and key not in right

        # Another address makes no other account: the authority would not bind a second one.
        server.settings["SENDKIT_ACME_EMAIL"] = "others@sender.test"
        server.log = ""
        await server.start()
        await ordered_anew(server)
        await until(lambda: '"acme.issued"' in server.log, 20, "another certificate")
        assert '"acme.registered"' not in server.log
