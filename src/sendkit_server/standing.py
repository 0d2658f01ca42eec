"""How this installation stands in the world, by its settings and routes: its addresses, its DNS records, its certificates.

A server says so while it runs, and commands beside it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from sendkit_server.config import Settings, acme_binding_of, acme_challenge_of
from sendkit_server.deliver.route import Direct, Route, Smarthost
from sendkit_server.manage.certificate_view import Wanted
from sendkit_server.manage.domains import DnsNames
from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.net.listen import source_addresses

ALGORITHMS = {"rsa": "rsa-sha256", "ed25519": "ed25519-sha256"}


def named_sources(routes: Sequence[Route]) -> list[str]:
    """The source addresses that routes name."""
    return [
        address for route in routes if isinstance(route, Direct) for one in route.sources for address in one.addresses
    ]


def dns_names(settings: Settings, routes: tuple[Route, ...]) -> DnsNames:
    """What the DNS records depend on: our addresses where we deliver ourselves, the relays' where they do."""
    mechanisms: list[str] = []
    if any(isinstance(route, Direct) for route in routes):
        addresses = _public_addresses(settings, routes)
        mechanisms += [f"ip6:{address}" if ":" in address else f"ip4:{address}" for address in addresses]
        if not addresses:
            # Behind address translation the machine does not know its public address; its name's A record does.
            mechanisms.append(f"a:{settings.hostname}")
    mechanisms += [_relay_mechanism(route.host) for route in routes if isinstance(route, Smarthost)]
    algorithms = tuple(ALGORITHMS[name] for name in settings.dkim)
    return DnsNames(
        settings.hostname,
        tuple(dict.fromkeys(mechanisms)),
        algorithms,  # type: ignore[arg-type]  # the names of ALGORITHMS
        urlsplit(settings.public_url).hostname or settings.hostname,
    )


def _relay_mechanism(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}:{host}"
    except ValueError:
        return f"include:{host}"


def surroundings(settings: Settings, routes: tuple[Route, ...], *, serving: bool) -> Surroundings:
    """What the doctor needs to know. serving: this process is the server."""
    own_authority = settings.tls_cert is None
    return Surroundings(
        names=dns_names(settings, routes),
        addresses=_public_addresses(settings, routes),
        direct=any(isinstance(route, Direct) for route in routes),
        relays=tuple((route.host, route.port) for route in routes if isinstance(route, Smarthost)),
        dns_servers=settings.dns_servers,
        mx_port=settings.mx_port,
        allowed=settings.allow_private_networks,
        probe_domains=settings.probed_domains,
        blocklists=tuple(zone.strip(".").lower() for zone in settings.blocklists),
        min_free_disk=settings.min_free_disk,
        certificate=settings.data_dir / "tls" / "cert.pem" if own_authority else Path(settings.tls_cert),
        own_authority=own_authority,
        reachable=any(
            not address.is_loopback
            for binds in (settings.https_bind, settings.smtp_bind, settings.smtps_bind)
            for address in binds
        ),
        serving=serving,
    )


def _public_addresses(settings: Settings, routes: Sequence[Route]) -> tuple[str, ...]:
    """The addresses that direct mail is seen to come from; none when that is not known."""
    found = dict.fromkeys([*source_addresses(), *named_sources(routes)])
    detected = tuple(address for address in found if ipaddress.ip_address(address).is_global)
    return settings.send_addresses or detected


def certificates_wanted(settings: Settings) -> Wanted:
    """Which certificates our listeners should have. Where a proxy stands in front of the pages, theirs are its affair."""
    given = settings.tls_cert is not None
    return Wanted(
        hostname=settings.hostname,
        public_host=urlsplit(settings.public_url).hostname,
        web=bool(settings.https_bind) or not settings.behind_proxy,
        email=settings.acme_email or "",
        directory=settings.acme_directory,
        challenge=acme_challenge_of(settings),
        binding=acme_binding_of(settings),
        cert=Path(settings.tls_cert) if given else settings.data_dir / "tls" / "cert.pem",
        given=given,
    )
