"""Domains are verified by what DNS says, and stay what they are while it says nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from sinks import PATIENT_S, DnsServer, Fault

from sendkit_server.compose.signing import Signers
from sendkit_server.manage import domains
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.doctor import Doctor
from sendkit_server.manage.domains import DnsNames, Domain
from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.manage.verification import GONE_AFTER_MS, verify
from sendkit_server.model.instant import DAY_MS, HOUR_MS
from sendkit_server.net.resolver import Resolver
from sendkit_server.store.queries import findings as finding_queries
from sendkit_server.store.queries.pages import Window
from sendkit_server.store.store import Store

NAMES = DnsNames("mail.a.test", ("ip4:192.0.2.1",))


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer({}) as running:
        yield running


async def add(store: Store, name: str = "a.test", names: DnsNames = NAMES, *, trust: bool = False) -> Domain:
    return await domains.add_domain(store, 1, name, names, trust=trust, by=Actor("tests", 1, os.urandom))


def publish(dns: DnsServer, domain: Domain, *kinds: str) -> None:
    """The domain's records of these kinds, and no others."""
    dns.zone.clear()
    for record in domain.records:
        if record.kind in (kinds or ("DKIM", "SPF", "MX", "DMARC")):
            value = record.zone_line().partition(f" {record.type} ")[2]
            dns.zone.setdefault(record.name, {})[record.type] = [value]  # type: ignore[index]


async def verified(store: Store, dns: DnsServer, names: DnsNames = NAMES) -> tuple[str, dict[str, str]]:
    """The domain's status, and its records', after it was looked for in DNS."""
    done = await verify(store, 1, "a.test", names, Resolver([dns.address], deadline_s=PATIENT_S), 2)
    assert done is not None
    return done.domain.row.status, {record.kind: record.status for record in done.domain.records}


async def may_send(store: Store) -> bool:
    found = await store.domain(1, "a.test")
    return found is not None and found.sendable


async def test_a_domain_may_send_once_its_records_are_published(store: Store, dns: DnsServer) -> None:
    domain = await add(store)
    assert await verified(store, dns) == ("pending", dict.fromkeys(("DKIM", "SPF", "MX", "DMARC"), "pending"))
    assert not await may_send(store)
    publish(dns, domain, "DKIM", "SPF")
    assert (await verified(store, dns))[0] == "pending"
    publish(dns, domain, "DKIM", "SPF", "MX")
    assert await verified(store, dns) == (
        "verified",
        {"DKIM": "verified", "SPF": "verified", "MX": "verified", "DMARC": "pending"},
    )
    assert await may_send(store)


async def test_a_wrong_record_fails_and_so_does_one_that_has_gone(store: Store, dns: DnsServer) -> None:
    domain = await add(store)
    publish(dns, domain)
    await verified(store, dns)
    publish(dns, domain, "DKIM", "SPF", "DMARC")
    assert await verified(store, dns) == (
        "failed",
        {"DKIM": "verified", "SPF": "verified", "MX": "failed", "DMARC": "verified"},
    )
    assert not await may_send(store)
    dns.zone["send.a.test"] = {"TXT": ['"v=spf1 -all"'], "MX": ["10 mail.a.test."]}
    assert (await verified(store, dns))[1]["SPF"] == "failed"
    publish(dns, domain)
    assert (await verified(store, dns))[0] == "verified"


async def test_trouble_with_dns_changes_nothing(store: Store, dns: DnsServer) -> None:
    domain = await add(store)
    publish(dns, domain)
    before = await verified(store, dns)
    dns.zone = dict.fromkeys(dns.zone, Fault.SERVFAIL)
    assert await verified(store, dns) == before
    assert await may_send(store)


async def test_a_second_key_and_dmarc_are_advice(store: Store, dns: DnsServer) -> None:
    names = DnsNames("mail.a.test", ("ip4:192.0.2.1",), ("rsa-sha256", "ed25519-sha256"))
    domain = await add(store, names=names)
    publish(dns, domain, "DKIM", "SPF", "MX")
    del dns.zone["sendkit-ed._domainkey.a.test"]
    assert (await verified(store, dns, names))[0] == "verified"


