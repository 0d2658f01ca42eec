"""Names to mail hosts and addresses (RFC 5321 5.1, RFC 7505), with a bounded cache and one question at a time a name.

What is not there is an answer, too: a domain that does not exist or takes no mail is told apart from a server that
could not be asked, because the first ends a mail and the second only delays it. dnspython does the asking: it retries
over TCP when an answer was cut, drops answers to other questions, and follows at most 16 CNAMEs within an answer.

Because it ends a mail, "there is nothing" needs two witnesses where there are two: of several DNS servers another one
must say the same, each asked for itself. One that knows better is believed; one that has failed is no witness.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TypeAlias, TypeVar, cast

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.rdtypes.ANY.MX
import dns.resolver
import dns.reversename
import msgspec

MAX_MX = 50
MAX_ADDRESSES = 5  # a try; two families mixed
CACHE_ENTRIES = 20_000
MIN_TTL_S = 5.0  # TTL 0 must not make each mail ask again
MAX_TTL_S = 3600.0
NEGATIVE_TTL_S = 60.0
TROUBLE_TTL_S = 5.0  # a server that failed just now is not asked again for each waiting mail
DEADLINE_S = 15.0  # a question as a whole, all servers and repetitions
WITNESS_DEADLINE_S = 5.0  # of one server alone


class DnsTrouble(StrEnum):
    """no_domain: NXDOMAIN.  null_mx: it says that it takes no mail.  no_address: it exists, without what was asked.
    unavailable: nobody answered, or only with errors."""

    NO_DOMAIN = "no_such_domain"
    NULL_MX = "null_mx"
    NO_ADDRESS = "no_address"
    UNAVAILABLE = "dns_unavailable"


class DnsProblem(msgspec.Struct, frozen=True):
    """Why a name led nowhere. text: a sentence for people."""

    trouble: DnsTrouble
    text: str


class Mx(msgspec.Struct, frozen=True, order=True):
    """One mail host; the lowest preference goes first."""

    preference: int
    host: str


MailHosts: TypeAlias = tuple[Mx, ...]
T = TypeVar("T")


class Resolver:
    """Asks the given servers (`address`, `address:port`, `[v6]:port`), or the system's when there are none."""

    def __init__(
        self, servers: Sequence[str] = (), *, deadline_s: float = DEADLINE_S, clock: Callable[[], float] | None = None
    ) -> None:
        self._stub = dns.asyncresolver.Resolver(configure=not servers)
        if servers:
            self._stub.nameservers = [parse_server(server) for server in dict.fromkeys(servers)]
        _limit(self._stub, deadline_s)
        self._witnesses = [_stub_of(server, min(deadline_s, WITNESS_DEADLINE_S)) for server in self._stub.nameservers]
        self._clock = clock
        self._cache: OrderedDict[tuple[str, str], tuple[float, object]] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Task[object]] = {}

    async def mail_hosts(self, domain: str) -> MailHosts | DnsProblem:
        """The hosts that take a domain's mail, best first; the domain itself when it names none (implicit MX)."""
        return await self._cached("MX", domain, self._ask_mail_hosts)

    async def addresses(self, host: str) -> tuple[str, ...] | DnsProblem:
        """A host's addresses, IPv6 and IPv4 alternating."""
        return await self._cached("A", host, lambda name: self._ask_addresses(name, self._stub))

    async def host_addresses(self, host: str) -> tuple[str, ...] | DnsProblem:
        """As addresses(), for a host that an operator or a URL names: it may be an address, or localhost, which is no
        question for DNS (RFC 6761 6.3)."""
        if host == "localhost":
            return ("127.0.0.1", "::1")
        try:
            return (str(ipaddress.ip_address(host)),)
        except ValueError:
            return await self.addresses(host)

    async def texts(self, name: str) -> tuple[str, ...] | DnsProblem:
        """A name's TXT records, the strings of each joined (RFC 7208 3.3); none is an empty answer. Asked anew each time."""
        answer = await self._question(name, dns.rdatatype.TXT, self._stub)
        if isinstance(answer, DnsProblem):
            return answer
        return tuple(b"".join(record.strings).decode("utf-8", "replace") for record in answer.rrset or ())

    async def exchanges(self, name: str) -> tuple[Mx, ...] | DnsProblem:
        """A name's MX records as they stand, a null MX with the host ""; none is an empty answer. Asked anew each time."""
        answer = await self._question(name, dns.rdatatype.MX, self._stub)
        if isinstance(answer, DnsProblem):
            return answer
        found = (Mx(each.preference, each.exchange.to_text(omit_final_dot=True).lower()) for each in answer.rrset or ())
        return tuple(sorted(msgspec.structs.replace(mx, host=mx.host.strip(".")) for mx in found))

    async def alias(self, name: str) -> str | DnsProblem | None:
        """What a name's CNAME leads to, None when it has none. Asked anew each time."""
        answer = await self._question(name, dns.rdatatype.CNAME, self._stub)
        if isinstance(answer, DnsProblem):
            return answer
        found = [record.target.to_text(omit_final_dot=True).lower() for record in answer.rrset or ()]
        return found[0] if found else None

    async def pointers(self, address: str) -> tuple[str, ...] | DnsProblem:
        """The names that an address's reverse zone gives (RFC 1035 3.5). Asked anew each time."""
        name = dns.reversename.from_address(address).to_text(omit_final_dot=True)
        answer = await self._question(name, dns.rdatatype.PTR, self._stub)
        if isinstance(answer, DnsProblem):
            return answer
        return tuple(record.target.to_text(omit_final_dot=True).lower() for record in answer.rrset or ())

    def known_mail_hosts(self, domain: str) -> MailHosts | DnsProblem | None:
        """What `mail_hosts` would answer at once from the cache; None when it would have to ask."""
        found = self._cache.get(("MX", domain))
        if found is None or found[0] <= self._now():
            return None
        return cast("MailHosts | DnsProblem", found[1])

    async def _cached(
        self, kind: str, name: str, ask: Callable[[str], Awaitable[tuple[float, T | DnsProblem]]]
    ) -> T | DnsProblem:
        key = (kind, name)
        found = self._cache.get(key)
        if found is not None and found[0] > self._now():
            return cast("T | DnsProblem", found[1])
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, ask))
        # Shielded: whoever gives up waiting does not take the answer from the others.
        return cast("T | DnsProblem", await asyncio.shield(task))

    async def _ask(self, key: tuple[str, str], ask: Callable[[str], Awaitable[tuple[float, T | DnsProblem]]]) -> object:
        try:
            ttl_s, answer = await ask(key[1])
        finally:
            del self._asking[key]
        self._cache[key] = (self._now() + min(max(ttl_s, MIN_TTL_S), MAX_TTL_S), answer)
        self._cache.move_to_end(key)
        if len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return answer

    async def _ask_mail_hosts(self, domain: str) -> tuple[float, MailHosts | DnsProblem]:
        ttl_s, found = await self._mail_hosts_by(self._stub, domain)
        if len(self._witnesses) < 2 or not isinstance(found, DnsProblem) or found.trouble is DnsTrouble.UNAVAILABLE:
            return ttl_s, found
        return await self._confirmed(domain, found)

    async def _confirmed(self, domain: str, problem: DnsProblem) -> tuple[float, MailHosts | DnsProblem]:
        """What the DNS servers say one by one, until one knows mail hosts or two agree that there are none."""
        said: Counter[DnsTrouble] = Counter()
        for witness in self._witnesses:
            ttl_s, found = await self._mail_hosts_by(witness, domain)
            if not isinstance(found, DnsProblem):
                return ttl_s, found
            said[found.trouble] += 1
            if said[found.trouble] == 2 and found.trouble is not DnsTrouble.UNAVAILABLE:
                return ttl_s, found
        text = f"{problem.text}, says one DNS server, and no other one confirms it"
        return TROUBLE_TTL_S, DnsProblem(DnsTrouble.UNAVAILABLE, text)

    async def _mail_hosts_by(
        self, stub: dns.asyncresolver.Resolver, domain: str
    ) -> tuple[float, MailHosts | DnsProblem]:
        answer = await self._question(domain, dns.rdatatype.MX, stub)
        if isinstance(answer, DnsProblem):
            return _ttl(answer), answer
        if answer.rrset is None:
            # A witness answers for itself; what is in the cache may be another one's word.
            is_witness = stub is not self._stub
            addresses = (await self._ask_addresses(domain, stub))[1] if is_witness else await self.addresses(domain)
            if isinstance(addresses, DnsProblem):
                return _ttl(addresses), addresses
            return NEGATIVE_TTL_S, (Mx(0, domain),)
        return answer.rrset.ttl, mail_hosts_of(domain, list(answer.rrset))

    async def _ask_addresses(
        self, host: str, stub: dns.asyncresolver.Resolver
    ) -> tuple[float, tuple[str, ...] | DnsProblem]:
        kinds = dns.rdatatype.AAAA, dns.rdatatype.A
        v6, v4 = await asyncio.gather(*(self._question(host, kind, stub) for kind in kinds))
        found = [answer for answer in (v6, v4) if not isinstance(answer, DnsProblem) and answer.rrset is not None]
        if found:
            lists = [[str(record) for record in answer.rrset or ()] for answer in found]
            return min(answer.rrset.ttl for answer in found if answer.rrset is not None), interleaved(lists)
        problems = [answer for answer in (v6, v4) if isinstance(answer, DnsProblem)]
        # One of the two being out of reach, the other's "there is none" is not the whole answer.
        worst = max(problems, key=lambda problem: problem.trouble is DnsTrouble.UNAVAILABLE, default=None)
        problem = worst or DnsProblem(DnsTrouble.NO_ADDRESS, f"{host} has no address")
        return _ttl(problem), problem

    async def _question(
        self, name: str, kind: dns.rdatatype.RdataType, stub: dns.asyncresolver.Resolver
    ) -> dns.resolver.Answer | DnsProblem:
        try:
            return await stub.resolve(f"{name}.", kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return DnsProblem(DnsTrouble.NO_DOMAIN, f"the domain {name} does not exist")
        except (dns.resolver.YXDOMAIN, dns.name.NameTooLong, dns.name.LabelTooLong, dns.name.EmptyLabel):
            return DnsProblem(DnsTrouble.NO_DOMAIN, f"{name} is no domain name")
        except dns.exception.Timeout:
            return DnsProblem(DnsTrouble.UNAVAILABLE, f"no DNS server answered in time for {name}")
        except (dns.exception.DNSException, OSError) as error:
            return DnsProblem(DnsTrouble.UNAVAILABLE, f"DNS gave no usable answer for {name}: {error}")

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()


def _stub_of(server: str | dns.nameserver.Nameserver, deadline_s: float) -> dns.asyncresolver.Resolver:
    """Asks one server alone."""
    stub = dns.asyncresolver.Resolver(configure=False)
    stub.nameservers = [server]
    _limit(stub, deadline_s)
    return stub


def _limit(stub: dns.asyncresolver.Resolver, deadline_s: float) -> None:
    stub.lifetime = deadline_s
    stub.timeout = min(deadline_s, 3.0)
    stub.use_edns(0, 0, 1232)


def mail_hosts_of(domain: str, records: Sequence[object]) -> MailHosts | DnsProblem:
    """MX records in order, the first MAX_MX of them. A null MX beside others is a mistake and ignored (RFC 7505 3)."""
    found = sorted(
        Mx(record.preference, record.exchange.to_text(omit_final_dot=True).lower())
        for record in records
        if isinstance(record, dns.rdtypes.ANY.MX.MX) and record.exchange != dns.name.root
    )
    if not found:
        return DnsProblem(DnsTrouble.NULL_MX, f"{domain} says that it takes no mail (null MX)")
    return tuple(found[:MAX_MX])


def in_order(hosts: MailHosts, random: Callable[[], float]) -> list[str]:
    """Host names by preference, shuffled within equals so that they share the load (RFC 5321 5.1)."""
    keyed = [(mx.preference, random(), mx.host) for mx in hosts]
    return list(dict.fromkeys(host for _, _, host in sorted(keyed)))


def interleaved(lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """One from each list in turn, so that a dead family costs no more than every second try."""
    longest = max(map(len, lists), default=0)
    return tuple([each[i] for i in range(longest) for each in lists if i < len(each)])


def parse_server(text: str) -> dns.nameserver.Do53Nameserver:
    """`192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1` or `[2001:db8::1]:5353`. ValueError otherwise."""
    address, port = text.strip(), "53"
    if address.startswith("["):
        address, closed, rest = address[1:].partition("]")
        if not closed:
            raise ValueError(f"'[' without ']' in {text!r}")
        port = rest.removeprefix(":") or "53"
    elif address.count(":") == 1:
        address, _, port = address.partition(":")
    ipaddress.ip_address(address)
    return dns.nameserver.Do53Nameserver(address, int(port))


def _ttl(problem: DnsProblem) -> float:
    return TROUBLE_TTL_S if problem.trouble is DnsTrouble.UNAVAILABLE else NEGATIVE_TTL_S
