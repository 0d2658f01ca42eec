"""What receivers have reported of a team's domains, summed up: who sent in their name, and how it fared."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.net.resolver import DnsProblem, Resolver
from sendkit_server.store.queries import reports as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

MAX_REPORTS = 5_000
NAMED_SOURCES = 50  # of which the reverse name is asked for
NAMES_S = 4.0


class Source(msgspec.Struct):
    """What came from one address. address: "" stands for those that were too many to keep.  name: its reverse name."""

    address: str
    name: str | None = None
    mails: int = 0
    dkim: int = 0
    spf: int = 0
    passed: int = 0
    refused: int = 0


class TlsTrouble(msgspec.Struct, frozen=True):
    """One kind of failure of connections to our servers, in the words of who reported it."""

    result: str
    sessions: int
    mx: str
    reason: str
    organization: str


class Summary(msgspec.Struct):
    """What was reported of one domain.

    mails: of all reports.  passed: DMARC, so DKIM or SPF, aligned.  refused: quarantined or rejected for it.
    """

    domain: str
    reports: int = 0
    organizations: list[str] = []
    begins_at: Instant = 0
    ends_at: Instant = 0
    mails: int = 0
    passed: int = 0
    dkim: int = 0
    spf: int = 0
    refused: int = 0
    sources: list[Source] = []
    tls_reports: int = 0
    tls_succeeded: int = 0
    tls_failed: int = 0
    tls_failures: list[TlsTrouble] = []


async def summaries(
    store: Store, team_id: int, domain: str | None, days: int, resolver: Resolver, now: Instant
) -> list[Summary]:
    """By domain, in the order of their names; only those that anything was reported of."""
    since = now - days * DAY_MS
    rows = await store.read(lambda connection: queries.list_since(connection, team_id, since, domain, MAX_REPORTS))
    found = await asyncio.to_thread(_summed, rows)
    await _name(resolver, [source for summary in found for source in summary.sources])
    return found


def _summed(rows: Sequence[AnyRow]) -> list[Summary]:
    by_domain: dict[str, list[AnyRow]] = {}
    for row in rows:
        by_domain.setdefault(row.domain, []).append(row)
    return [_summary(name, by_domain[name]) for name in sorted(by_domain)]


def _summary(domain: str, rows: Sequence[AnyRow]) -> Summary:
    summary = Summary(
        domain,
        organizations=sorted({str(row.organization) for row in rows}),
        begins_at=min(row.begins_at for row in rows),
        ends_at=max(row.ends_at for row in rows),
    )
    sources: dict[str, Source] = {}
    troubles: Counter[tuple[str, str, str, str]] = Counter()
    for row in rows:
        detail = json.loads(row.summary)
        if row.kind == "dmarc":
            summary.reports += 1
            for line in detail["rows"]:
                _add(sources.setdefault(line["source"], Source(line["source"])), line)
        else:
            summary.tls_reports += 1
            _add_tls(summary, troubles, detail["policies"], row.organization)
    summary.sources = sorted(sources.values(), key=lambda source: -source.mails)
    summary.tls_failures = [
        TlsTrouble(result, count, mx, reason, organization)
        for (result, mx, reason, organization), count in troubles.most_common()
    ]
    for name in ("mails", "passed", "dkim", "spf", "refused"):
        setattr(summary, name, sum(getattr(source, name) for source in summary.sources))
    return summary


def _add(source: Source, line: dict[str, Any]) -> None:
    count = line["count"]
    source.mails += count
    source.dkim += count if line["dkim"] else 0
    source.spf += count if line["spf"] else 0
    source.passed += count if line["dkim"] or line["spf"] else 0
    source.refused += count if line["disposition"] in ("quarantine", "reject") else 0


def _add_tls(
    summary: Summary, troubles: Counter[tuple[str, str, str, str]], policies: Iterable[dict[str, Any]], who: str
) -> None:
    for policy in policies:
        summary.tls_succeeded += policy["succeeded"]
        summary.tls_failed += policy["failed"]
        for failure in policy["failures"]:
            troubles[failure["result"], failure["mx"], failure["reason"], who] += failure["count"]


async def _name(resolver: Resolver, sources: Sequence[Source]) -> None:
    """Gives the largest their reverse names, as far as DNS tells them in time."""
    largest = [source for source in sorted(sources, key=lambda each: -each.mails) if source.address][:NAMED_SOURCES]

    async def ask(source: Source) -> None:
        names = await resolver.pointers(source.address)
        if not isinstance(names, DnsProblem) and names:
            source.name = names[0]

    asking = [asyncio.create_task(ask(source)) for source in largest]
    if asking:
        _, late = await asyncio.wait(asking, timeout=NAMES_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
