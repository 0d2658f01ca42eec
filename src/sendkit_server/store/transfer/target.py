"""What an installation's database is to whoever fills it, and what counts as empty."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Connection, func, select

from sendkit_server.model.instant import Instant
from sendkit_server.store import schema
from sendkit_server.store.queries import nodes
from sendkit_server.store.transfer.errors import TransferRefused
from sendkit_server.store.transfer.marks import OWN
from sendkit_server.store.transfer.tables import TABLES, Batch, Carried


class Target(Protocol):
    """A database in a transaction, to be filled."""

    placeholder: str

    def execute(self, statement: str, *parameters: object) -> None:
        """Runs one statement."""

    def write(self, table: Carried, batch: Batch) -> None:
        """Adds rows in the form that `tables` describes."""


def require_empty(connection: Connection, now: Instant) -> None:
    """TransferRefused when the database holds more than a first start leaves there, or is served."""
    living = [node for node in nodes.living(connection, now) if node.expires_at > now]
    if living:
        raise TransferRefused(
            f"a server runs on that database ({living[0].hostname}, pid {living[0].pid}); stop it, or wait "
            "half a minute if it was killed"
        )
    for table in TABLES:
        query = select(func.count()).select_from(select(1).select_from(schema.metadata.tables[table.name]).subquery())
        if table.name == "team":
            query = select(func.count()).where(schema.team.c.name != "default")
        elif table.name == "meta":
            query = select(func.count()).where(schema.meta.c.key.not_in(OWN))
        found = connection.execute(query).scalar_one()
        if found:
            raise TransferRefused(
                f"that database is not empty: its table {table.name} has {found} rows. Give an empty one; nothing was "
                "changed"
            )


def clear_first_rows(target: Target) -> None:
    """Removes what a first start leaves."""
    target.execute("DELETE FROM team")
    target.execute("DELETE FROM meta")
