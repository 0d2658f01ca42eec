"""All lanes there are: found by way and site, made when they are needed, forgotten when nothing is lost by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_network

from sendkit_server.deliver.connection import Greeter
from sendkit_server.deliver.desk import Desk
from sendkit_server.deliver.dial import Dialer, Dials, Site
from sendkit_server.deliver.hosted import HostedDialer
from sendkit_server.deliver.lane import Lane
from sendkit_server.deliver.office import Office
from sendkit_server.deliver.ownership import Ownership
from sendkit_server.deliver.pace import Limits
from sendkit_server.deliver.plan import Way
from sendkit_server.deliver.receivers import Receivers
from sendkit_server.deliver.route import Direct, Hosted, Smarthost
from sendkit_server.deliver.settings import DeliverySettings
from sendkit_server.deliver.tls_policy import Policy, Security, TlsPolicies
from sendkit_server.net.guard import Guard
from sendkit_server.net.resolver import DnsProblem, MailHosts, Resolver, in_order
from sendkit_server.net.tls_client import TlsClient
from sendkit_server.wire.smtp_client import TlsWish

KNOWN_DOMAINS = 20_000
_ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


class Lanes:
    """The lanes of one deliverer, its office."""

    def __init__(
        self,
        settings: DeliverySettings,
        office: Office,
        desk: Desk,
        resolver: Resolver,
        policies: TlsPolicies,
        ownership: Ownership,
        random: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._office = office
        self._desk = desk
        self._resolver = resolver
        self._ownership = ownership
        self._random = random
        self._tls = TlsClient(settings.ca_file)
        self._dialer = Dialer(resolver, self._tls, settings.timeouts, office.now, ownership.holds, policies.dnssec)
        self.guard = Guard(settings.allow_private, settings.own)
        # The operator has named the relay, so it may be anywhere but here.
        self._relay_guard = Guard(_ANYWHERE, settings.own)
        self._default_limits = Limits(settings.connections_per_site, settings.messages_per_connection)
        self._receivers = Receivers(settings.receivers, self._default_limits)
        self._lanes: dict[object, Lane] = {}
        # Of mail that takes whatever TLS it gets.
        self._lane_of: dict[tuple[Way, str], tuple[MailHosts, Lane, Policy]] = {}

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def known(self, way: Way, domain: str) -> Lane | None:
        """Where a domain's mail led last, as long as nobody asks for more than it then did."""
        found = self._lane_of.get((way, domain))
        return None if found is None else found[1]

    def lead(self, way: Way, domain: str, hosts: MailHosts, policy: Policy, *, strict: bool) -> Lane | None:
        """The lane to a domain's hosts; None when they are this server itself. strict: only over verified TLS."""
        found = self._lane_of.get((way, domain))
        if found is not None and found[0] is hosts and found[2] is policy and not strict:
            return found[1]
        others = before_ourselves(policy.hosts or hosts, self._settings.hostname)
        if not others:
            return None
        lane = self._direct(way, others, policy.security(others, strict=strict))
        if not strict:
            if len(self._lane_of) >= KNOWN_DOMAINS:
                self._forget_domains()
            lane.domains.add(domain)
            self._lane_of[way, domain] = hosts, lane, policy
        return lane

    def relay(self, way: Way, *, strict: bool) -> Lane:
        """The lane to a way's relay or provider. strict: only over verified TLS."""
        key = way, strict
        lane = self._lanes.get(key)
        if lane is None:
            match way.route:
                case Smarthost() as route:
                    lane = self._smarthost(key, way, route, strict=strict)
                case Hosted() as route:
                    lane = self._hosted(key, way, route)
                case other:
                    raise AssertionError(f"{other} has lanes of its own")
        return lane

    def receiver_of(self, hosts: MailHosts) -> str | None:
        """The big receiver whose hosts they are; None: nobody's that has an entry."""
        return self._receivers.name_of(site_name(hosts))

    def leading_to(self, site: str) -> list[Lane]:
        """Those that mail to a domain may go through."""
        hosts = self._resolver.known_mail_hosts(site)
        return [
            lane
            for key, lane in self._lanes.items()
            if not isinstance(lane.way.route, Direct) or site in lane.domains or _leads_to(key, hosts)
        ]

    def forget(self) -> None:
        """Drops those that nothing is lost with."""
        for key, lane in list(self._lanes.items()):
            if lane.is_forgettable:
                del self._lanes[key]
                for domain in lane.domains:
                    if self.known(lane.way, domain) is lane:
                        del self._lane_of[lane.way, domain]

    def clear(self) -> None:
        """Drops all."""
        self._lanes.clear()
        self._lane_of.clear()

    def _forget_domains(self) -> None:
        """Only a shortcut is lost: whose mail leads where is found again with the next parcel."""
        self._lane_of.clear()
        for lane in self._lanes.values():
            lane.domains.clear()

    def _direct(self, way: Way, hosts: MailHosts, security: Security) -> Lane:
        """Mail of which more is asked than of other mail has lanes of its own, so that a host which cannot satisfy that
        holds up only what asks for it."""
        key = way, frozenset(hosts), security
        lane = self._lanes.get(key)
        if lane is None:
            wish = TlsWish.REQUIRED if security.verified else TlsWish.OFFERED
            greeter = Greeter(way.source.ehlo or self._settings.hostname, wish, verified=security.verified)
            name = site_name(hosts)
            site = Site(
                name,
                self._settings.mx_port,
                lambda: in_order(hosts, self._random),
                greeter,
                security,
                way.source.addresses,
            )
            lane = self._new(key, site, way, self.guard, self._dialer, self._receivers.of(name))
        return lane

    def _smarthost(self, key: object, way: Way, route: Smarthost, *, strict: bool) -> Lane:
        strict = strict or route.needs_tls
        greeter = Greeter(
            way.source.ehlo or self._settings.hostname,
            TlsWish.REQUIRED if strict else TlsWish.OFFERED,
            route.login,
            route.tls_from_start,
            verified=strict,
        )
        name = f"{route.host}:{route.port}"
        site = Site(name, route.port, lambda: [route.host], greeter, sources=way.source.addresses)
        return self._new(key, site, way, self._relay_guard, self._dialer, self._default_limits)

    def _hosted(self, key: object, way: Way, route: Hosted) -> Lane:
        endpoint = route.provider.endpoint
        dialer = HostedDialer(
            route.provider,
            self._resolver,
            self._tls,
            self._settings.timeouts,
            self._office.now,
            self._ownership.holds,
        )
        greeter = Greeter(self._settings.hostname, TlsWish.REQUIRED, verified=True)
        site = Site(endpoint.host, endpoint.port, lambda: [endpoint.host], greeter)
        return self._new(key, site, way, self._relay_guard, dialer, self._default_limits)

    def _new(self, key: object, site: Site, way: Way, guard: Guard, dialer: Dials, limits: Limits) -> Lane:
        lane = self._lanes[key] = Lane(site, way, guard, self._settings, self._office, self._desk, dialer, limits)
        return lane


def before_ourselves(hosts: MailHosts, hostname: str) -> MailHosts:
    """The hosts that are better than this server itself, when it is one of them (RFC 5321 5.1): else mail would loop."""
    own = [mx.preference for mx in hosts if mx.host == hostname.lower()]
    return tuple([mx for mx in hosts if mx.preference < min(own)]) if own else hosts


def site_name(hosts: MailHosts) -> str:
    """Its best host, alike on every node however DNS shuffles hosts of one preference: a site's shares go by its name."""
    return min((mx.preference, mx.host) for mx in hosts)[1]


def _leads_to(key: object, hosts: MailHosts | DnsProblem | None) -> bool:
    """Whether a direct lane's key is made of these hosts."""
    return isinstance(key, tuple) and isinstance(hosts, tuple) and key[1] <= frozenset(hosts)
