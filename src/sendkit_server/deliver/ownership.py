"""What delivery has to know of the other nodes: whether its mail is still its own, and which part of a site is."""

from __future__ import annotations

from typing import Protocol
from zlib import crc32

import msgspec


class Ownership(Protocol):
    """This process's incarnation among the nodes (store.lease.Lease)."""

    @property
    def owner(self) -> int:
        """The incarnation's number."""

    def holds(self) -> bool:
        """Whether what this incarnation owns is certainly still its own."""


class Alone:
    """Of a process that shares its store with nobody."""

    owner = 0

    def holds(self) -> bool:
        """Always."""
        return True


class Share(msgspec.Struct, frozen=True):
    """This node's place among those that deliver. rank: from 0, the same order on every node; count: of them all."""

    rank: int = 0
    count: int = 1

    def of(self, limit: int, site: str) -> int:
        """Its part of a limit at one site: the parts of all nodes add up to the limit, and who gets the odd ones
        differs from site to site. 0 when there are more nodes than the limit has units."""
        if self.count <= 1:
            return limit
        place = (self.rank + crc32(site.encode())) % self.count
        return limit // self.count + (place < limit % self.count)
