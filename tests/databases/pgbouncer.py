"""PgBouncer in front of a PostgreSQL server, pooling by transaction as hosted databases do."""

from __future__ import annotations

import atexit
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from databases.children import Home, may_run, not_installed, tail, wait_for
from databases.postgres import PostgresServer

PORT = 6432  # part of the socket's name only
DEBIANS = "/usr/sbin/pgbouncer"


class PgBouncer:
    """Made not started. `cleanup` (or the process's end) leaves nothing behind. Missing: reported as not run."""

    def __init__(self, server: PostgresServer, *, pool_size: int = 20) -> None:
        program = shutil.which("pgbouncer") or (DEBIANS if Path(DEBIANS).exists() else None)
        if program is None or not may_run():
            not_installed("PgBouncer")
        self._program = program
        self._home = Home("pgb")
        self.directory = self._home.path
        self.log = self.directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._settings = self.directory / "pgbouncer.ini"
        self._settings.write_text(f"""
[databases]
* = host={server.directory} user=postgres
[pgbouncer]
pool_mode = transaction
unix_socket_dir = {self.directory}
listen_port = {PORT}
auth_type = any
admin_users = postgres
max_client_conn = 500
default_pool_size = {pool_size}
""")
        atexit.register(self.cleanup)

    def start(self) -> PgBouncer:
        """Starts it and waits until it takes connections. RuntimeError with the end of its log, TimeoutError."""
        assert self.process is None, "it runs"
        # The socket's file of one that was killed would be taken for another one that runs.
        for left in self.directory.glob(".s.PGSQL.*"):
            left.unlink()
        process = self.process = self._home.popen([self._program, str(self._settings)], self.log)

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"PgBouncer ended at once:\n{tail(self.log)}")
            try:
                psycopg.connect(self._url("pgbouncer"), autocommit=True, connect_timeout=10).close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            wait_for(ready, 30, "PgBouncer to start")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends it at once, with every connection; nothing happens when it does not run."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None
            self._home.reaped()

    def url(self, database: str) -> str:
        """The URL by which a database of the server is reached through this. database: its own URL."""
        return self._url(str(conninfo_to_dict(database)["dbname"]))

    def cleanup(self) -> None:
        """Ends it and removes all that it kept. Twice is allowed."""
        atexit.unregister(self.cleanup)
        try:
            self.stop()
        finally:
            self._home.close()

    def _url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.directory}&port={PORT}"
