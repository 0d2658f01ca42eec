"""Certificates that nodes share by the database: one orders, every one answers the authority and shows what has come."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest
import trustme
from cryptography import x509
from sinks import AcmeRefusal, AcmeSink, server_context
from sqlalchemy import select

from sendkit_server.api.acme import ChallengeDoor
from sendkit_server.api.server import HttpServer
from sendkit_server.manage import acme as ordering
from sendkit_server.manage import certificate_book as kept
from sendkit_server.manage import certificate_view as view
from sendkit_server.manage.acme import Certifier
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.certificate_view import Wanted
from sendkit_server.manage.certificates import local_certificate
from sendkit_server.manage.domain_wishes import DomainWish
from sendkit_server.manage.domains import DnsNames, add_domain
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.certificate import HTTP_01, TLS_ALPN_01, Challenge
from sendkit_server.net.acme import Authority
from sendkit_server.net.listen import listen
from sendkit_server.net.tls_server import ServerTls
from sendkit_server.store import schema
from sendkit_server.store.queries import acme as queries
from sendkit_server.store.store import Store, open_store

HOST = "mail.sender.test"
WEB = trustme.CA()


class Node(NamedTuple):
    """One of several: what orders, what its listeners show, where it answers in plain HTTP."""

    certifier: Certifier
    tls: ServerTls
    port: int


MakeNode: TypeAlias = Callable[[Store, Wanted], Awaitable[Node]]


@pytest.fixture
async def acme() -> AsyncIterator[AcmeSink]:
    async with AcmeSink(server_context(WEB, "localhost")) as running:
        yield running


@pytest.fixture
async def other_store(store: Store, tmp_path: Path, database_url: str | None) -> AsyncIterator[Store]:
    """Another node's store of the same database; on SQLite, where there is one process, the same."""
    if database_url is None:
        yield store
        return
    (tmp_path / "other").mkdir()
    opened = open_store(tmp_path / "other", "secret", "tests", database_url)
    opened.start(1_000)
    yield opened
    opened.close()


