"""Who changed what: one row for every management change, written in the transaction that makes the change."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from sendkit_server.model.ids import ENTROPY_BYTES, make_id
from sendkit_server.model.instant import Instant, api_time
from sendkit_server.store.queries import audit as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store


class Actor(msgspec.Struct, frozen=True):
    """Who acts, when, and with which randomness. name: a key's or an account's id, `cli`, `server`, or `dev` (its inbox)."""

    name: str
    now: Instant
    entropy: Callable[[int], bytes]

    def new_id(self, prefix: str) -> str:
        """A public id made now."""
        return make_id(prefix, self.now, self.entropy(ENTROPY_BYTES))

    def record(
        self, connection: Connection, team_id: int, action: str, target: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        """Notes a change. action: `keys.create`.  target: the id of what was changed.  detail: what it became; no secrets."""
        row = {
            "team_id": team_id,
            "id": self.new_id("aud"),
            "at": self.now,
            "actor": self.name,
            "action": action,
            "target": target,
            "detail": json.dumps(dict(detail or {})),
        }
        queries.insert_row(connection, row)


async def list_changes(store: Store, team_id: int, offset: int, limit: int) -> tuple[Sequence[AnyRow], int]:
    """A page of a team's changes, newest first, and how many there are."""
    return await store.read(lambda connection: queries.list_rows(connection, team_id, offset, limit))


def worded(row: AnyRow) -> dict[str, Any]:
    """A change as JSON."""
    return {
        "object": "audit",
        "id": row.id,
        "created_at": api_time(row.at),
        "actor": row.actor,
        "action": row.action,
        "target": row.target,
        "detail": json.loads(row.detail),
    }
