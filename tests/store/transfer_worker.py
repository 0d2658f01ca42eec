"""Carries an installation over to PostgreSQL and kills itself on the way: the program that is interrupted."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from sendkit_server.store.transfer import migration, tables


class Killed:
    """Ends the process, as the machine's end would, after so many steps of the work of this name."""

    def __init__(self, name: str, steps: int) -> None:
        self._name = name
        self._steps = steps
        self._what = ""

    def begin(self, what: str, total: int) -> None:
        self._what = what

    def step(self, done: int) -> None:
        if self._what == self._name:
            self._steps -= 1
            if self._steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Arguments: data directory, URL, secret key, rows a commit, the work and after how many of its steps it ends."""
    folder, url, secret, rows, name, steps = sys.argv[1:]
    migration.COMMIT_ROWS = tables.BATCH_ROWS = int(rows)
    migration.migrate(Path(folder), url, secret, 1_900_000_000_000, Killed(name, int(steps)))


main()
