"""The command line's actions that look outside: verifying a domain, the doctor, what receivers have reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sendkit_server.manage import domains, reports, verification
from sendkit_server.manage.context import Context, Json
from sendkit_server.manage.doctor_domains import report_lines
from sendkit_server.manage.domains import Domain
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.finding import FindingStatus, worst
from sendkit_server.model.instant import api_time
from sendkit_server.store.queries import findings as finding_queries
from sendkit_server.store.queries.domains import return_path_of
from sendkit_server.store.queries.pages import Window

DOMAINS_AT_ONCE = 500  # of a look that somebody waits for


async def verify_domain(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    """Asks DNS about a domain, and writes what it says."""
    name = arguments["name"]
    resolver = context.doctor.around.resolver()
    done = await verification.verify(context.store, team_id, name, context.dns_names, resolver, context.clock())
    if done is None:
        raise no_domain(name)
    checks = [
        {
            "record_type": check.record.kind,
            "name": check.record.name,
            "verdict": str(check.verdict),
            "found": check.found,
            "required": check.record in verification.required([each.record for each in done.checks]),
            "zone_line": check.record.zone_line(),
        }
        for check in done.checks
    ]
    return {**worded(done.domain), "checks": checks}


async def examine(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    """The server and the team's domains, or the one that is named."""
    name = arguments.get("domain")
    found, part = await domains.list_domains(context.store, team_id, context.dns_names, Window(DOMAINS_AT_ONCE))
    left = part.total - len(found)
    if name is not None:
        one = await domains.show_domain(context.store, team_id, name, context.dns_names)
        if one is None:
            raise no_domain(name)
        found, left = [one], 0
    findings = await context.doctor.examine(found)
    return {
        "status": str(worst(findings)),
        "findings": [msgspec.to_builtins(finding) for finding in findings],
        "domains_left": left,
        "serving": context.doctor.around.serving,
    }


async def list_reports(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    """What receivers have reported of the team's domains, or of the one that is named."""
    name = arguments.get("domain")
    if name is not None:
        found = await domains.show_domain(context.store, team_id, name, context.dns_names)
        if found is None:
            raise no_domain(name)
        name = found.row.name
    summed = await reports.summaries(
        context.store, team_id, name, arguments["days"], context.doctor.around.resolver(), context.clock()
    )
    times = [{"begins_at": api_time(each.begins_at), "ends_at": api_time(each.ends_at)} for each in summed]
    return {"data": [{**msgspec.to_builtins(each), **at} for each, at in zip(summed, times, strict=True)]}


async def report_lines_of(context: Context, domain: Domain) -> list[str]:
    """What to publish to get reports: nothing until a look has found that mail for the return path comes to us."""
    scope = str(domain.row.id)
    inbound = await context.store.read(lambda connection: finding_queries.standing(connection, scope, "inbound"))
    if inbound is None or inbound[0] != FindingStatus.OK:
        return []
    return list(report_lines(domain.row.name, return_path_of(domain.row)))


def no_domain(name: str) -> ManageError:
    """The refusal, with what to do."""
    return ManageError(f"there is no domain {name}; add it with `sendkit domains add {name}`")


def worded(found: Domain) -> Json:
    """A domain with its records, as commands answer it."""
    return {
        "id": found.row.id,
        "name": found.row.name,
        "status": found.row.status,
        "trusted": found.row.trusted,
        "tls": found.row.tls,
        "open_tracking": found.row.open_tracking,
        "click_tracking": found.row.click_tracking,
        "return_path": return_path_of(found.row),
        "tracking_host": found.row.tracking_host,
        "reason": found.reason,
        "records": [
            {
                "record_type": record.kind,
                "type": record.type,
                "name": record.name,
                "value": record.value,
                "priority": record.priority,
                "status": record.status,
                "zone_line": record.zone_line(),
            }
            for record in found.records
        ],
    }
