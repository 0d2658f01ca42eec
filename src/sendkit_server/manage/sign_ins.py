"""Failed sign-ins, so that nobody guesses passwords for long, and nobody locks out others.

An address (an IPv6 /64) that has failed more than LIMIT times within the window waits. Once an account has seen so many
failures from wherever, those addresses wait that have failed with it themselves; its owner, coming from another one, does
not. Accounts that do not exist count like others.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable

from sendkit_server.manage.keys import ManageError

LIMIT = 10
WINDOW_S = 600.0
MAX_REMEMBERED = 4_096  # accounts, and addresses; beyond that the longest quiet is forgotten


class TooManyFailures(ManageError):
    """Whoever it is has to wait."""

    def __init__(self, retry_after_s: int) -> None:
        minutes = -(-retry_after_s // 60)
        super().__init__(f"Too many failed sign-ins. Try again in {minutes} {'minute' if minutes == 1 else 'minutes'}.")
        self.retry_after_s = retry_after_s


class SignIns:
    """Remembers failures of this process. clock: seconds, never set."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_source: OrderedDict[str, deque[tuple[float, str]]] = OrderedDict()
        self._by_account: OrderedDict[str, deque[tuple[float, str]]] = OrderedDict()

    def check(self, account: str, source: str) -> None:
        """TooManyFailures: this source has to wait before it tries (this account) again."""
        here = self._recent(self._by_source, source)
        if len(here) > LIMIT:
            raise TooManyFailures(self._wait_s(here[0][0]))
        of_account = self._recent(self._by_account, account)
        if len(of_account) > LIMIT and any(by == source for _, by in of_account):
            raise TooManyFailures(self._wait_s(of_account[0][0]))

    def failed(self, account: str, source: str) -> None:
        """One more."""
        for table, key, other in ((self._by_source, source, account), (self._by_account, account, source)):
            table.setdefault(key, deque(maxlen=4 * LIMIT)).append((self._clock(), other))
            table.move_to_end(key)
            if len(table) > MAX_REMEMBERED:
                table.popitem(last=False)

    def _recent(self, table: OrderedDict[str, deque[tuple[float, str]]], key: str) -> deque[tuple[float, str]]:
        found = table.get(key)
        if found is None:
            return deque()
        while found and self._clock() - found[0][0] > WINDOW_S:
            found.popleft()
        return found

    def _wait_s(self, first_s: float) -> int:
        return max(1, math.ceil(first_s + WINDOW_S - self._clock()))
