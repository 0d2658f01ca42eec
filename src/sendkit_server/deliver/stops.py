"""What keeps a mail from being sent, though it is due: its site is held, or an address of it has been suppressed.

Looked at when a parcel is led into its lane and once more just before it is sent. Both are nearly always answered from
memory at once; an address that may be suppressed is looked up while the parcel stands aside.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Protocol

from sendkit_server.deliver.ledger import Ledger
from sendkit_server.deliver.parcel import Parcel
from sendkit_server.events import suppressed_meanwhile
from sendkit_server.model.address import Mailbox
from sendkit_server.model.instant import SECOND_MS, Instant
from sendkit_server.model.mail import Recipient
from sendkit_server.store.values import Job

HELD = "It was handed back when the operator held it."
NOT_READ = "Whether its address is suppressed could not be read; it is looked at again."
# A site is left out of the claims while it is held, a single message is not: it would come back at once.
HELD_MESSAGE_MS = 3 * SECOND_MS
NOT_READ_MS = 1 * SECOND_MS


class SuppressedAddresses(Protocol):
    """Who is not sent to (store.suppressed)."""

    def clear(self, team_id: int, mailboxes: Iterable[Mailbox]) -> bool:
        """Whether certainly none of these is suppressed; False: ask `among`."""

    async def among(self, team_id: int, mailboxes: Iterable[Mailbox]) -> dict[str, str]:
        """Those of these that are suppressed, by Mailbox.matching, and the reason of each."""


class Nobody:
    """Of a deliverer that knows no suppressions."""

    def clear(self, team_id: int, mailboxes: Iterable[Mailbox]) -> bool:
        """Always."""
        return True

    async def among(self, team_id: int, mailboxes: Iterable[Mailbox]) -> dict[str, str]:
        """None."""
        return {}


class Stops:
    """One deliverer's. go_on: takes a parcel that stood aside and may be sent after all."""

    def __init__(
        self,
        suppressed: SuppressedAddresses,
        ledger: Ledger,
        *,
        clock: Callable[[], Instant],
        start: Callable[[Coroutine[None, None, None]], object],
        fault: Callable[[str, BaseException], None],
        go_on: Callable[[Parcel], None],
    ) -> None:
        self.held: frozenset[str] = frozenset()
        self._suppressed = suppressed
        self._ledger = ledger
        self._clock = clock
        self._start = start
        self._fault = fault
        self._go_on = go_on

    def is_held(self, parcel: Parcel) -> bool:
        """Whether it, or a part of it, is held. What is only captured goes nowhere, and nobody need hold it."""
        held, message = self.held, parcel.message
        if not held or message.capture:
            return False
        return message.id in held or any(job.site in held for job in parcel.jobs)

    def takes(self, parcel: Parcel) -> bool:
        """Whether the parcel may not be sent just now; then it is taken care of here. It may lose recipients meanwhile."""
        if self.held and self.is_held(parcel):
            self._give_up_held(parcel)
            if not parcel.jobs:
                return True
        if self._suppressed.clear(parcel.message.team_id, _mailboxes(parcel)):
            return False
        self._start(self._ask(parcel))
        return True

    def _give_up_held(self, parcel: Parcel) -> None:
        if parcel.message.id in self.held:
            held, parcel.jobs = parcel.jobs, []
            self._ledger.hand_back_jobs(held, HELD, self._clock() + HELD_MESSAGE_MS)
        else:
            self._ledger.hand_back_jobs(self._parted(parcel, lambda job, _: job.site in self.held), HELD)

    async def _ask(self, parcel: Parcel) -> None:
        try:
            found = await self._suppressed.among(parcel.message.team_id, _mailboxes(parcel))
        except Exception as error:
            self._fault("delivery.suppressions_not_read", error)
            self._ledger.hand_back_jobs(parcel.jobs, NOT_READ, self._clock() + NOT_READ_MS)
            return
        for reason in sorted(set(found.values())):
            wanted = {address for address, why in found.items() if why == reason}
            for job in self._parted(parcel, _named(wanted)):
                self._ledger.end(job, suppressed_meanwhile(reason))
        if parcel.jobs:
            self._go_on(parcel)

    def _parted(self, parcel: Parcel, leaves: Callable[[Job, Recipient], bool]) -> list[Job]:
        before = parcel.jobs
        leaving = parcel.part(leaves)
        self._ledger.recount(before, [*parcel.jobs, *leaving])
        return leaving


def _named(addresses: set[str]) -> Callable[[Job, Recipient], bool]:
    return lambda _, one: one.mailbox.matching in addresses


def _mailboxes(parcel: Parcel) -> Iterable[Mailbox]:
    return (one.mailbox for job in parcel.jobs for one in job.recipients)
