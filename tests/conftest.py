"""What all tests share: the folders of sinks and databases are importable, and a test runs on each engine it is about."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from databases import PostgresServer

from sendkit_server.store.store import open_store

ENGINES = ("sqlite", "postgres")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that has a database runs once an engine: [sqlite] and [postgres]. The marker engine(name) narrows it."""
    if "engine" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("engine")
    wanted = marker.args if marker is not None else ENGINES
    assert set(wanted) <= set(ENGINES), f"{metafunc.definition.nodeid}: no such engine: {wanted}"
    metafunc.parametrize("engine", wanted, indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that the test runs on."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server of the test process's own, started by the first test that needs it; not durable. Who kills it makes one."""
    server = PostgresServer(in_memory=True)
    try:
        yield server.start()
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database that has been migrated and belongs to no installation yet."""
    url = postgres_server.create_database()
    open_store(tmp_path_factory.mktemp("template"), "template", "tests", url).close_unstarted()
    postgres_server.execute(url, "DELETE FROM meta WHERE key = 'secret_fingerprint'")
    return url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a SQLite file: a start that has to migrate takes a fifth of a second longer."""
    folder = tmp_path_factory.mktemp("template")
    open_store(folder, "template", "tests").close_unstarted()
    with closing(sqlite3.connect(folder / "sendkit.db")) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'secret_fingerprint'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "sendkit.db"


@pytest.fixture
def new_database(engine: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., str | None]]:
    """Gives a new database: None for SQLite, whose files are in the data directory, else a URL. empty: not migrated."""
    if engine == "sqlite":
        yield lambda *, empty=False: None
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    made: list[str] = []

    def make(*, empty: bool = False) -> str:
        url = server.create_database(None if empty else request.getfixturevalue("migrated_template"))
        made.append(url)
        return url

    yield make
    for url in made:
        server.drop_database(url)


@pytest.fixture
def database_url(new_database: Callable[..., str | None]) -> str | None:
    """A migrated database of the test's own; None for SQLite."""
    return new_database()
