"""Public ids: a prefix, `_`, and 26 characters of `[0-9a-v]` that sort by time.

48 bits of milliseconds, then 80 bits of randomness, as 130 bits of base32hex (the top two are zero).
The alphabet keeps the order of the numbers, so that `ORDER BY id` is the order of arrival.
"""

from __future__ import annotations

from sendkit_server.model.instant import Instant

ALPHABET = "0123456789abcdefghijklmnopqrstuv"
LENGTH = 26
ENTROPY_BYTES = 10

_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]  # ten bits at a time: half the steps


def make_id(prefix: str, at: Instant, entropy: bytes) -> str:
    """An id such as `msg_01hd…`. entropy: ENTROPY_BYTES random bytes."""
    number = (at & 0xFFFFFFFFFFFF) << 80 | int.from_bytes(entropy, "big")
    pairs = _PAIRS
    return f"{prefix}_" + "".join([pairs[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def instant_of(public_id: str) -> Instant:
    """When an id was made, by the clock of whoever made it."""
    # Python's digits of base 32 are ALPHABET.
    return int(public_id.rpartition("_")[2], 32) >> 80


def id_floor(prefix: str, at: Instant) -> str:
    """The least id of its prefix that can be made at this millisecond: a bound for ranges of ids."""
    return make_id(prefix, at, bytes(ENTROPY_BYTES))
