"""The return path: an address that names the message a bounce belongs to, and that nobody else can make up.

Its local part is `b-<id>-<n>-<mac>`: the 26 characters of the message's id, the recipient's place in the message or
`all`, and 100 bits of an HMAC over both. Mail systems on the way change the case of local parts, so case carries
nothing; 53 to 57 bytes stay under the 64 of RFC 5321 4.5.3.1.1.
"""

from __future__ import annotations

import hmac
import re

_MAC_CHARACTERS = 20
_MAC_BYTES = 13  # that hold them: 100 of 104 bits
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_SHIFTS = range(5 * _MAC_CHARACTERS - 10, -1, -10)
_LOCAL = re.compile(r"b-([0-9a-z]{26})-(all|0|[1-9][0-9]{0,6})-([0-9a-v]{20})")
# What is signed begins with its purpose, so that no other token made with the same secret can pass for one.
_PURPOSE = "return-path:"


def make(message_id: str, n: int | None, secret: bytes) -> str:
    """The local part for a message (`msg_…`) and its recipient n; None: the bounce may concern any of them."""
    named = f"{message_id.rpartition('_')[2]}-{'all' if n is None else n}"
    return f"b-{named}-{_mac(named, secret)}"


def parse(local: str, secret: bytes) -> tuple[str, int | None] | None:
    """The message's id and the recipient's n (None: any) of a local part that make() made; None for anything else."""
    found = _LOCAL.fullmatch(local.lower()) if local.isascii() else None
    if found is None:
        return None
    identifier, which, mac = found.groups()
    if not hmac.compare_digest(mac, _mac(f"{identifier}-{which}", secret)):
        return None
    return f"msg_{identifier}", None if which == "all" else int(which)


def _mac(named: str, secret: bytes) -> str:
    digest = hmac.digest(secret, f"{_PURPOSE}{named}".encode("ascii"), "sha256")
    # Base 32 with the digits of RFC 4648 7; the standard library's takes five times as long, for each mail that leaves.
    value = int.from_bytes(digest[:_MAC_BYTES]) >> (8 * _MAC_BYTES - 5 * _MAC_CHARACTERS)
    return "".join([_PAIRS[value >> shift & 0x3FF] for shift in _SHIFTS])
