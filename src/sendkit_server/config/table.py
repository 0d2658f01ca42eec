"""The table of all settings: name, form, default, meaning."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from sendkit_server.config.forms import (
    one_of,
    parse_addresses,
    parse_binds,
    parse_count,
    parse_database_url,
    parse_delays_ms,
    parse_dkim,
    parse_duration_ms,
    parse_limit,
    parse_mac_key,
    parse_names,
    parse_networks,
    parse_optional,
    parse_optional_duration_ms,
    parse_port,
    parse_receivers,
    parse_resolvers,
    parse_roles,
    parse_size,
    parse_table_list,
    parse_tables,
    parse_text,
    parse_url,
    parse_yes,
)

T = TypeVar("T")

PREFIX = "SENDKIT_"
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
    Setting(
        "trusted_proxies",
        parse_networks,
        "none",
        "networks of proxies that are believed for whom they come: X-Forwarded-For, or a PROXY header (version 2) on any listener",
    ),
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
        "acme_eab_kid",
        parse_optional,
        "none",
        "external account binding, for authorities that want an account on their pages first (ZeroSSL, Google): the key id there",
    ),
    Setting("acme_eab_hmac_key", parse_mac_key, "none", "the key of acme_eab_kid, base64url as the authority shows it"),
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
        parse_delays_ms,
        "1m,5m,15m,30m,1h,2h,4h",
        "delays after the 1st, 2nd, … try, at least 1s; the last repeats",
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
        "webhook_retries",
    }
)


def is_secret(name: str) -> bool:
    """Whether `sendkit config` hides the value."""
    return name in ("acme_eab_hmac_key", "secret_key", "route", "routes", "routing", "database_url")
