"""Wrong keys and passwords, so that nobody guesses for long, and nobody locks out others.

A client (an IPv4 address, an IPv6 /64) whose wrong tries have reached the limit within the window waits. Once a target (an
account, or what is shown of a key) has seen so many from wherever, those clients wait that have been wrong about it themselves;
its owner, coming from another one, does not. Accounts and keys that do not exist count like others. What is refused because it
has to wait is not counted: the wait ends when it was said to, and a flood leaves no more traces than the limit.

A right key is never asked about here: it works, whoever guesses beside it, and pays nothing. Keys, over HTTP and SMTP alike, are
counted apart from sign-ins: an application with an old key must not keep the people at its address from the pages.

All of this is in memory, and asking reads nothing else; what was counted, manage/guess_exchange.py tells the other processes.
"""

from __future__ import annotations

import hashlib
import math
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

import msgspec

from sendkit_server.events.refusals import key_prefix
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.peer import address_group

WINDOW_S = 600.0
MAX_REMEMBERED = 4_096  # clients, targets, and pairs of them, of each kind; beyond that the longest quiet is forgotten
MAX_UNTOLD = 4_096  # what other processes do not know of yet; beyond that only this one counts it
ACCOUNT_CHARACTERS = 32

K = TypeVar("K")


class Kind(StrEnum):
    """What is guessed."""

    KEY = "key"
    SIGN_IN = "sign-in"


LIMITS = {Kind.KEY: 20, Kind.SIGN_IN: 10}


class Guess(NamedTuple):
    """Who was wrong about what. client: as address_group says.  target: "" when it is about nothing in particular."""

    kind: str
    client: str
    target: str


class Wait(msgspec.Struct, frozen=True):
    """Too many. seconds: until the next try is judged.  is_new: nobody has been told of this before."""

    seconds: int
    is_new: bool


class TooManyGuesses(ManageError):
    """Whoever it is has to wait before a password is looked at."""

    def __init__(self, wait: Wait) -> None:
        minutes = -(-wait.seconds // 60)
        super().__init__(f"Too many failed sign-ins. Try again in {minutes} {'minute' if minutes == 1 else 'minutes'}.")
        self.wait = wait


class Guesses:
    """What a process knows of guesses, its own and those that it heard of. elapsed: seconds, never set."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._counts: dict[str, _Counts] = {kind: _Counts(limit) for kind, limit in LIMITS.items()}
        self._untold: dict[Guess, int] = {}

    def wrong_key(self, host: str, secret: str) -> Wait | None:
        """Somebody came with a key that is none. None: it was counted, and is answered as wrong."""
        guess = Guess(Kind.KEY, address_group(host), key_prefix(secret) or "")
        wait = self._wait(guess)
        if wait is None:
            self._count(guess)
        return wait

    def check_sign_in(self, account: str, host: str) -> None:
        """TooManyGuesses: this client has to wait before it tries (this account) again."""
        if (wait := self._wait(_sign_in(account, host))) is not None:
            raise TooManyGuesses(wait)

    def wrong_sign_in(self, account: str, host: str) -> None:
        """The password was wrong, or there is no such account."""
        self._count(_sign_in(account, host))

    def hear(self, guess: Guess, count: int, age_s: float) -> None:
        """Another process, or this one before it was started again, has counted these."""
        if (counts := self._counts.get(guess.kind)) is not None:
            counts.add(guess, min(count, counts.limit), self._elapsed() - age_s)

    def take_untold(self, most: int) -> dict[Guess, int]:
        """Some of what others do not know of yet; it is known to them now, unless it comes back by put_back."""
        taken = list(self._untold)[:most]
        return {guess: self._untold.pop(guess) for guess in taken}

    def put_back(self, taken: Mapping[Guess, int]) -> None:
        """They could not be told."""
        for guess, count in taken.items():
            self._keep_untold(guess, count)

    def _wait(self, guess: Guess) -> Wait | None:
        return self._counts[guess.kind].wait(guess, self._elapsed())

    def _count(self, guess: Guess) -> None:
        self._counts[guess.kind].add(guess, 1, self._elapsed())
        self._keep_untold(guess, 1)

    def _keep_untold(self, guess: Guess, count: int) -> None:
        if guess in self._untold or len(self._untold) < MAX_UNTOLD:
            self._untold[guess] = self._untold.get(guess, 0) + count


def _sign_in(account: str, host: str) -> Guess:
    # Hashed: what is typed as an address may be long, or a password in the wrong field, and others come to read it.
    hidden = hashlib.sha256(account.encode("utf-8", "surrogatepass")).hexdigest()[:ACCOUNT_CHARACTERS]
    return Guess(Kind.SIGN_IN, address_group(host), hidden)


class _Counts:
    """Of one kind: by client, by target, and which client was wrong about which target."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._clients: _Times[str] = _Times(limit)
        self._targets: _Times[str] = _Times(limit)
        self._pairs: _Times[Guess] = _Times(1)

    def add(self, guess: Guess, count: int, at_s: float) -> None:
        self._clients.add(guess.client, count, at_s)
        if guess.target:
            self._targets.add(guess.target, count, at_s)
            self._pairs.add(guess, 1, at_s)

    def wait(self, guess: Guess, now_s: float) -> Wait | None:
        wait_s = self._clients.wait_s(guess.client, now_s)
        if wait_s > 0:
            return Wait(math.ceil(wait_s), self._clients.tell(guess.client))
        wait_s = min(self._targets.wait_s(guess.target, now_s), self._pairs.wait_s(guess, now_s))
        if wait_s > 0:
            return Wait(math.ceil(wait_s), self._targets.tell(guess.target))
        return None


class _Seen(msgspec.Struct):
    """times: of the last ones, as many as the limit says, oldest first.  told: that these are too many was told."""

    times: list[float]
    told: bool = False


class _Times(Generic[K]):
    """When somebody was wrong, by name; bounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: OrderedDict[K, _Seen] = OrderedDict()

    def add(self, name: K, count: int, at_s: float) -> None:
        seen = self._seen.setdefault(name, _Seen([]))
        for _ in range(count):
            insort(seen.times, at_s)  # what is heard of comes late
        del seen.times[: -self._limit]
        self._seen.move_to_end(name)
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)

    def wait_s(self, name: K, now_s: float) -> float:
        """How long it has to wait; 0: not at all."""
        seen = self._seen.get(name)
        if seen is None:
            return 0.0
        wait_s = seen.times[0] + WINDOW_S - now_s if len(seen.times) == self._limit else 0.0
        if wait_s <= 0:
            seen.told = False
        return max(0.0, wait_s)

    def tell(self, name: K) -> bool:
        """Whether it is the first time that this one is told to wait."""
        seen = self._seen[name]
        is_new, seen.told = not seen.told, True
        return is_new
