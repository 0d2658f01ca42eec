"""What a person may do in a team, by role."""

from __future__ import annotations

from enum import StrEnum

import msgspec


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


class Manager(msgspec.Struct, frozen=True):
    """Whoever changes who is in a team. who: as a sentence begins.  manages: whom it may invite, remove, and turn into one
    another."""

    who: str
    manages: frozenset[Role]

    def may_manage(self, *roles: Role) -> bool:
        """Whether it may invite to, remove from, or move between these roles."""
        return self.manages.issuperset(roles)


# What a key may give, whoever has the key has. So it makes no owners, and takes none away.
KEY_MANAGER = Manager("An API key", frozenset(Role) - {Role.OWNER})


def manager_of(role: Role) -> Manager:
    """A person of this role."""
    return Manager(f"One who is {role}", MANAGES[role])


def parse_role(text: str) -> Role:
    """ValueError names the roles there are."""
    if text not in set(Role):
        raise ValueError(f"{text!r} is no role: there are {', '.join(Role)}")
    return Role(text)
