"""The ways that a mail may take, in the order in which they are tried.

A way is one route with one source address. Which of a pool's addresses a mail takes, and with which of a step's
alternatives it begins, follows from its id, by weight: a mail that is tried again takes the same way again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeAlias

from sendkit_server.deliver.health import Health
from sendkit_server.deliver.route import ANY_SOURCE, Capture, Direct, Route, Smarthost, Source
from sendkit_server.deliver.routing import Chain, Routing, Step
from sendkit_server.model.mail import Message


class Way:
    """One route with one source. Compared by identity: there is one of each."""

    __slots__ = ("health", "route", "source")

    def __init__(self, route: Route, source: Source = ANY_SOURCE) -> None:
        self.route = route
        self.source = source
        self.health = Health()

    @property
    def name(self) -> str:
        """The route's, as attempts and metrics call it."""
        return self.route.name


Ways: TypeAlias = tuple[Way, ...]


class Plans:
    """Finds a mail's ways."""

    def __init__(self, routing: Routing, usable: Sequence[str] | None = None) -> None:
        """usable: the source addresses that this machine has; the others of a pool are left out. None: all."""
        self._rules = routing.rules
        self._pools: dict[Route, Ways] = {
            route: tuple(Way(route, source) for source in _sources(route, usable)) for route in routing.routes
        }
        self._capture: Ways = (Way(Capture()),)
        self._chains = {chain: self._only_order(chain) for chain in routing.chains}
        self._default = routing.default
        self._plain = None if routing.rules else self._chains[routing.default]

    @property
    def ways(self) -> list[Way]:
        """Each there is."""
        return [way for pool in self._pools.values() for way in pool]

    @property
    def usual(self) -> Way:
        """With which most mail begins."""
        return self._pools[self._default[0][0].route][0]

    @property
    def only_last(self) -> Way | None:
        """The way behind which there is none for any mail, when it is the same for all."""
        return self._plain[-1] if self._plain is not None else None

    def of(self, message: Message, site: str) -> Ways:
        """A mail's ways to a recipient's domain, at least one."""
        if message.capture:
            return self._capture
        if self._plain is not None:
            return self._plain
        chain = self._default
        for rule in self._rules:
            if rule.fits(message.from_.domain, site, message.stream):
                chain = rule.chain
                break
        return self._chains[chain] or self._ordered(chain, message.id)

    def _only_order(self, chain: Chain) -> Ways | None:
        """A chain without any choice, the usual case."""
        if any(len(step) > 1 or len(self._pools[step[0].route]) > 1 for step in chain):
            return None
        return tuple(self._pools[step[0].route][0] for step in chain)

    def _ordered(self, chain: Chain, message_id: str) -> Ways:
        found: list[Way] = []
        for n, step in enumerate(chain):
            for route in _by_weight(step, f"{message_id}/{n}"):
                pool = self._pools[route]
                found += pool if len(pool) == 1 else _drawn(pool, f"{message_id}/{route.name}")
        return tuple(found)


def _sources(route: Route, usable: Sequence[str] | None) -> Sequence[Source]:
    match route:
        case Direct():
            kept = [each for each in route.sources if usable is None or all(one in usable for one in each.addresses)]
            # With none at all each try says what is wrong with the address, which is better than a silent way round it.
            return kept or route.sources
        case Smarthost():
            return (route.source,)
    return (ANY_SOURCE,)


def _by_weight(step: Step, seed: str) -> list[Route]:
    if len(step) == 1:
        return [step[0].route]
    ranked = sorted(step, key=lambda choice: _rank(f"{seed}/{choice.route.name}", choice.weight))
    return [choice.route for choice in ranked]


def _drawn(pool: Ways, seed: str) -> list[Way]:
    return sorted(pool, key=lambda way: _rank(f"{seed}/{way.source.addresses}", way.source.weight))


def _rank(seed: str, weight: int) -> float:
    """The least of several ranks is each one's with a chance in proportion to its weight (Efraimidis and Spirakis)."""
    drawn = (int.from_bytes(blake2b(seed.encode(), digest_size=6).digest(), "big") + 1) / (2**48 + 1)
    return -math.log(drawn) / weight