async def test_who_has_no_such_domain_is_told_so(store: Store, dns: DnsServer) -> None:
    assert await verify(store, 1, "b.test", NAMES, Resolver([dns.address]), 2) is None


async def test_the_return_path_is_the_domains_own_once_dns_brings_its_mail_here(store: Store, dns: DnsServer) -> None:
    domain = await add(store)
    signers = Signers(store, ["rsa-sha256"])

    async def return_path() -> str | None:
        await signers.keys(1, "a.test")
        return signers.return_path(1, "a.test")

    assert await return_path() is None
    publish(dns, domain, "SPF", "MX")
    await verified(store, dns)
    assert await return_path() == "send.a.test"
    publish(dns, domain, "SPF")
    await verified(store, dns)
    assert await return_path() is None


class Hours:
    """A doctor who looks whenever a test says so."""

    def __init__(self, store: Store, dns: DnsServer) -> None:
        self.now = DAY_MS
        around = Surroundings(
            NAMES,
            direct=False,
            serving=True,
            make_resolver=lambda servers: Resolver([dns.address], deadline_s=PATIENT_S),
        )
        self.doctor = Doctor(store, around, lambda: self.now)

    async def look(self, after_ms: int = HOUR_MS) -> None:
        self.now += after_ms
        await self.doctor.look(self.now - HOUR_MS * 9 // 10)


async def status(store: Store) -> str:
    found = await domains.show_domain(store, 1, "a.test", NAMES)
    assert found is not None
    return str(found.row.status)


async def test_an_hourly_look_verifies_and_takes_it_back_only_when_the_key_has_gone_for_days(
    store: Store, dns: DnsServer
) -> None:
    domain = await add(store)
    hours = Hours(store, dns)
    await hours.look()
    assert await status(store) == "pending"
    publish(dns, domain)
    await hours.look()
    assert await status(store) == "verified"
    publish(dns, domain, "SPF", "MX")
    await hours.look()
    await hours.look(GONE_AFTER_MS - HOUR_MS)
    assert await status(store) == "verified"
    await hours.look()
    assert await status(store) == "failed"


async def test_a_domain_without_its_mx_goes_on_sending(store: Store, dns: DnsServer) -> None:
    domain = await add(store)
    hours = Hours(store, dns)
    publish(dns, domain)
    await hours.look()
    publish(dns, domain, "DKIM")
    for _ in range(3):
        await hours.look(GONE_AFTER_MS)
    assert await status(store) == "verified"
    found = await domains.show_domain(store, 1, "a.test", NAMES)
    assert found is not None
    assert {record.kind: record.status for record in found.records}["MX"] == "failed"


async def test_a_domain_that_another_node_has_just_looked_at_is_left_alone(store: Store, dns: DnsServer) -> None:
    await add(store)
    one, other = Hours(store, dns), Hours(store, dns)
    await one.look()
    dns.questions.clear()
    await other.look()
    assert ("sendkit._domainkey.a.test", "TXT") not in dns.questions
    # What it has found is known here as well.
    assert other.doctor.findings["a.test", "dkim"] == one.doctor.findings["a.test", "dkim"]
    await other.look()
    assert ("sendkit._domainkey.a.test", "TXT") in dns.questions


async def test_slow_dns_leaves_what_was_found_before(
    store: Store, dns: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(store)
    hours = Hours(store, dns)
    await hours.look()
    before = hours.now
    monkeypatch.setattr("sendkit_server.manage.doctor.WHOLE_S", 0.1)
    monkeypatch.setattr(Resolver, "texts", lambda self, name: asyncio.get_running_loop().create_future())
    await hours.look()
    (scope,) = [row.row.id for row in (await domains.list_domains(store, 1, NAMES, Window(10)))[0]]
    assert await store.read(lambda connection: finding_queries.standing(connection, scope, "dkim")) == ("error", before)
