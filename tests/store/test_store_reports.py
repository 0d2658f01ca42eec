"""Receivers' reports: stored once, only of domains of ours, summed up, and removed in time."""

from __future__ import annotations

import gzip
import json
import os
from base64 import encodebytes
from typing import Any

import pytest
from sinks import PATIENT_S, DnsServer
from sqlalchemy import func, select

from sendkit_server.events import reports as taking
from sendkit_server.events.bounces import Taken
from sendkit_server.events.reports import Reports
from sendkit_server.manage import domains
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.domains import DnsNames
from sendkit_server.manage.reports import TlsTrouble, summaries
from sendkit_server.manage.retention import Kept, expire
from sendkit_server.model.instant import DAY_MS
from sendkit_server.net.resolver import Resolver
from sendkit_server.store import schema
from sendkit_server.store.store import Store

NAMES = DnsNames("mail.a.test", ("ip4:192.0.2.1",))
NOW = 1_764_028_800_000


def row(
    source: str = "192.0.2.1",
    count: int = 1,
    dkim: str = "pass",
    spf: str = "pass",
    at: str = "a.test",
    then: str = "none",
) -> str:
    return (
        f"<record><row><source_ip>{source}</source_ip><count>{count}</count><policy_evaluated><disposition>{then}</disposition>"
        f"<dkim>{dkim}</dkim><spf>{spf}</spf></policy_evaluated></row><identifiers><header_from>{at}</header_from></identifiers></record>"
    )


def dmarc(*rows: str, domain: str = "a.test", number: str = "1", by: str = "google.com") -> bytes:
    xml = (
        f"<feedback><report_metadata><org_name>{by}</org_name><report_id>{number}</report_id><date_range><begin>{NOW // 1000 - 86400}</begin>"
        f"<end>{NOW // 1000}</end></date_range></report_metadata><policy_published><domain>{domain}</domain><p>none</p></policy_published>"
        f"{''.join(rows)}</feedback>"
    )
    return mail(gzip.compress(xml.encode()), "application/gzip")


def tls(domain: str = "send.a.test", number: str = "1", **summary: Any) -> bytes:
    report = {
        "organization-name": "Google Inc.", "report-id": number,
        "date-range": {"start-datetime": "2025-11-24T00:00:00Z", "end-datetime": "2025-11-24T23:59:59Z"},
        "policies": [{
            "policy": {"policy-type": "no-policy-found", "policy-domain": domain},
            "summary": {"total-successful-session-count": 10, "total-failure-session-count": 2},
            "failure-details": [{
                "result-type": "starttls-not-supported", "receiving-mx-hostname": "mail.a.test", "failed-session-count": 2,
                "additional-information": "no STARTTLS",
            }],
        }],
    }  # fmt: skip
    return mail(gzip.compress(json.dumps(report).encode()), "application/tlsrpt+gzip")


def mail(data: bytes, media_type: str) -> bytes:
    head = f"Subject: Report\r\nContent-Type: {media_type}\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    return head.encode() + encodebytes(data)


class World:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = NOW
        self.counted: list[str] = []
        self.reports = Reports(store, lambda: self.now, os.urandom, self.counted.append)

    async def take(self, raw: bytes) -> Taken:
        return await self.reports.take(raw)

    async def summaries(self, dns: DnsServer | None = None, **about: Any) -> list[Any]:
        resolver = Resolver([dns.address], deadline_s=PATIENT_S) if dns else Resolver(["127.0.0.1:9"], deadline_s=0.3)
        return await summaries(self.store, 1, about.get("domain"), about.get("days", 30), resolver, self.now)

    async def stored(self) -> int:
        query = select(func.count()).select_from(schema.report)
        return int(await self.store.read(lambda connection: connection.execute(query).scalar_one()))


@pytest.fixture
async def world(store: Store) -> World:
    for name in ("a.test", "b.test"):
        await domains.add_domain(store, 1, name, NAMES, trust=False, by=Actor("tests", 1, os.urandom))
    return World(store)


