"""Parcels that wait in a lane, the urgent ones before the others; but nobody waits for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from sendkit_server.deliver.parcel import Parcel
from sendkit_server.deliver.room import Load
from sendkit_server.model.mail import Priority

TURN = 8
"""Of so many parcels in a row one is of the next lower priority, if one waits: a flood above does not stop what is below."""


class Line:
    """A queue with a place for each priority. load: counts what waits here, with whatever else is counted there."""

    __slots__ = ("_queues", "_since", "load")

    def __init__(self, load: Load | None = None) -> None:
        self.load = Load() if load is None else load
        self._queues: tuple[deque[Parcel], ...] = tuple(deque() for _ in Priority)
        self._since = [0] * len(self._queues)  # parcels of higher priority that went since one of this went

    def __len__(self) -> int:
        urgent, normal, bulk = self._queues
        return len(urgent) + len(normal) + len(bulk)

    def __bool__(self) -> bool:
        urgent, normal, bulk = self._queues
        return bool(urgent or normal or bulk)

    def __iter__(self) -> Iterator[Parcel]:
        for queue in self._queues:
            yield from queue

    def count(self, priority: Priority) -> int:
        """How many of a priority wait."""
        return len(self._queues[priority])

    def append(self, parcel: Parcel) -> None:
        """Behind those of its priority."""
        self.load.add(parcel.weight)
        self._queues[parcel.message.priority].append(parcel)

    def appendleft(self, parcel: Parcel) -> None:
        """Before those of its priority."""
        self.load.add(parcel.weight)
        self._queues[parcel.message.priority].appendleft(parcel)

    def popleft(self) -> Parcel:
        """The next one. IndexError when there is none."""
        chosen = self._next()
        self._since[chosen] = 0
        for lower in range(chosen + 1, len(self._queues)):
            if self._queues[lower]:
                self._since[lower] += 1
        return self._gone(self._queues[chosen].popleft())

    def popleft_of(self, priority: Priority) -> Parcel:
        """The next one of a priority. IndexError when there is none."""
        return self._gone(self._queues[priority].popleft())

    def last(self, priority: Priority) -> Parcel | None:
        """The one that came last of this priority."""
        queue = self._queues[priority]
        return queue[-1] if queue else None

    def join(self, last: Parcel, parcel: Parcel) -> None:
        """One that waits here takes the jobs of another along."""
        self.load.add(parcel.weight)
        last.join(parcel)

    def clear(self) -> None:
        """Nobody waits any more."""
        for queue in self._queues:
            for parcel in queue:
                self.load.remove(parcel.weight)
            queue.clear()

    def _gone(self, parcel: Parcel) -> Parcel:
        self.load.remove(parcel.weight)
        return parcel

    def _next(self) -> int:
        first = -1
        for place, queue in enumerate(self._queues):
            if queue:
                if self._since[place] >= TURN:
                    return place
                if first < 0:
                    first = place
        return first
