"""Every setting: its name, default, meaning and form, read from the environment, then `sendkit.toml`, then the default.

The environment's name is `SENDKIT_` and the name in capitals; the file's key is the name. An unknown key in the file,
or a value of the wrong form, refuses the start and says which. Parts get what they need handed in; nothing but app and
cli imports this module.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from sendkit_server.accept.limits import LimitSettings
from sendkit_server.deliver.pace import Limits
from sendkit_server.deliver.receivers import Receivers
from sendkit_server.deliver.routing import Routing, parse_routing
from sendkit_server.model.certificate import HTTP_01, TLS_ALPN_01, certifiable
from sendkit_server.net.dnssec import trusted_servers

T = TypeVar("T")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PREFIX = "SENDKIT_"


class ConfigError(Exception):
    """A setting that cannot be used; the message names it, its source and what it should look like."""


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


def parse_binds(text: str) -> tuple[Address, ...]:
    """`host:port` or `[v6]:port`, comma-separated, or `none`."""
    if text.strip().lower() in ("", "none"):
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
    if text.strip().lower() in ("", "none"):
        return None
    found = parse_duration_ms(text)
    if found < 1:
        raise ValueError("give a time that is not zero, or none")
    return found


def parse_durations_ms(text: str) -> tuple[int, ...]:
    """A comma list of durations, at least one."""
    return tuple(parse_duration_ms(part) for part in text.split(","))


def parse_names(text: str) -> tuple[str, ...]:
    """A comma list; `none` or nothing is empty."""
    if text.strip().lower() in ("", "none"):
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
    return None if text.strip().lower() in ("", "none") else text.strip()


def parse_database_url(text: str) -> str | None:
    """A URL of PostgreSQL; nothing or `none` is None."""
    if text.strip().lower() in ("", "none"):
        return None
    if not re.match(r"postgres(ql)?://", text.strip()):
        raise ValueError("give postgresql://user:password@host:port/database, or none for SQLite")
    return text.strip()


def parse_receivers(text: str) -> dict[str, Any]:
    """Limits by receiver as a JSON object of tables, in sendkit.toml [receivers.NAME]; nothing or `none` is none."""
    if text.strip().lower() in ("", "none"):
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
    if text.strip().lower() in ("", "none"):
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


ROLES = frozenset({"http", "smtp", "inbound", "deliver"})
BLOCKLISTS_DEFAULT = "zen.spamhaus.org,bl.spamcop.net,b.barracudacentral.org"
PROBE_DEFAULT = "gmail.com,outlook.com,yahoo.com"


def _machine_name() -> str:
    return socket.getfqdn() or "localhost"


class Setting(msgspec.Struct, Generic[T], frozen=True):
    """One setting. default: text, as it would stand in the environment, or a function that finds it."""

    name: str
    parse: Callable[[str], Any]
    default: str | Callable[[], str]
    meaning: str


SETTINGS: tuple[Setting[Any], ...] = (
    Setting("data_dir", lambda text: Path(parse_text(text)), "./data", "database, generated secrets and certificates"),
    Setting(
        "database_url",
        parse_database_url,
        "none",
        "postgresql://user:password@host/name for one or several nodes; none: SQLite in the data directory",
    ),
    Setting(
        "http_bind", parse_binds, "127.0.0.1:8080", "API and pages over plain HTTP; off loopback only behind a proxy"
    ),
    Setting("https_bind", parse_binds, "none", "the same over TLS"),
    Setting("behind_proxy", parse_yes, "no", "a proxy with TLS stands in front: http_bind may be off loopback"),
    Setting("smtp_bind", parse_binds, "127.0.0.1:2587", "submission with STARTTLS"),
    Setting("smtps_bind", parse_binds, "127.0.0.1:2465", "submission with TLS from the start"),
    Setting(
        "dev_smtp_bind",
        parse_binds,
        "none",
        "plain SMTP, AUTH optional, everything captured (127.0.0.1:1025 under --dev)",
    ),
    Setting("smtp_plain_auth", one_of("no", "loopback"), "no", "loopback: AUTH without TLS from this machine"),
    Setting("inbound_bind", parse_binds, "127.0.0.1:2525", "bounces and complaints come in here"),
    Setting("smtp_max_recipients", parse_count, "50", "to + cc + bcc of one message, on both doors"),
    Setting("smtp_idle", parse_duration_ms, "5m", "an SMTP client that says nothing is told to go"),
    Setting("tls_cert", parse_optional, "none", "PEM chain; none: a leaf of the local CA <data>/tls/ca.pem"),
    Setting("tls_key", parse_optional, "none", "PEM private key of tls_cert"),
    Setting(
        "acme_email",
        parse_optional,
        "none",
        "orders certificates for this server's names and renews them; the address is for the authority, whose terms this accepts",
    ),
    Setting(
        "acme_directory",
        parse_url,
        "https://acme-v02.api.letsencrypt.org/directory",
        "the authority that certificates are ordered from",
    ),
    Setting(
        "acme_challenge",
        one_of("auto", "http-01", "tls-alpn-01"),
        "auto",
        "how names are proved: http-01 (port 80 leads to http_bind or acme_http_bind), tls-alpn-01 (443 leads to https_bind); "
        "auto: by TLS when https_bind is on port 443 and acme_http_bind is none",
    ),
    Setting(
        "acme_http_bind", parse_binds, "none", "plain HTTP for http-01 alone, such as 0.0.0.0:80; answers nothing else"
    ),
    Setting("ca_file", parse_optional, "none", "further trust roots for delivery and for acme_directory"),
    Setting("hostname", parse_text, _machine_name, "EHLO, greeting, fallback return path, MX target of records"),
    Setting("send_addresses", parse_addresses, "none", "source addresses for SPF records; none: detected"),
    Setting("public_url", parse_url, "http://127.0.0.1:8080", "the only base of links that leave in mails and replies"),
    Setting(
        "route",
        parse_text,
        "direct",
        "direct, capture, smarthost://user:pass@host:port, smarthosts://…, names of routes; comma = chain, a*3 | b = by weight",
    ),
    Setting("routes", parse_tables, "none", "[routes.NAME] in sendkit.toml: kind and what it needs (docs/routes.md)"),
    Setting(
        "routing",
        parse_table_list,
        "none",
        "[[routing]] in sendkit.toml: domain, to or stream, and the route that such mail takes instead",
    ),
    Setting(
        "dns_servers",
        parse_names,
        "none",
        "for delivery, such as 127.0.0.1:5353; of several, two must say that a domain takes no mail; none: the system's",
    ),
    Setting(
        "dnssec_resolvers",
        parse_resolvers,
        "loopback",
        "validating resolvers, such as 127.0.0.1, whose AD bit DANE trusts; loopback: those in use when all are on this "
        "machine; none: no DANE",
    ),
    Setting("mx_port", parse_port, "25", "for tests"),
    Setting("mta_sts_port", parse_port, "443", "for tests"),
    Setting(
        "probe_domains",
        parse_names,
        PROBE_DEFAULT,
        "whose MX hosts tell at start whether port 25 is open; none: no probe",
    ),
    Setting(
        "blocklists",
        parse_names,
        BLOCKLISTS_DEFAULT,
        "DNS blocklists that the doctor looks our addresses up in; none: in none",
    ),
    Setting(
        "doctor_interval",
        parse_optional_duration_ms,
        "1h",
        "how often a server that delivers looks whether it and its domains are well; none: only `sendkit doctor` does",
    ),
    Setting(
        "allow_private_networks",
        parse_networks,
        "none",
        "private addresses that may be delivered to, such as 127.0.0.0/8",
    ),
    Setting(
        "receivers",
        parse_receivers,
        "none",
        "[receivers.NAME] in sendkit.toml: mx, connections, messages_per_connection, rate (a minute) instead of the shipped",
    ),
    Setting(
        "limits",
        one_of("off", "hosted"),
        "off",
        "hosted: 60 calls a minute and 3000 recipients a month for each team, and warm-up; what is set itself goes before it",
    ),
    Setting("rate_limit", parse_limit, "off", "calls a minute of a team that send"),
    Setting("key_rate_limit", parse_limit, "off", "calls a minute of one key that send"),
    Setting("monthly_quota", parse_limit, "off", "recipients a month of a team"),
    Setting("warmup", one_of("off", "on"), "off", "on: a new domain's first 14 days have daily limits"),
    Setting("dedupe_message_id", parse_yes, "yes", "the same mail that comes again by SMTP within 24 h is taken once"),
    Setting("strict_test", parse_yes, "no", "test keys, too, may send only from verified domains"),
    Setting("connections_per_site", parse_count, "20", "outgoing connections to one set of MX hosts"),
    Setting(
        "retry_schedule",
        parse_durations_ms,
        "1m,5m,15m,30m,1h,2h,4h",
        "delays after the 1st, 2nd, … try; the last repeats",
    ),
    Setting("retry_window", parse_duration_ms, "48h", "after it a deferred mail has failed"),
    Setting("max_message_bytes", parse_size, "41943040", "SMTP SIZE, and of a composed mail"),
    Setting("min_free_disk", parse_size, "200MB", "below it the doors refuse mail; delivery goes on"),
    Setting("dkim", parse_dkim, "rsa", "rsa, or rsa,ed25519 for a second signature (RFC 8463)"),
    Setting("secret_key", parse_optional, "none", "seals secrets at rest; none: generated, kept in <data>/secret-key"),
    Setting("log_format", one_of("auto", "human", "json"), "auto", "auto: human on a terminal, else json; to stderr"),
    Setting("log_level", one_of("debug", "info", "warning", "error"), "info", "least level that is logged"),
    Setting("drain_seconds", parse_count, "10", "SIGTERM: how long running work may take to finish"),
    Setting("roles", parse_roles, "http,smtp,inbound,deliver", "what this process does"),
    Setting("capture_retention", parse_duration_ms, "7d", "captured mails are removed after it"),
    Setting("body_retention", parse_duration_ms, "30d", "contents are removed after it, never while a mail waits"),
    Setting("transcript_retention", parse_duration_ms, "30d", "attempts and their transcripts are removed after it"),
    Setting(
        "event_retention", parse_duration_ms, "400d", "messages with their recipients and events are removed after it"
    ),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}
# Names that later versions obey. They may stand in an environment that is shared with one, so they are no error, but
# the start says of each that it does nothing here.
NOT_BUILT = frozenset(
    {
        "auto_contacts",
        "block_disposable",
        "trusted_proxies",
        "webhook_retries",
    }
)


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
            raise ConfigError(f"{name} = {text!r} (from {source}): {error}") from None
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


def acme_challenge_of(settings: Settings) -> str:
    """`http-01` or `tls-alpn-01`."""
    if settings.acme_challenge != "auto":
        return str(settings.acme_challenge)
    by_tls = not settings.acme_http_bind and any(address.port == 443 for address in settings.https_bind)
    return TLS_ALPN_01 if by_tls else HTTP_01


def routing_of(settings: Settings) -> Routing:
    """Which route which mail takes. ConfigError says what is wrong with it, without secrets."""
    try:
        return parse_routing(settings.route, settings.routes, settings.routing)
    except ValueError as error:
        raise ConfigError(f"route, routes or routing: {error}; see docs/routes.md") from None


def limits_of(settings: Settings) -> LimitSettings:
    """The limits in force: those that are set, else the preset's."""
    hosted = settings.limits == "hosted"

    def chosen(name: str, preset: object) -> Any:
        return preset if hosted and settings.sources[name] == "default" else settings.values[name]

    return LimitSettings(
        chosen("rate_limit", 60),
        chosen("key_rate_limit", None),
        chosen("monthly_quota", 3000),
        chosen("warmup", "on") == "on",
    )


def is_secret(name: str) -> bool:
    """Whether `sendkit config` hides the value."""
    return name in ("secret_key", "route", "routes", "routing", "database_url")
