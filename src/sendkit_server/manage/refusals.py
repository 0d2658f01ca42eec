"""Refused and failed requests and sessions of the last days, for those who look for the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sendkit_server.model.instant import api_time
from sendkit_server.store.queries import refusals as queries
from sendkit_server.store.queries.refusals import RefusalFilter
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

DOORS = ("http", "smtp", "inbound")


async def list_refusals(store: Store, chosen: RefusalFilter, offset: int, limit: int) -> tuple[Sequence[AnyRow], int]:
    """A page, newest first, and how many there are."""
    return await store.read(lambda connection: queries.list_rows(connection, chosen, offset, limit))


async def show_refusal(store: Store, team_id: int, log_id: str) -> AnyRow | None:
    """One of a team; None when it has none of this id."""
    return await store.read(lambda connection: queries.find_row(connection, team_id, log_id))


def worded(row: AnyRow) -> dict[str, Any]:
    """A row as JSON. SMTP has the method `SMTP`, and for its endpoint the step."""
    detail = json.loads(row.detail)
    method, _, path = row.step.partition(" ") if row.door == "http" else (row.door.upper() or None, "", row.step)
    return {
        "object": "log",
        "id": row.id,
        "created_at": api_time(row.at),
        "door": row.door or None,
        "address": row.address,
        "key_prefix": row.key_prefix,
        "step": row.step,
        "reply": row.reply,
        "method": method,
        "endpoint": path,
        "response_status": detail.get("status"),
        "user_agent": detail.get("user_agent"),
        "name": detail.get("name"),
        "message": detail.get("message"),
        "refusals": detail.get("refusals", 1),
        "transcript": detail.get("transcript"),
    }
