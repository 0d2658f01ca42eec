"""The journeys' world, with several nodes on one PostgreSQL."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import PostgresServer

sys.path.insert(0, str(Path(__file__).parents[1] / "journeys"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from conftest_world import dns, make_server, sink

__all__ = ["dns", "make_server", "own_postgres", "sink"]


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that this test may stop and kill; what it commits is on the disk."""
    server = PostgresServer()
    try:
        yield server.start(durable=True)
    finally:
        server.cleanup()
