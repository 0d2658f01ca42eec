"""When a deferred recipient is tried again."""

from __future__ import annotations

import msgspec

from sendkit_server.model.instant import HOUR_MS, MINUTE_MS, Instant

SPREAD = 0.1  # of a delay, to both sides


class RetryPolicy(msgspec.Struct, frozen=True):
    """Delays after the first, second, … try in milliseconds (the last repeats), and how long to go on at all.

    The default window is 48 h: RFC 5321 4.5.4.1 asks for 4–5 days, but transactional mail is stale long before.
    """

    delays_ms: tuple[int, ...] = tuple([m * MINUTE_MS for m in (1, 5, 15, 30)] + [h * HOUR_MS for h in (1, 2, 4)])
    window_ms: int = 48 * HOUR_MS

    @property
    def longest_ms(self) -> int:
        """What lies further ahead than this was not planned by this clock: it has been set back since."""
        return round(max(self.delays_ms) * (1 + SPREAD))


def next_attempt(policy: RetryPolicy, tries: int, accepted_at: Instant, now: Instant, jitter: float) -> Instant | None:
    """When to try again after a temporary failure; None once the retry window is over.

    tries: attempts made so far, ≥ 1.  jitter: 0.0–1.0, spreads the try over ±10 % of the delay so that an outage's
    mail does not come back as one wave.
    """
    delay = policy.delays_ms[min(tries, len(policy.delays_ms)) - 1]
    at = now + round(delay * (1 - SPREAD + 2 * SPREAD * jitter))
    ends = _begun_at(policy, tries, accepted_at, now) + policy.window_ms
    if now >= ends:
        return None
    # One last try at the window's end beats giving up hours before it.
    return min(at, ends)


def _begun_at(policy: RetryPolicy, tries: int, accepted_at: Instant, now: Instant) -> Instant:
    """When the retry window began. A clock that was set back has put the acceptance into the future: a mail would be
    tried until that is over, a year perhaps. Then the delays between its tries tell how long it has waited."""
    if accepted_at <= now:
        return accepted_at
    repeated = max(0, tries - 1 - len(policy.delays_ms)) * policy.delays_ms[-1]
    return now - sum(policy.delays_ms[: tries - 1]) - repeated
