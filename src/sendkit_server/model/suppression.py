"""Suppressed addresses: why a team's mail does not go to an address any more."""

from __future__ import annotations

from enum import StrEnum

import msgspec

PREFIX = "sup"
SOFT_BOUNCES = 3
"""So many soft bounces in a row suppress as one hard bounce does."""


class SuppressionReason(StrEnum):
    """Who said so: the recipient's server, the recipient, or the sender himself."""

    BOUNCE = "bounce"
    COMPLAINT = "complaint"
    MANUAL = "manual"


class NewSuppression(msgspec.Struct, frozen=True):
    """An address that has just proven to be no good. address: as recipient.matching.  detail: the evidence, as JSON."""

    address: str
    detail: str


_EXPLANATIONS = {
    SuppressionReason.BOUNCE: "an earlier mail to it bounced",
    SuppressionReason.COMPLAINT: "its owner complained about an earlier mail",
    SuppressionReason.MANUAL: "it was put on the suppression list by hand",
}


def explanation(reason: str) -> str:
    """Why nothing was sent, as a sentence. reason: as it is stored."""
    return (
        f"Not sent: the address is suppressed, because {_EXPLANATIONS[SuppressionReason(reason)]}."
        " Remove the suppression to send to it again."
    )