@pytest.fixture
async def make_node(acme: AcmeSink, tmp_path: Path) -> AsyncIterator[MakeNode]:
    """Makes nodes; they end with the test."""
    WEB.cert_pem.write_to_path(tmp_path / "ca.pem")
    made: list[tuple[Certifier, HttpServer]] = []

    async def make(store: Store, wanted: Wanted) -> Node:
        folder = tmp_path / f"tls{len(made)}"
        tls = ServerTls(*local_certificate(folder, HOST, datetime.now(UTC)), main=HOST)
        authority = Authority(acme.directory, tmp_path / "ca.pem")
        certifier = Certifier(store, wanted, authority, tls, folder, lambda: store.wall_ns() // 1_000_000)
        server = HttpServer(ChallengeDoor(store), "")
        sock = listen("127.0.0.1", 0, "TESTS")
        port = sock.getsockname()[1]
        await server.listen(sock)
        made.append((certifier, server))
        return Node(certifier, tls, port)

    yield make
    for certifier, server in made:
        certifier.close()
        await server.close(0)


def wanting(acme: AcmeSink, challenge: str = HTTP_01, **more: object) -> Wanted:
    settings = {"hostname": HOST, "email": "ops@sender.test", "directory": acme.directory, "challenge": challenge}
    return Wanted(**{**settings, **more})  # type: ignore[arg-type]


async def issuer_seen(tls: ServerTls, name: str) -> tuple[str, list[str]]:
    """Who issued what a client that asks for the name sees, and for which names."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.context) as listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        leaf = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True))
        writer.close()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return leaf.issuer.rfc4514_string(), names.get_values_for_type(x509.DNSName)


async def test_another_node_answers_the_authority_and_shows_what_was_ordered(
    store: Store, other_store: Store, make_node: MakeNode, acme: AcmeSink
) -> None:
    one, other = [await make_node(each, wanting(acme)) for each in (store, other_store)]
    acme.look_at(http=other.port)
    await one.certifier._round()
    assert acme.issued == [HOST]
    await other.certifier._round()
    assert acme.tried == 1
    for node in (one, other):
        assert await issuer_seen(node.tls, HOST) == ("CN=ACME sink", [HOST])
    # The answers are gone with the order, and so is the lease.
    rows = await store.read(lambda connection: connection.execute(select(schema.acme.c.kind)).scalars().all())
    assert sorted(rows) == ["account", "certificate"]


async def test_a_challenge_by_tls_is_known_to_every_node_before_the_authority_comes(
    store: Store, other_store: Store, make_node: MakeNode, acme: AcmeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = wanting(acme, TLS_ALPN_01)
    one, other = [await make_node(each, wanted) for each in (store, other_store)]
    monkeypatch.setattr(ordering, "OTHERS_KNOW_S", 0.6)
    monkeypatch.setattr(ordering, "LOOK_AMONG_OTHERS_S", 0.1)
    monkeypatch.setattr(ordering, "SHORTEST_LOOK_S", 0.1)
    asked = one if store is other_store else other

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=asked.tls.context) as listening:
        acme.look_at(tls=listening.sockets[0].getsockname()[1])
        looking = None
        if asked is other:
            ordered = asyncio.create_task(one.certifier._round())
            await asyncio.wait_for(_lease_of(store), 10)
            looking = asyncio.create_task(other.certifier.run())
            await ordered
        else:
            await one.certifier._round()
        if looking is not None:
            looking.cancel()
    assert acme.issued == [HOST] and acme.tried == 1


async def _lease_of(store: Store) -> None:
    """Waits until a node leads."""
    owner = str(store.owner).encode()
    while await store.read(lambda connection: queries.find_value(connection, "lease", "")) != owner:
        await asyncio.sleep(0.01)


async def test_only_one_orders_at_a_time_until_its_lease_ends(store: Store) -> None:
    async def claim(owner: bytes, now: int) -> bool:
        return await store.write_quietly(lambda connection: queries.claim_lease(connection, owner, now, now + 100))

    assert await claim(b"1", 1_000) is True
    assert await claim(b"2", 1_050) is False
    assert await claim(b"1", 1_090) is True
    assert await claim(b"2", 1_150) is False
    assert await claim(b"2", 1_191) is True
    await store.write_quietly(lambda connection: queries.release_lease(connection, b"1"))
    assert await claim(b"1", 1_192) is False
    await store.write_quietly(lambda connection: queries.release_lease(connection, b"2"))
    assert await claim(b"1", 1_192) is True


async def test_tracking_hosts_of_domains_that_may_send_get_certificates_of_their_own(
    store: Store, make_node: MakeNode, acme: AcmeSink
) -> None:
    names = DnsNames(HOST, (), ("rsa-sha256",))
    for name, trust in (("sender.test", True), ("stranger.test", False)):
        wish = DomainWish(tracking="links")
        await add_domain(store, 1, name, names, trust=trust, wish=wish, by=Actor("tests", 1, os.urandom))
    wanted = wanting(acme, public_host="app.sender.test", web=True)
    node = await make_node(store, wanted)
    acme.look_at(http=node.port)
    await node.certifier._round()
    assert sorted(acme.issued) == ["app.sender.test", "links.sender.test", HOST]
    for name in acme.issued:
        assert (await issuer_seen(node.tls, name))[1] == [name]
    assert (await issuer_seen(node.tls, "links.stranger.test"))[1] == [HOST]
    # Where a proxy serves the pages, only the mail server's own name is ordered.
    assert view.ordered_names(wanting(acme, public_host="app.sender.test"), ["links.sender.test"]) == [HOST]


async def test_one_name_that_leads_elsewhere_does_not_keep_the_others_from_theirs(
    store: Store, make_node: MakeNode, acme: AcmeSink
) -> None:
    node = await make_node(store, wanting(acme, public_host="app.sender.test", web=True))
    acme.look_at(http=node.port)
    acme.elsewhere = {"app.sender.test"}
    await node.certifier._round()
    assert acme.issued == [HOST]
    (warning,) = node.certifier.warnings()
    assert warning.name == "certificate_missing" and "app.sender.test" in warning.message
    # Its turn comes again in an hour, not with the next round.
    await node.certifier._round()
    assert acme.tried == 2


async def test_what_is_wrong_with_the_account_or_the_authority_is_asked_once_for_all_names(
    store: Store, make_node: MakeNode, acme: AcmeSink
) -> None:
    wanted = wanting(acme, public_host="app.sender.test", web=True)
    node = await make_node(store, wanted)
    acme.look_at(http=node.port)
    acme.refusing = AcmeRefusal(503, "serverInternal", "down for the day")
    await node.certifier._round()
    await node.certifier._round()
    assert acme.tried == 1 and len(node.certifier.warnings()) == 2
    acme.refusing = None
    assert await view.renew(store, wanted, HOST.upper(), 5) == [HOST]
    await node.certifier._round()
    assert acme.issued == [HOST]
    with pytest.raises(ManageError, match=r"other\.test is none of .*mail\.sender\.test, app\.sender\.test"):
        await view.renew(store, wanted, "other.test", 5)


async def test_an_account_that_the_authority_has_forgotten_is_made_anew(
    store: Store, make_node: MakeNode, acme: AcmeSink
) -> None:
    wanted = wanting(acme)
    node = await make_node(store, wanted)
    acme.look_at(http=node.port)
    await node.certifier._round()
    acme.accounts.clear()
    await view.renew(store, wanted, None, 5)
    await node.certifier._round()
    assert acme.issued == [HOST, HOST] and len(acme.accounts) == 1


async def test_keys_and_accounts_lie_sealed(store: Store, make_node: MakeNode, acme: AcmeSink) -> None:
    node = await make_node(store, wanting(acme))
    acme.look_at(http=node.port)
    await node.certifier._round()
    rows = await store.read(lambda connection: connection.execute(select(schema.acme.c.value)).scalars().all())
    assert len(rows) == 2 and not any(b"PRIVATE KEY" in row or b"CERTIFICATE" in row for row in rows)


async def test_the_operators_file_is_warned_of_in_time_and_names_that_it_has_are_not_ordered(
    store: Store, acme: AcmeSink, tmp_path: Path
) -> None:
    path = tmp_path / "own.pem"
    made = trustme.CA().issue_cert("*.sender.test", not_after=datetime(2031, 3, 1, tzinfo=UTC))
    made.cert_chain_pems[0].write_to_path(path)
    wanted = wanting(acme, public_host="app.elsewhere.test", web=True, cert=path, given=True)
    assert view.ordered_names(wanted, ["links.sender.test"]) == ["app.elsewhere.test"]

    def warned(day: datetime) -> str | None:
        found = view.file_standing(wanted, int(day.timestamp() * 1000))
        assert found is not None
        warning = view.warning_of(found)
        return None if warning is None else warning.message

    assert warned(datetime(2031, 2, 14, tzinfo=UTC)) is None
    assert (
        warned(datetime(2031, 2, 16, tzinfo=UTC)) == "The certificate of *.sender.test ends on 2031-03-01 00:00:00 UTC."
    )
    assert "has ended on" in (warned(datetime(2031, 3, 2, tzinfo=UTC)) or "")


async def test_after_a_limit_the_other_names_are_asked_for_one_by_one(
    store: Store, make_node: MakeNode, acme: AcmeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await make_node(store, wanting(acme, public_host="app.sender.test", web=True))
    acme.look_at(http=node.port)
    acme.refusing = AcmeRefusal(429, "rateLimited", "too many for this name", "86400")
    began = node.certifier._clock()
    next_at = await node.certifier._round()
    assert acme.tried == 1 and next_at - began >= ordering.CALM_MS
    acme.refusing = None
    await node.certifier._round()
    assert acme.tried == 1
    monkeypatch.setattr(node.certifier, "_clock", lambda: began + 2 * ordering.CALM_MS)
    await node.certifier._round()
    assert acme.issued == ["app.sender.test"]


async def test_an_answer_that_a_killed_node_left_behind_is_shown_for_a_quarter_of_an_hour_only(
    store: Store, make_node: MakeNode, acme: AcmeSink
) -> None:
    node = await make_node(store, wanting(acme, TLS_ALPN_01))
    challenge = Challenge(TLS_ALPN_01, HOST, "t" * 32, "t.thumbprint")
    now = node.certifier._clock()
    for age, shown in ((14, [challenge]), (16, [])):
        await kept.keep(store, [(kept.CHALLENGE, challenge.token, challenge)], now - age * 60_000)
        await node.certifier.show()
        assert node.certifier._challenged == shown
