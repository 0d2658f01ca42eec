"""All settings of a process, and where each of them comes from."""

from __future__ import annotations

from typing import Any

import msgspec


class ConfigError(Exception):
    """A setting that cannot be used; the message names it, its source and what it should look like."""


class Settings(msgspec.Struct, frozen=True):
    """All settings, parsed.

    values: by name.  sources: the variable, the file's path, `command line` or `default`.  not_obeyed: names that are
    set and that only a later version knows how to obey.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    texts: dict[str, str]
    not_obeyed: tuple[str, ...] = ()

    @property
    def probed_domains(self) -> tuple[str, ...]:
        """Whose mail hosts are tried; with another port than 25 those of the default would never answer."""
        is_default = self.sources["probe_domains"] == "default"
        return () if is_default and self.values["mx_port"] != 25 else self.values["probe_domains"]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None
