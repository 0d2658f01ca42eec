"""Servers as children of the test process: run as a user who may run them, and ended with it however it ends."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 1024**3
# Reads the pid to end, one a line, the last one counts, an empty one is nobody. The end of input is the end of the test
# process, or its farewell: then that process is ended and the directory removed.
_GUARD = """
pid=
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
    kill -QUIT "$pid" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
fi
rm -rf "$1"
"""


def not_installed(what: str) -> NoReturn:
    """Ends the test: reported as not run, in CI as failed."""
    text = f"not run: {what} is not installed (sh scripts/peers.sh installs it)"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


class Home:
    """A short directory of a server's own, and the guard that removes it.

    The guard is a shell that waits on a pipe, in a session of its own. The parent-death signal would be less code, but it
    comes when the *thread* that made the child ends, and tests restart servers from threads that end long before.
    """

    def __init__(self, name: str, *, in_memory: bool = False, as_root: bool = False) -> None:
        """as_root: for a server that changes its user by itself; the directory is then open to all."""
        # Not $TMPDIR: a socket's path has at most 107 bytes.
        place = MEMORY if in_memory and _has_room(MEMORY) else Path("/tmp")
        self.path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))
        self._owner: dict[str, Any] = {}
        if as_root:
            self.path.chmod(0o755)
        elif os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.path, user.pw_uid, user.pw_gid)
            self._owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._guard: subprocess.Popen[bytes] | None = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def popen(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Starts a server here; the guard ends it when the test process is gone."""
        with log.open("ab") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **self._how())
        self._tell(process.pid)
        return process

    def reaped(self) -> None:
        """The server has ended and its pid may soon be another's."""
        self._tell(None)

    def run(self, command: list[str], timeout_s: float) -> None:
        """Runs a program here to its end. RuntimeError with what it said when it fails, TimeoutExpired."""
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False, **self._how()
        )
        if ran.returncode != 0:
            raise RuntimeError(f"{command[0]}: {ran.stdout.decode()}{ran.stderr.decode()}")

    def close(self) -> None:
        """Removes the directory, after ending what still runs in it. Twice is allowed."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.communicate(timeout=30)
            shutil.rmtree(self.path, ignore_errors=True)

    def _how(self) -> dict[str, Any]:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        # A session of its own: Ctrl-C at the terminal ends the tests, and they end their servers.
        return {"cwd": self.path, "env": environment, "start_new_session": True, **self._owner}

    def _tell(self, pid: int | None) -> None:
        assert self._guard is not None and self._guard.stdin is not None, "cleaned up"
        self._guard.stdin.write(f"{pid or ''}\n".encode())
        self._guard.stdin.flush()


def _has_room(memory: Path) -> bool:
    """Whether there is a disk in memory that servers of several test processes fit into (a container's often is tiny)."""
    return os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= ROOM_BYTES


def may_run() -> bool:
    """Whether there is a user to run as: servers refuse root."""
    if os.geteuid() != 0:
        return True
    try:
        pwd.getpwnam("postgres")
        grp.getgrnam("postgres")
    except KeyError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits for a condition. TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.01)


def tail(log: Path, characters: int = 4000) -> str:
    """The end of a log, for an error's text."""
    return log.read_text(errors="replace")[-characters:] if log.exists() else ""
