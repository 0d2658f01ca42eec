"""The local CA and its leaf, held against OpenSSL's strict checks; certificates that change while the server runs."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import subprocess
from pathlib import Path

import pytest

from sendkit_server.manage.certificates import local_certificate
from sendkit_server.net.listen import PortTaken, listen
from sendkit_server.net.tls_server import CertificateError, ServerTls

NOW = datetime.datetime.now(datetime.UTC)
STRICT = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN


@pytest.mark.parametrize("name", ["mail.sender.test", "localhost", "127.0.0.1", "::1"])
async def test_the_leaf_passes_strict_checks_for_each_of_its_names(tmp_path: Path, name: str) -> None:
    tls = ServerTls(*local_certificate(tmp_path, "mail.sender.test", NOW))
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context.verify_flags |= STRICT
    assert await handshake(tls.context, context, name)


def test_openssl_verifies_it_strictly(tmp_path: Path) -> None:
    cert, _ = local_certificate(tmp_path, "mail.sender.test", NOW)
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "ca.pem", cert],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_it_is_kept_until_it_ends_or_the_name_changes_and_the_ca_stays(tmp_path: Path) -> None:
    cert, key = local_certificate(tmp_path, "one.test", NOW)
    first, ca = cert.read_bytes(), (tmp_path / "ca.pem").read_bytes()
    local_certificate(tmp_path, "one.test", NOW)
    assert cert.read_bytes() == first
    local_certificate(tmp_path, "two.test", NOW)
    second = cert.read_bytes()
    assert second != first
    local_certificate(tmp_path, "two.test", NOW + datetime.timedelta(days=370))
    assert cert.read_bytes() != second and (tmp_path / "ca.pem").read_bytes() == ca
    assert key.stat().st_mode & 0o777 == 0o600 and (tmp_path / "ca-key.pem").stat().st_mode & 0o777 == 0o600


async def test_a_changed_certificate_is_loaded_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    cert, key = local_certificate(tmp_path, "one.test", NOW)
    tls = ServerTls(cert, key)
    assert tls.reload_if_changed() is False
    cert.write_text("garbage")
    assert tls.reload_if_changed() is False
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    assert await handshake(tls.context, context, "one.test")
    local_certificate(tmp_path, "two.test", NOW)
    assert tls.reload_if_changed() is True
    assert await handshake(tls.context, context, "two.test")


def test_a_certificate_that_cannot_be_loaded_says_which(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"none\.pem"):
        ServerTls(tmp_path / "none.pem", tmp_path / "key.pem")


async def test_old_tls_is_refused(tmp_path: Path) -> None:
    tls = ServerTls(*local_certificate(tmp_path, "one.test", NOW))
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_taken_port_is_named_with_its_holder_and_the_setting() -> None:
    with listen("127.0.0.1", 0, "X") as held:
        port = held.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port}: .*pid \d+.*SENDKIT_HTTP_BIND"):
            listen("127.0.0.1", port, "SENDKIT_HTTP_BIND")
        with listen("127.0.0.1", port, "SENDKIT_HTTP_BIND", next_free=True) as other:
            assert other.getsockname()[1] > port


def test_an_address_that_is_not_ours_is_refused_in_words() -> None:
    with pytest.raises(PortTaken, match="SENDKIT_SMTP_BIND"):
        listen("192.0.2.1", 2587, "SENDKIT_SMTP_BIND")


async def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bool:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        await reader.read()
        writer.close()
        await writer.wait_closed()
    return True
