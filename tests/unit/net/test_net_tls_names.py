"""Which certificate a client sees: by the name it asks for, and an authority's challenge, which nobody else sees."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme
import uvloop
from cryptography import x509

from sendkit_server.model.certificate import TLS_ALPN_01, Challenge
from sendkit_server.net.acme import challenge_certificate
from sendkit_server.net.tls_server import (
    CertificateError,
    ServerTls,
    challenge_context_of,
    context_of_pem,
)

AUTHORITY = trustme.CA()


def files(folder: Path, name: str) -> tuple[Path, Path]:
    made = AUTHORITY.issue_cert(name)
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    return folder / "cert.pem", folder / "key.pem"


def shown_for(folder: Path, name: str) -> ssl.SSLContext:
    return context_of_pem(AUTHORITY.issue_cert(name).private_key_and_cert_chain_pem.bytes(), folder)


async def seen(tls: ServerTls, name: str | None, *protocols: str) -> tuple[str | None, list[str]]:
    """The protocol that was agreed and the names of the certificate that a client sees."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.context) as listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
        session = writer.get_extra_info("ssl_object")
        leaf = x509.load_der_x509_certificate(session.getpeercert(True))
        writer.close()
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return session.selected_alpn_protocol(), names.get_values_for_type(x509.DNSName)


async def test_a_client_sees_the_name_it_asks_for_and_the_main_one_otherwise(tmp_path: Path) -> None:
    tls = ServerTls(*files(tmp_path, "files.test"), main="main.test")
    assert await seen(tls, "main.test") == (None, ["files.test"])
    tls.show({name: shown_for(tmp_path, name) for name in ("main.test", "links.test")})
    assert await seen(tls, "LINKS.test") == (None, ["links.test"])
    for name in ("main.test", "unknown.test", None):
        assert await seen(tls, name) == (None, ["main.test"])
    tls.show({})
    assert await seen(tls, None) == (None, ["files.test"])


async def test_without_a_main_name_the_files_are_shown_to_whoever_names_nothing_we_know(tmp_path: Path) -> None:
    tls = ServerTls(*files(tmp_path, "files.test"))
    tls.show({"links.test": shown_for(tmp_path, "links.test")})
    assert await seen(tls, "links.test") == (None, ["links.test"])
    for name in ("files.test", "unknown.test", None):
        assert await seen(tls, name) == (None, ["files.test"])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_challenge_is_shown_to_the_authority_and_to_nobody_else(tmp_path: Path, loop: str) -> None:
    challenge = Challenge(TLS_ALPN_01, "links.test", "token", "token.thumbprint")

    async def talk() -> None:
        tls = ServerTls(*files(tmp_path, "files.test"), main="main.test")
        tls.show({"links.test": shown_for(tmp_path, "links.test")})
        assert await seen(tls, "links.test", "acme-tls/1") == (None, ["links.test"])
        tls.challenge({"links.test": challenge_context_of(challenge_certificate(challenge), tmp_path)})
        assert await seen(tls, "links.test", "acme-tls/1") == ("acme-tls/1", ["links.test"])
        for others in ((), ("http/1.1",), ("acme-tls/1", "http/1.1")):
            assert await seen(tls, "links.test", *others) == (None, ["links.test"])
        assert await seen(tls, "main.test", "acme-tls/1") == (None, ["files.test"])
        tls.challenge({})
        assert await seen(tls, "links.test", "acme-tls/1") == (None, ["links.test"])

    if loop == "uvloop":
        uvloop.run(talk())
    else:
        asyncio.run(talk())


def test_a_key_of_another_certificate_is_refused_and_no_file_stays_behind(tmp_path: Path) -> None:
    one, two = AUTHORITY.issue_cert("one.test"), AUTHORITY.issue_cert("two.test")
    with pytest.raises(CertificateError):
        context_of_pem(one.private_key_pem.bytes() + two.cert_chain_pems[0].bytes(), tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_new_file_with_a_key_of_another_kind_replaces_the_old_one_for_every_client(tmp_path: Path) -> None:
    def put(kind: trustme.KeyType, name: str) -> None:
        made = AUTHORITY.issue_cert(name, key_type=kind)
        made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        made.private_key_pem.write_to_path(tmp_path / "key.pem")

    put(trustme.KeyType.ECDSA, "old.test")
    tls = ServerTls(tmp_path / "cert.pem", tmp_path / "key.pem")
    put(trustme.KeyType.RSA, "new.test")
    assert tls.reload_if_changed()
    assert await seen(tls, None) == (None, ["new.test"])
