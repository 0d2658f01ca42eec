"""What a person may do in a team, by role."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """Of a person in a team, from the one who may everything to the one who may only look."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


MANAGES: dict[Role, frozenset[Role]] = {
    Role.OWNER: frozenset(Role),
    Role.ADMIN: frozenset({Role.MEMBER, Role.VIEWER}),
    Role.MEMBER: frozenset(),
    Role.VIEWER: frozenset(),
}
"""Whom each may invite, remove, and turn into one another."""

CHANGES: frozenset[Role] = frozenset({Role.OWNER, Role.ADMIN, Role.MEMBER})
"""Who may change what the team has, such as empty the inbox."""


def may_manage(by: Role, *roles: Role) -> bool:
    """Whether one of role `by` may invite to, remove from, or move between these roles."""
    return all(role in MANAGES[by] for role in roles)


def parse_role(text: str) -> Role:
    """ValueError names the roles there are."""
    if text not in set(Role):
        raise ValueError(f"{text!r} is no role: there are {', '.join(Role)}")
    return Role(text)
