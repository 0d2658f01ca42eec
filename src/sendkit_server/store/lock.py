"""One process a data directory: an advisory lock on `<data>/lock`, released by the kernel however the process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sendkit_server.store.errors import StoreLocked


class DataLock:
    """Holds the lock until release; the file names the holder for people."""

    def __init__(self, data_dir: Path, what: str) -> None:
        """what: the command, for the error that the next one gets. StoreLocked when another process holds it."""
        self._path = data_dir / "lock"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 200).decode(errors="replace").strip()
            os.close(self._file)
            raise StoreLocked(
                f"the data directory {data_dir} is in use by another process ({holder or 'unknown'}); stop it, or set "
                "SENDKIT_DATA_DIR to another directory"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{what}, pid {os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the directory free."""
        os.close(self._file)
