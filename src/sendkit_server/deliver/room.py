"""How much mail may be in memory: in all, for one lane, and for one claim.

The doors hand over until three quarters of the room are taken; what waits in the store is fetched until nine tenths are, so
that retries go on under a load that never ends. What is left is for urgent mail, and so is an eighth that nothing else ever
gets: one mail may be larger than all that was free, and then urgent mail must not wait until that has gone. A claim fetches a
quarter of what is left, so that the last one before the nine tenths is worth its while, and overruns them by little.

One lane may have an eighth of what is free at the moment, so that slow sites, however many, always leave something to those
that come after them. Beyond that its mail stays in the store, but for urgent mail, of which it may have an eighth of what is
free for that. A lane that holds nothing takes a mail of any size, or that one would never go.

Jobs and bytes are counted alike. A job counts with its mail's whole size (Job.size_bytes): jobs of one call share the content's
object, but each is composed for itself. While it waits for that, it is counted as more than it takes.
"""

from __future__ import annotations

import msgspec

from sendkit_server.deliver.settings import DeliverySettings
from sendkit_server.model.mail import Priority
from sendkit_server.store.values import Job

DOORS, FETCHED = 0.75, 0.9
URGENT_OWN = 8  # one part of so many of the whole room: 8 MiB
LANE_SHARE = 8  # of what is free: after 22 sites that take all they may, a twentieth of the memory is left
CLAIM_SHARE = 4  # of what is left: only afterwards it is known which of its sites lead into one lane
CLAIM_JOBS = 500

Weight = tuple[int, int, bool]
"""Jobs, their bytes, and whether they are urgent."""
Amount = tuple[int, int]
"""Jobs and bytes."""


def weight_of(job: Job) -> Weight:
    """What one job counts as."""
    return 1, job.size_bytes, job.message.priority is Priority.URGENT


class Load:
    """What is at one place: jobs and bytes, and how much of both is urgent."""

    __slots__ = ("jobs", "size_bytes", "urgent_bytes", "urgent_jobs")

    def __init__(self) -> None:
        self.jobs = 0
        self.size_bytes = 0
        self.urgent_jobs = 0
        self.urgent_bytes = 0

    def add(self, weight: Weight) -> None:
        """Something has come."""
        jobs, size_bytes, urgent = weight
        self.jobs += jobs
        self.size_bytes += size_bytes
        if urgent:
            self.urgent_jobs += jobs
            self.urgent_bytes += size_bytes

    def remove(self, weight: Weight) -> None:
        """It has gone: the weight that it came with."""
        jobs, size_bytes, urgent = weight
        self.jobs -= jobs
        self.size_bytes -= size_bytes
        if urgent:
            self.urgent_jobs -= jobs
            self.urgent_bytes -= size_bytes

    def clear(self) -> None:
        """All has gone."""
        self.jobs = self.size_bytes = self.urgent_jobs = self.urgent_bytes = 0

    def amount(self, *, urgent: bool) -> Amount:
        """All of it, or the urgent part."""
        return (self.urgent_jobs, self.urgent_bytes) if urgent else (self.jobs, self.size_bytes)

    def has_halved(self, since: Amount) -> bool:
        """Whether only half is left of what there was, of jobs or of bytes: whichever it was that was too much."""
        return self.jobs <= since[0] // 2 or self.size_bytes <= since[1] // 2


class Bounds(msgspec.Struct, frozen=True):
    """How much one claim may fetch. The members are those of store.values.Claim."""

    least: Priority
    per_site: int
    limit: int
    site_bytes: int
    room_bytes: int


class Room:
    """in_memory: what is here, until its outcome is durable.  promised: what the doors were told there is room for, while
    its commit is to come."""

    def __init__(self, settings: DeliverySettings) -> None:
        self.in_memory = Load()
        self.promised = Load()
        self._whole: Amount = settings.room_jobs, settings.room_bytes
        self._lane_jobs = settings.lane_jobs
        self._for_doors = _part(self._whole, DOORS)
        self._for_claims = _part(self._whole, FETCHED)
        self._for_urgent = _part(self._whole, 1 / URGENT_OWN)
        self._claim_jobs = min(CLAIM_JOBS, settings.room_jobs // 10 or 1)

    @property
    def least(self) -> Priority | None:
        """The lowest priority that may be fetched; None: nothing may."""
        if _is_some(self._free(self._for_claims)):
            return Priority.BULK
        return Priority.URGENT if _is_some(self._free_for_urgent()) else None

    def lets_in(self, size_bytes: int, there: Load | None, promised: Load | None, *, urgent: bool) -> bool:
        """Whether one more job can come in through the doors; one that is larger than the room can when it is alone.

        there, promised: what is where it would wait, and what is promised to that; None: nothing.
        """
        jobs, free_bytes = self._free_for_urgent() if urgent else self._free(self._for_doors)
        if not (jobs > 0 and size_bytes <= free_bytes) and (self.in_memory.jobs or self.promised.jobs):
            return False
        jobs_there = bytes_there = 0
        for load in (there, promised):
            if load is not None:
                more_jobs, more_bytes = load.amount(urgent=urgent)
                jobs_there += more_jobs
                bytes_there += more_bytes
        most_jobs, most_bytes = self._lane_part(urgent=urgent)
        return not jobs_there or (jobs_there < most_jobs and bytes_there + size_bytes <= most_bytes)

    def is_full(self, lane: Load, *, urgent: bool = False) -> bool:
        """Whether a lane with this load has all that one may have now. urgent: even of urgent mail."""
        jobs, size_bytes = lane.amount(urgent=urgent)
        most_jobs, most_bytes = self._lane_part(urgent=urgent)
        return jobs >= most_jobs or size_bytes >= most_bytes

    def next_claim(self) -> Bounds | None:
        """How much may be fetched now; None: nothing, until something has gone."""
        least = self.least
        if least is None:
            return None
        urgent = least is Priority.URGENT
        free_jobs, free_bytes = self._free_for_urgent() if urgent else self._free(self._whole)
        per_site, site_bytes = self._lane_part(urgent=urgent)
        return Bounds(least, per_site, min(self._claim_jobs, free_jobs), site_bytes, max(1, free_bytes // CLAIM_SHARE))

    def _lane_part(self, *, urgent: bool) -> Amount:
        """At least 1 of each, so that an empty lane is never full."""
        jobs, size_bytes = self._free_for_urgent() if urgent else self._free(self._for_doors)
        return max(1, min(self._lane_jobs, jobs // LANE_SHARE)), max(1, size_bytes // LANE_SHARE)

    def _free(self, part: Amount) -> Amount:
        here, promised = self.in_memory, self.promised
        return part[0] - here.jobs - promised.jobs, part[1] - here.size_bytes - promised.size_bytes

    def _free_for_urgent(self) -> Amount:
        """What is left of the whole room, or else of the part that is for urgent mail alone."""
        jobs, size_bytes = self._free(self._whole)
        own_jobs, own_bytes = self._for_urgent
        here, promised = self.in_memory, self.promised
        return (
            max(jobs, own_jobs - here.urgent_jobs - promised.urgent_jobs),
            max(size_bytes, own_bytes - here.urgent_bytes - promised.urgent_bytes),
        )


def _part(whole: Amount, share: float) -> Amount:
    return int(whole[0] * share), int(whole[1] * share)


def _is_some(amount: Amount) -> bool:
    return amount[0] > 0 and amount[1] > 0
