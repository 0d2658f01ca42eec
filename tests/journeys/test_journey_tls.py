"""The TLS that recipients' domains demand, with the whole program: MTA-STS across a restart, DANE, and what is told of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from server import Server
from sinks import DnsServer, HttpsSink, SmtpSink, reply, server_context

MX = "mx.there.test"
PATH = "/.well-known/mta-sts.txt"
POLICY = f"version: STSv1\r\nmode: enforce\r\nmx: {MX}\r\nmax_age: 604800\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


@pytest.fixture
async def site(authority: trustme.CA, dns: DnsServer) -> AsyncIterator[HttpsSink]:
    """Where there.test publishes its policy, which its DNS announces."""
    dns.zone["mta-sts.there.test"] = {"A": ["127.0.0.1"]}
    dns.zone["_mta-sts.there.test"] = {"TXT": ['"v=STSv1; id=20270301;"']}
    async with HttpsSink(server_context(authority, "mta-sts.there.test")) as running:
        running.pages[PATH] = reply(200, POLICY)
        yield running


async def last_attempt(server: Server, key: str, message_id: str) -> tuple[dict[str, Any], list[str]]:
    """The last try, and the lines of its transcript."""
    found = (await server.call("GET", f"/emails/{message_id}/attempts", key)).json["data"]
    latest = max(found, key=lambda attempt: int(attempt["id"].removeprefix("att_")))
    return latest, [line["text"] for line in latest["transcript"]]


async def test_an_enforced_policy_binds_across_a_restart_with_its_web_server_gone(
    make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer, site: HttpsSink, authority: trustme.CA,
    tmp_path: Path,
) -> None:  # fmt: skip
    sink.tls = server_context(authority, MX)
    server = make_server(SENDKIT_CA_FILE=str(tmp_path / "ca.pem"), SENDKIT_MTA_STS_PORT=str(site.port))
    await server.start()
    key = await server.live_key()
    first = await server.send(key)
    await server.settled(key, first, "delivered")
    attempt, lines = await last_attempt(server, key, first)
    assert attempt["tls"].endswith(" verified")
    assert f"MTA-STS enforce (policy id 20270301 of there.test, mx {MX})" in lines
    await server.stop()

    # Whoever sits between takes DNS's word, the web server and STARTTLS away.
    del dns.zone["_mta-sts.there.test"]
    site.pages.clear()
    sink.tls = None
    await server.start()
    second = await server.send(key)
    found = await server.settled(key, second, "delivery_delayed")
    assert "id 20270301" in found["reason"] and MX in found["reason"]
    assert "does not offer STARTTLS" in found["reason"]
    attempt, _ = await last_attempt(server, key, second)
    assert "mta_sts_failed" in json.dumps(attempt)
    assert len(sink.mails) == 1
    # Another domain at the same host has no policy.
    await server.settled(key, await server.send(key, to="bob@elsewhere.test"), "delivered")

    sink.tls = server_context(authority, MX)
    assert (await server.command("queue", "retry", "there.test"))[0] == 0
    await server.settled(key, second, "delivered")
    assert [mail.tls for mail in sink.mails] == [True, False, True]
    await server.stop()
    status, said, _ = await server.command("tls")
    assert status == 0
    assert f"there.test  sts  {MX}  success  2\n" in said
    assert f"there.test  sts  {MX}  starttls-not-supported  1\n" in said
    assert f"elsewhere.test  no-policy-found  {MX}  starttls-not-supported  1\n" in said
    assert "there.test  enforce  id 20270301  until 20" in said and said.rstrip().endswith(f"mx {MX}")


@pytest.mark.engine("sqlite")
async def test_what_is_told_of_tls_can_be_narrowed_and_read_by_programs(server: Server, key: str) -> None:
    assert (await server.command("tls", "There.test"))[1] == (
        "No connection for There.test in 7 days, and no policy that binds.\n"
    )
    await server.settled(key, await server.send(key), "delivered")
    await server.settled(key, await server.send(key, to="bob@elsewhere.test"), "delivered")
    await server.stop()
    status, said, _ = await server.command("tls", "there.test", "--days", "1", "--json")
    assert (status, json.loads(said)) == (
        0,
        {
            "counts": [
                {
                    "domain": "there.test",
                    "policy": "no-policy-found",
                    "mx_host": MX,
                    "result": "starttls-not-supported",
                    "sessions": 1,
                }
            ],
            "policies": [],
        },
    )
    for arguments, why in ((("--days", "0"), "days must be 1 to 400"), (("no domain",), "is no domain")):
        status, _, said = await server.command("tls", *arguments)
        assert status == 1 and why in said


@pytest.mark.engine("sqlite")
async def test_dane_decides_when_the_resolver_vouches_for_it(
    make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer
) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("whatever.test")
    sink.tls = server_context(authority, "another.test")
    certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    key_digest = hashlib.sha256(
        certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()
    dns.zone[f"_{sink.port}._tcp.{MX}"] = {"TLSA": [f"3 1 1 {key_digest}"]}
    dns.authentic = set(dns.zone) - {"elsewhere.test"}
    server = await make_server().start()
    key = await server.live_key()
    waits = await server.send(key)
    assert f"DANE does not allow {MX}" in (await server.settled(key, waits, "delivery_delayed"))["reason"]
    # elsewhere.test, at the same host, is not signed.
    await server.settled(key, await server.send(key, to="bob@elsewhere.test"), "delivered")
    leaf.configure_cert(sink.tls)
    await server.act("queue.retry", target="there.test")
    await server.settled(key, waits, "delivered")
    attempt, _ = await last_attempt(server, key, waits)
    assert attempt["tls"].endswith(" DANE verified")


@pytest.mark.engine("sqlite")
async def test_dane_can_be_switched_off(make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer) -> None:
    dns.zone[f"_{sink.port}._tcp.{MX}"] = {"TLSA": ["3 1 1 " + "ab" * 32]}
    dns.authentic = set(dns.zone)
    server = await make_server(SENDKIT_DNSSEC_RESOLVERS="none").start()
    key = await server.live_key()
    await server.settled(key, await server.send(key), "delivered")
    assert "TLSA" not in {kind for _, kind in dns.questions}
