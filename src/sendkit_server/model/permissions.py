"""What a key may do: permissions by resource and action, and their presets."""

from __future__ import annotations

EMAILS_SEND = "emails:send"
READ_WRITE = (
    "domains",
    "keys",
    "senders",
    "templates",
    "suppressions",
    "contacts",
    "webhooks",
    "queue",
    "inbox",
    "team",
)
ALL: frozenset[str] = frozenset(
    [f"emails:{action}" for action in ("send", "read", "content", "write")]
    + [f"{resource}:{action}" for resource in READ_WRITE for action in ("read", "write")]
    + ["events:read", "logs:read", "analytics:read"]
)
PRESETS: dict[str, frozenset[str]] = {
    "full": ALL,
    "send": frozenset({EMAILS_SEND}),
    "read": frozenset(permission for permission in ALL if permission.endswith(":read")),
}


def parse_permission(text: str) -> frozenset[str]:
    """A preset's name or a comma list such as `emails:send,domains:read`. ValueError names what is unknown."""
    if text in PRESETS:
        return PRESETS[text]
    wanted = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(wanted - ALL)
    if unknown or not wanted:
        raise ValueError(
            f"unknown permission {', '.join(unknown) or repr(text)}; known are full, send, read, or a comma list of "
            + ", ".join(sorted(ALL))
        )
    return wanted


def preset_of(permissions: frozenset[str]) -> str:
    """The preset's name when the set is exactly one, else `custom`."""
    return next((name for name, preset in PRESETS.items() if preset == permissions), "custom")
