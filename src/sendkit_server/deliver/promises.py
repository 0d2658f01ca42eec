"""What the doors were told there is room for, while its commit is to come.

It counts: else all calls that come within the time of a commit, and all recipients of one call, would be told the same.
"""

from __future__ import annotations

from sendkit_server.deliver.lane import Lane
from sendkit_server.deliver.parcel import Parcel
from sendkit_server.deliver.room import Load
from sendkit_server.store.values import Job

Place = Lane | str
"""Where a job will wait: a lane, or, as long as none is known, its site."""


class Promises:
    """Foreseen parcels, each until its job is offered or forgotten. load: counts all of them."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._at: dict[Place, Load] = {}
        self._made: dict[tuple[str, str], tuple[Place, Parcel]] = {}  # by message and site

    def at(self, place: Place) -> Load | None:
        """What is promised to one place; None: nothing."""
        return self._at.get(place)

    def make(self, parcel: Parcel, place: Place) -> None:
        """Its only job will be offered or forgotten."""
        job = parcel.jobs[0]
        self._made[job.message.id, job.site] = place, parcel
        self._load.add(parcel.weight)
        self._at.setdefault(place, Load()).add(parcel.weight)

    def end(self, job: Job) -> Parcel | None:
        """The job has come, or never will; the parcel that was foreseen for it. None: there was no promise."""
        place, parcel = self._made.pop((job.message.id, job.site), (None, None))
        if place is None or parcel is None:
            return None
        self._load.remove(parcel.weight)
        there = self._at[place]
        there.remove(parcel.weight)
        if not there.jobs:
            del self._at[place]
        return parcel

    def clear(self) -> None:
        """None of them is worth anything any more."""
        self._load.clear()
        self._at.clear()
        self._made.clear()
