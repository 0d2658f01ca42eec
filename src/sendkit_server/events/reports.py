"""Reports that receivers send about our domains, taken in and stored.

Anybody can write to the addresses that take them, so a report is believed nothing but its figures, only domains of ours
are looked at, each report is stored once, and a team gets no more than MAX_A_DAY. Nothing else changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from sendkit_server.events.bounces import Taken
from sendkit_server.model.ids import ENTROPY_BYTES, make_id
from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.store.errors import StoreUnavailable
from sendkit_server.store.queries import reports as queries
from sendkit_server.store.rows import json_text
from sendkit_server.store.store import Store
from sendkit_server.wire.dmarc_report import DmarcReport, merged
from sendkit_server.wire.report_mail import read_report_mail
from sendkit_server.wire.tls_report import TlsReport

LOCAL_PARTS = frozenset({"dmarc-reports", "tls-reports"})
MAX_A_DAY = 1_000  # of one team; a domain that is much written to gets some hundreds
MAX_DOMAINS = 50  # of one report
OLDEST_MS = 90 * DAY_MS

Report = DmarcReport | TlsReport

log = structlog.get_logger("inbound")


class Reports:
    """Takes in what comes to LOCAL_PARTS, and counts it. count: told each result."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], Instant],
        entropy: Callable[[int], bytes],
        count: Callable[[str], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._count = count
        # The largest keep a thread busy for a second: one at a time, whoever sends them.
        self._turn = asyncio.Lock()

    async def take(self, raw: bytes) -> Taken:
        """Stores the report that a mail brings; durable once it returns."""
        async with self._turn:
            found = await asyncio.to_thread(read_report_mail, raw)
        result, why = (Taken.IGNORED, found.why) if found.report is None else await self._store_it(found.report)
        self._count(str(result))
        organization = None if found.report is None else found.report.organization
        log.info("inbound.report", result=str(result), why=why or None, organization=organization)
        return result

    async def _store_it(self, report: Report) -> tuple[Taken, str]:
        now = self._clock()
        if not now - OLDEST_MS <= report.begins_at <= now + DAY_MS:
            return Taken.IGNORED, "its days are long past, or still to come"
        names = list(dict.fromkeys(name for about in _domains(report) for name in _upwards(about)))
        try:
            owners = await self._store.read(lambda connection: queries.owners(connection, names))
            if not owners:
                return Taken.NOBODY, "it is about no domain of ours"
            rows = await asyncio.to_thread(self._rows, report, owners, now)
            return await self._store.write_quietly(lambda connection: _add(connection, rows, now))
        except StoreUnavailable as error:
            return Taken.UNAVAILABLE, str(error)

    def _rows(self, report: Report, owners: dict[str, int], now: Instant) -> list[dict[str, Any]]:
        return [
            {
                "team_id": owners[name],
                "id": make_id(queries.PREFIX, now, self._entropy(ENTROPY_BYTES)),
                "kind": "dmarc" if isinstance(report, DmarcReport) else "tls",
                "domain": name,
                "organization": report.organization,
                "report_id": report.report_id,
                "begins_at": report.begins_at,
                "ends_at": report.ends_at,
                "received_at": now,
                "summary": json_text(summary),
            }
            for name, summary in _by_domain(report, owners).items()
        ]


def _add(connection: Connection, rows: list[dict[str, Any]], now: Instant) -> tuple[Taken, str]:
    result, why = Taken.REPEATED, ""
    for row in rows:
        if queries.count_since(connection, row["team_id"], now - DAY_MS) >= MAX_A_DAY:
            result, why = Taken.IGNORED, f"more than {MAX_A_DAY} reports came in a day"
        elif queries.add(connection, row):
            result, why = Taken.REPORTED, ""
    return result, why


def _domains(report: Report) -> list[str]:
    """What a report is about, as it says."""
    if isinstance(report, DmarcReport):
        names: Iterable[str] = [report.domain, *(row.header_from for row in report.rows)]
    else:
        names = (policy.domain for policy in report.policies)
    return list(dict.fromkeys(filter(None, names)))[:MAX_DOMAINS]


def _upwards(name: str) -> list[str]:
    """A name and those above it: what is below a domain of ours is ours as well."""
    labels = name.split(".")[-10:]
    return [".".join(labels[at:]) for at in range(len(labels))]


def _by_domain(report: Report, owners: dict[str, int]) -> dict[str, object]:
    """What is kept of a report, by the domain of ours that it is about."""
    if isinstance(report, TlsReport):
        policies: dict[str, list[object]] = {}
        for policy in report.policies:
            if (name := _owned(policy.domain, owners)) is not None:
                policies.setdefault(name, []).append(msgspec.to_builtins(policy))
        return {name: {"policies": found} for name, found in policies.items()}
    home = _owned(report.domain, owners)
    rows: dict[str, list[object]] = {} if home is None else {home: []}
    for row in merged(report.rows):
        if (name := _owned(row.header_from, owners) or home) is not None:
            rows.setdefault(name, []).append(msgspec.to_builtins(row))
    return {name: {"policy": report.policy, "rows": found} for name, found in rows.items()}


def _owned(name: str, owners: dict[str, int]) -> str | None:
    return next((each for each in _upwards(name) if each in owners), None)
