"""DKIM signatures (RFC 6376; RFC 8463 for Ed25519), relaxed/relaxed.

Policy: every field that people or programs act on is signed, and signed once more than it is there ("oversigned"), so
that nobody can add a second From or Subject without breaking the signature. There is no `l=`: with it, anybody could
append to the body. Signing comes after every other change to the bytes.

Measured (benchmarks/micro_compose.py): 0.04 ms for a 5 KB mail before the key's own work.
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import msgspec

Algorithm = Literal["rsa-sha256", "ed25519-sha256"]

SIGNED_FIELDS = (
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "In-Reply-To",
    "References",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
)
_PLACES = {name.lower().encode("ascii"): place for place, name in enumerate(SIGNED_FIELDS)}
_FOLD_AT = 74


class DkimKey(msgspec.Struct, frozen=True):
    """A private key, its selector and the domain it signs for.

    domain: in A-label form.  sign: the whole data to be signed → the signature; hashing is its part of the work.
    """

    domain: str
    selector: str
    algorithm: Algorithm
    sign: Callable[[bytes], bytes]


def sign(raw: bytes, keys: Sequence[DkimKey], signed_at_s: int) -> bytes:
    """The DKIM-Signature fields, one for each key in order, to be put before raw.

    raw: a whole message in which every line ends in CRLF.  signed_at_s: seconds since the epoch, for `t=`.
    """
    head, _, body = raw.partition(b"\r\n\r\n")
    fields, counts = _signed_fields(head)
    body_hash = b2a_base64(hashlib.sha256(relaxed_body(body)).digest(), newline=False).decode("ascii")
    names = _names(counts)
    signatures = []
    for key in keys:
        unsigned = (
            f"DKIM-Signature: v=1; a={key.algorithm}; c=relaxed/relaxed;\r\n"
            f" d={key.domain};\r\n s={key.selector}; t={signed_at_s};\r\n{names}\r\n bh={body_hash};\r\n b="
        )
        # Our own field in relaxed form: its folds become the one blank that follows each.
        own = unsigned.replace("\r\n", "").replace("DKIM-Signature: ", "dkim-signature:", 1)
        signature = b2a_base64(key.sign(fields + own.encode("ascii")), newline=False).decode("ascii")
        signatures.append(unsigned + _folded_base64(signature) + "\r\n")
    return "".join(signatures).encode("ascii")


def relaxed_body(body: bytes) -> bytes:
    """The body as `relaxed` sees it (RFC 6376 3.4.4); most bodies need no more than three searches."""
    body = _single_blanks(body)
    if b" \r\n" in body:
        body = body.replace(b" \r\n", b"\r\n")
    body = body.removesuffix(b" ").rstrip(b"\r\n")
    return body + b"\r\n" if body else b""


def _single_blanks(raw: bytes) -> bytes:
    """Each run of blanks and tabs as one blank. Halving the runs until none is left beats a regex that stops at each."""
    if b"\t" in raw:
        raw = raw.replace(b"\t", b" ")
    while b"  " in raw:
        raw = raw.replace(b"  ", b" ")
    return raw


def _signed_fields(head: bytes) -> tuple[bytes, tuple[int, ...]]:
    """The signed fields in relaxed form (RFC 6376 3.4.2), and how many there are of each of SIGNED_FIELDS."""
    found: list[list[bytes]] = [[] for _ in SIGNED_FIELDS]
    unfolded = head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ")
    for line in _single_blanks(unfolded).split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.rstrip(b" ").lower()
        place = _PLACES.get(name)
        if place is not None:
            found[place].append(name + b":" + value.strip(b" ") + b"\r\n")
    # Several fields of one name are signed from the bottom up (RFC 6376 5.4.2).
    return b"".join([b"".join(reversed(fields)) for fields in found]), tuple(map(len, found))


@lru_cache(maxsize=128)
def _names(counts: tuple[int, ...]) -> str:
    """The folded `h=` tag: each name as often as the field is there, and once more."""
    lines = [" h="]
    for name, count in zip(SIGNED_FIELDS, counts, strict=True):
        for _ in range(count + 1):
            if len(lines[-1]) + len(name) > _FOLD_AT:
                lines.append(" ")
            lines[-1] += f"{name}:"
    return "\r\n".join(lines)[:-1] + ";"


def _folded_base64(signature: str) -> str:
    first = _FOLD_AT - len(" b=")
    pieces = [signature[:first]] + [signature[at : at + _FOLD_AT] for at in range(first, len(signature), _FOLD_AT)]
    return "\r\n ".join(pieces)
