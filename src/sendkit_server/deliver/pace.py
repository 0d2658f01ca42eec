"""How fast one site is served: so many connections, so many mails over each, so many a minute; less when it says so.

A site begins with a few connections and gets one more for each mail it takes, up to its limit: within a second where mail
flows. When it pushes back (421, or 4xx again and again to what is no recipient) the connections are halved, the lane
pauses for a moment, and the way up is slower than before: one more for ten mails. All of that is per node and in memory; a
limit that was learnt is learnt anew after a restart, which costs a few deferrals.
"""

from __future__ import annotations

from math import inf

import msgspec

FIRST_CONNECTIONS = 4
AGAIN_AND_AGAIN = 3  # refusals in a row
PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
CALM_S = 600.0  # without push-back, then it is forgotten


class Limits(msgspec.Struct, frozen=True):
    """What a site gets at most. rate: mails a minute, 0: as many as it takes."""

    connections: int = 20
    messages_per_connection: int = 1000
    rate: int = 0


class Pace:
    """One lane's. Times are seconds of the event loop's clock, handed in."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pause_until = -inf
        self._allowed = float(FIRST_CONNECTIONS)
        self._step = 1.0
        self._refusals = 0
        self._pushed = 0  # how often lately
        self._pushed_at = -inf
        self._slot = -inf  # when the next mail may go, of those that are let through one by one

    def connections(self, share: int) -> int:
        """How many are allowed now. share: this node's part of the limit."""
        return min(share, max(1, int(self._allowed))) if share else 0

    def took(self, now: float) -> None:
        """The site took a mail, or said something about a recipient, which is as good."""
        self._refusals = 0
        if self._allowed < self.limits.connections:
            self._allowed = min(self._allowed + self._step, float(self.limits.connections))
        if self._pushed and now - self._pushed_at > CALM_S:
            self._pushed, self._step = 0, 1.0

    def refused(self, now: float, *, leave: bool) -> bool:
        """The site will not take mail just now. leave: by 421, which says so of more than this mail. Whether that slows us."""
        self._refusals += 1
        if not leave and self._refusals < AGAIN_AND_AGAIN:
            return False
        if now < self.pause_until:
            return True  # the other connections hear the same at the same moment
        self._refusals = 0
        self._pushed += 1
        self._pushed_at = now
        self._allowed = max(1.0, self._allowed / 2)
        self._step = 0.1
        self.pause_until = now + min(LONGEST_PAUSE_S, PAUSE_S * 2 ** min(self._pushed - 1, 20))
        return True

    def wait_s(self, now: float) -> float:
        """How long the next mail has to wait; 0 or less: it may go."""
        return max(self.pause_until, self._slot) - now

    def lift(self) -> None:
        """The operator wants the site asked now, whatever it said."""
        self.pause_until = -inf

    def goes(self, now: float, nodes: int) -> None:
        """A mail goes. nodes: among how many the rate is shared."""
        if self.limits.rate:
            # What was not used of the last second may go at once.
            self._slot = max(self._slot, now - 1.0) + 60.0 * nodes / self.limits.rate
