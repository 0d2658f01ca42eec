"""What certificates for our own listeners are made of, and when they are due. Pure.

A certificate is renewed when two thirds of its life are over. An order that failed is tried again after an hour, then
two, four … at most a day: authorities count failures (Let's Encrypt: five an hour for a name). Whoever has mended
something need not wait: other settings, or `sendkit certificates renew`, make it due at once.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable

import msgspec

from sendkit_server.model.address import AddressError, ascii_domain
from sendkit_server.model.instant import DAY_MS, HOUR_MS, Instant

HTTP_01 = "http-01"
TLS_ALPN_01 = "tls-alpn-01"
FIRST_RETRY_MS = HOUR_MS
LAST_RETRY_MS = DAY_MS
WARN_BEFORE_MS = 14 * DAY_MS


class Binding(msgspec.Struct, frozen=True):
    """An account on an authority's pages that ours is to belong to (RFC 8555 7.3.4). mac_key: base64url, as it is shown
    there."""

    kid: str
    mac_key: str

    @property
    def mark(self) -> str:
        """Tells this pair from another one, without the secret."""
        return hashlib.sha256(f"{self.kid}\0{self.mac_key}".encode()).hexdigest()[:16]


class Account(msgspec.Struct, frozen=True):
    """Who we are to an authority. key: PEM.  uri: empty until it is registered.  kid: of the account on its pages that it is
    bound to; empty for none."""

    key: str
    email: str
    uri: str = ""
    kid: str = ""

    def serves(self, email: str, binding: Binding | None) -> bool:
        """Whether it is the account that is wanted. A binding is often good for one account alone, so what is bound is
        kept even when the address is another one now."""
        if binding is None:
            return self.email == email and not self.kid
        return self.kid == binding.kid


class Challenge(msgspec.Struct, frozen=True):
    """What the authority wants to see. kind: HTTP_01 or TLS_ALPN_01.  answer: the key authorization (RFC 8555 8.1)."""

    kind: str
    name: str
    token: str
    answer: str


class Certificate(msgspec.Struct, frozen=True):
    """A certificate that was issued for a name. chain, key: PEM.  directory: of the authority that was asked."""

    name: str
    chain: str
    key: str
    directory: str
    issuer: str
    not_before: Instant
    not_after: Instant

    @property
    def renew_at(self) -> Instant:
        """When two thirds of its life are over."""
        return renew_at(self.not_before, self.not_after)


class Tries(msgspec.Struct, frozen=True):
    """What became of the orders for a name since the last certificate. setup: the settings they were made with.

    failures: 0 with an empty text for one that somebody wants now.
    """

    setup: str
    failures: int = 0
    text: str = ""
    at: Instant = 0
    next_at: Instant = 0
    wanted_now: bool = False


def renew_at(not_before: Instant, not_after: Instant) -> Instant:
    """When two thirds of a certificate's life are over."""
    return not_before + (not_after - not_before) * 2 // 3


def warn_at(not_before: Instant, not_after: Instant) -> Instant:
    """From when on people should know that it has not been renewed: two weeks before its end; of one that lives shortly,
    when it was to be renewed."""
    return max(not_after - WARN_BEFORE_MS, renew_at(not_before, not_after))


def due_at(certificate: Certificate | None, tries: Tries | None, setup: str, directory: str) -> Instant:
    """When a certificate is to be ordered; 0: now. setup: the settings of now.  directory: the authority of now."""
    if tries is not None and tries.wanted_now:
        return 0
    earliest = tries.next_at if tries is not None and tries.setup == setup else 0
    if certificate is None or certificate.directory != directory:
        return earliest
    return max(certificate.renew_at, earliest)


def failed(tries: Tries | None, setup: str, text: str, retry_after_ms: int, now: Instant) -> Tries:
    """The tries with one more failure. retry_after_ms: what the authority asked for, which counts when it is longer."""
    failures = 1 + (tries.failures if tries is not None and tries.setup == setup else 0)
    wait_ms = min(FIRST_RETRY_MS << min(failures - 1, 10), LAST_RETRY_MS)
    return Tries(setup, failures, text, now, now + max(wait_ms, retry_after_ms))


def certifiable(names: Iterable[str | None]) -> list[str]:
    """Those that an authority can certify: DNS names with a dot, in A-labels, each once, in their order."""
    found = (_dns_name(name) for name in names if name)
    return list(dict.fromkeys(name for name in found if name is not None))


def covers(patterns: Iterable[str], name: str) -> bool:
    """Whether a certificate with these DNS names is good for the name (RFC 6125 6.4.3: `*` for the first label)."""
    parent = name.partition(".")[2]
    return any(pattern.lower() in (name, f"*.{parent}") for pattern in patterns)


def _dns_name(text: str) -> str | None:
    try:
        ipaddress.ip_address(text.strip("[]"))
        return None
    except ValueError:
        pass
    try:
        name = ascii_domain(text.rstrip("."))
    except AddressError:
        return None
    return name if "." in name and name.rpartition(".")[2] != "localhost" else None
