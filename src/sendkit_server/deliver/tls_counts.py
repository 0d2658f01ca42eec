"""How connections to recipients' servers were secured, counted as RFC 8460 4.3 wants it told: by domain, policy and host.

A session counts once for each recipient domain that it was opened for or carried mail of. Counts are kept in memory and
added to the store every few seconds; what a kill loses is those seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
import structlog

from sendkit_server.model.instant import Instant, day_of
from sendkit_server.net.tls_client import Trouble
from sendkit_server.store.errors import OutcomeUnknown, StoreError
from sendkit_server.store.queries.tls import CountKey
from sendkit_server.wire.mta_sts import Mode

if TYPE_CHECKING:
    from sendkit_server.deliver.tls_policy import Policy

WRITE_S = 5.0
MOST_KEYS = 20_000  # in memory; while the store is away, what is new beyond them is not counted
KEYS_A_WRITE = 200

log = structlog.get_logger("delivery")


class PolicyKind(StrEnum):
    """RFC 8460 4.4 policy-type."""

    STS = "sts"
    TLSA = "tlsa"
    NONE = "no-policy-found"


class SessionResult(StrEnum):
    """`success`, or RFC 8460 4.3 result types that no certificate has told (those are `tls_client.Trouble`)."""

    SUCCESS = "success"
    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


class Session(msgspec.Struct, frozen=True):
    """One connection to a host, as strictly as its certificate can be judged. encrypted: TLS was made, whatever it
    proved.  dane: TLSA records decided."""

    host: str
    result: SessionResult | Trouble
    encrypted: bool = False
    dane: bool = False


def counted_as(policy: Policy, session: Session) -> tuple[PolicyKind, str]:
    """Under which policy a session counts, and as what."""
    if session.dane:
        return PolicyKind.TLSA, session.result
    if policy.sts is not None and policy.sts.failure is not None and policy.sts.binding is None:
        return PolicyKind.STS, policy.sts.failure.result
    binding = policy.sts.binding if policy.sts is not None else None
    if binding is not None and binding.policy.mode is not Mode.NONE:
        if not binding.policy.allows(session.host):
            # RFC 8460 has no word of its own for a host that the policy does not name.
            return PolicyKind.STS, Trouble.VALIDATION
        return PolicyKind.STS, session.result
    # Without a policy nothing was asked of the certificate.
    return PolicyKind.NONE, SessionResult.SUCCESS if session.encrypted else session.result


class TlsCounts:
    """One process's counts. write: adds them to the store."""

    def __init__(
        self, write: Callable[[Mapping[CountKey, int]], Awaitable[None]], clock: Callable[[], Instant]
    ) -> None:
        self._write = write
        self._clock = clock
        self._counts: Counter[CountKey] = Counter()

    def add(self, policy: Policy, domain: str, sessions: Iterable[Session]) -> None:
        """Counts sessions for a domain."""
        now = self._clock()
        for session in sessions:
            kind, result = counted_as(policy, session)
            key = CountKey(day_of(now), domain, str(kind), session.host, str(result))
            if key in self._counts or len(self._counts) < MOST_KEYS:
                self._counts[key] += 1

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(WRITE_S)
            await self.flush()

    async def flush(self) -> None:
        """Writes what was counted. What cannot be written is kept for the next time."""
        taken, self._counts = self._counts, Counter()
        keys = list(taken)
        while keys:
            slice_ = {key: taken[key] for key in keys[:KEYS_A_WRITE]}
            try:
                await self._write(slice_)
            except OutcomeUnknown as error:
                # Perhaps it was counted: once too few is better than twice.
                log.warning("tls.counts_not_written", error=str(error))
            except StoreError as error:
                log.warning("tls.counts_not_written", error=str(error))
                self._counts.update({key: taken[key] for key in keys})
                return
            del keys[:KEYS_A_WRITE]
