"""What a validating resolver vouches for: a domain's MX, its hosts' addresses, their TLSA records (RFC 7672 2).

Whether an answer is authentic is the resolver's word, the AD bit, so only one that is named is believed; by default one
on this machine, whose answers nobody can forge on the way. Asked in the order of RFC 7672: a TLSA record counts only
for a host whose name the domain has vouched for and whose address is vouched for, and a host in a zone that is not
signed is not asked about at all: some name servers answer such questions with errors, and that would stop the mail.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar, cast

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rdtypes.ANY.TLSA
import dns.resolver
import msgspec

from sendkit_server.net.resolver import (
    CACHE_ENTRIES,
    DEADLINE_S,
    MAX_TTL_S,
    MIN_TTL_S,
    NEGATIVE_TTL_S,
    TROUBLE_TTL_S,
    DnsProblem,
    DnsTrouble,
    MailHosts,
    Mx,
    mail_hosts_of,
    parse_server,
)
from sendkit_server.wire.tlsa import Tlsa

LOOPBACK = "loopback"
# Docker's resolver in each container: on loopback, but it passes on what others say, their AD bit included.
FORWARDERS = frozenset({"127.0.0.11"})
MAX_RECORDS = 50


class HostTlsa(msgspec.Struct, frozen=True):
    """A host's authentic TLSA records, at least one. names: what its certificate may name, the records' place first."""

    records: tuple[Tlsa, ...]
    names: tuple[str, ...]


class _Answer(msgspec.Struct, frozen=True):
    """records None: there is no such name, or it has none of these."""

    authentic: bool
    records: dns.resolver.Answer | None
    name: str  # where aliases led to
    ttl_s: float


T = TypeVar("T")
Cached: TypeAlias = "tuple[float, object]"


class Dnssec:
    """Asks the given servers, each of which validates."""

    def __init__(self, servers: Sequence[str], *, deadline_s: float = DEADLINE_S) -> None:
        self._stub = dns.asyncresolver.Resolver(configure=False)
        self._stub.nameservers = [parse_server(server) for server in servers]
        self._stub.lifetime = deadline_s
        self._stub.timeout = min(deadline_s, 3.0)
        # DO alone asks for the AD bit: a server that copies flags from the question must not seem to vouch for anything.
        self._stub.use_edns(0, dns.flags.DO, 1232)
        self._cache: OrderedDict[tuple[str, str], Cached] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Task[object]] = {}

    async def mail_hosts(self, domain: str) -> MailHosts | DnsProblem | None:
        """The hosts that a domain authentically names; None when nobody vouches for them.

        DnsProblem: it could not be asked, so whether somebody does is not known.
        """
        return await self._cached("MX", domain, lambda: self._ask_mail_hosts(domain))

    async def tlsa(self, host: str, port: int) -> HostTlsa | DnsProblem | None:
        """A host's authentic TLSA records; None when it has none. DnsProblem: whether it has any is not known."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return await self._cached(f"TLSA {port}", host, lambda: self._ask_tlsa(host, port))
        return None

    async def _cached(self, kind: str, name: str, ask: Callable[[], Awaitable[tuple[float, T]]]) -> T:
        key = kind, name
        found = self._cache.get(key)
        if found is not None and found[0] > asyncio.get_running_loop().time():
            return cast("T", found[1])
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, ask))
        # Shielded: whoever gives up waiting does not take the answer from the others.
        return cast("T", await asyncio.shield(task))

    async def _ask(self, key: tuple[str, str], ask: Callable[[], Awaitable[tuple[float, T]]]) -> object:
        try:
            ttl_s, answer = await ask()
        finally:
            del self._asking[key]
        until = asyncio.get_running_loop().time() + min(max(ttl_s, MIN_TTL_S), MAX_TTL_S)
        self._cache[key] = (until, answer)
        self._cache.move_to_end(key)
        if len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return answer

    async def _ask_mail_hosts(self, domain: str) -> tuple[float, MailHosts | DnsProblem | None]:
        answer = await self._question(domain, dns.rdatatype.MX)
        if isinstance(answer, DnsProblem):
            return TROUBLE_TTL_S, answer
        if not answer.authentic:
            return answer.ttl_s, None
        if answer.records is None or answer.records.rrset is None:
            # That there is no MX is vouched for, too: then the domain is its own host (RFC 7672 2.2.1).
            return answer.ttl_s, (Mx(0, domain),)
        hosts = mail_hosts_of(domain, list(answer.records.rrset))
        return answer.ttl_s, None if isinstance(hosts, DnsProblem) else hosts

    async def _ask_tlsa(self, host: str, port: int) -> tuple[float, HostTlsa | DnsProblem | None]:
        places = await self._places(host)
        if isinstance(places, DnsProblem):
            return TROUBLE_TTL_S, places
        ttl_s = NEGATIVE_TTL_S
        for place in places:
            answer = await self._question(f"_{port}._tcp.{place}", dns.rdatatype.TLSA)
            if isinstance(answer, DnsProblem):
                return TROUBLE_TTL_S, answer
            ttl_s = answer.ttl_s
            if answer.authentic and answer.records is not None and answer.records.rrset is not None:
                records = tuple(
                    Tlsa(each.usage, each.selector, each.mtype, each.cert)
                    for each in list(answer.records.rrset)[:MAX_RECORDS]
                    if isinstance(each, dns.rdtypes.ANY.TLSA.TLSA)
                )
                return ttl_s, HostTlsa(records, tuple(dict.fromkeys((place, host))))
        return ttl_s, None

    async def _places(self, host: str) -> list[str] | DnsProblem:
        """The names at which TLSA records of a host count: where its aliases lead to, then its own (RFC 7672 2.2.2)."""
        both = await asyncio.gather(self._question(host, dns.rdatatype.A), self._question(host, dns.rdatatype.AAAA))
        found = [each for each in both if not isinstance(each, DnsProblem) and each.records is not None]
        found = [each for each in found if each.records is not None and each.records.rrset is not None]
        if not found:
            problems = [each for each in both if isinstance(each, DnsProblem)]
            return problems[0] if problems else []
        # One family's signed addresses do: many a zone proves badly that it has none of the other (RFC 7672 2.2.2).
        vouched = next((each for each in found if each.authentic), None)
        if vouched is not None:
            return list(dict.fromkeys((vouched.name, host)))
        if all(each.name == host for each in found):
            return []
        # An alias out of a signed zone into one that is not: the alias's own records still count.
        alias = await self._question(host, dns.rdatatype.CNAME)
        if isinstance(alias, DnsProblem):
            return alias
        return [host] if alias.authentic and alias.records is not None and alias.records.rrset is not None else []

    async def _question(self, name: str, kind: dns.rdatatype.RdataType) -> _Answer | DnsProblem:
        try:
            answer = await self._stub.resolve(f"{name}.", kind, raise_on_no_answer=False, search=False)
        except (
            dns.resolver.NXDOMAIN,
            dns.resolver.YXDOMAIN,
            dns.name.NameTooLong,
            dns.name.LabelTooLong,
            dns.name.EmptyLabel,
        ):
            return _Answer(False, None, name, NEGATIVE_TTL_S)
        except dns.exception.Timeout:
            return DnsProblem(DnsTrouble.UNAVAILABLE, f"no validating DNS server answered in time for {name}")
        except (dns.exception.DNSException, OSError) as error:
            return DnsProblem(DnsTrouble.UNAVAILABLE, f"DNSSEC: no authentic answer for {name}: {error}")
        ttl_s = NEGATIVE_TTL_S if answer.rrset is None else float(answer.rrset.ttl)
        canonical = answer.canonical_name.to_text(omit_final_dot=True).lower()
        return _Answer(bool(answer.response.flags & dns.flags.AD), answer, canonical, ttl_s)


