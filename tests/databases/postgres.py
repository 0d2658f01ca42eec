"""A PostgreSQL server of the test process's own, reached by a unix socket only."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Literal

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from databases.children import Home, may_run, not_installed, tail, wait_for

OLDEST = 15
START_S = 30.0
STOP_S = 30.0
STATEMENT_S = 30.0
# mmap: shared memory that lies in the data directory goes with it, also after a kill.
COMMON = ("listen_addresses=", "max_connections=200", "dynamic_shared_memory_type=mmap", "log_line_prefix=%m [%p] %d ")
# What a crash would cost is the machine's, not the server's: killed processes lose nothing by it.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_wal_size=256MB")
STOPS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
Rows = list[tuple[Any, ...]]


def find_binaries() -> Path | None:
    """The folder of the newest installed server that is new enough; Debian keeps them off the PATH."""
    found = {
        int(folder.parent.name): folder
        for folder in Path("/usr/lib/postgresql").glob("*/bin")
        if folder.parent.name.isdigit() and (folder / "postgres").exists() and (folder / "initdb").exists()
    }
    if found and max(found) >= OLDEST:
        return found[max(found)]
    program = shutil.which("postgres")
    if program is None or shutil.which("initdb", path=str(Path(program).parent)) is None:
        return None
    said = subprocess.run([program, "--version"], capture_output=True, timeout=30, check=True).stdout.decode()
    return Path(program).parent if int(said.split()[2].partition(".")[0]) >= OLDEST else None


class PostgresServer:
    """Made by the constructor with an empty cluster, not started. `cleanup` (or the process's end, whatever ends it)
    leaves nothing behind. in_memory: not on a disk, if there is room; databases are made ten times as fast.

    Any method raises TimeoutError when the server does not do in time what is asked of it. A test that finds no
    PostgreSQL is reported as not run.
    """

    def __init__(self, *, in_memory: bool = False) -> None:
        binaries = find_binaries()
        if binaries is None or not may_run():
            not_installed("PostgreSQL")
        self._program = str(binaries / "postgres")
        self._home = Home("pg", in_memory=in_memory)
        self._in_memory = in_memory
        self.directory = self._home.path
        self.data_dir = self.directory / "data"
        self.log = self.directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._durable = False
        self._settings: tuple[str, ...] = ()
        self._names = itertools.count(1)
        atexit.register(self.cleanup)
        try:
            self._home.run(
                [
                    str(binaries / "initdb"), "--pgdata", str(self.data_dir), "--username", "postgres", "--auth", "trust",
                    "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions",
                ], 120,
            )  # fmt: skip
        except BaseException:
            self.cleanup()
            raise

    # -- the process ---------------------------------------------------------------------------------------------

    def start(self, durable: bool = False, *settings: str) -> PostgresServer:
        """Starts it and waits until it takes connections. durable: what is committed is on the disk.

        settings: more of them, as `work_mem=1MB`. RuntimeError with the end of its log when it does not start.
        """
        assert self.process is None, "it runs"
        assert not (durable and self._in_memory), "memory is not durable"
        self._durable, self._settings = durable, settings
        # Started again in place after a kill: the old socket's file is no obstacle, the server replaces it.
        options = [f"unix_socket_directories={self.directory}", *COMMON, *(() if durable else FAST), *settings]
        command = [self._program, "-D", str(self.data_dir), *(word for option in options for word in ("-c", option))]
        process = self.process = self._home.popen(command, self.log)

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"PostgreSQL ended at once:\n{tail(self.log)}")
            try:
                self.execute(self.url("postgres"), "SELECT 1")
            except psycopg.OperationalError:
                return False  # not listening yet, or still recovering
            return True

        try:
            wait_for(ready, START_S, "PostgreSQL to start")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Ends it: fast closes every connection and writes a checkpoint, immediate leaves recovery to the next start.
        Nothing happens when it does not run."""
        if self.process is None:
            return
        self.process.send_signal(STOPS[mode])
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"PostgreSQL did not stop:\n{tail(self.log)}") from None
        self._reaped()

    def kill(self) -> None:
        """SIGKILL to all of its processes at once, as when the machine's memory is at its end."""
        if self.process is None:
            return
        try:
            postmaster = psutil.Process(self.process.pid)
            postmaster.suspend()  # so that it makes no child that we do not see
            all_of_it = [postmaster, *postmaster.children(recursive=True)]
        except psutil.NoSuchProcess:
            all_of_it = []
        for process in all_of_it:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(STOP_S)
        # A child that still lives holds the shared memory, and the next start would be refused.
        wait_for(lambda: not any(_lives(process) for process in all_of_it), STOP_S, "killed processes to be gone")
        self._reaped()

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stops and starts it with the same settings."""
        self.stop(mode)
        self.start(self._durable, *self._settings)

    def cleanup(self) -> None:
        """Ends it and removes all that it kept. Twice is allowed."""
        atexit.unregister(self.cleanup)
        try:
            self.stop("immediate")
            self._remove_shared_memory()
        finally:
            self._home.close()

    def _remove_shared_memory(self) -> None:
        """A server that was killed leaves a little of it, which only its next start would remove."""
        left = self.data_dir / "postmaster.pid"
        lines = left.read_text().splitlines() if left.exists() else []
        if len(lines) > 6:
            subprocess.run(["ipcrm", "-m", lines[6].split()[1]], capture_output=True, timeout=10, check=False)

    def _reaped(self) -> None:
        self.process = None
        self._home.reaped()

    # -- databases -----------------------------------------------------------------------------------------------

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://postgres@/{database}?host={self.directory}"

    def create_database(self, template: str | None = None) -> str:
        """A new database, empty or a copy of another one that nobody is connected to; its URL.

        template: the other one's URL.
        """
        name = f"test_{next(self._names)}"
        source = "template0" if template is None else _name(template)
        make = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(source))
        self.execute(self.url("postgres"), make)
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drops a database and whoever is connected to it; nothing happens when it is not there."""
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(_name(url)))
        self.execute(self.url("postgres"), drop)

    def execute(self, url: str, statement: str | sql.Composed, *values: object) -> Rows:
        """Runs statements (one only, when there are values), each in a transaction of its own; the last one's rows.

        psycopg.Error; QueryCanceled after 30 s.
        """
        connection = psycopg.connect(url, autocommit=True, connect_timeout=10)
        # Not statement_timeout: a pooler refuses it among a connection's options.
        clock = threading.Timer(STATEMENT_S, connection.cancel)
        clock.daemon = True
        clock.start()
        try:
            query = statement if isinstance(statement, sql.Composed) else statement.encode()
            cursor = connection.execute(query, values or None)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description is not None else []
        finally:
            clock.cancel()
            connection.close()


def dump(url: str) -> str:
    """Every row of every table as text, bytes as hexadecimal digits."""
    found = []
    with psycopg.connect(url, connect_timeout=10) as connection:
        for (table,) in connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"):  # fmt: skip
            found += [str(row[0]) for row in connection.execute(f"SELECT t::text FROM {table} t".encode())]
    return "\n".join(found)


def _name(url: str) -> str:
    return str(conninfo_to_dict(url)["dbname"])


def _lives(process: psutil.Process) -> bool:
    """Whether it is more than a zombie that nobody has reaped."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
