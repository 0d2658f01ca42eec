"""The command line's actions by name, run either inside the server (over its control port) or beside a stopped one.

Arguments and results are JSON values, so that both ways are the same.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from sendkit_server.events.bounces import Returns
from sendkit_server.events.inbound import Inbound
from sendkit_server.events.refusals import NOBODY
from sendkit_server.events.reports import Reports
from sendkit_server.manage import (
    audit,
    certificate_view,
    domains,
    inbox,
    keys,
    look_out,
    nodes,
    people_commands,
    queue,
    refusals,
    suppressions,
    tls,
)
from sendkit_server.manage.context import Context, Json
from sendkit_server.manage.domain_wishes import DomainWish
from sendkit_server.manage.keys import ManageError
from sendkit_server.manage.look_out import no_domain, report_lines_of, worded
from sendkit_server.model.address import AddressError
from sendkit_server.model.instant import Instant, api_time
from sendkit_server.store import seal
from sendkit_server.store.queries import keys as key_queries
from sendkit_server.store.queries.pages import Window
from sendkit_server.store.queries.queue import Target
from sendkit_server.store.queries.refusals import RefusalFilter
from sendkit_server.store.queries.suppressions import SuppressionFilter
from sendkit_server.store.store import Store

SUPPRESSIONS_A_PAGE = 100
MAX_KEYS = 10_000


def inbound_of(
    store: Store, clock: Callable[[], Instant], entropy: Callable[[int], bytes], count: Callable[[str], None]
) -> Inbound:
    """What takes in bounces, complaints and reports."""
    secret = seal.derived_key(store.secret_key, seal.RETURN_PATH_PURPOSE)
    return Inbound(
        Returns(store, secret, store.suppressed.suppress, clock, count, older=store.older_keys),
        Reports(store, clock, entropy, count),
    )


async def run(context: Context, name: str, arguments: Mapping[str, Any]) -> Json:
    """Runs one action for a team. ManageError: it cannot be done, and why."""
    action = ACTIONS.get(name)
    if action is None:
        raise ManageError(f"unknown action {name}")
    team_name = arguments.get("team", key_queries.FIRST_TEAM)
    team_id = await context.store.read(lambda connection: key_queries.team_id(connection, team_name))
    if team_id is None:
        raise ManageError(f"there is no team {team_name!r}")
    return await action(context, team_id, arguments)


async def _list_routes(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    return {"data": context.routes()}


async def _create_key(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    expires_in_ms = arguments.get("expires_in_ms")
    wish = keys.KeyWish(
        arguments["name"],
        arguments["permission"],
        arguments["test"],
        domains=tuple(arguments.get("domains") or ()),
        senders=tuple(arguments.get("senders") or ()),
        recipient_domains=tuple(arguments.get("recipient_domains") or ()),
        networks=tuple(arguments.get("networks") or ()),
        daily_limit=arguments.get("daily_limit"),
        rewrite_from=bool(arguments.get("rewrite_from")),
        shadow=bool(arguments.get("shadow")),
        expires_at=None if expires_in_ms is None else context.clock() + expires_in_ms,
    )
    return _with_secret(await keys.create_key(context.store, team_id, wish, context.actor()))


def _with_secret(created: keys.CreatedKey) -> Json:
    warnings = [msgspec.to_builtins(warning) for warning in created.warnings]
    return {"id": created.key.id, "name": created.key.name, "token": created.secret, "warnings": warnings}


async def _rotate_key(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    overlap_ms = arguments["overlap_ms"]
    created = await keys.rotate_key(context.store, team_id, arguments["id"], overlap_ms, context.actor())
    if created is None:
        raise ManageError(f"there is no key {arguments['id']}; `sendkit keys list` shows all")
    return _with_secret(created)


async def _list_keys(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found = await keys.list_keys(context.store, team_id, Window(MAX_KEYS))
    return {"data": [keys.worded(row, context.clock()) for row in found.rows]}


async def _revoke_key(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    if not await keys.revoke_key(context.store, team_id, arguments["id"], context.actor()):
        raise ManageError(f"there is no key {arguments['id']}; `sendkit keys list` shows all")
    return {"id": arguments["id"], "deleted": True}


async def _add_domain(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    added = await domains.add_domain(
        context.store,
        team_id,
        arguments["name"],
        context.dns_names,
        trust=arguments["trust"],
        wish=_domain_wish(arguments),
        by=context.actor(),
    )
    return worded(added)


async def _set_domain(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    name = arguments["name"]
    found = await domains.change_domain(
        context.store, team_id, name, _domain_wish(arguments), context.dns_names, context.actor()
    )
    if found is None:
        raise no_domain(name)
    return worded(found)


def _domain_wish(arguments: Mapping[str, Any]) -> DomainWish:
    return DomainWish(**{name: arguments.get(name) for name in DomainWish.__struct_fields__})


async def _rotate_domain(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    name = arguments["name"]
    found = await domains.new_dkim_key(context.store, team_id, name, context.dns_names, context.actor())
    if found is None:
        raise no_domain(name)
    return worded(found)


async def _remove_domain(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found = await domains.delete_domain(context.store, team_id, arguments["name"], context.actor())
    if found is None:
        raise no_domain(arguments["name"])
    return {"id": found, "deleted": True}


async def _show_domain(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found = await domains.show_domain(context.store, team_id, arguments["name"], context.dns_names)
    if found is None:
        raise no_domain(arguments["name"])
    return {**worded(found), "report_lines": await report_lines_of(context, found)}


async def _list_domains(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found, _ = await domains.list_domains(context.store, team_id, context.dns_names, Window(1000))
    return {"data": [worded(one) for one in found]}


async def _list_inbox(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found = await inbox.list_inbox(context.store, team_id, arguments.get("limit", 50))
    return {
        "data": [
            {
                "id": one.message.id,
                "to": [f"{recipient.local}@{recipient.site}" for recipient in one.recipients],
                "subject": one.message.subject,
                "door": one.message.door,
                "created_at": api_time(one.message.created_at),
            }
            for one in found
        ]
    }


async def _clear_inbox(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    return {"removed": await inbox.clear_inbox(context.store, team_id, context.actor())}


async def _list_queue(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    return {
        "data": [
            {
                "site": lane.site,
                "waiting": lane.waiting,
                "in_flight": lane.in_flight,
                "oldest": api_time(lane.oldest),
                "next_attempt_at": api_time(lane.next_attempt_at),
                "last_answer": lane.last_answer,
                "reason": lane.reason,
                "waits_for": context.delay(lane.site) if lane.in_flight else None,
                "held": lane.held,
            }
            for lane in await queue.waiting(context.store, team_id)
        ]
    }


async def _hold_site(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    site = queue.site_of(arguments["site"])
    is_new = await queue.hold(context.store, team_id, site, context.actor())
    return {"site": site, "changed": is_new, "recipients": await queue.count(context.store, Target(team_id, site))}


async def _release_site(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    site = queue.site_of(arguments["site"])
    if not await queue.release(context.store, team_id, site, context.actor()):
        raise ManageError(f"{site} is not held; `sendkit queue` shows what is")
    return {"site": site, "changed": True, "recipients": await queue.count(context.store, Target(team_id, site))}


async def _retry_queue(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    target = queue.target_of(team_id, arguments.get("target"))
    return {"recipients": await queue.retry(context.store, target, context.actor())}


async def _drop_queue(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    target = queue.target_of(team_id, arguments["target"])
    done = await queue.cancel(context.store, target, queue.DROPPED, context.actor(), context.clock)
    return {"recipients": done.recipients, "in_flight": done.in_flight}


async def _list_suppressions(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    chosen = SuppressionFilter(team_id, arguments.get("reason"), arguments.get("search"))
    offset = (arguments.get("page", 1) - 1) * SUPPRESSIONS_A_PAGE
    found, _ = await suppressions.list_suppressions(context.store, chosen, offset, SUPPRESSIONS_A_PAGE)
    return {"data": [suppressions.worded(row) for row in found]}


async def _show_suppression(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found = await suppressions.show(context.store, team_id, arguments["name"])
    if found is None:
        raise ManageError(f"{arguments['name']} is not suppressed")
    return suppressions.worded(found)


async def _add_suppression(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    try:
        added = await suppressions.add(context.store, team_id, [arguments["address"]], context.actor())
    except AddressError as error:
        raise ManageError(f"{arguments['address']!r} is no email address: {error}") from None
    return {**suppressions.worded(added[0].row), "is_new": added[0].is_new}


async def _remove_suppression(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    removed = (await suppressions.remove(context.store, team_id, [arguments["name"]], context.actor()))[0]
    if removed is None:
        raise ManageError(f"{arguments['name']} is not suppressed")
    return {"id": removed, "deleted": True}


async def _list_nodes(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    return {
        "data": [
            {
                "id": node.id,
                "hostname": node.hostname,
                "pid": node.pid,
                "roles": node.roles.split(","),
                "version": node.version,
                "state": node.state,
                "started_at": api_time(node.started_at),
                "last_heartbeat_at": api_time(node.beat_at),
                "ended_at": api_time(node.ended_at),
                "recipients": node.recipients,
            }
            for node in await nodes.list_nodes(context.store, context.clock())
        ]
    }


async def _list_audit(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found, _ = await audit.list_changes(context.store, team_id, 0, arguments.get("limit", 100))
    return {"data": [audit.worded(row) for row in found]}


async def _list_logs(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    """The team's, and what belongs to nobody: whoever runs the server may see both."""
    chosen = RefusalFilter(
        (team_id, NOBODY), arguments.get("door"), arguments.get("address"), arguments.get("q"), arguments.get("after")
    )
    found, _ = await refusals.list_refusals(context.store, chosen, 0, arguments.get("limit", 100))
    return {"data": [refusals.worded(row) for row in found]}


