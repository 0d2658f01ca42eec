"""What travels: jobs of one message, with the bytes they are composed to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from sendkit_server.compose import Composed
from sendkit_server.deliver.plan import Way, Ways
from sendkit_server.deliver.room import Weight
from sendkit_server.model.mail import Message, Priority, Recipient
from sendkit_server.model.outcome import Exchange, Outcome
from sendkit_server.store.values import Job
from sendkit_server.wire.dkim import DkimKey


class Parcel:
    """Jobs of one message on their way together: same bytes, same site, one transaction."""

    __slots__ = (
        "addresses",
        "before",
        "composed",
        "jobs",
        "keys",
        "message",
        "notes",
        "offered",
        "place",
        "prepared",
        "requeued",
        "size_bytes",
        "then",
        "ways",
    )

    def __init__(self, job: Job, ways: Ways) -> None:
        self.message: Message = job.message
        self.jobs: list[Job] = [job]
        self.addresses: list[str] = [recipient.mailbox.address for recipient in job.recipients]
        self.size_bytes = job.size_bytes
        self.ways = ways
        self.place = 0  # among its ways
        self.before: tuple[Exchange, ...] = ()  # what ways before this one came to, for the transcript
        self.notes: tuple[Exchange, ...] = ()  # by which policies it is sent, for the transcript
        self.composed: Composed | None = None
        self.keys: Sequence[DkimKey] = ()
        self.then: Callable[[Parcel, Outcome | None], None]  # who has it next, while the desk has it
        # Of one that was foreseen: what of the two that it waits for has happened.
        self.prepared = False
        self.offered = False
        self.requeued = 0  # how often a connection closed before it looked at this mail

    @property
    def way(self) -> Way:
        """The one that it takes now."""
        return self.ways[self.place]

    @property
    def weight(self) -> Weight:
        """What it is counted as now; it may lose or gain jobs later."""
        return len(self.jobs), self.size_bytes, self.message.priority is Priority.URGENT

    def join(self, other: Parcel) -> None:
        """Take the jobs of another parcel of the same message along."""
        self.jobs += other.jobs
        self.addresses += other.addresses
        self.size_bytes += other.size_bytes
        if other.notes != self.notes:
            self.notes += tuple(note for note in other.notes if note not in self.notes)

    def part(self, leaves: Callable[[Job, Recipient], bool]) -> list[Job]:
        """Let recipients leave: the jobs of those that do. A job of which only some leave becomes two."""
        leaving: list[Job] = []
        staying: list[Job] = []
        for job in self.jobs:
            gone = tuple([one for one in job.recipients if leaves(job, one)])
            if len(gone) == len(job.recipients):
                leaving.append(job)
            elif not gone:
                staying.append(job)
            else:
                rest = tuple([one for one in job.recipients if one not in gone])
                leaving.append(msgspec.structs.replace(job, recipients=gone, shared=True))
                staying.append(msgspec.structs.replace(job, recipients=rest, shared=True))
        self.jobs = staying
        self.addresses = [one.mailbox.address for job in staying for one in job.recipients]
        self.size_bytes = sum(job.size_bytes for job in staying)
        return leaving
