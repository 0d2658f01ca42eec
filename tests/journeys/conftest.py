"""The world's fixtures for every journey."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest_world import dns, key, make_server, server, sink

__all__ = ["dns", "key", "make_server", "server", "sink"]
