"""Settings: where they come from, and that a wrong one refuses the start and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from sendkit_server.config import (
    NOT_BUILT,
    Address,
    ConfigError,
    acme_binding_of,
    acme_challenge_of,
    load,
    parse_binds,
    parse_delays_ms,
    parse_duration_ms,
    parse_size,
    routing_of,
)
from sendkit_server.model.certificate import Binding
from sendkit_server.standing import dns_names

KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    (tmp_path / "sendkit.toml").write_text(
        'hostname = "file.test"\nmx_port = 2525\nbehind_proxy = true\nretry_schedule = ["1s", "2s"]\n'
    )
    settings = load({"SENDKIT_HOSTNAME": "env.test"})
    assert (settings.hostname, settings.sources["hostname"]) == ("env.test", "SENDKIT_HOSTNAME")
    assert (settings.mx_port, settings.sources["mx_port"]) == (2525, "sendkit.toml")
    assert settings.behind_proxy is True and settings.retry_schedule == (1000, 2000)
    assert (settings.route, settings.sources["route"]) == ("direct", "default")
    assert load({}, {"hostname": "line.test"}).hostname == "line.test"


def test_an_empty_value_is_none_where_that_is_known_else_the_default() -> None:
    settings = load(
        {"SENDKIT_HTTP_BIND": "", "SENDKIT_HOSTNAME": "", "SENDKIT_PROBE_DOMAINS": "", "SENDKIT_MX_PORT": " "}
    )
    assert settings.http_bind == () and settings.probe_domains == () and settings.mx_port == 25
    assert settings.sources["hostname"] == "default"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SENDKIT_HTTP_BIND": "8080"}, "http_bind = '8080' .from SENDKIT_HTTP_BIND.: give host:port"),
        ({"SENDKIT_HTTP_BIND": "127.0.0.1:99999"}, "host:port"),
        ({"SENDKIT_HTTP_BIND": "0.0.0.0:8080"}, "SENDKIT_BEHIND_PROXY=yes"),
        ({"SENDKIT_HTTP_BIND": "[::]:8080"}, "SENDKIT_HTTPS_BIND"),
        ({"SENDKIT_DEV_SMTP_BIND": "0.0.0.0:1025"}, "keep it on loopback"),
        ({"SENDKIT_TLS_CERT": "x.pem"}, "given together"),
        ({"SENDKIT_ACME_EAB_KID": "kid-1"}, "given together"),
        ({"SENDKIT_ACME_EAB_HMAC_KEY": KEY}, "given together"),
        ({"SENDKIT_ACME_EAB_KID": "kid-1", "SENDKIT_ACME_EAB_HMAC_KEY": KEY}, "SENDKIT_ACME_EMAIL"),
        ({"SENDKIT_BEHIND_PROXY": "maybe"}, "say yes or no"),
        ({"SENDKIT_RETRY_SCHEDULE": "1m,soon"}, "give a number and a unit"),
        ({"SENDKIT_RETRY_SCHEDULE": "1m,0s"}, "at least 1s"),
        ({"SENDKIT_RETRY_SCHEDULE": "999ms"}, "at least 1s"),
        ({"SENDKIT_ALLOW_PRIVATE_NETWORKS": "loopback"}, "allow_private_networks"),
        ({"SENDKIT_MX_PORT": "0"}, "give a port"),
        ({"SENDKIT_PUBLIC_URL": "mail.example.com"}, "absolute URL"),
        ({"SENDKIT_LOG_FORMAT": "xml"}, "auto, human, json"),
        ({"SENDKIT_ROLES": "http,cook"}, "deliver, http, inbound, smtp"),
        ({"SENDKIT_DKIM": "ed25519"}, "rsa,ed25519"),
        ({"SENDKIT_DATABASE_URL": "postgresql://x"}, "needs SENDKIT_SECRET_KEY"),
        ({"SENDKIT_DATABASE_URL": "mysql://x"}, "give postgresql:"),
        ({"SENDKIT_ACME_EMAIL": "ops", "SENDKIT_HOSTNAME": "mail.example.com"}, "give one address"),
        ({"SENDKIT_ACME_EMAIL": "ops@example.com", "SENDKIT_HOSTNAME": "localhost"}, "set SENDKIT_HOSTNAME to"),
        (
            {
                "SENDKIT_ACME_EMAIL": "ops@example.com",
                "SENDKIT_HOSTNAME": "mail.example.com",
                "SENDKIT_ACME_DIRECTORY": "http://ca.test/dir",
            },
            "over https://",
        ),
        ({"SENDKIT_ACME_CHALLENGE": "dns-01"}, "auto, http-01, tls-alpn-01"),
        ({"SENDKIT_CONFIG": "nowhere.toml"}, "nowhere.toml, which does not exist"),
    ],
)
def test_a_wrong_value_refuses_the_start_and_says_why(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(environment)


@pytest.mark.parametrize("text", ["short", "no key at all, with spaces", KEY + "A"])
def test_a_key_that_is_none_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="base64url") as raised:
        load({"SENDKIT_ACME_EAB_HMAC_KEY": text})
    assert text not in str(raised.value) and "SENDKIT_ACME_EAB_HMAC_KEY" in str(raised.value)


def test_the_key_of_a_binding_may_be_written_in_either_alphabet() -> None:
    shared = {"SENDKIT_ACME_EMAIL": "ops@a.test", "SENDKIT_HOSTNAME": "mail.a.test", "SENDKIT_ACME_EAB_KID": "kid-1"}
    found = {acme_binding_of(load({**shared, "SENDKIT_ACME_EAB_HMAC_KEY": text})) for text in ("ab-_" * 6, "ab+/" * 6)}
    assert found == {Binding("kid-1", "ab-_" * 6)}
    assert acme_binding_of(load({"SENDKIT_ACME_EAB_HMAC_KEY": ""})) is None


@pytest.mark.parametrize(
    ("text", "message"), [('hostnam = "x"', "unknown setting 'hostnam'"), ("hostname = ", "sendkit.toml")]
)
def test_an_unknown_key_or_a_broken_file_refuses_the_start(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sendkit.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load({})


def test_settings_of_later_versions_are_named_and_no_error() -> None:
    assert load({"SENDKIT_WEBHOOK_RETRIES": "5s", "SENDKIT_AUTO_CONTACTS": "off"}).not_obeyed == ("webhook_retries",)
    assert "auto_contacts" in NOT_BUILT


def test_binds_durations_and_sizes() -> None:
    assert parse_binds("127.0.0.1:1, [::1]:2,:3") == (Address("127.0.0.1", 1), Address("::1", 2), Address("0.0.0.0", 3))
    assert parse_binds("none") == () and str(Address("::1", 2)) == "[::1]:2"
    assert (parse_duration_ms("500ms"), parse_duration_ms("2d"), parse_delays_ms("1m,1h")) == (
        500,
        172_800_000,
        (60_000, 3_600_000),
    )
    assert (parse_size("41943040"), parse_size("40 MB"), parse_size("1G")) == (41_943_040, 41_943_040, 1 << 30)
    assert (
        Address("localhost", 1).is_loopback
        and Address("127.9.9.9", 1).is_loopback
        and not Address("10.0.0.1", 1).is_loopback
    )


@pytest.mark.parametrize(
    ("environment", "challenge"),
    [
        ({}, "http-01"),
        ({"SENDKIT_HTTPS_BIND": "0.0.0.0:443"}, "tls-alpn-01"),
        ({"SENDKIT_HTTPS_BIND": "0.0.0.0:443", "SENDKIT_ACME_HTTP_BIND": "0.0.0.0:80"}, "http-01"),
        ({"SENDKIT_HTTPS_BIND": "127.0.0.1:8443"}, "http-01"),
        ({"SENDKIT_HTTPS_BIND": "0.0.0.0:443", "SENDKIT_ACME_CHALLENGE": "http-01"}, "http-01"),
        ({"SENDKIT_ACME_CHALLENGE": "tls-alpn-01"}, "tls-alpn-01"),
    ],
)
def test_names_are_proved_by_tls_where_port_443_is_ours(environment: dict[str, str], challenge: str) -> None:
    assert acme_challenge_of(load(environment)) == challenge


def test_relays_are_named_once_in_the_spf_record_and_by_address_where_they_have_no_name() -> None:
    route = ",".join(
        f"smarthost://{relay}" for relay in ("relay.test:587", "relay.test:2587", "192.0.2.7", "[2001:db8::7]")
    )
    settings = load({"SENDKIT_ROUTE": route})
    found = dns_names(settings, routing_of(settings).routes)
    assert found.spf == ("include:relay.test", "ip4:192.0.2.7", "ip6:2001:db8::7")
