"""The small files beside the database: secrets, keys, certificates."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from pathlib import Path


def read_text(path: Path) -> str | None:
    """A small file's text without blanks around it; None when there is no such file."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Whole or not at all, durable, and with its mode from the first byte on."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    # A power cut must not leave a database without the secret key that it was made with.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def instance_name(data_dir: Path) -> str:
    """Names a data directory on its machine, also apart from a copy of it elsewhere."""
    path = data_dir / "instance"
    mark = read_text(path)
    if mark is None:
        mark = secrets.token_hex(16)
        write_file(path, mark.encode() + b"\n")
    return hashlib.sha256(f"{mark}\n{socket.gethostname()}\n{data_dir.resolve()}".encode()).hexdigest()[:32]
