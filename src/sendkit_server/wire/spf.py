"""SPF records, read (RFC 7208 4.6, 5, 6 and 12). What they mean for an address is asked in manage/spf.py."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

import msgspec

Qualifier = Literal["+", "-", "~", "?"]

_TERM = re.compile(r"([+?~-]?)([A-Za-z][A-Za-z0-9_.-]*)(.*)", re.DOTALL)
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
_CIDR = re.compile(r"(?:/(\d{1,2}))?(?://(\d{1,3}))?")
_NEEDS_DOMAIN = frozenset({"include", "exists"})
_TAKES_DOMAIN = frozenset({"a", "mx", "ptr"})


class SpfSyntaxError(ValueError):
    """The record cannot be read, so receivers answer permerror; the text says what is wrong."""


class Mechanism(msgspec.Struct, frozen=True):
    """One mechanism. domain: its domain-spec, None for the domain that is asked about.  network: of ip4 and ip6.
    prefixes: lengths for IPv4 and IPv6 addresses that a and mx lead to."""

    qualifier: Qualifier
    name: str
    domain: str | None = None
    network: str | None = None
    prefixes: tuple[int, int] = (32, 128)


class SpfRecord(msgspec.Struct, frozen=True):
    """redirect: where the answer is when no mechanism matches."""

    mechanisms: tuple[Mechanism, ...]
    redirect: str | None = None


def is_spf(text: str) -> bool:
    """Whether a TXT record is an SPF record at all (RFC 7208 4.5)."""
    return text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")


def parse_spf(text: str) -> SpfRecord:
    """An SPF record. SpfSyntaxError."""
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, str] = {}
    for word in text.split(" ")[1:]:
        if not word:
            continue
        modifier = _MODIFIER.fullmatch(word)
        if modifier is None:
            mechanisms.append(_mechanism(word))
            continue
        name = modifier[1].lower()
        if name in modifiers and name in ("redirect", "exp"):
            raise SpfSyntaxError(f"it says {name}= twice")
        modifiers[name] = modifier[2]
    if modifiers.get("redirect") == "":
        raise SpfSyntaxError("redirect= names no domain")
    return SpfRecord(tuple(mechanisms), modifiers.get("redirect"))


def has_macro(domain: str | None) -> bool:
    """Whether a domain-spec depends on the mail that is judged (RFC 7208 7)."""
    return domain is not None and "%" in domain


def _mechanism(word: str) -> Mechanism:
    found = _TERM.fullmatch(word)
    if found is None:
        raise SpfSyntaxError(f"{word!r} is no mechanism")
    qualifier: Qualifier = found[1] or "+"  # type: ignore[assignment]  # the pattern's characters
    name, rest = found[2].lower(), found[3]
    if name in ("ip4", "ip6"):
        return Mechanism(qualifier, name, network=_network(name, rest, word))
    if name == "all" and not rest:
        return Mechanism(qualifier, name)
    if name in _NEEDS_DOMAIN and rest.startswith(":") and len(rest) > 1:
        return Mechanism(qualifier, name, rest[1:])
    if name in _TAKES_DOMAIN and (not rest or rest[0] in ":/"):
        return _with_prefixes(qualifier, name, rest, word)
    raise SpfSyntaxError(f"{word!r} is no mechanism")


def _network(name: str, rest: str, word: str) -> str:
    kind = ipaddress.IPv4Network if name == "ip4" else ipaddress.IPv6Network
    try:
        return str(kind(rest.removeprefix(":"), strict=False)) if rest.startswith(":") else _wrong(word)
    except ValueError:
        return _wrong(word)


def _wrong(word: str) -> str:
    raise SpfSyntaxError(f"{word!r} names no network")


def _with_prefixes(qualifier: Qualifier, name: str, rest: str, word: str) -> Mechanism:
    domain, slash, lengths = rest.partition("/")
    if domain == ":" or (name == "ptr" and slash):
        raise SpfSyntaxError(f"{word!r} is no mechanism")
    cidr = _CIDR.fullmatch(slash + lengths)
    prefixes = (int(cidr[1] or 32), int(cidr[2] or 128)) if cidr else (33, 129)
    if prefixes[0] > 32 or prefixes[1] > 128:
        raise SpfSyntaxError(f"{word!r} has a prefix length that does not exist")
    return Mechanism(qualifier, name, domain.removeprefix(":") or None, prefixes=prefixes)
