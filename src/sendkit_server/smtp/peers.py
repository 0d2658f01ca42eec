"""What is remembered of client addresses: open connections and failed logins, both in bounded memory.

An IPv6 client owns at least a /64, so all of it counts as one address.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from ipaddress import IPv6Address, IPv6Network

from sendkit_server.model.peer import peer_address

MAX_REMEMBERED = 4_096  # addresses with failed logins; beyond that the longest quiet is forgotten


def address_group(host: str) -> str:
    """What counts as one client: an IPv4 address, an IPv6 /64; the text itself when it is no address."""
    address = peer_address(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return host if address is None else str(address)


def is_loopback(host: str) -> bool:
    """Whether the peer is this machine."""
    address = peer_address(host)
    return address is not None and address.is_loopback


class ConnectionCounts:
    """Open connections, in all and by address."""

    def __init__(self, limit: int, limit_per_address: int) -> None:
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._by_address: Counter[str] = Counter()
        self.total = 0

    def admit(self, address: str) -> bool:
        """Count one more, or say no."""
        if self.total >= self._limit or self._by_address[address] >= self._limit_per_address:
            self._forget_if_none(address)
            return False
        self.total += 1
        self._by_address[address] += 1
        return True

    def release(self, address: str) -> None:
        """One that was admitted has gone."""
        self.total -= 1
        self._by_address[address] -= 1
        self._forget_if_none(address)

    @property
    def crowded(self) -> bool:
        """Whether four fifths of the places are taken."""
        return self.total * 5 >= self._limit * 4

    def _forget_if_none(self, address: str) -> None:
        if not self._by_address[address]:
            del self._by_address[address]


class FailedLogins:
    """Failed logins by address, within a sliding window."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._limit = limit
        self._window_s = window_s
        self._by_address: OrderedDict[str, deque[float]] = OrderedDict()

    def record(self, address: str, now_s: float) -> bool:
        """Note one more. Whether these are now too many: more than the limit within the window."""
        times = self._by_address.setdefault(address, deque(maxlen=self._limit + 1))
        times.append(now_s)
        self._by_address.move_to_end(address)
        if len(self._by_address) > MAX_REMEMBERED:
            self._by_address.popitem(last=False)
        return len(times) > self._limit and now_s - times[0] <= self._window_s
