"""The records that a domain's owner was told to publish, compared with what DNS says now.

- A name that does not exist, or has no such record, is MISSING; a record that does not do what ours would is WRONG, and
  what was found is told; DNS that does not answer, or an answer that depends on the mail, is UNAVAILABLE. Never is
  trouble with DNS taken for a missing record.
- A record need not be ours letter by letter: an SPF record is evaluated for the addresses that we send from, a DKIM
  record has to hold our key, the MX has to lead to us first, any valid DMARC policy will do, also an inherited one.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from sendkit_server.manage.dmarc import DmarcProblem, find_policy
from sendkit_server.manage.domains import DnsNames, DnsRecord
from sendkit_server.manage.spf import SpfResult, SpfVerdict, evaluate, spf_records
from sendkit_server.net.resolver import DnsProblem, DnsTrouble, Resolver
from sendkit_server.wire.spf import SpfSyntaxError, parse_spf
from sendkit_server.wire.tag_list import parse_tags

CHECK_S = 12.0  # one record, however many questions it takes
SHOWN_CHARACTERS = 120


class Verdict(StrEnum):
    """How a record stands."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    UNAVAILABLE = "unavailable"


class RecordCheck(msgspec.Struct, frozen=True):
    """found: a sentence about what is published."""

    record: DnsRecord
    verdict: Verdict
    found: str


Judged = tuple[Verdict, str]


async def check_records(resolver: Resolver, records: Sequence[DnsRecord], names: DnsNames) -> tuple[RecordCheck, ...]:
    """Every record, all at once, each within CHECK_S."""
    return tuple(await asyncio.gather(*(_check(resolver, record, names) for record in records)))


async def _check(resolver: Resolver, record: DnsRecord, names: DnsNames) -> RecordCheck:
    try:
        async with asyncio.timeout(CHECK_S):
            verdict, found = await _judge(resolver, record, names)
    except TimeoutError:
        verdict, found = Verdict.UNAVAILABLE, f"DNS did not answer for {record.name} within {CHECK_S:g} s"
    return RecordCheck(record, verdict, found)


async def _judge(resolver: Resolver, record: DnsRecord, names: DnsNames) -> Judged:
    if record.kind == "DKIM":
        return judge_dkim(record, await resolver.texts(record.name))
    if record.kind == "SPF":
        return await _judge_spf(resolver, record.name, names.spf)
    if record.kind == "MX":
        return await _judge_mx(resolver, record)
    if record.kind == "Tracking":
        return await _judge_tracking(resolver, record)
    return await _judge_dmarc(resolver, record.name.removeprefix("_dmarc."))


# DKIM


def judge_dkim(record: DnsRecord, texts: tuple[str, ...] | DnsProblem) -> Judged:
    """Whether the key that receivers find at the selector is ours (RFC 6376 3.6.1)."""
    if isinstance(texts, DnsProblem):
        if texts.trouble is DnsTrouble.UNAVAILABLE:
            return Verdict.UNAVAILABLE, texts.text
        texts = ()
    read = [(text, parse_tags(text)) for text in texts]
    keys = [(text, tags) for text, tags in read if (tags is not None and "p" in tags) or text.startswith("v=DKIM1")]
    if not keys:
        others = f"; what is there is no DKIM key: {_shown(texts[0])}" if texts else ""
        return Verdict.MISSING, f"there is no DKIM key at {record.name}{others}"
    wrong = [reason for text, tags in keys if (reason := _key_trouble(record, text, tags))]
    if len(keys) > 1:
        count = f"{len(keys)} keys are published at {record.name}, and receivers take any of them"
        return Verdict.WRONG, f"{count}; {wrong[0] if wrong else 'only one may be there'}"
    if wrong:
        return Verdict.WRONG, wrong[0]
    testing = "y" in (keys[0][1] or {}).get("t", "").split(":")
    note = "; t=y tells receivers to treat the signature as a test: take it out" if testing else ""
    return Verdict.OK, f"our key is published at {record.name}{note}"


