"""Brings a database to this program's schema, once, at start.

On SQLite a copy is made first (`backups/before-<revision>.db`); on PostgreSQL a lock keeps other nodes waiting until
the first one is done. On both all revisions run in one transaction: an interrupted migration leaves the old database. A
revision that this program does not know refuses the start.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy import Connection, inspect, text

from sendkit_server.store.errors import SchemaTooNew
from sendkit_server.store.migrations import HEAD

MIGRATION_LOCK = 0x53656E646B69  # "Sendki": the advisory lock that a migration holds

log = structlog.get_logger("store")


def current_revision(connection: Connection) -> str | None:
    """The database's revision; None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def migrate_sqlite(connection: Connection, path: Path, then: Callable[[Connection], None]) -> None:
    """Migrates one SQLite database to HEAD, then runs a function in a transaction. SchemaTooNew: its revision is unknown."""
    revision = current_revision(connection)
    connection.rollback()
    if revision not in (None, HEAD):
        _refuse_unknown(str(revision))
        _copy(path, path.parent / "backups" / f"before-{HEAD}.db")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        if revision != HEAD:
            _upgrade(connection)
            log.info("store.migrated", from_revision=revision or "nothing", to_revision=HEAD)
        then(connection)
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def migrate_postgres(connection: Connection, then: Callable[[Connection], None]) -> None:
    """As migrate_sqlite, for a connection in autocommit mode; of several nodes one does it and the others wait."""
    connection.exec_driver_sql("BEGIN")
    try:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        revision = current_revision(connection)
        if revision != HEAD:
            if revision is not None:
                _refuse_unknown(revision)
            _upgrade(connection)
            log.info("store.migrated", from_revision=revision or "nothing", to_revision=HEAD)
        then(connection)
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise


def _refuse_unknown(revision: str) -> None:
    if revision > HEAD:
        raise SchemaTooNew(
            f"the database has schema revision {revision}, this program knows {HEAD}: it was written by a newer "
            "version; start that one, or restore a backup made before the upgrade"
        )


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(mode=0o700, exist_ok=True)
    to.touch(mode=0o600)
    source, target = sqlite3.connect(path), sqlite3.connect(to)
    with source, target:
        source.backup(target)
    source.close()
    target.close()
    with to.open("rb") as copy:
        os.fsync(copy.fileno())


def _upgrade(connection: Connection) -> None:
    # Imported here: a start without a migration does not pay for Alembic (120 ms).
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
