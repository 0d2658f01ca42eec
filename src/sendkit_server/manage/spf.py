"""Whether an SPF record lets an address send (RFC 7208 4), as a receiver would find it.

As there, at most ten terms ask DNS, at most two questions may lead to nothing, and at most ten hosts of an MX count.
What depends on the mail itself (macros, `exists`, `ptr`) cannot be told beforehand: the answer is then UNCLEAR, unless
something else lets the address pass.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum

import msgspec

from sendkit_server.net.resolver import DnsProblem, DnsTrouble, Resolver
from sendkit_server.wire.spf import Mechanism, SpfRecord, SpfSyntaxError, has_macro, is_spf, parse_spf

MAX_LOOKUPS = 10
MAX_VOID_LOOKUPS = 2
MAX_MX_HOSTS = 10
UNTOLD = frozenset({"exists", "ptr"})


class SpfResult(StrEnum):
    """As RFC 7208 2.6 calls them; unclear: it depends on the mail."""

    PASS = "pass"  # noqa: S105 - a result, not a password
    FAIL = "fail"
    SOFTFAIL = "softfail"
    NEUTRAL = "neutral"
    NONE = "none"
    PERMERROR = "permerror"
    TEMPERROR = "temperror"
    UNCLEAR = "unclear"


BY_QUALIFIER = {"+": SpfResult.PASS, "-": SpfResult.FAIL, "~": SpfResult.SOFTFAIL, "?": SpfResult.NEUTRAL}


class SpfVerdict(msgspec.Struct, frozen=True):
    """text: what led to it, for people; "" when the result says it all.  included: every domain that was included."""

    result: SpfResult
    text: str = ""
    included: frozenset[str] = frozenset()


class _Ends(Exception):
    """The evaluation is over, however deep it is."""

    def __init__(self, result: SpfResult, text: str) -> None:
        super().__init__(text)
        self.result = result


async def evaluate(resolver: Resolver, domain: str, address: str) -> SpfVerdict:
    """What a receiver finds for mail from this address whose return path is at this domain."""
    evaluation = _Evaluation(resolver, address)
    try:
        result = await evaluation.check(domain)
    except _Ends as end:
        return SpfVerdict(end.result, str(end), frozenset(evaluation.included))
    if evaluation.unclear and result is not SpfResult.PASS:
        return SpfVerdict(SpfResult.UNCLEAR, evaluation.unclear, frozenset(evaluation.included))
    return SpfVerdict(result, "", frozenset(evaluation.included))


async def spf_records(resolver: Resolver, domain: str) -> tuple[str, ...] | DnsProblem:
    """A domain's SPF records; none is an empty answer. DnsProblem: only when nobody could be asked."""
    texts = await resolver.texts(domain)
    if isinstance(texts, DnsProblem):
        return texts if texts.trouble is DnsTrouble.UNAVAILABLE else ()
    return tuple(text for text in texts if is_spf(text))


class _Evaluation:
    """One address."""

    def __init__(self, resolver: Resolver, address: str) -> None:
        self._resolver = resolver
        self._address = ipaddress.ip_address(address)
        self._lookups = 0
        self._voids = 0
        self.unclear = ""
        self.included: set[str] = set()

    async def check(self, domain: str) -> SpfResult:
        record = await self._record(domain)
        if record is None:
            return SpfResult.NONE
        for mechanism in record.mechanisms:
            if await self._matches(mechanism, domain):
                return BY_QUALIFIER[mechanism.qualifier]
        if record.redirect is None or any(each.name == "all" for each in record.mechanisms):
            return SpfResult.NEUTRAL
        if has_macro(record.redirect):
            raise _Ends(SpfResult.UNCLEAR, f"redirect={record.redirect} has a macro")
        self._count()
        result = await self.check(record.redirect)
        if result is SpfResult.NONE:
            raise _Ends(SpfResult.PERMERROR, f"redirect={record.redirect} leads to no SPF record")
        return result

    async def _record(self, domain: str) -> SpfRecord | None:
        records = await spf_records(self._resolver, domain)
        if isinstance(records, DnsProblem):
            raise _Ends(SpfResult.TEMPERROR, records.text)
        if len(records) > 1:
            raise _Ends(SpfResult.PERMERROR, f"{domain} has {len(records)} SPF records; only one may be there")
        try:
            return parse_spf(records[0]) if records else None
        except SpfSyntaxError as error:
            raise _Ends(SpfResult.PERMERROR, f"the SPF record of {domain} cannot be read: {error}") from None

    async def _matches(self, mechanism: Mechanism, domain: str) -> bool:
        if mechanism.name == "all":
            return True
        if mechanism.network is not None:
            return self._address in ipaddress.ip_network(mechanism.network)
        self._count()
        if mechanism.name in UNTOLD or has_macro(mechanism.domain):
            return self._untold(mechanism)
        name = mechanism.domain or domain
        if mechanism.name == "include":
            return await self._includes(name)
        hosts = [name] if mechanism.name == "a" else await self._mail_hosts(name)
        for host in hosts:
            if await self._leads_here(host, mechanism.prefixes):
                return True
        return False

    def _untold(self, mechanism: Mechanism) -> bool:
        text = f"{mechanism.name}{':' + mechanism.domain if mechanism.domain else ''} depends on the mail"
        if mechanism.qualifier != "+":
            raise _Ends(SpfResult.UNCLEAR, text)
        self.unclear = text
        return False

    async def _includes(self, name: str) -> bool:
        self.included.add(name.lower().rstrip("."))
        result = await self.check(name)
        if result is SpfResult.NONE:
            raise _Ends(SpfResult.PERMERROR, f"include:{name} leads to no SPF record")
        return result is SpfResult.PASS

    async def _mail_hosts(self, name: str) -> list[str]:
        found = await self._resolver.exchanges(name)
        if isinstance(found, DnsProblem):
            self._nothing(found)
            return []
        if len(found) > MAX_MX_HOSTS:
            raise _Ends(SpfResult.PERMERROR, f"mx:{name} leads to more than {MAX_MX_HOSTS} hosts")
        return [mx.host for mx in found if mx.host]

    async def _leads_here(self, host: str, prefixes: tuple[int, int]) -> bool:
        found = await self._resolver.addresses(host)
        if isinstance(found, DnsProblem):
            self._nothing(found)
            return False
        lengths = {4: prefixes[0], 6: prefixes[1]}
        networks = (
            ipaddress.ip_network(f"{a}/{lengths[ipaddress.ip_address(a).version]}", strict=False) for a in found
        )
        return any(self._address in network for network in networks)

    def _count(self) -> None:
        self._lookups += 1
        if self._lookups > MAX_LOOKUPS:
            raise _Ends(SpfResult.PERMERROR, f"it asks DNS more than {MAX_LOOKUPS} times")

    def _nothing(self, problem: DnsProblem) -> None:
        if problem.trouble is DnsTrouble.UNAVAILABLE:
            raise _Ends(SpfResult.TEMPERROR, problem.text)
        self._voids += 1
        if self._voids > MAX_VOID_LOOKUPS:
            raise _Ends(SpfResult.PERMERROR, f"more than {MAX_VOID_LOOKUPS} of its names lead to nothing")