def _key_trouble(record: DnsRecord, text: str, tags: dict[str, str] | None) -> str | None:
    """Why receivers cannot verify with this key what we sign; None when they can."""
    ours = parse_tags(record.value) or {}
    if "\\;" in text:
        return f"it has backslashes before its semicolons, which belong only into zone files: {_shown(text)}"
    if tags is None:
        return f"the record cannot be read: {_shown(text)}"
    if "v" in tags and (next(iter(tags)) != "v" or tags["v"] != "DKIM1"):
        return f"v=DKIM1 has to come first: {_shown(text)}"
    if not tags.get("p"):
        return "the key is revoked: p= is empty" if "p" in tags else "it has no p="
    if tags.get("k", "rsa").lower() != ours["k"]:
        return f"it is a key of the kind {tags.get('k', 'rsa')}, ours is {ours['k']}"
    if "h" in tags and "sha256" not in _listed(tags["h"]):
        return f"h={tags['h']} forbids sha256, which we sign with"
    if "s" in tags and not {"*", "email"} & set(_listed(tags["s"])):
        return f"s={tags['s']} forbids email"
    published, wanted = _decoded(tags["p"]), _decoded(ours["p"])
    if published is None:
        return f"p= is no base64: {_shown(tags['p'])}"
    if published != wanted:
        cut = wanted is not None and wanted.startswith(published)
        return "the key is cut short" if cut else f"it is another key: p={tags['p'][:24]}…{tags['p'][-8:]}"
    return None


def _listed(value: str) -> list[str]:
    return [word.strip().lower() for word in value.split(":")]


def _decoded(text: str) -> bytes | None:
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


# SPF


async def _judge_spf(resolver: Resolver, name: str, mechanisms: Sequence[str]) -> Judged:
    records = await spf_records(resolver, name)
    if isinstance(records, DnsProblem):
        return Verdict.UNAVAILABLE, records.text
    if not records:
        return Verdict.MISSING, f"there is no SPF record at {name}"
    if len(records) > 1:
        return Verdict.WRONG, f"there are {len(records)} SPF records at {name}, so receivers obey none (permerror)"
    try:
        parse_spf(records[0])
    except SpfSyntaxError as error:
        return Verdict.WRONG, f"the record cannot be read (permerror): {error}"
    judged = await asyncio.gather(*(_judge_mechanism(resolver, name, mechanism) for mechanism in mechanisms))
    for verdict in (Verdict.WRONG, Verdict.UNAVAILABLE):
        texts = [text for found, text in judged if found is verdict]
        if texts:
            return verdict, f"{'; '.join(dict.fromkeys(texts))}; published is {_shown(records[0])}"
    return Verdict.OK, "; ".join(dict.fromkeys(text for _, text in judged)) or f"there is one: {_shown(records[0])}"


async def without_empty_includes(resolver: Resolver, record: DnsRecord) -> DnsRecord:
    """Our SPF record, as it can be published: an include of a relay that has none of its own would break it (permerror), so
    such a relay is let send by its addresses."""
    words = record.value.split(" ")
    included = [word.removeprefix("include:") for word in words if word.startswith("include:")]
    found = await asyncio.gather(*(spf_records(resolver, host) for host in included))
    empty = {f"include:{host}": f"a:{host}" for host, own in zip(included, found, strict=True) if own == ()}
    return msgspec.structs.replace(record, value=" ".join(empty.get(word, word) for word in words))


async def _judge_mechanism(resolver: Resolver, name: str, mechanism: str) -> Judged:
    """Whether the published record lets send what this part of ours would let."""
    kind, _, value = mechanism.partition(":")
    if kind in ("ip4", "ip6"):
        return _judged(await evaluate(resolver, name, value), value)
    addresses = await resolver.host_addresses(value)
    if kind == "a":
        if isinstance(addresses, DnsProblem):
            return Verdict.UNAVAILABLE, f"the address that we send from is not known ({addresses.text})"
        judged = [_judged(await evaluate(resolver, name, address), address) for address in addresses]
        return _worst(judged)
    return await _judge_relay(resolver, name, value, () if isinstance(addresses, DnsProblem) else addresses)


