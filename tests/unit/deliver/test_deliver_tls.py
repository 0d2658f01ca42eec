"""TLS towards mail servers: opportunistic, verified, and what is done when it fails."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from delivery_world import mx, world
from sinks import SmtpSink

from sendkit_server.deliver import Routing, Smarthost, chain_of
from sendkit_server.model.status import Status
from sendkit_server.wire.smtp_client import Login


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


async def test_starttls_is_used_when_offered_and_a_good_certificate_noted(authority, ca_file):
    sink = SmtpSink(tls=server_context(authority, "mx.there.test"))
    async with sink, world(mx(), sink.port, ca_file=ca_file) as here:
        here.send("ann@there.test")
        await here.store.until_settled()
        attempt = here.store.completions[0].attempt
        assert sink.mails[0].tls
        assert attempt is not None and attempt.tls is not None
        assert attempt.tls.startswith("TLSv1.3 TLS_") and attempt.tls.endswith(" verified")
        assert [line.text for line in attempt.transcript].count("EHLO out.test") == 2


@pytest.mark.parametrize("name", ["wrong.test", "mx.there.test"])
async def test_an_unverifiable_certificate_still_encrypts_and_is_noted(authority, ca_file, name):
    sink = SmtpSink(tls=server_context(authority, name))
    trusted = {"ca_file": ca_file} if name == "wrong.test" else {}
    async with sink, world(mx(), sink.port, **trusted) as here:
        here.send("ann@there.test")
        await here.store.until_settled()
        attempt = here.store.completions[0].attempt
        assert sink.mails[0].tls
        assert attempt is not None and attempt.tls is not None and " unverified (" in attempt.tls
        assert "<" not in attempt.tls


async def test_a_refused_starttls_goes_on_in_clear(authority):
    sink = SmtpSink(tls=server_context(authority, "mx.there.test"), answers={"STARTTLS": "454 4.7.0 not now"})
    async with sink, world(mx(), sink.port) as here:
        job = here.send("ann@there.test")
        await here.store.until_settled()
        assert here.store.update(job).status is Status.DELIVERED
        assert not sink.mails[0].tls
        assert len(sink.sessions) == 1


async def test_a_failed_handshake_is_followed_by_one_connection_in_clear_and_recorded(authority):
    old = server_context(authority, "mx.there.test")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("AES128-SHA256")
    # Our client offers no plain-RSA key exchange, so no cipher is shared.
    sink = SmtpSink(tls=old)
    async with sink, world(mx(), sink.port) as here:
        here.deliverer._lanes._dialer._tls.opportunistic.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        here.deliverer._lanes._dialer._tls.opportunistic.maximum_version = ssl.TLSVersion.TLSv1_2
        job = here.send("ann@there.test")
        await here.store.until_settled()
        attempt = here.store.completions[0].attempt
        assert here.store.update(job).status is Status.DELIVERED
        assert attempt is not None and attempt.tls is None
        said = [line.text for line in attempt.transcript]
        assert any("the TLS handshake failed" in line for line in said)
        assert "mx.there.test is asked again in clear" in said
        assert len(sink.sessions) == 2


async def test_bytes_behind_the_answer_to_starttls_end_the_connection(authority):
    injected = b"220 go ahead\r\n250-sink.test\r\n250 SIZE 5\r\n"
    sink = SmtpSink(tls=server_context(authority, "mx.there.test"), answers={"STARTTLS": injected})
    async with sink, world(mx(), sink.port) as here:
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        assert (here.store.update(job).status, here.store.update(job).reason) == (Status.DELAYED, "protocol_error")
        assert not sink.mails


@pytest.mark.parametrize("from_start", [False, True])
async def test_a_smarthost_gets_the_password_over_verified_tls(authority, ca_file, from_start):
    sink = SmtpSink(
        tls=server_context(authority, "localhost"),
        tls_from_start=from_start,
        extensions=("PIPELINING", "AUTH PLAIN LOGIN"),
    )
    async with sink:
        relay = Smarthost("localhost", sink.port, Login("user", "hunter2"), from_start)
        async with world({}, routing=Routing(chain_of(relay)), ca_file=ca_file) as here:
            job = here.send("ann@there.test")
            await here.store.until_settled()
            attempt = here.store.completions[0].attempt
            assert here.store.update(job).status is Status.DELIVERED
            assert any(command.startswith("AUTH PLAIN ") for command in sink.commands)
            assert attempt is not None and attempt.tls is not None and attempt.tls.endswith(" verified")
            said = "\n".join(line.text for line in attempt.transcript)
            assert "AUTH PLAIN [secret]" in said
            assert "aHVudGVyMg" not in said and "hunter2" not in said


async def test_auth_login_is_spoken_where_plain_is_not_offered(authority, ca_file):
    sink = SmtpSink(tls=server_context(authority, "localhost"), extensions=("AUTH LOGIN",))
    async with (
        sink,
        world(
            {}, routing=Routing(chain_of(Smarthost("localhost", sink.port, Login("u", "p")))), ca_file=ca_file
        ) as here,
    ):
        job = here.send("ann@there.test")
        await here.store.until_settled()
        assert here.store.update(job).status is Status.DELIVERED
        assert "dQ==" in sink.commands and "cA==" in sink.commands


@pytest.mark.parametrize("tls", ["absent", "refused", "unverified"])
async def test_without_verified_tls_the_password_is_never_sent(authority, tls):
    sink = SmtpSink(
        tls=None if tls == "absent" else server_context(authority, "localhost"),
        answers={"STARTTLS": "454 no"} if tls == "refused" else {},
        extensions=("PIPELINING", "AUTH PLAIN"),
    )
    async with (
        sink,
        world({}, routing=Routing(chain_of(Smarthost("localhost", sink.port, Login("user", "hunter2"))))) as here,
    ):
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        assert here.store.update(job).status is Status.DELAYED
        assert here.store.update(job).reason in ("tls_failed", "tls_refused")
        assert not any("AUTH" in command for command in sink.commands)
        assert not sink.mails


async def test_a_refused_password_defers_with_a_clear_reason(authority, ca_file):
    sink = SmtpSink(
        tls=server_context(authority, "localhost"), extensions=("AUTH PLAIN",), answers={"AUTH": "535 5.7.8 wrong"}
    )
    async with (
        sink,
        world(
            {}, routing=Routing(chain_of(Smarthost("localhost", sink.port, Login("u", "p")))), ca_file=ca_file
        ) as here,
    ):
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        update = here.store.update(job)
        assert (update.status, update.reason, update.code) == (Status.DELAYED, "smarthost_auth_failed", 535)
