"""What a look at the installation and its domains has found: one thing, how it stands, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class FindingStatus(StrEnum):
    """ok.  warning: mail goes, but not as well as it could.  error: mail is lost, refused or will be.
    unknown: it could not be found out, which says nothing about how it stands."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    name: a stable word.  found: a sentence.  why: why it matters; fix: the line to publish or run, or a sentence; both
    None when there is nothing to mend.  domain: None for the server itself.  subject: which of several, such as an
    address.
    """

    name: str
    status: FindingStatus
    found: str
    why: str | None = None
    fix: str | None = None
    domain: str | None = None
    subject: str | None = None

    @property
    def key(self) -> str:
        """What tells it from the others of its domain."""
        return self.name if self.subject is None else f"{self.name} {self.subject}"


def worst(findings: Sequence[Finding]) -> FindingStatus:
    """How everything stands together; unknown only when nothing is worse and something is not known."""
    order = (FindingStatus.OK, FindingStatus.UNKNOWN, FindingStatus.WARNING, FindingStatus.ERROR)
    return max((finding.status for finding in findings), key=order.index, default=FindingStatus.OK)