def _judged(verdict: SpfVerdict, address: str) -> Judged:
    text = f"{address}: {verdict.result}" + (f" ({verdict.text})" if verdict.text else "")
    if verdict.result is SpfResult.PASS:
        return Verdict.OK, text
    if verdict.result in (SpfResult.TEMPERROR, SpfResult.UNCLEAR):
        return Verdict.UNAVAILABLE, text
    return Verdict.WRONG, text


async def _judge_relay(resolver: Resolver, name: str, relay: str, addresses: Sequence[str]) -> Judged:
    """A relay sends from addresses that only it knows. Its own SPF record tells them, where it has one at its name."""
    own = await spf_records(resolver, relay)
    if isinstance(own, DnsProblem):
        return Verdict.UNAVAILABLE, own.text
    verdicts = [await evaluate(resolver, name, address) for address in addresses]
    if verdicts and all(verdict.result is SpfResult.PASS for verdict in verdicts):
        return Verdict.OK, f"the relay {relay} passes"
    # An address that nobody sends from walks through every include.
    walked = await evaluate(resolver, name, "0.0.0.0")  # noqa: S104 - asked about, not bound
    if walked.result in (SpfResult.TEMPERROR, SpfResult.PERMERROR):
        return _judged(walked, f"the relay {relay}")
    if relay.lower().rstrip(".") in walked.included:
        return Verdict.OK, f"the relay {relay} is included"
    if own or not walked.included:
        return Verdict.WRONG, f"the relay {relay} is not included"
    included = ", ".join(sorted(walked.included))
    return Verdict.OK, f"{included} is included; whether {relay} sends from there cannot be told"


# MX, tracking host and DMARC


async def _judge_mx(resolver: Resolver, record: DnsRecord) -> Judged:
    found = await resolver.exchanges(record.name)
    if isinstance(found, DnsProblem) and found.trouble is DnsTrouble.UNAVAILABLE:
        return Verdict.UNAVAILABLE, found.text
    if isinstance(found, DnsProblem) or not found:
        return Verdict.MISSING, f"{record.name} has no MX"
    best = [mx.host for mx in found if mx.preference == found[0].preference]
    shown = ", ".join(f"{mx.preference} {mx.host or '.'}" for mx in found[:5])
    if best == [record.value.lower()]:
        return Verdict.OK, f"bounces come to {record.value}"
    return Verdict.WRONG, f"bounces do not all come to {record.value}: {shown}"


async def _judge_tracking(resolver: Resolver, record: DnsRecord) -> Judged:
    """Whether the name leads to us: by the alias that it is, else by its addresses."""
    alias = await resolver.alias(record.name)
    if alias == record.value.lower():
        return Verdict.OK, f"it is an alias of {record.value}"
    found, ours = await resolver.addresses(record.name), await resolver.host_addresses(record.value)
    for problem in (alias, found, ours):
        if isinstance(problem, DnsProblem) and problem.trouble is DnsTrouble.UNAVAILABLE:
            return Verdict.UNAVAILABLE, problem.text
    if isinstance(found, DnsProblem):
        if isinstance(alias, str):
            return Verdict.WRONG, f"it is an alias of {alias}, which has no address"
        return Verdict.MISSING, found.text
    if not isinstance(ours, DnsProblem) and set(found) <= set(ours):
        return Verdict.OK, f"it leads to {', '.join(found)}, as {record.value} does"
    there = alias if isinstance(alias, str) else ", ".join(found)
    return Verdict.WRONG, f"it leads to {there}, not to {record.value}"


async def _judge_dmarc(resolver: Resolver, domain: str) -> Judged:
    found = await find_policy(resolver, domain)
    if isinstance(found, DmarcProblem):
        return Verdict(found.trouble), found.text
    return Verdict.OK, f"p={found.policy}, published at _dmarc.{found.domain}"


def _worst(judged: Sequence[Judged]) -> Judged:
    order = (Verdict.WRONG, Verdict.UNAVAILABLE, Verdict.MISSING, Verdict.OK)
    verdict = min((verdict for verdict, _ in judged), key=order.index)
    return verdict, "; ".join(text for found, text in judged if found is verdict)


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
