"""Whether a way leads out at all.

A single site that cannot be connected to says nothing about the way there. Several in a row, and none that could be,
do: a closed port 25, a line that is down, an address that is taken away. Then mail with another way takes that at once,
and one mail now and then looks whether the first way is open again. A relay or a provider is the whole way: there it is
as many failures in a row, or one that says that nothing goes this way as it is set up.
"""

from __future__ import annotations

from sendkit_server.model.instant import MINUTE_MS, Instant

SITES = 3  # or failures in a row, of a way that leads to one place
LONGEST_MS = 5 * MINUTE_MS


class Health:
    """Of one way."""

    def __init__(self) -> None:
        self.reason = ""  # what the last failure said
        self.down_since: Instant | None = None
        self._failures: list[str | None] = []  # in a row; of each site one
        self._look_at: Instant = 0
        self._pause_ms = MINUTE_MS

    def worked(self) -> None:
        """Some server has answered."""
        if self._failures:
            self._failures.clear()
            self.down_since, self.reason, self._pause_ms = None, "", MINUTE_MS

    def failed(self, site: str | None, reason: str, now: Instant) -> bool:
        """No host of a site took a connection. Whether that has just brought the way down.

        site: None for the one place that a way to a relay or a provider leads to, of which each failure counts.
        """
        self.reason = reason
        if len(self._failures) < SITES and (site is None or site not in self._failures):
            self._failures.append(site)
        if len(self._failures) < SITES:
            return False
        newly = self.down_since is None
        if newly:
            self.down_since = now
            self._look_at = now + self._pause_ms
        return newly

    def broken(self, reason: str, now: Instant) -> bool:
        """A provider or a relay has said that nothing goes this way. Whether that has just brought the way down."""
        newly = self.down_since is None
        self.reason = reason
        if newly:
            self._failures.append(None)
            self.down_since, self._look_at = now, now + self._pause_ms
        return newly

    def is_down(self, now: Instant) -> bool:
        """Whether mail that has another way should take that. The one that looks again is told no."""
        if self.down_since is None:
            return False
        if now < self._look_at:
            return True
        self._pause_ms = min(2 * self._pause_ms, LONGEST_MS)
        self._look_at = now + self._pause_ms
        return False
