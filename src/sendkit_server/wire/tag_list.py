"""Tag lists, the form of DKIM and DMARC records: `name=value; name=value` (RFC 6376 3.2)."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_BLANK = " \t\r\n"


def parse_tags(text: str) -> dict[str, str] | None:
    """The tags in their order, blanks around names and values dropped; None when it is no tag list, or says one twice."""
    found: dict[str, str] = {}
    parts = text.split(";")
    # The last semicolon may be there or not.
    for part in parts if parts[-1].strip(_BLANK) else parts[:-1]:
        name, equals, value = part.partition("=")
        name = name.strip(_BLANK)
        if not equals or not _NAME.fullmatch(name) or name in found:
            return None
        found[name] = value.strip(_BLANK)
    return found
