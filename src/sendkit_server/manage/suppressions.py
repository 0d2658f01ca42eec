"""Suppressed addresses: list, show, add, remove. Who adds one by hand names the address in any spelling."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from sendkit_server.manage.audit import Actor
from sendkit_server.model.address import AddressError, parse_mailbox
from sendkit_server.model.instant import api_time
from sendkit_server.model.suppression import SuppressionReason
from sendkit_server.store.queries import suppressions as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.queries.suppressions import SuppressionFilter
from sendkit_server.store.store import Store

EVIDENCE = ("message_id", "subtype", "code", "enhanced", "text", "feedback_type", "soft_bounces")
"""Which mail, the server's words and what they were taken for, a complaint's kind, and how many soft bounces it took."""


class Added(msgspec.Struct, frozen=True):
    """A suppression, and whether it is new."""

    row: AnyRow
    is_new: bool


async def add(store: Store, team_id: int, addresses: Sequence[str], by: Actor) -> list[Added]:
    """Suppresses addresses by hand, in one transaction. AddressError: one is none, and nothing was done."""
    found = [parse_mailbox(address).matching for address in addresses]

    def write(connection: Connection) -> list[Added]:
        return [_add(connection, team_id, address, by) for address in found]

    return await store.write(write)


async def remove(store: Store, team_id: int, names: Sequence[str], by: Actor) -> list[str | None]:
    """Takes addresses off the list by id or address: their ids, None for what was not there. Mail to them goes at once."""
    found = [matching_of(name) for name in names]
    return await store.write(lambda connection: [_remove(connection, team_id, name, by) for name in found])


async def show(store: Store, team_id: int, name: str) -> AnyRow | None:
    """A suppression by its id, or by its address in any spelling."""
    matching = matching_of(name)
    return await store.read(lambda connection: queries.find(connection, team_id, matching))


async def list_suppressions(
    store: Store, chosen: SuppressionFilter, offset: int, limit: int
) -> tuple[Sequence[AnyRow], int]:
    """A page, newest first, and how many there are (a lower bound from emails.MAX_COUNT on)."""
    return await store.read(lambda connection: queries.list_(connection, chosen, offset, limit))


def worded(row: AnyRow) -> dict[str, object]:
    """A suppression as JSON: with the evidence it was added on, None when it was added by hand."""
    detail = json.loads(row.detail)
    evidence = {name: detail.get(name) for name in EVIDENCE}
    return {
        "id": row.id,
        "email": row.address,
        "reason": row.reason,
        "created_at": api_time(row.created_at),
        "updated_at": api_time(row.updated_at),
        "evidence": {**evidence, "at": api_time(row.created_at)} if detail else None,
    }


def matching_of(name: str) -> str:
    """An id as it is, an address as it is looked up; what is no address stays as it is, and finds nothing."""
    try:
        return parse_mailbox(name).matching if "@" in name else name
    except AddressError:
        return name


def _add(connection: Connection, team_id: int, address: str, by: Actor) -> Added:
    is_new = queries.add(connection, team_id, address, SuppressionReason.MANUAL, {}, by.now)
    row = queries.find(connection, team_id, address)
    assert row is not None
    if is_new:
        by.record(connection, team_id, "suppressions.add", row.id, {"email": address})
    return Added(row, is_new)


def _remove(connection: Connection, team_id: int, name: str, by: Actor) -> str | None:
    row = queries.find(connection, team_id, name)
    removed = queries.remove(connection, team_id, name)
    if row is not None and removed is not None:
        by.record(connection, team_id, "suppressions.remove", removed, {"email": row.address})
    return removed
