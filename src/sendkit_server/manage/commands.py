"""The command line's actions by name, run either inside the server (over its control port) or beside a stopped one.

Arguments and results are JSON values, so that both ways are the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from sendkit_server.manage import domains, inbox, keys, nodes, queue
from sendkit_server.manage.domains import DnsNames, Domain
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.instant import Instant, api_time
from sendkit_server.store.queries import keys as key_queries
from sendkit_server.store.store import Store

Json = dict[str, Any]


class Context(msgspec.Struct, frozen=True):
    """What actions work with. entropy: n random bytes."""

    store: Store
    dns_names: DnsNames
    clock: Callable[[], Instant]
    entropy: Callable[[int], bytes]


async def run(context: Context, name: str, arguments: Mapping[str, Any]) -> Json:
    """Runs one action for a team. ManageError: it cannot be done, and why."""
    action = ACTIONS.get(name)
    if action is None:
        raise ManageError(f"unknown action {name}")
    team_name = arguments.get("team", "default")
    team_id = await context.store.read(lambda connection: key_queries.team_id(connection, team_name))
    if team_id is None:
        raise ManageError(f"there is no team {team_name!r}")
    return await action(context, team_id, arguments)


async def _create_key(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    created = await keys.create_key(
        context.store,
        team_id,
        arguments["name"],
        arguments["permission"],
        test=arguments["test"],
        domain=arguments.get("domain"),
        now=context.clock(),
        entropy=context.entropy,
    )
    return {"id": created.key.id, "name": created.key.name, "token": created.secret}


async def _list_keys(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found = await keys.list_keys(context.store, team_id)
    return {
        "data": [
            {
                "id": row.id,
                "name": row.name,
                "prefix": row.prefix,
                "permission": keys.permission_word(row.permissions),
                "test": row.test,
                "created_at": api_time(row.created_at),
                "last_used_at": api_time(row.last_used_at),
            }
            for row in found
        ]
    }


async def _revoke_key(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    if not await keys.revoke_key(context.store, team_id, arguments["id"], context.clock()):
        raise ManageError(f"there is no key {arguments['id']}; `sendkit keys list` shows all")
    return {"id": arguments["id"], "deleted": True}


async def _add_domain(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    added = await domains.add_domain(
        context.store,
        team_id,
        arguments["name"],
        context.dns_names,
        trust=arguments["trust"],
        now=context.clock(),
        entropy=context.entropy,
    )
    return _domain(added)


async def _show_domain(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found = await domains.show_domain(context.store, team_id, arguments["name"], context.dns_names)
    if found is None:
        raise ManageError(
            f"there is no domain {arguments['name']}; add it with `sendkit domains add {arguments['name']}`"
        )
    return _domain(found)


async def _list_domains(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    found, _ = await domains.list_domains(context.store, team_id, context.dns_names, 0, 1000)
    return {"data": [_domain(one) for one in found]}


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
    return {"removed": await inbox.clear_inbox(context.store, team_id)}


async def _list_queue(context: Context, team_id: int, arguments: Mapping[str, Any]) -> Json:
    return {
        "data": [
            {
                "site": lane.site,
                "waiting": lane.waiting,
                "in_flight": lane.in_flight,
                "next_attempt_at": api_time(lane.next_attempt_at),
                "last_answer": lane.last_answer,
            }
            for lane in await queue.waiting(context.store, team_id)
        ]
    }


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


def _domain(found: Domain) -> Json:
    return {
        "id": found.row.id,
        "name": found.row.name,
        "status": found.row.status,
        "trusted": found.row.trusted,
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


ACTIONS: dict[str, Callable[[Context, int, Mapping[str, Any]], Awaitable[Json]]] = {
    "keys.create": _create_key,
    "keys.list": _list_keys,
    "keys.revoke": _revoke_key,
    "domains.add": _add_domain,
    "domains.show": _show_domain,
    "domains.list": _list_domains,
    "inbox.list": _list_inbox,
    "inbox.clear": _clear_inbox,
    "queue.list": _list_queue,
    "nodes.list": _list_nodes,
}
