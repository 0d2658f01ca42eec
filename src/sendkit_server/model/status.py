"""What can have become of a recipient, and which way that may still move.

A status only moves forward: scheduled < queued < sent < delivery_delayed < delivered < opened < clicked.
Ends are exclusive: a recipient gets at most one of bounced, rejected, suppressed, failed, cancelled, expired, and
nothing but a complaint follows an end or a delivery. A recipient is *settled* once delivered (or beyond) or at an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Status(StrEnum):
    """A recipient's status, spelled as the API spells it."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    SENT = "sent"
    DELAYED = "delivery_delayed"
    DELIVERED = "delivered"
    OPENED = "opened"
    CLICKED = "clicked"
    COMPLAINED = "complained"
    BOUNCED = "bounced"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"


RANK = {
    status: rank
    for rank, status in enumerate(
        [
            Status.SCHEDULED,
            Status.QUEUED,
            Status.SENT,
            Status.DELAYED,
            Status.DELIVERED,
            Status.OPENED,
            Status.CLICKED,
        ]
    )
}
ENDS_WORST_FIRST = (
    Status.COMPLAINED,
    Status.BOUNCED,
    Status.FAILED,
    Status.REJECTED,
    Status.EXPIRED,
    Status.SUPPRESSED,
    Status.CANCELLED,
)
UNSETTLED = frozenset({Status.SCHEDULED, Status.QUEUED, Status.SENT, Status.DELAYED})
MESSAGE_PRECEDENCE = (
    *sorted(UNSETTLED, key=RANK.__getitem__),
    *ENDS_WORST_FIRST,
    *sorted(set(RANK) - UNSETTLED, key=RANK.__getitem__, reverse=True),
)
"""A message's status is the first of these that any of its recipients has."""


def is_settled(status: Status) -> bool:
    """Whether nothing more is to be done for this recipient."""
    return status not in UNSETTLED


def moved(current: Status, to: Status) -> Status:
    """The status after `to` was reported: `to` when that is a step forward, else `current`."""
    if current is Status.COMPLAINED:
        return current
    if to is Status.COMPLAINED:
        # A complaint needs a mail that arrived; a bounce by DSN may come after it and still be complained about.
        return to if current in (Status.DELIVERED, Status.OPENED, Status.CLICKED, Status.BOUNCED) else current
    if current not in RANK:
        return current
    if to not in RANK:
        # Only a DSN's bounce ends what was already delivered.
        delivered = RANK[current] >= RANK[Status.DELIVERED]
        return current if delivered and to is not Status.BOUNCED else to
    return to if RANK[to] > RANK[current] else current


def message_status(recipients: Sequence[Status]) -> Status:
    """One status for a message with several recipients.

    While a recipient is unsettled, the lowest rank among those; else the worst end; else the highest rank reached.
    """
    return recipients[0] if len(recipients) == 1 else min(recipients, key=MESSAGE_PRECEDENCE.index)


def last_event(status: Status) -> str:
    """The API's `last_event`: as the status, but that an expired mail is worded as failed."""
    return Status.FAILED if status is Status.EXPIRED else status
