"""What an installation has beside its database: the data directory, the secret key, the development key."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from sendkit_server.manage.audit import Actor
from sendkit_server.manage.keys import KeyWish, ManageError, create_key
from sendkit_server.model.instant import Instant
from sendkit_server.store.files import read_text, write_file
from sendkit_server.store.queries import keys as queries
from sendkit_server.store.store import Store


def prepare_data_dir(path: Path) -> None:
    """Makes the data directory, readable by its owner alone. ManageError when it cannot be used."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise ManageError(
            f"the data directory {path} cannot be used: {error.strerror}; set SENDKIT_DATA_DIR"
        ) from error


def secret_key(data_dir: Path, configured: str | None) -> str:
    """The configured secret key, else the one kept in the data directory, made at first use."""
    if configured is not None:
        return configured
    path = data_dir / "secret-key"
    kept = read_text(path)
    if kept is not None:
        return kept
    made = secrets.token_urlsafe(48)
    write_file(path, made.encode() + b"\n")
    return made


async def dev_key(store: Store, path: Path, now: Instant, entropy: Callable[[int], bytes]) -> str:
    """The development key: a test key made once and kept beside the data."""
    kept = read_text(path)
    if kept is not None and await store.key(kept, now) is not None:
        return kept
    team_id = await store.read(lambda connection: queries.team_id(connection, queries.FIRST_TEAM))
    assert team_id is not None
    created = await create_key(store, team_id, KeyWish("development", test=True), Actor("server", now, entropy))
    write_file(path, created.secret.encode() + b"\n")
    return created.secret
