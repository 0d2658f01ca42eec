"""A fresh store for each test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sendkit_server.store.store import Store, open_store


@pytest.fixture
async def store(tmp_path: Path, database_url: str | None) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, "secret", "tests", database_url)
    opened.start(1_000)
    yield opened
    opened.close()
