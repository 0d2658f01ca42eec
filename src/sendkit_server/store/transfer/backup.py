"""`sendkit backup`: the whole database and the secret key as one file, while the server runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from sendkit_server.model.instant import Instant
from sendkit_server.store import seal
from sendkit_server.store.migrations import HEAD
from sendkit_server.store.transfer.archive import ArchiveWriter, Footer, Header
from sendkit_server.store.transfer.errors import TransferRefused
from sendkit_server.store.transfer.marks import FINGERPRINT, INCOMING
from sendkit_server.store.transfer.source import Source, count, noted, oldest, open_snapshot, revision
from sendkit_server.store.transfer.tables import BY_NAME, TABLES, Batch, Carried

_NEXT_ATTEMPT = BY_NAME["recipient"].columns.index("next_attempt_at")


class Progress(Protocol):
    """Who shows how far it is: told what there is to do in rows or bytes, then what is done of it."""

    def begin(self, what: str, total: int) -> None:
        """A new part of the work."""

    def step(self, done: int) -> None:
        """So much more of it is done."""


def back_up(
    data_dir: Path, database_url: str | None, secret_key: str, to: Path, now: Instant, version: str, progress: Progress
) -> Footer:
    """Writes the archive; it has its name only once it is whole and on the disk. What it holds.

    TransferRefused when the file is there already, the secret key is another database's, or the schema another version's.
    """
    if to.exists():
        raise TransferRefused(f"{to} is there already; give another name")
    with _new_file(to) as file, open_snapshot(data_dir, database_url, to.absolute().parent) as source:
        check_readable(source, secret_key)
        fingerprint = seal.fingerprint(secret_key)
        header = Header(HEAD, source.engine, now, version, secret_key, fingerprint, oldest(source))
        return _write(file, source, header, progress)


def check_readable(source: Source, secret_key: str | None) -> None:
    """TransferRefused unless this program knows the schema, all of the data is there, and the key fits."""
    found = revision(source)
    if found != HEAD:
        raise TransferRefused(
            f"the database has schema revision {found}, this program knows {HEAD}; use the version of sendkit that serves it"
        )
    if noted(source, INCOMING) is not None:
        raise TransferRefused("the database is still being filled by `sendkit migrate --to`; let it finish first")
    if secret_key is not None and noted(source, FINGERPRINT) != seal.fingerprint(secret_key):
        raise TransferRefused("SENDKIT_SECRET_KEY (or <data>/secret-key) is not the one this database was made with")


def _write(file: BinaryIO, source: Source, header: Header, progress: Progress) -> Footer:
    progress.begin("Backing up", sum(count(source, table) for table in TABLES))
    archive = ArchiveWriter(file, header)
    waiting = 0
    for table in TABLES:
        for batch in archive.table(table, source.batches(table)):
            waiting += _waiting(table, batch)
            progress.step(len(batch))
    return archive.finish(waiting)


def _waiting(table: Carried, batch: Batch) -> int:
    return sum(row[_NEXT_ATTEMPT] is not None for row in batch) if table.name == "recipient" else 0


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file for its owner alone that appears under its name when the block has ended well."""
    part = path.with_name(path.name + ".part")
    # Another one's leftover is not written through: it might be open to others.
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.absolute().parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
