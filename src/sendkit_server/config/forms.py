"""The forms of settings: text as an environment or a file has it becomes a value. ValueError says what to give instead."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from sendkit_server.deliver.pace import Limits
from sendkit_server.deliver.receivers import Receivers
from sendkit_server.net.dnssec import trusted_servers

T = TypeVar("T")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ROLES = frozenset({"http", "smtp", "inbound", "deliver"})


class Address(msgspec.Struct, frozen=True):
    """Where to listen: a host (name or literal) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _is_none(text: str) -> bool:
    return text.strip().lower() in ("", "none")


def parse_binds(text: str) -> tuple[Address, ...]:
    """`host:port` or `[v6]:port`, comma-separated, or `none`."""
    if _is_none(text):
        return ()
    return tuple(parse_address(part) for part in text.split(","))


def parse_address(text: str) -> Address:
    """One `host:port`; an IPv6 host stands in brackets; a bare `:port` or `*:port` means every address."""
    found = re.fullmatch(r"\s*(?:\[([0-9a-fA-F:.%]+)\]|([^:\[\]\s]*)):(\d{1,5})\s*", text)
    if found is None or int(found[3]) > 65535:
        raise ValueError("give host:port, with IPv6 as [::1]:port")
    host = found[1] or found[2]
    return Address("0.0.0.0" if host in ("", "*") else host, int(found[3]))  # noqa: S104 - it is what was asked for


_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration_ms(text: str) -> int:
    """`90s`, `5m`, `1h`, `2d`, `500ms`."""
    found = re.fullmatch(r"\s*(\d+)\s*(ms|s|m|min|h|d)\s*", text)
    if found is None:
        raise ValueError("give a number and a unit: 90s, 5m, 1h, 2d")
    return int(found[1]) * _UNITS_MS[found[2]]


def parse_optional_duration_ms(text: str) -> int | None:
    """A duration; nothing or `none` is None."""
    if _is_none(text):
        return None
    found = parse_duration_ms(text)
    if found < 1:
        raise ValueError("give a time that is not zero, or none")
    return found


def parse_delays_ms(text: str) -> tuple[int, ...]:
    """A comma list of durations, at least one, each of a second or more: what waits for less only hammers its receiver."""
    found = tuple(parse_duration_ms(part) for part in text.split(","))
    if min(found) < 1000:
        raise ValueError("give delays of at least 1s")
    return found


def parse_names(text: str) -> tuple[str, ...]:
    """A comma list; `none` or nothing is empty."""
    if _is_none(text):
        return ()
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_networks(text: str) -> tuple[Network, ...]:
    """A comma list of networks or addresses."""
    return tuple(ipaddress.ip_network(name, strict=False) for name in parse_names(text))


def parse_addresses(text: str) -> tuple[str, ...]:
    """A comma list of IP addresses."""
    return tuple(str(ipaddress.ip_address(name)) for name in parse_names(text))


def parse_yes(text: str) -> bool:
    """yes/no, true/false, on/off, 1/0."""
    value = text.strip().lower()
    if value in ("yes", "true", "on", "1"):
        return True
    if value in ("no", "false", "off", "0"):
        return False
    raise ValueError("say yes or no")


def parse_limit(text: str) -> int | None:
    """A whole number from 1; `off`, `none` or nothing: no limit."""
    return None if text.strip().lower() in ("", "off", "none") else parse_count(text)


def parse_size(text: str) -> int:
    """Bytes, or with KB, MB or GB behind (powers of 1024)."""
    found = re.fullmatch(r"\s*([0-9_]+)\s*([KMG]B?)?\s*", text, re.IGNORECASE)
    if found is None:
        raise ValueError("give bytes, or a number with KB, MB or GB")
    return int(found[1]) * {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}[(found[2] or "")[:1].upper()]


def parse_count(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()) or int(text) < 1:
        raise ValueError("give a whole number from 1")
    return int(text)


def parse_port(text: str) -> int:
    """A port."""
    if not re.fullmatch(r"[0-9]{1,5}", text.strip()) or not 1 <= int(text) <= 65535:
        raise ValueError("give a port, 1 to 65535")
    return int(text)


def parse_resolvers(text: str) -> str:
    """`loopback`, `none` or nothing, or a comma list of `address` or `address:port`."""
    try:
        trusted_servers(text, ("127.0.0.1",))
    except ValueError:
        raise ValueError("give loopback, none, or addresses such as 127.0.0.1 or [::1]:5353") from None
    return text.strip().lower() or "none"


def parse_url(text: str) -> str:
    """An absolute http(s) URL, kept without a slash at the end."""
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", text):
        raise ValueError("give an absolute URL such as https://mail.example.com")
    return text.rstrip("/")


def parse_optional(text: str) -> str | None:
    """Any text; nothing or `none` is None."""
    return None if _is_none(text) else text.strip()


def parse_mac_key(text: str) -> str | None:
    """A key in base64url, with or without padding, also in the other alphabet of base64; nothing or `none` is None."""
    if _is_none(text):
        return None
    found = text.strip().rstrip("=").translate(str.maketrans("+/", "-_"))
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,}", found) or len(found) % 4 == 1:
        raise ValueError("give the key in base64url, as the authority shows it")
    return found


def parse_database_url(text: str) -> str | None:
    """A URL of PostgreSQL; nothing or `none` is None."""
    if _is_none(text):
        return None
    if not re.match(r"postgres(ql)?://", text.strip()):
        raise ValueError("give postgresql://user:password@host:port/database, or none for SQLite")
    return text.strip()


def parse_receivers(text: str) -> dict[str, Any]:
    """Limits by receiver as a JSON object of tables, in sendkit.toml [receivers.NAME]; nothing or `none` is none."""
    if _is_none(text):
        return {}
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"give tables [receivers.NAME], or a JSON object: {error}") from None
    Receivers(found, Limits())
    return found


def parse_tables(text: str) -> dict[str, Any]:
    """Tables by name as a JSON object, in sendkit.toml [routes.NAME]; nothing or `none` is none."""
    return _decode(text, dict[str, Any]) or {}


def parse_table_list(text: str) -> list[Any]:
    """A list of tables as a JSON array, in sendkit.toml [[routing]]; nothing or `none` is none."""
    return _decode(text, list[Any]) or []


def _decode(text: str, kind: type[T]) -> T | None:
    if _is_none(text):
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(f"give tables in sendkit.toml, or JSON: {error}") from None


def parse_text(text: str) -> str:
    """Any text but none."""
    if not text.strip():
        raise ValueError("must not be empty")
    return text.strip()


def one_of(*words: str) -> Callable[[str], str]:
    """One of a few words."""

    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in words:
            raise ValueError(f"give one of {', '.join(words)}")
        return word

    return parse


def parse_roles(text: str) -> frozenset[str]:
    """A comma list of what this process does."""
    roles = frozenset(parse_names(text))
    unknown = roles - ROLES
    if unknown or not roles:
        raise ValueError(f"give some of {', '.join(sorted(ROLES))}")
    return roles


def parse_dkim(text: str) -> tuple[str, ...]:
    """`rsa`, or `rsa,ed25519` for a second signature."""
    names = parse_names(text)
    if names not in (("rsa",), ("rsa", "ed25519")):
        raise ValueError("give rsa, or rsa,ed25519")
    return names
