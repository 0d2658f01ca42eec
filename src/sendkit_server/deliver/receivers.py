"""Which limits a site has: by the domain of its MX hosts, from receivers.toml and what the operator says instead."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from sendkit_server.deliver.pace import Limits

_FILE = Path(__file__).with_name("receivers.toml")


Count = Annotated[int, msgspec.Meta(ge=1)]


class Receiver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry. mx: domains that its MX hosts end with; what is not said is as for a site that is not named."""

    mx: tuple[str, ...] = ()
    connections: Count | None = None
    messages_per_connection: Count | None = None
    rate: Count | None = None


class Receivers:
    """Finds the limits of a site."""

    def __init__(self, overrides: Mapping[str, Any], default: Limits) -> None:
        """overrides: by name, members of Receiver; they replace those of the file one by one. ValueError says what is wrong."""
        found: dict[str, dict[str, Any]] = tomllib.loads(_FILE.read_text(encoding="utf-8"))
        for name, members in overrides.items():
            if not isinstance(members, Mapping):
                raise ValueError(f"receivers.{name} must be a table")
            found.setdefault(name, {}).update(members)
        self._default = default
        self._by_domain: dict[str, tuple[str, Limits]] = {}
        for name, members in found.items():
            for domain, limits in self._entry(name, members):
                self._by_domain[domain] = name, limits

    def of(self, mx_host: str) -> Limits:
        """The limits of a site by one of its hosts: the longest named domain that the host is in."""
        found = self._find(mx_host)
        return self._default if found is None else found[1]

    def name_of(self, mx_host: str) -> str | None:
        """The big receiver whose host it is; None: it is nobody's that has an entry."""
        found = self._find(mx_host)
        return None if found is None else found[0]

    def _find(self, mx_host: str) -> tuple[str, Limits] | None:
        labels = mx_host.lower().split(".")
        for start in range(len(labels)):
            found = self._by_domain.get(".".join(labels[start:]))
            if found is not None:
                return found
        return None

    def _entry(self, name: str, members: dict[str, Any]) -> list[tuple[str, Limits]]:
        try:
            receiver = msgspec.convert(members, Receiver)
        except msgspec.ValidationError as error:
            raise ValueError(f"receivers.{name}: {error}") from None
        if not receiver.mx:
            raise ValueError(f'receivers.{name} names no mx, such as mx = ["example.com"]')
        limits = Limits(
            receiver.connections or self._default.connections,
            receiver.messages_per_connection or self._default.messages_per_connection,
            receiver.rate or self._default.rate,
        )
        return [(_suffix(name, domain), limits) for domain in receiver.mx]


def _suffix(name: str, text: str) -> str:
    domain = text.lower().strip(".")
    if "*" in domain:
        bare = domain.removeprefix("*.")
        raise ValueError(
            f"receivers.{name}: mx {text!r} fits no host; write {bare!r}, which stands for all hosts below it"
        )
    return domain
