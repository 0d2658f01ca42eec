"""What settings come to together, for the parts that they are handed to."""

from __future__ import annotations

from typing import Any

from sendkit_server.accept.limits import LimitSettings
from sendkit_server.config.settings import ConfigError, Settings
from sendkit_server.deliver.routing import Routing, parse_routing
from sendkit_server.model.certificate import HTTP_01, TLS_ALPN_01, Binding


def acme_challenge_of(settings: Settings) -> str:
    """`http-01` or `tls-alpn-01`."""
    if settings.acme_challenge != "auto":
        return str(settings.acme_challenge)
    by_tls = not settings.acme_http_bind and any(address.port == 443 for address in settings.https_bind)
    return TLS_ALPN_01 if by_tls else HTTP_01


def acme_binding_of(settings: Settings) -> Binding | None:
    """The account on the authority's pages that ours belongs to, if one was given."""
    if settings.acme_eab_kid is None:
        return None
    return Binding(settings.acme_eab_kid, settings.acme_eab_hmac_key)


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
