"""The wall clock without its jumps, for everything that is planned or expires.

A wall clock is set by people and by NTP: a year forward would end every retry window at once, a year back would let
deferred mail wait for a year. So a process reads the wall clock when it starts, counts on with the monotonic clock, and
follows the wall clock by at most a tenth of the time that has passed: no delay is ever off by more than the spread that
retries have anyway. A jump of seconds is made up for in a minute; one of hours needs a restart, and is reported.
"""

from __future__ import annotations

from collections.abc import Callable

from sendkit_server.model.instant import Instant

FOLLOW_SHARE = 10
NANOSECONDS_A_MS = 1_000_000


class SteadyClock:
    """Never goes back. wall, elapsed: nanoseconds; elapsed counts from anywhere and is never set."""

    def __init__(self, wall: Callable[[], int], elapsed: Callable[[], int]) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._last = wall(), elapsed()

    def now(self) -> Instant:
        """The time."""
        # Read and replaced as one value: of two threads that do so at once one is forgotten, and nothing is off.
        last, last_elapsed = self._last
        elapsed, wall = self._elapsed(), self._wall()
        passed = elapsed - last_elapsed
        time = last + passed
        # Written out, for it is asked a dozen times a mail.
        if wall != time:
            most = passed // FOLLOW_SHARE
            least, time = time - most, time + most
            if wall < time:
                time = wall if wall > least else least
        self._last = time, elapsed
        return time // NANOSECONDS_A_MS

    def behind_ms(self) -> int:
        """How far the wall clock is ahead of this one; negative when it is behind."""
        return self._wall() // NANOSECONDS_A_MS - self.now()
