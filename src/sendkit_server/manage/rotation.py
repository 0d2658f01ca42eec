"""The change of the secret key, while nothing runs.

The new key is on the disk before the database knows it, as `<data>/secret-key.next`; after the commit it takes the old one's
place. A kill between leaves both files: the next start finds out which of them the database was made with.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import Connection

from sendkit_server.manage.audit import Actor
from sendkit_server.manage.installation import secret_key
from sendkit_server.manage.keys import ManageError
from sendkit_server.store import sealed
from sendkit_server.store.errors import WrongSecret
from sendkit_server.store.files import read_text, write_file
from sendkit_server.store.queries import keys as key_queries
from sendkit_server.store.queries import nodes
from sendkit_server.store.store import Store, open_store


def new_key() -> str:
    """384 random bits."""
    return secrets.token_urlsafe(48)


def open_installation(data_dir: Path, configured: str | None, what: str, database_url: str | None) -> Store:
    """Opens the store with the configured secret key, else with the one in the data directory. As store.open_store.

    A rotation that was cut off between its commit and its file is finished, one before its commit is undone.
    """
    path = data_dir / "secret-key"
    is_missing = configured is None and not path.exists()
    try:
        return _opened(data_dir, configured, what, database_url)
    except WrongSecret:
        if is_missing:
            # Made for a new database, but this one has a key. It would look like the one that is to be put back.
            path.unlink(missing_ok=True)
        raise


def _opened(data_dir: Path, configured: str | None, what: str, database_url: str | None) -> Store:
    kept = secret_key(data_dir, configured)
    following = data_dir / "secret-key.next"
    new = read_text(following) if configured is None else None
    if new is None:
        return open_store(data_dir, kept, what, database_url)
    try:
        store = open_store(data_dir, kept, what, database_url)
    except WrongSecret:
        store = open_store(data_dir, new, what, database_url)
        following.replace(data_dir / "secret-key")
    else:
        following.unlink()
    return store


async def rotate(store: Store, new: str, by: Actor) -> int:
    """Seals everything under a new secret key; how many values. ManageError: other processes work on the database.

    The store is of no use afterwards. Its database's clock says which nodes live.
    """

    def write(connection: Connection) -> int:
        now = store.engine.now(connection) or by.now
        if (
            alive := []
            if store.engine.exclusive
            else [
                f"{node.hostname} (pid {node.pid})" for node in nodes.living(connection, now) if node.expires_at >= now
            ]
        ):
            raise ManageError(f"these nodes run on the database: {', '.join(alive)}; stop them first")
        team_id = key_queries.team_id(connection, key_queries.FIRST_TEAM)
        assert team_id is not None
        count = sealed.reseal(connection, store.secret_key, new, now)
        by.record(connection, team_id, "secrets.rotate", "secret-key", {"resealed": count})
        return count

    return await store.write(write)


async def rotate_kept(store: Store, data_dir: Path, by: Actor) -> int:
    """As rotate, for a secret key that is kept in the data directory."""
    new = new_key()
    following = data_dir / "secret-key.next"
    write_file(following, new.encode() + b"\n")
    try:
        count = await rotate(store, new, by)
    except ManageError:
        following.unlink()
        raise
    following.replace(data_dir / "secret-key")
    return count
