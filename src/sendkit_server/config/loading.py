"""Reading the settings, and refusing those that cannot be obeyed, alone or together."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sendkit_server.config.derived import routing_of
from sendkit_server.config.forms import (
    parse_addresses,
    parse_binds,
    parse_database_url,
    parse_limit,
    parse_mac_key,
    parse_names,
    parse_networks,
    parse_optional,
    parse_optional_duration_ms,
    parse_receivers,
    parse_resolvers,
    parse_table_list,
    parse_tables,
)
from sendkit_server.config.settings import ConfigError, Settings
from sendkit_server.config.table import BY_NAME, NOT_BUILT, PREFIX, SETTINGS, Setting, is_secret
from sendkit_server.model.certificate import certifiable


def load(environment: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Settings:
    """Reads every setting. overrides: from the command line. ConfigError names the first that cannot be used."""
    path, file_values = _read_file(environment)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    texts: dict[str, str] = {}
    for setting in SETTINGS:
        name = setting.name
        variable = PREFIX + name.upper()
        if overrides and name in overrides:
            text, source = overrides[name], "command line"
        elif variable in environment and (environment[variable].strip() or _knows_none(setting)):
            text, source = environment[variable], variable
        elif name in file_values:
            text, source = file_values[name], str(path)
        else:
            text, source = setting.default if isinstance(setting.default, str) else setting.default(), "default"
        try:
            values[name] = setting.parse(text)
        except ValueError as error:
            shown = "" if is_secret(name) else f" = {text!r}"
            raise ConfigError(f"{name}{shown} (from {source}): {error}") from None
        sources[name], texts[name] = source, text
    settings = Settings(values, sources, texts, _not_obeyed(environment, file_values))
    _check_together(settings)
    return settings


def _knows_none(setting: Setting[Any]) -> bool:
    """An empty value means `none` where the setting knows none, else the default."""
    return setting.parse in (
        parse_binds,
        parse_names,
        parse_networks,
        parse_addresses,
        parse_optional,
        parse_optional_duration_ms,
        parse_database_url,
        parse_receivers,
        parse_limit,
        parse_tables,
        parse_table_list,
        parse_resolvers,
        parse_mac_key,
    )


def _read_file(environment: Mapping[str, str]) -> tuple[Path | None, dict[str, str]]:
    named = environment.get("SENDKIT_CONFIG", "").strip()
    path = Path(named) if named else Path("sendkit.toml")
    if not path.exists():
        if named:
            raise ConfigError(f"SENDKIT_CONFIG names {named}, which does not exist")
        return None, {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from None
    found = {}
    for key, value in table.items():
        if key not in BY_NAME and key not in NOT_BUILT:
            raise ConfigError(f"{path}: unknown setting '{key}'; see `sendkit config` for all there are")
        found[key] = _as_text(value)
    return path, found


def _as_text(value: object) -> str:
    """A TOML value as the environment would spell it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
        return msgspec.json.encode(value).decode()
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value)


def _not_obeyed(environment: Mapping[str, str], file_values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        name
        for name in sorted(NOT_BUILT)
        if environment.get(PREFIX + name.upper(), file_values.get(name, "")).strip().lower()
        not in ("", "none", "off", "no")
    )


def _check_together(settings: Settings) -> None:
    off_loopback = [str(address) for address in settings.http_bind if not address.is_loopback]
    if off_loopback and not settings.behind_proxy:
        raise ConfigError(
            f"http_bind {off_loopback[0]} is plain HTTP that other machines can reach: API keys would travel in clear. "
            "Use SENDKIT_HTTPS_BIND, or set SENDKIT_BEHIND_PROXY=yes when a proxy with TLS stands in front"
        )
    for address in settings.dev_smtp_bind:
        if not address.is_loopback:
            raise ConfigError(
                f"dev_smtp_bind {address}: the development listener takes mail without a key; keep it on loopback"
            )
    _ = routing_of(settings)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError("tls_cert and tls_key are given together or not at all")
    if settings.acme_email is not None:
        _check_acme(settings)
    if (settings.acme_eab_kid is None) != (settings.acme_eab_hmac_key is None):
        raise ConfigError("acme_eab_kid and acme_eab_hmac_key are given together or not at all")
    if settings.acme_eab_kid is not None and settings.acme_email is None:
        raise ConfigError("acme_eab_kid is set, but nothing is ordered without acme_email: set SENDKIT_ACME_EMAIL")
    if settings.database_url is not None and settings.secret_key is None:
        raise ConfigError(
            "SENDKIT_DATABASE_URL needs SENDKIT_SECRET_KEY: all nodes of one database seal with the same key, so none may "
            "make its own. Take the one in <data>/secret-key, or make one with `openssl rand -base64 48`"
        )


def _check_acme(settings: Settings) -> None:
    if re.fullmatch(r"[^\s@,]+@[^\s@,]+", settings.acme_email) is None:
        raise ConfigError(f"acme_email {settings.acme_email!r}: give one address, such as postmaster@example.com")
    if settings.tls_cert is None and not certifiable([settings.hostname]):
        raise ConfigError(
            f"acme_email is set, but no authority certifies the hostname {settings.hostname!r}: set SENDKIT_HOSTNAME to this "
            "server's name in DNS, such as mail.example.com"
        )
    if not settings.acme_directory.startswith("https://"):
        raise ConfigError(f"acme_directory {settings.acme_directory}: an authority is spoken to over https:// only")