async def test_reports_are_summed_up_by_domain_and_source(world: World) -> None:
    assert await world.take(dmarc(row(count=5), row("2001:db8::1", 2, "fail", "pass"))) is Taken.REPORTED
    rows = (row(count=1), row("198.51.100.9", 7, "fail", "fail", then="reject"))
    assert await world.take(dmarc(*rows, by="Yahoo")) is Taken.REPORTED
    assert await world.take(tls()) is Taken.REPORTED
    zone = {"1.2.0.192.in-addr.arpa": {"PTR": ["mail.a.test."]}}
    async with DnsServer(zone) as dns:
        (found,) = await world.summaries(dns)
    assert (found.domain, found.reports, found.organizations) == ("a.test", 2, ["Google Inc.", "Yahoo", "google.com"])
    assert (found.mails, found.passed, found.dkim, found.spf, found.refused) == (15, 8, 6, 8, 7)
    assert [(each.address, each.name, each.mails, each.passed) for each in found.sources] == [
        ("198.51.100.9", None, 7, 0),
        ("192.0.2.1", "mail.a.test", 6, 6),
        ("2001:db8::1", None, 2, 2),
    ]
    assert (found.tls_reports, found.tls_succeeded, found.tls_failed) == (1, 10, 2)
    trouble = TlsTrouble("starttls-not-supported", 2, "mail.a.test", "no STARTTLS", "Google Inc.")
    assert found.tls_failures == [trouble]


async def test_a_report_is_stored_once(world: World) -> None:
    assert await world.take(dmarc(row())) is Taken.REPORTED
    assert await world.take(dmarc(row(count=99))) is Taken.REPEATED
    assert await world.take(dmarc(row(), number="2")) is Taken.REPORTED
    assert await world.stored() == 2
    assert world.counted == ["reported", "repeated", "reported"]


async def test_only_domains_of_ours_are_looked_at(world: World) -> None:
    assert await world.take(dmarc(row(at="c.test"), domain="c.test")) is Taken.NOBODY
    assert await world.take(tls("c.test")) is Taken.NOBODY
    assert await world.take(mail(b"<html/>", "text/xml")) is Taken.IGNORED
    assert await world.stored() == 0


async def test_days_that_are_long_past_or_still_to_come_are_not_reported(world: World) -> None:
    world.now += 100 * DAY_MS
    assert await world.take(dmarc(row())) is Taken.IGNORED
    world.now = NOW - 3 * DAY_MS
    assert await world.take(dmarc(row())) is Taken.IGNORED


async def test_a_report_may_be_about_several_domains_and_what_is_below_them(world: World) -> None:
    rows = (row(at="news.a.test", count=2), row(at="b.test", count=3), row(at="c.test", count=4))
    assert await world.take(dmarc(*rows, domain="test")) is Taken.REPORTED
    assert [(each.domain, each.mails) for each in await world.summaries()] == [("a.test", 2), ("b.test", 3)]
    assert [each.domain for each in await world.summaries(domain="b.test")] == ["b.test"]


async def test_a_report_without_a_mail_says_so(world: World) -> None:
    assert await world.take(dmarc()) is Taken.REPORTED
    (found,) = await world.summaries()
    assert (found.mails, found.reports) == (0, 1)


async def test_no_more_than_so_many_a_day_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "MAX_A_DAY", 2)
    assert [await world.take(dmarc(number=str(n))) for n in range(3)] == [Taken.REPORTED, Taken.REPORTED, Taken.IGNORED]
    world.now += DAY_MS + 1
    assert await world.take(dmarc(number="4")) is Taken.REPORTED


async def test_old_reports_are_left_out_and_removed_as_events_are(world: World) -> None:
    await world.take(dmarc(row()))
    world.now += 5 * DAY_MS
    await world.take(tls(number="2"))
    assert await world.summaries(days=2) == []
    kept = Kept(captured=DAY_MS, bodies=DAY_MS, transcripts=DAY_MS, events=3 * DAY_MS)
    await expire(world.store, kept, world.now)
    assert [(each.reports, each.tls_reports) for each in await world.summaries()] == [(0, 1)]
