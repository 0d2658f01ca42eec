"""How long this process may act in the name of its incarnation: said by its clock, proven by its heartbeats.

Another node may take over what this one owns once the database has not heard of it for LIFETIME_MS, and has then to
write that down. So a process that was paused or cut off knows two things by itself: while its lease holds nobody has
taken anything; when it does not, perhaps somebody has, and nothing may be sent until the database was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

LIFETIME_MS = 30_000
BEAT_S = 3.0
MARGIN_S = 2.0  # clocks that run differently, and the way of the last bytes


class Lease:
    """elapsed: seconds of a clock that is never set and goes on while the process, or the machine, sleeps."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self.owner = 0
        self.elapsed = elapsed
        self._until = -inf

    def begin(self, owner: int, asked_at: float, *, for_ever: bool) -> None:
        """A new incarnation. asked_at: before the database began to count.  for_ever: nobody else can take anything (SQLite)."""
        self.owner = owner
        self._until = inf if for_ever else asked_at + LIFETIME_MS / 1000 - MARGIN_S

    def prolong(self, asked_at: float) -> None:
        """A heartbeat that was sent at this time (of `elapsed`) has been written."""
        self._until = max(self._until, asked_at + LIFETIME_MS / 1000 - MARGIN_S)

    def end(self) -> None:
        """The incarnation is over: somebody wrote so."""
        self.owner = 0
        self._until = -inf

    def holds(self) -> bool:
        """Whether what this incarnation owns is certainly still its own."""
        return self.elapsed() < self._until
