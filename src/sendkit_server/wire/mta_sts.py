"""MTA-STS as it is written down (RFC 8461): the TXT record that announces a policy, and the policy itself.

Neither parser guesses. A record that is not exactly as the grammar has it announces nothing, and a policy that breaks the grammar
is no policy; whoever asked goes on with what was known before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

import msgspec

MAX_POLICY_BYTES = 64 * 1024  # RFC 8461 3.3 suggests that bound
MAX_AGE_S = 31_557_600  # a year, RFC 8461 3.2

# sts-text-record = sts-version 1*(sts-field-delim sts-field) [sts-field-delim]
_RECORD = re.compile(r"v=STSv1((?:[ \t]*;[ \t]*[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[!-:<>-~]+)+)[ \t]*;?[ \t]*")
_RECORD_BEGINS = re.compile(r"v=STSv1[ \t]*(;|$)")
_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# sts-policy-mx-value = ["*."] Domain
_MX = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


class PolicyError(Exception):
    """A policy that cannot be obeyed; the text says what is wrong with it."""


class Mode(StrEnum):
    """enforce: only to hosts that satisfy the policy.  testing: to any, but count.  none: there is no policy any more."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class StsPolicy(msgspec.Struct, frozen=True):
    """A policy. mx: host names and `*.` patterns, lower case.  max_age_s: how long it binds from when it was fetched."""

    mode: Mode
    mx: tuple[str, ...]
    max_age_s: int

    def allows(self, host: str) -> bool:
        """Whether a mail host may be used. `*.` stands for exactly one label (RFC 8461 4.1)."""
        name = host.lower().rstrip(".")
        parent = name.partition(".")[2]
        return any(name == each or (each.startswith("*.") and parent == each[2:]) for each in self.mx)


def policy_id(texts: Sequence[str]) -> str | None:
    """The id that the TXT records of `_mta-sts.<domain>` announce; None when they announce no policy.

    Records that do not begin with `v=STSv1` are another's; of the rest there must be exactly one (RFC 8461 3.1).
    """
    records = [text for text in texts if _RECORD_BEGINS.match(text)]
    if len(records) != 1:
        return None
    found = _RECORD.fullmatch(records[0])
    if found is None:
        return None
    ids = [value for key, _, value in (part.strip().partition("=") for part in found[1].split(";")) if key == "id"]
    return ids[0] if len(ids) == 1 and _ID.fullmatch(ids[0]) else None


def parse_policy(raw: bytes) -> StsPolicy:
    """A policy's bytes as they were fetched; lines end with CRLF or LF (RFC 8461 3.2). PolicyError."""
    if len(raw) > MAX_POLICY_BYTES:
        raise PolicyError(f"it is longer than {MAX_POLICY_BYTES} bytes")
    fields: dict[str, str] = {}
    mx: list[str] = []
    for key, value in _fields(raw):
        if key == "mx":
            mx.append(_mx(value))
        else:
            # Of fields but mx the first one counts (RFC 8461 3.2).
            fields.setdefault(key, value)
    if fields.get("version") != "STSv1":
        raise PolicyError("its version is not STSv1" if "version" in fields else "it has no version")
    try:
        mode = Mode(fields.get("mode", ""))
    except ValueError:
        raise PolicyError(f"its mode {fields.get('mode', '')[:20]!r} is none of enforce, testing, none") from None
    if not mx and mode is not Mode.NONE:
        raise PolicyError("it names no mx")
    return StsPolicy(mode, tuple(dict.fromkeys(mx)), _max_age(fields.get("max_age", "")))


def _fields(raw: bytes) -> list[tuple[str, str]]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise PolicyError("it is not text in UTF-8") from None
    found = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip(" \t"):
            continue
        key, colon, value = line.partition(":")
        if not colon or not _KEY.fullmatch(key):
            raise PolicyError(f"the line {line[:40]!r} is no field")
        found.append((key, value.strip(" \t")))
    return found


def _mx(value: str) -> str:
    if len(value) > 255 or not _MX.fullmatch(value):
        raise PolicyError(f"mx {value[:60]!r} is no host name or pattern")
    return value.lower()


def _max_age(value: str) -> int:
    """Seconds. More than a year is cut to a year, so that a slip of the pen does not cost the domain its protection."""
    if not re.fullmatch(r"[0-9]{1,10}", value):
        raise PolicyError(f"max_age {value[:20]!r} is no number of seconds" if value else "it has no max_age")
    return min(int(value), MAX_AGE_S)
