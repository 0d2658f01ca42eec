"""The authority as orders see it: what it refuses, says and forgets, in words for an operator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from sinks import AcmeRefusal, AcmeSink, HttpsSink, reply, server_context

from sendkit_server.model.certificate import HTTP_01, TLS_ALPN_01, Account
from sendkit_server.net.acme import AcmeTrouble, Authority, new_key

NAME = "mail.sender.test"
WEB = trustme.CA()


@pytest.fixture
async def acme() -> AsyncIterator[AcmeSink]:
    async with AcmeSink(server_context(WEB, "localhost")) as running:
        yield running


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    WEB.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
async def authority(acme: AcmeSink, roots: Path) -> AsyncIterator[Authority]:
    opened = Authority(acme.directory, roots)
    yield opened
    opened.close()


async def trouble_of(authority: Authority, account: Account | None = None, kind: str = HTTP_01) -> AcmeTrouble:
    """Why an order fails, as far as it gets."""
    with pytest.raises(AcmeTrouble) as raised:
        account = account or await authority.registered(Account(new_key(), "ops@sender.test"))
        order = await authority.order(account, NAME, new_key(), kind)
        await order.certificate()
    return raised.value


async def test_a_certificate_comes_after_the_answer_was_seen_whatever_becomes_of_nonces(
    acme: AcmeSink, authority: Authority
) -> None:
    answers: dict[str, str] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        writer.write(reply(200, answers[path.rpartition("/")[2]]))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as answering:
        acme.look_at(http=answering.sockets[0].getsockname()[1])
        acme.bad_nonces = 3
        account = await authority.registered(Account(new_key(), "ops@sender.test"))
        assert account.uri in acme.accounts
        acme.bad_nonces = 3
        order = await authority.order(account, NAME, new_key(), HTTP_01)
        answers.update({one.token: one.answer for one in order.challenges})
        chain = await order.certificate()
    names = x509.load_pem_x509_certificates(chain.encode())[0].extensions
    assert names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [NAME]


async def test_a_key_that_is_known_already_gets_its_old_account(acme: AcmeSink, authority: Authority) -> None:
    new = Account(new_key(), "ops@sender.test")
    assert await authority.registered(new) == await authority.registered(new)
    assert len(acme.accounts) == 1


async def test_an_answer_that_was_not_found_is_told_in_the_authoritys_words(
    acme: AcmeSink, authority: Authority
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(404, "nothing here"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as answering:
        acme.look_at(http=answering.sockets[0].getsockname()[1])
        trouble = await trouble_of(authority)
    assert str(trouble) == f"unauthorized: wrong answer from {NAME}: HTTP/1.1 404 x"
    assert not trouble.is_general


async def test_a_port_that_nobody_listens_on_is_told(acme: AcmeSink, authority: Authority) -> None:
    acme.look_at(http=1, tls=1)
    for kind in (HTTP_01, TLS_ALPN_01):
        assert str(await trouble_of(authority, kind=kind)).startswith(f"connection: {NAME}: ConnectionRefused")


@pytest.mark.parametrize("in_seconds", [True, False])
async def test_a_rate_limit_says_for_how_long(acme: AcmeSink, authority: Authority, in_seconds: bool) -> None:
    when = "3600" if in_seconds else formatdate(time.time() + 3600, usegmt=True)
    acme.refusing = AcmeRefusal(429, "rateLimited", "too many", when)
    trouble = await trouble_of(authority)
    assert trouble.code == "rateLimited" and not trouble.is_general
    assert 3500 < trouble.retry_after_s <= 3600


async def test_an_account_that_the_authority_has_forgotten_is_named_as_that(
    acme: AcmeSink, authority: Authority
) -> None:
    account = Account(new_key(), "ops@sender.test", f"{acme.base}/account/gone")
    assert (await trouble_of(authority, account)).code == "accountDoesNotExist"


async def test_a_challenge_that_is_not_offered_names_those_that_are(authority: Authority) -> None:
    trouble = await trouble_of(authority, kind="email-reply-00")
    assert "offers dns-01, http-01, tls-alpn-01" in str(trouble) and "SENDKIT_ACME_CHALLENGE" in str(trouble)


async def test_an_authority_that_cannot_be_reached_proved_or_understood_is_everybodys_trouble(
    acme: AcmeSink, roots: Path
) -> None:
    async with HttpsSink(server_context(WEB, "localhost")) as site:
        site.pages["/dir"] = reply(200, "<h1>It works</h1>", kind="text/html")
        site.pages["/bound"] = reply(
            200,
            '{"newNonce": "/n", "newAccount": "/a", "newOrder": "/o", "meta": {"externalAccountRequired": true}}',
            kind="application/json",
        )
        base = f"https://localhost:{site.port}"
        for url, ca_file, words in (
            ("https://localhost:1/dir", roots, "cannot be reached"),
            (acme.directory, None, "CERTIFICATE_VERIFY_FAILED"),
            (f"{base}/dir", roots, "not one of ACME"),
            (f"{base}/none", roots, "not one of ACME"),
            (f"{base}/bound", roots, "SENDKIT_ACME_EAB_KID"),
        ):
            authority = Authority(url, ca_file)
            trouble = await trouble_of(authority)
            authority.close()
            assert words in str(trouble) and trouble.is_general, url
