"""The DMARC policy that holds for a domain: its own, or that of its organizational domain.

Which domain that is, the tree walk of DMARCbis (draft-ietf-dmarc-dmarcbis 4.10) tells: `_dmarc` is asked for at the
domain and at each of its parents; the record with the fewest labels wins, unless one says by `psd=` where to stop. It
needs no list of public suffixes, and where it differs from RFC 7489 3.2 both find the records that people publish.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sendkit_server.net.resolver import DnsProblem, DnsTrouble, Resolver
from sendkit_server.wire.tag_list import parse_tags

POLICIES = ("none", "quarantine", "reject")
MAX_LABELS = 7  # of the parents that are asked


class DmarcPolicy(msgspec.Struct, frozen=True):
    """domain: where the record stands.  policy: what it asks for mail of the domain that was asked about.
    spf_strict: the return path has to be at the very domain of From."""

    domain: str
    policy: str
    spf_strict: bool
    reports_to: str | None


class DmarcProblem(msgspec.Struct, frozen=True):
    """Why no policy holds. trouble: "missing", "wrong" or "unavailable"."""

    trouble: str
    text: str


async def find_policy(resolver: Resolver, domain: str) -> DmarcPolicy | DmarcProblem:
    """The policy for mail whose From is at this domain."""
    found: list[tuple[str, dict[str, str]]] = []
    for name in _upwards(domain):
        tags = await _record(resolver, name)
        if isinstance(tags, DmarcProblem):
            if tags.trouble == "unavailable" or name == domain:
                return tags
            continue
        if tags is None:
            continue
        if name == domain:
            return _policy(name, tags, tags["p"])
        found.append((name, tags))
        if tags.get("psd") in ("y", "n"):
            break
    if not found:
        return DmarcProblem("missing", f"neither {domain} nor a domain above it has a DMARC record")
    name, tags = found[-1]
    if tags.get("psd") == "y" and len(found) > 1:
        # A registry's record holds only where the registered domain below it has none.
        name, tags = found[-2]
    return _policy(name, tags, tags.get("sp", tags["p"]))


def _upwards(domain: str) -> Iterator[str]:
    yield domain
    labels = domain.split(".")[1:][-MAX_LABELS:]
    for at in range(len(labels)):
        yield ".".join(labels[at:])


async def _record(resolver: Resolver, name: str) -> dict[str, str] | DmarcProblem | None:
    texts = await resolver.texts(f"_dmarc.{name}")
    if isinstance(texts, DnsProblem):
        return DmarcProblem("unavailable", texts.text) if texts.trouble is DnsTrouble.UNAVAILABLE else None
    records = [text for text in texts if text.replace(" ", "").startswith("v=DMARC1")]
    if not records:
        return None
    if len(records) > 1:
        return DmarcProblem("wrong", f"_dmarc.{name} has {len(records)} DMARC records, so receivers obey none")
    tags = parse_tags(records[0])
    if tags is None or next(iter(tags), "") != "v" or tags["v"] != "DMARC1":
        return DmarcProblem("wrong", f"the DMARC record of {name} cannot be read: {records[0][:200]}")
    if "p" not in tags and "rua" in tags:
        tags["p"] = "none"  # RFC 7489 6.6.3: with somewhere to send reports to, it counts as that
    if tags.get("p", "").lower() not in POLICIES:
        return DmarcProblem("wrong", f"the DMARC record of {name} has no p= of {', '.join(POLICIES)}")
    return tags


def _policy(domain: str, tags: dict[str, str], policy: str) -> DmarcPolicy:
    policy = policy.lower()
    return DmarcPolicy(
        domain,
        policy if policy in POLICIES else tags["p"].lower(),
        tags.get("aspf", "r").lower() == "s",
        tags.get("rua"),
    )
