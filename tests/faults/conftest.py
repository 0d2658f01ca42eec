"""The journeys' world, under fault."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "journeys"))

from conftest_world import dns, make_server, sink

__all__ = ["dns", "make_server", "sink"]
