"""What all tests share: the folder of sinks is importable, and every test has its own loopback address."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
