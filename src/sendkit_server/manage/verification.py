"""Verifying a domain: what DNS says decides its status, and with it whether the domain may send.

DKIM with RSA, SPF and the MX of the return path have to be right; DMARC and a second key are advice.

- Asked for (`sendkit domains verify`, the API): what was found is written at once. A right record is `verified`; a wrong
  one is `failed`; a missing one is `pending`, or `failed` if it has been there before; when DNS could not be asked, the
  record stays what it was. The domain is `verified` when all that have to be right are, `failed` when one has failed.
- By itself, each hour: the records' statuses follow DNS, and a pending or failed domain that has become right is
  verified. A verified one goes on sending whatever a look finds, until its key has been gone from DNS for three days:
  a slip of a zone file must not stop mail, somebody else's domain must.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import structlog
from sqlalchemy import Connection

from sendkit_server.manage.dns_checks import RecordCheck, Verdict, check_records
from sendkit_server.manage.domains import DnsNames, DnsRecord, Domain, show_domain
from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.net.resolver import Resolver
from sendkit_server.store.queries import domains as queries
from sendkit_server.store.store import Store

GONE_AFTER_MS = 3 * DAY_MS

log = structlog.get_logger("domains")


class Verification(msgspec.Struct, frozen=True):
    """A domain with its new statuses, and what led to them."""

    domain: Domain
    checks: tuple[RecordCheck, ...]


async def verify(
    store: Store, team_id: int, name_or_id: str, names: DnsNames, resolver: Resolver, now: Instant
) -> Verification | None:
    """Asks DNS about a team's domain, and writes what it says. None when the team has no such domain."""
    domain = await show_domain(store, team_id, name_or_id, names)
    if domain is None:
        return None
    checks = await check_records(resolver, domain.records, names)
    status = domain_status(domain.records, new_statuses(checks), str(domain.row.status))
    return Verification(await write_statuses(store, domain, checks, status, names, now), checks)


async def follow(
    store: Store,
    domain: Domain,
    checks: tuple[RecordCheck, ...],
    key_gone_since: Instant | None,
    names: DnsNames,
    now: Instant,
) -> None:
    """Writes what an hourly look has found. key_gone_since: since when the key in DNS is not ours; None: it is, or
    nobody knows."""
    before = str(domain.row.status)
    status = domain_status(domain.records, new_statuses(checks), before)
    if before == "verified" and status != "verified":
        gone = key_gone_since is not None and now - key_gone_since >= GONE_AFTER_MS
        status = "failed" if gone else "verified"
    await write_statuses(store, domain, checks, status, names, now)


async def write_statuses(
    store: Store, domain: Domain, checks: tuple[RecordCheck, ...], status: str, names: DnsNames, now: Instant
) -> Domain:
    """Writes what has changed, if anything has; the domain as it is then."""
    row = domain.row
    record_status = {**json.loads(row.record_status), **new_statuses(checks)}
    if status == row.status and record_status == json.loads(row.record_status):
        return domain

    def write(connection: Connection) -> str:
        final = status
        if status == "verified" and not queries.claim(connection, row, now):
            final = "failed"
        elif status == "failed":
            queries.disclaim(connection, row.team_id, row.id)
        changes = {"status": final, "record_status": json.dumps(record_status), "updated_at": now}
        queries.update_domain(connection, row.team_id, row.id, changes)
        published = {name for name, found in record_status.items() if found == "verified"}
        for key in queries.dkim_keys(connection, row.team_id, row.id):
            name = f"{key.selector}._domainkey.{row.name}"
            if key.active_from is None and queries.record_key("DKIM", name) in published:
                queries.put_key_into_use(connection, key, now)
                log.info("domain.key_in_use", domain=row.name, selector=key.selector)
        return final

    final = await store.write(write)
    if final != row.status:
        log.info("domain.status", domain=row.name, before=row.status, status=final)
    if final != status:
        log.warning("domain.taken", domain=row.name, why="another team has verified it")
    found = await show_domain(store, row.team_id, row.id, names)
    return domain if found is None else found


def new_statuses(checks: Sequence[RecordCheck]) -> dict[str, str]:
    """By record: what its status becomes."""
    return {check.record.key: _status(check) for check in checks}


def _status(check: RecordCheck) -> str:
    before = check.record.status
    match check.verdict:
        case Verdict.OK:
            return "verified"
        case Verdict.WRONG:
            return "failed"
        case Verdict.MISSING:
            return "pending" if before == "pending" else "failed"
        case Verdict.UNAVAILABLE:
            return before


def domain_status(records: Sequence[DnsRecord], statuses: dict[str, str], before: str) -> str:
    """The domain's status by those of its records. before: what it stays while nothing is known."""
    found = {statuses.get(record.key, record.status) for record in required(records)}
    if found == {"verified"}:
        return "verified"
    return "failed" if "failed" in found else "pending" if before != "verified" else before


def required(records: Sequence[DnsRecord]) -> list[DnsRecord]:
    """The records without which a domain is not verified: of several keys the first, which every receiver knows."""
    keys = [record for record in records if record.kind == "DKIM"]
    return [*keys[:1], *(record for record in records if record.kind in ("SPF", "MX"))]