def trusted_servers(named: str, dns_servers: Sequence[str]) -> tuple[str, ...]:
    """The resolvers whose AD bit counts, from SENDKIT_DNSSEC_RESOLVERS. Empty: none, so there is no DANE.

    named: `loopback`, `none`, or a comma list of servers.  dns_servers: SENDKIT_DNS_SERVERS, empty for the system's.
    loopback: those that delivery asks, if all of them are on this machine and none is known only to pass on what others
    say; with one elsewhere among them, an answer that is not authentic would mean nothing. ValueError: a name in the
    list is no address.
    """
    word = named.strip().lower()
    if word in ("", "none"):
        return ()
    if word != LOOPBACK:
        servers = tuple(part.strip() for part in named.split(",") if part.strip())
        for server in servers:
            parse_server(server)
        return servers
    servers = tuple(dns_servers) or _of_the_system()
    return servers if servers and all(_is_loopback(server) for server in servers) else ()


def _of_the_system() -> tuple[str, ...]:
    try:
        found = dns.resolver.Resolver(configure=True).nameservers
    except dns.resolver.NoResolverConfiguration:
        return ()
    return tuple(str(server) for server in found if isinstance(server, str))


def _is_loopback(server: str) -> bool:
    address = parse_server(server).address
    return ipaddress.ip_address(address).is_loopback and address not in FORWARDERS