async def _show_tls(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    """Of the whole server: who was written to by whom is not in it."""
    found = await tls.show(context.store, arguments.get("domain"), arguments.get("days", 7), context.clock())
    return {
        "counts": [
            {
                "domain": row.domain,
                "policy": row.policy,
                "mx_host": row.mx_host,
                "result": row.result,
                "sessions": int(row.sessions),
            }
            for row in found.counts
        ],
        "policies": [
            {
                "domain": policy.domain,
                "id": policy.policy_id,
                "mode": policy.mode,
                "mx": list(policy.mx),
                "fetched_at": api_time(policy.fetched_at),
                "expires_at": api_time(policy.expires_at),
            }
            for policy in found.policies
        ],
    }


async def _list_certificates(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    """Of the whole server, as they are no team's."""
    found = await certificate_view.standings(context.store, context.certificates, context.clock())
    return {"data": [certificate_view.worded(one) for one in found]}


async def _renew_certificates(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    names = await certificate_view.renew(context.store, context.certificates, arguments.get("name"), context.clock())
    return {"names": names}


async def _take_inbound(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    """A mail that came back, whoever's it is: its return path says so."""
    inbound = inbound_of(context.store, context.clock, context.entropy, context.count_inbound)
    taken = await inbound.take(arguments["locals"], b64decode(arguments["raw"]))
    return {"result": str(taken), "final": taken.is_final}


ACTIONS: dict[str, Callable[[Context, int, Mapping[str, Any]], Awaitable[Json]]] = {
    **people_commands.ACTIONS,
    "audit.list": _list_audit,
    "logs.list": _list_logs,
    "routes.list": _list_routes,
    "keys.create": _create_key,
    "keys.rotate": _rotate_key,
    "keys.list": _list_keys,
    "keys.revoke": _revoke_key,
    "domains.add": _add_domain,
    "domains.set": _set_domain,
    "domains.rotate": _rotate_domain,
    "domains.remove": _remove_domain,
    "domains.show": _show_domain,
    "domains.list": _list_domains,
    "domains.verify": look_out.verify_domain,
    "doctor": look_out.examine,
    "inbox.list": _list_inbox,
    "inbox.clear": _clear_inbox,
    "queue.list": _list_queue,
    "queue.hold": _hold_site,
    "queue.release": _release_site,
    "queue.retry": _retry_queue,
    "queue.drop": _drop_queue,
    "suppressions.list": _list_suppressions,
    "suppressions.show": _show_suppression,
    "suppressions.add": _add_suppression,
    "suppressions.remove": _remove_suppression,
    "nodes.list": _list_nodes,
    "tls.show": _show_tls,
    "reports.list": look_out.list_reports,
    "certificates.list": _list_certificates,
    "certificates.renew": _renew_certificates,
    "inbound.take": _take_inbound,
}
