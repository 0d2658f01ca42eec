"""What TLS a mail's destination demands: the sender's wish, MTA-STS (RFC 8461) and DANE (RFC 7672) together.

1. A mail that asks for it (`require_tls`, or a From domain with `tls=enforced`) goes only to hosts that prove their names.
2. When a resolver that is trusted vouches for the domain's MX, for a host's address and for its TLSA records, that host
   must show the certificate that they mean. This outranks MTA-STS for that host (RFC 8461 2).
3. When the domain's MTA-STS policy is in mode enforce, any other host must be named by the policy and prove its name.
4. Else whatever TLS there is is taken, and a host without any gets the mail in clear.

A host that does not satisfy what is asked of it gives way to the next one. When none is left the mail is deferred and
says why; it is never sent in clear, and no other route takes it over.

What is known is looked up for each parcel, so it is a question to a dictionary; the rest happens where MX are looked up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from sendkit_server.deliver.mta_sts import Sts, StsPolicies
from sendkit_server.deliver.outcome import DANE_FAILED, MTA_STS_FAILED
from sendkit_server.deliver.tls_counts import Session, TlsCounts
from sendkit_server.model.instant import MINUTE_MS, Instant
from sendkit_server.model.outcome import Exchange, Outcome, Result
from sendkit_server.net.dnssec import Dnssec
from sendkit_server.net.resolver import DnsProblem, MailHosts
from sendkit_server.wire.mta_sts import Mode

KNOWN_MS = MINUTE_MS  # what lies behind has times of its own
KNOWN_DOMAINS = 20_000
POLICY_REASONS = frozenset({MTA_STS_FAILED, DANE_FAILED})
"""Reasons of outcomes that no other route may make good."""


class Security(msgspec.Struct, frozen=True):
    """What is asked of the hosts of one lane.

    strict: they must prove their names.  authentic: TLSA records count.  allowed: those that an enforced MTA-STS policy
    names; None when there is none.
    """

    strict: bool = False
    authentic: bool = False
    allowed: frozenset[str] | None = None

    @property
    def verified(self) -> bool:
        """Whether a host without TLSA records must prove its name."""
        return self.strict or self.allowed is not None


class Policy(msgspec.Struct, frozen=True):
    """What is known of one domain.

    hosts: its MX as a validating resolver vouches for them, None when none does.  trouble: why nothing may be sent now.
    until: when to ask again.
    """

    hosts: MailHosts | None = None
    sts: Sts | None = None
    trouble: Outcome | None = None
    until: Instant = 0
    notes: tuple[Exchange, ...] = ()

    def security(self, hosts: MailHosts, *, strict: bool) -> Security:
        """What is asked of these hosts."""
        binding = self.sts.binding if self.sts is not None else None
        if binding is None or binding.policy.mode is not Mode.ENFORCE:
            return Security(strict, self.hosts is not None)
        allowed = frozenset(mx.host for mx in hosts if binding.policy.allows(mx.host))
        return Security(strict, self.hosts is not None, allowed)


NO_POLICY = Policy()


class TlsPolicies:
    """What is known of domains. Without sts and dnssec nothing is demanded of anybody."""

    def __init__(
        self,
        sts: StsPolicies | None = None,
        dnssec: Dnssec | None = None,
        counts: TlsCounts | None = None,
        *,
        clock: Callable[[], Instant] = lambda: 0,
    ) -> None:
        self.dnssec = dnssec
        self._sts = sts
        self._counts = counts
        self._clock = clock
        self._known: dict[str, Policy] = {}
        if sts is not None:
            sts.changed = self._forget

    def known(self, domain: str) -> Policy | None:
        """What `of` would say at once; None when it has to ask."""
        if self._sts is None and self.dnssec is None:
            return NO_POLICY
        policy = self._known.get(domain)
        return policy if policy is not None and self._clock() < policy.until else None

    async def of(self, domain: str) -> Policy:
        """What is known of a domain once everything was asked; waits a little only for what nobody has asked before."""
        if (known := self.known(domain)) is not None:
            return known
        hosts, sts = await asyncio.gather(self._authentic(domain), self._sts_of(domain))
        now = self._clock()
        trouble = None
        if isinstance(hosts, DnsProblem):
            # Whether the domain has DANE is not known, and whoever keeps the answer back may want just that.
            text = f"Whether {domain} has DANE could not be asked: {hosts.text}."
            trouble, hosts = Outcome(Result.DEFERRED, DANE_FAILED, text, enhanced="4.7.0"), None
        if sts is not None and not sts.binds(now):
            sts = msgspec.structs.replace(sts, binding=None)
        policy = Policy(hosts, sts, trouble, now if trouble else _until(sts, now), _notes(domain, sts))
        if len(self._known) >= KNOWN_DOMAINS:
            self._known.clear()
        self._known[domain] = policy
        return policy

    def count(self, domain: str, sessions: Iterable[Session]) -> None:
        """Sessions that were made for a domain."""
        if self._counts is not None:
            self._counts.add(self._known.get(domain, NO_POLICY), domain, sessions)

    def explained(self, domain: str, outcome: Outcome) -> Outcome:
        """The outcome with the policy that it is about; that policy is looked at again."""
        policy = self._known.get(domain)
        if outcome.reason != MTA_STS_FAILED or policy is None or policy.sts is None or policy.sts.binding is None:
            return outcome
        if self._sts is not None:
            self._sts.doubt(domain)
        name = f"MTA-STS policy of {domain} (enforce, id {policy.sts.binding.policy_id})"
        return msgspec.structs.replace(outcome, text=f"Kept back by the {name}. {outcome.text}")

    async def _authentic(self, domain: str) -> MailHosts | DnsProblem | None:
        return None if self.dnssec is None else await self.dnssec.mail_hosts(domain)

    async def _sts_of(self, domain: str) -> Sts | None:
        return None if self._sts is None else await self._sts.of(domain)

    def _forget(self, domain: str) -> None:
        known = self._known.get(domain)
        if known is not None:
            self._known[domain] = msgspec.structs.replace(known, until=0)


def _until(sts: Sts | None, now: Instant) -> Instant:
    ends = [now + KNOWN_MS]
    if sts is not None:
        ends.append(sts.look_at)
        ends += [sts.binding.expires_at] if sts.binding is not None else []
    return min(ends)


def _notes(domain: str, sts: Sts | None) -> tuple[Exchange, ...]:
    if sts is None:
        return ()
    if sts.binding is not None and sts.binding.policy.mode is not Mode.NONE:
        binding = sts.binding
        mx = ", ".join(binding.policy.mx[:5]) + (", …" if len(binding.policy.mx) > 5 else "")
        return (
            Exchange(0, "*", f"MTA-STS {binding.policy.mode} (policy id {binding.policy_id} of {domain}, mx {mx})"),
        )
    if sts.failure is not None:
        return (Exchange(0, "*", f"MTA-STS: {domain} announces a policy, but {sts.failure.text}"),)
    return ()
