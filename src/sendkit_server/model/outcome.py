"""Outcomes: what a try to deliver came to. The remote side's doing, kept with its transcript."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Result(StrEnum):
    """delivered; deferred: tried again; bounced: the recipient's side said never; failed: cannot travel, gave up; expired:
    the mail's own deadline came first; suppressed: the address was suppressed meanwhile."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    FAILED = "failed"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"


class Outcome(msgspec.Struct, frozen=True):
    """What became of one recipient in one try.

    reason: a stable word (`mailbox_unavailable`, `connect_failed`, `null_mx`, `no_reply_after_dot`, …).
    text: the explanation for people, with the server's own words.  code, enhanced: the deciding SMTP reply, if any.
    possible_duplicate: the final dot was sent and no answer came, so the mail may be there already.
    """

    result: Result
    reason: str
    text: str
    code: int | None = None
    enhanced: str | None = None
    possible_duplicate: bool = False


class Exchange(msgspec.Struct, frozen=True):
    """One line of a transcript: what was said (`>`), heard (`<`), or happened (`*`), and when, in ms from the start."""

    at_ms: int
    side: str
    text: str


class Attempt(msgspec.Struct, frozen=True):
    """One try over one connection for the recipients of one message at one site.

    recipients: their `n`.  tls: `TLSv1.3 TLS_AES_256_GCM_SHA384 verified`, or None when in clear.
    """

    route: str
    recipients: tuple[int, ...]
    started_at: int
    milliseconds: int
    host: str | None
    address: str | None
    tls: str | None
    transcript: tuple[Exchange, ...]
    outcomes: tuple[Outcome, ...]
