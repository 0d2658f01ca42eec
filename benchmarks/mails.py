"""The mails of the benchmark: 5 KB each, the same for both servers, bodies that compress as prose does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random

SIZE_BYTES = 5120
VARIANTS = 64
DOMAINS = tuple(f"r{n}.test" for n in range(8))
SENDER_DOMAIN = "here.test"

_SYLLABLES = [consonant + vowel for consonant in "bdgklmnprstv" for vowel in "aeio"]


def recipient(n: int, domains: Sequence[str] = DOMAINS) -> str:
    """Everybody gets one mail. domains: names of one length."""
    return f"u{n:06d}@{domains[n % len(domains)]}"


def raw_template(variant: int) -> tuple[bytes, bytes]:
    """A whole mail of SIZE_BYTES, cut where its number of six digits belongs."""
    before = (
        f"From: The Shop <shop@{SENDER_DOMAIN}>\r\nTo: <someone@{DOMAINS[0]}>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\nSubject: Your order "
    )
    between = "\r\n\r\n"
    left = SIZE_BYTES - len(before) - 6 - len(between)
    return before.encode(), (between + _lines(variant, left)).encode()


def api_template(variant: int) -> tuple[bytes, bytes, bytes]:
    """A JSON body whose mail has about SIZE_BYTES, cut where recipient and number belong."""
    text = _lines(variant, SIZE_BYTES * 2 // 5)
    html = "<p>" + _lines(variant + VARIANTS, SIZE_BYTES // 2).replace("\r\n", "</p>\n<p>") + "</p>"
    members = {"from": f"The Shop <shop@{SENDER_DOMAIN}>", "text": text, "html": html[: SIZE_BYTES // 2 - 300]}
    body = json.dumps(members)[:-1].encode()
    return body + b', "to": "', b'", "subject": "Your order ', b'"}'


def _lines(seed: int, size: int) -> str:
    """Exactly size characters of made-up words in lines of mail's length, ended by CRLF."""
    random = Random(seed)
    lines: list[str] = []
    length = 0
    while length < size:
        line = ""
        while len(line) < 60:
            line += "".join(random.choices(_SYLLABLES, k=random.randint(1, 4))) + " "
        lines.append(line.rstrip() + "\r\n")
        length += len(lines[-1])
    return "".join(lines)[: size - 2] + "\r\n"
