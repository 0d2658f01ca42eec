"""The PostgreSQL that tests run against obeys: databases, restarts, crashes, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from databases import PgBouncer, PostgresServer
from databases.children import wait_for


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may kill. Not started."""
    server = PostgresServer()
    yield server
    server.cleanup()


def test_a_database_is_made_from_a_template_and_dropped_under_its_users(postgres_server: PostgresServer) -> None:
    template = postgres_server.create_database()
    postgres_server.execute(template, "CREATE TABLE t (x int); INSERT INTO t VALUES (7)")
    copy = postgres_server.create_database(template)
    assert postgres_server.execute(copy, "SELECT x FROM t WHERE x = %s", 7) == [(7,)]
    (row,) = postgres_server.execute(
        copy,
        "SELECT current_setting('server_encoding'), datcollate FROM pg_database WHERE datname = current_database()",
    )
    assert row == ("UTF8", "C.UTF-8")
    with psycopg.connect(copy) as user:
        user.execute("SELECT 1")
        for url in (copy, template):
            postgres_server.drop_database(url)
            postgres_server.drop_database(url)
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            user.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        postgres_server.execute(copy, "SELECT 1")


def test_it_listens_on_its_socket_only_and_is_not_root(postgres_server: PostgresServer) -> None:
    assert postgres_server.process is not None
    process = psutil.Process(postgres_server.process.pid)
    assert process.uids().effective != 0
    assert [found for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN] == []
    assert (postgres_server.directory / ".s.PGSQL.5432").is_socket()


def test_data_outlives_a_restart_and_a_kill(own_server: PostgresServer) -> None:
    own_server.start(True, "work_mem=5MB")
    url = own_server.create_database()
    own_server.execute(url, "CREATE TABLE t (x int)")
    durable = "SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('work_mem')"
    for number, end in enumerate((own_server.restart, lambda: own_server.restart("immediate"), own_server.kill)):
        own_server.execute(url, "INSERT INTO t VALUES (%s)", number)
        open_transaction = psycopg.connect(url)
        open_transaction.execute("INSERT INTO t VALUES (99)")
        end()
        open_transaction.close()
        if own_server.process is None:
            own_server.start(True, "work_mem=5MB")
        assert own_server.execute(url, durable) == [("on", "on", "5MB")]
    assert own_server.execute(url, "SELECT x FROM t ORDER BY x") == [(0,), (1,), (2,)]
    assert "not properly shut down" in own_server.log.read_text()


def test_one_that_cannot_start_says_why(own_server: PostgresServer) -> None:
    with pytest.raises(RuntimeError, match="no_such_setting"):
        own_server.start(False, "no_such_setting=1")
    assert own_server.process is None


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_left_of_one_that_was_cleaned_up(own_server: PostgresServer, killed: bool) -> None:
    own_server.start()
    assert own_server.process is not None
    pid = own_server.process.pid
    segment = (own_server.data_dir / "postmaster.pid").read_text().splitlines()[6].split()[1]
    if killed:
        own_server.kill()
    own_server.cleanup()
    assert not own_server.directory.exists() and not psutil.pid_exists(pid)
    assert segment not in [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, None])
def test_nothing_is_left_when_the_process_that_made_it_ends(
    postgres_server: PostgresServer, how: signal.Signals
) -> None:
    # A shell starts what it puts into the background with SIGINT ignored, and a CI runner may do so, too.
    code = """
import signal, sys
from databases import PostgresServer
signal.signal(signal.SIGINT, signal.default_int_handler)
server = PostgresServer().start()
print(server.process.pid, server.directory, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ) as maker:  # fmt: skip
        assert maker.stdin is not None and maker.stdout is not None
        pid, _, directory = maker.stdout.readline().decode().strip().partition(" ")
        assert psutil.pid_exists(int(pid))
        if how is None:
            maker.stdin.close()
        else:
            maker.send_signal(how)
        maker.wait(30)
    wait_for(lambda: not Path(directory).exists(), 30, "the directory to be removed")
    # Where nobody reaps what has lost its parent, a zombie is all that may be left.
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE


def test_pgbouncer_gives_each_transaction_any_connection(postgres_server: PostgresServer) -> None:
    bouncer = PgBouncer(postgres_server, pool_size=1)
    url = postgres_server.create_database()
    backend = "SELECT pg_backend_pid()"
    try:
        for _ in range(2):
            bouncer.start()
            with (
                psycopg.connect(bouncer.url(url), autocommit=True, prepare_threshold=None) as first,
                psycopg.connect(bouncer.url(url), autocommit=True, prepare_threshold=None) as second,
            ):
                assert first.execute(backend).fetchone() == second.execute(backend).fetchone()
            bouncer.stop()
        assert postgres_server.execute(url, "SELECT current_database()") != []
    finally:
        bouncer.cleanup()
        postgres_server.drop_database(url)
    assert not bouncer.directory.exists()
