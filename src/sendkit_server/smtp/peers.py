"""Who is connected, by address."""

from __future__ import annotations

from collections import Counter

from sendkit_server.model.peer import peer_address


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
