"""`sendkit restore`: an archive becomes an installation, on either engine, whichever it was made on.

It is all there or nothing of it: SQLite's file is filled under another name and gets its own at the end; PostgreSQL is
filled in one transaction, which also holds the lock that a starting server waits for. What is interrupted is simply
begun anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from sendkit_server.model.instant import Instant
from sendkit_server.model.status import MESSAGE_PRECEDENCE, UNSETTLED, Status
from sendkit_server.store.files import read_text, write_file
from sendkit_server.store.lock import DataLock
from sendkit_server.store.migrations import HEAD
from sendkit_server.store.sqlite.engine import SqliteEngine
from sendkit_server.store.transfer import archive
from sendkit_server.store.transfer.archive import Contents
from sendkit_server.store.transfer.backup import Progress, sync_folder
from sendkit_server.store.transfer.errors import TransferRefused
from sendkit_server.store.transfer.marks import FINGERPRINT
from sendkit_server.store.transfer.sqlite import SqliteTarget
from sendkit_server.store.transfer.target import Target, clear_first_rows, require_empty

DATABASE = "sendkit.db"
WHY_CANCELLED = "It still waited when the backup was made that this installation was restored from."


def restore(
    path: Path,
    data_dir: Path,
    database_url: str | None,
    secret_key: str | None,
    now: Instant,
    progress: Progress,
    *,
    cancel_waiting: bool = False,
) -> Contents:
    """Examines the file, then fills the installation; what it holds.

    secret_key: as configured; None: the archive's is put into the data directory.  cancel_waiting: what still waited
    then is not sent.  ArchiveDamaged, TransferRefused, StoreLocked: nothing was changed.
    """
    lock = DataLock(data_dir, "sendkit restore")
    try:
        if database_url is None:
            _refuse_occupied(data_dir)
        progress.begin("Examining", path.stat().st_size)
        contents = archive.examine(path, progress.step)
        _check_fits(contents, data_dir, secret_key)

        def fill(target: Target) -> None:
            _fill(target, path, contents, progress)
            if cancel_waiting:
                _cancel_waiting(target, now)

        if database_url is None:
            _into_sqlite(data_dir, contents, secret_key, fill)
        else:
            _into_postgres(data_dir, database_url, contents, secret_key, now, fill)
        return contents
    finally:
        lock.release()


def _refuse_occupied(data_dir: Path) -> None:
    for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
        # A log that is left beside the new file would be played back into it.
        if (data_dir / name).exists():
            raise TransferRefused(
                f"{data_dir / name} is there already: restore into an empty data directory, or move {DATABASE}* away"
            )


def _check_fits(contents: Contents, data_dir: Path, secret_key: str | None) -> None:
    header = contents.header
    if header.revision != HEAD:
        raise TransferRefused(
            f"the backup was made by sendkit {header.version} with schema revision {header.revision}, this program knows "
            f"{HEAD}: restore it with that version, then upgrade"
        )
    if secret_key is not None and secret_key != header.secret_key:
        raise TransferRefused(
            "SENDKIT_SECRET_KEY is not the backup's: nothing sealed would open. Set the backup's, or none to have it put "
            "into <data>/secret-key"
        )
    kept = read_text(data_dir / "secret-key")
    if secret_key is None and kept not in (None, header.secret_key):
        raise TransferRefused(f"{data_dir / 'secret-key'} is another key than the backup's; move it away first")


def _keep_key(data_dir: Path, contents: Contents, secret_key: str | None) -> None:
    if secret_key is None and read_text(data_dir / "secret-key") is None:
        write_file(data_dir / "secret-key", contents.header.secret_key.encode() + b"\n")


def _into_sqlite(data_dir: Path, contents: Contents, secret_key: str | None, fill: Callable[[Target], None]) -> None:
    filling = data_dir / "restoring.db"
    _remove_database(filling)
    try:
        filling.touch(mode=0o600)
        engine = SqliteEngine(filling)
        engine.migrate(lambda connection: None)
        engine.close()
        target = SqliteTarget(filling)
        fill(target)
        target.close()
        _sync(filling)
        _keep_key(data_dir, contents, secret_key)
        filling.rename(data_dir / DATABASE)
        sync_folder(data_dir)
    except BaseException:
        _remove_database(filling)
        raise


def _remove_database(path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _into_postgres(
    data_dir: Path, url: str, contents: Contents, secret_key: str | None, now: Instant, fill: Callable[[Target], None]
) -> None:
    from sendkit_server.store.postgres.engine import PostgresEngine
    from sendkit_server.store.transfer import postgres

    engine = PostgresEngine(url)

    def restored(connection: Connection) -> None:
        require_empty(connection, engine.now(connection) or now)
        raw = postgres.raw_of(connection)
        postgres.make_partitions(raw, now, contents.header.oldest)
        fill(postgres.PostgresTarget(raw))
        postgres.finish(raw)
        _keep_key(data_dir, contents, secret_key)

    try:
        with postgres.answering():
            engine.migrate(restored)
    finally:
        engine.close()


def _fill(target: Target, path: Path, contents: Contents, progress: Progress) -> None:
    clear_first_rows(target)
    note = f"INSERT INTO meta (key, value) VALUES ('{FINGERPRINT}', {target.placeholder})"  # noqa: S608 - our own words
    target.execute(note, contents.header.secret_fingerprint)
    progress.begin("Restoring", sum(tally.rows for tally in contents.footer.tables.values()))
    for table, batch in archive.rows(path):
        target.write(table, batch)
        progress.step(len(batch))


_RANKED = " ".join(f"WHEN '{status}' THEN {rank}" for rank, status in enumerate(MESSAGE_PRECEDENCE))
_BY_RANK = " ".join(f"WHEN {rank} THEN '{status}'" for rank, status in enumerate(MESSAGE_PRECEDENCE))
_UNSETTLED = ", ".join(f"'{status}'" for status in sorted(UNSETTLED))
# The last two numbers of an event's id tell events of one millisecond apart (rows.Numbers).
_TELL = """
INSERT INTO event (team_id, message_id, id, n, type, at, detail)
SELECT team_id, message_id, {mark} + row_number() OVER (ORDER BY team_id, message_id, n), n, '{cancelled}', {mark}, {mark}
FROM recipient WHERE next_attempt_at IS NOT NULL
"""
_CANCEL = """
UPDATE recipient SET status = '{cancelled}', reason = '{cancelled}', explanation = {mark}, code = NULL,
    enhanced = NULL, next_attempt_at = NULL, updated_at = {mark}
WHERE next_attempt_at IS NOT NULL
"""
_SETTLE = f"""
UPDATE message SET status = (
    SELECT CASE min(CASE r.status {_RANKED} END) {_BY_RANK} END
    FROM recipient AS r WHERE r.team_id = message.team_id AND r.message_id = message.id
)
WHERE status IN ({_UNSETTLED})
    AND EXISTS (SELECT 1 FROM recipient AS r WHERE r.team_id = message.team_id AND r.message_id = message.id)
"""  # noqa: S608 - our own words


def _cancel_waiting(target: Target, now: Instant) -> None:
    """Ends every recipient that still waits as cancelled, and says so in the events."""
    words = {"mark": target.placeholder, "cancelled": Status.CANCELLED.value}
    detail = '{"reason":"cancelled","text":"' + WHY_CANCELLED + '"}'
    target.execute(_TELL.format(**words), now << 20, now, detail)
    target.execute(_CANCEL.format(**words), WHY_CANCELLED, now)
    target.execute(_SETTLE)
