"""How this server looks from outside: its name, its addresses, port 25, blocklists, and where bounces arrive."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

import dns.reversename

from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.model.finding import Finding, FindingStatus
from sendkit_server.net.connect import Target, choose_targets, connect
from sendkit_server.net.greeting import Greeting, greeting
from sendkit_server.net.guard import Guard
from sendkit_server.net.probe import probe
from sendkit_server.net.resolver import MAX_ADDRESSES, DnsProblem, DnsTrouble, Resolver

CONNECT_S = 8.0
# Spamhaus and others: "your resolver, or your way of asking, is refused", which is no listing.
NAME_THE_HOST = "SENDKIT_HOSTNAME=mail.example.com, a name in DNS that leads to this server"
REFUSED = ipaddress.ip_network("127.255.255.0/24")
LISTED = ipaddress.ip_network("127.0.0.0/16")

OK, WARNING, ERROR, UNKNOWN = FindingStatus.OK, FindingStatus.WARNING, FindingStatus.ERROR, FindingStatus.UNKNOWN


async def look_at_hostname(around: Surroundings, resolver: Resolver) -> list[Finding]:
    """Whether the name that we greet with is one that receivers can look up."""
    host = around.names.hostname
    why = "Receivers look up the name that a server greets with, and distrust one that leads nowhere."
    if "." not in host:
        text = f"SENDKIT_HOSTNAME {host!r} is not a fully qualified name"
        return [Finding("hostname", ERROR, text, why, NAME_THE_HOST)]
    found = await resolver.addresses(host)
    if isinstance(found, DnsProblem):
        if found.trouble is DnsTrouble.UNAVAILABLE:
            return [_not_asked("hostname", found)]
        fix = _address_line(host, around.addresses)
        return [Finding("hostname", ERROR, f"SENDKIT_HOSTNAME: {found.text}", why, fix)]
    shown = f"{host} leads to {', '.join(found)}"
    if around.addresses and not set(around.addresses) & set(found):
        text = f"{shown}, and mail leaves from {', '.join(around.addresses)}"
        return [Finding("hostname", WARNING, text, why, _address_line(host, around.addresses))]
    return [Finding("hostname", OK, shown)]


async def sending_addresses(around: Surroundings, resolver: Resolver) -> tuple[str, ...]:
    """Those that are known, else (behind address translation) those of our name."""
    if around.addresses or not around.direct:
        return around.addresses
    found = await resolver.addresses(around.names.hostname)
    return () if isinstance(found, DnsProblem) else found


async def look_at_addresses(around: Surroundings, resolver: Resolver) -> list[Finding]:
    """Reverse names and blocklists of every address that mail leaves from."""
    if not around.direct:
        return []
    addresses = await sending_addresses(around, resolver)
    if not addresses:
        text = "the address that mail leaves from is not known"
        fix = "SENDKIT_SEND_ADDRESSES=192.0.2.1, the public address of this server"
        return [Finding("reverse_dns", UNKNOWN, text, "Reverse names and blocklists are not looked at.", fix)]
    looks = [look_at_reverse(address, around.names.hostname, resolver) for address in addresses]
    looks += [look_at_blocklist(address, zone, resolver) for address in addresses for zone in around.blocklists]
    return list(await asyncio.gather(*looks))


async def look_at_reverse(address: str, hostname: str, resolver: Resolver) -> Finding:
    """Whether an address has a name that leads back to it."""
    why = "Gmail, Outlook and others refuse mail from an address without a reverse name that leads back to it."
    fix = f"ask whoever gave you {address} (the hosting provider) for the reverse name {hostname}"
    names = await resolver.pointers(address)
    if isinstance(names, DnsProblem) and names.trouble is DnsTrouble.UNAVAILABLE:
        return _not_asked("reverse_dns", names, address)
    if isinstance(names, DnsProblem) or not names:
        return Finding("reverse_dns", ERROR, f"{address} has no reverse name", why, fix, subject=address)
    forward = [await resolver.addresses(name) for name in names[:MAX_ADDRESSES]]
    back = [name for name, found in zip(names, forward, strict=False) if _holds(found, address)]
    shown = ", ".join(names[:MAX_ADDRESSES])
    if not back:
        for found in forward:
            if isinstance(found, DnsProblem) and found.trouble is DnsTrouble.UNAVAILABLE:
                return _not_asked("reverse_dns", found, address)
        text = f"{address} is named {shown}, which does not lead back to it"
        line = f"{names[0]}. 3600 IN {'AAAA' if ':' in address else 'A'} {address}"
        return Finding("reverse_dns", ERROR, text, why, line, subject=address)
    note = "" if hostname in back else f"; SENDKIT_HOSTNAME is {hostname}"
    return Finding("reverse_dns", OK, f"{address} is named {back[0]}, which leads back to it{note}", subject=address)


async def look_at_blocklist(address: str, zone: str, resolver: Resolver) -> Finding:
    """Whether a blocklist holds an address (RFC 5782)."""
    subject = f"{address} {zone}"
    reverse = dns.reversename.from_address(address).to_text(omit_final_dot=True)
    name = f"{reverse.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{zone}"
    found = await resolver.addresses(name)
    if isinstance(found, DnsProblem):
        if found.trouble is DnsTrouble.UNAVAILABLE:
            return _not_asked("blocklist", found, subject)
        return await _not_listed(address, zone, resolver)
    codes = [ipaddress.ip_address(code) for code in found]
    if any(code in REFUSED for code in codes):
        text = f"{zone} does not answer this resolver ({', '.join(found)})"
        fix = "SENDKIT_DNS_SERVERS=127.0.0.1, with a resolver of your own instead of a public one"
        return Finding(
            "blocklist", UNKNOWN, text, "Many blocklists refuse large public resolvers.", fix, subject=subject
        )
    if not all(code in LISTED for code in codes):
        text = f"{zone} answers {', '.join(found)}, which is no listing"
        return Finding(
            "blocklist", UNKNOWN, text, "The resolver may answer for names that do not exist.", subject=subject
        )
    told = await resolver.texts(name)
    reason = "" if isinstance(told, DnsProblem) or not told else f": {told[0][:200]}"
    return Finding(
        "blocklist", ERROR, f"{zone} lists {address} ({', '.join(found)}){reason}",
        "Receivers that use this list refuse mail from the address.",
        f"see https://check.spamhaus.org/results?query={address}" if "spamhaus" in zone else f"ask {zone} to take it out",
        subject=subject,
    )  # fmt: skip


async def _not_listed(address: str, zone: str, resolver: Resolver) -> Finding:
    """A list that works lists at least its test address (RFC 5782 5); some resolvers deny everything below it."""
    subject = f"{address} {zone}"
    test = await resolver.addresses(f"2.0.0.127.{zone}")
    if isinstance(test, DnsProblem) and test.trouble is not DnsTrouble.UNAVAILABLE:
        text = f"{zone} lists nothing, not even its test address"
        fix = "SENDKIT_DNS_SERVERS=127.0.0.1, with a resolver of your own; or mend SENDKIT_BLOCKLISTS"
        return Finding("blocklist", UNKNOWN, text, "The resolver, or the list, does not work.", fix, subject=subject)
    return Finding("blocklist", OK, f"{zone} does not list {address}", subject=subject)


async def look_at_port_25(around: Surroundings, resolver: Resolver) -> list[Finding]:
    """Whether mail can leave at all: by port 25, or to the relays."""
    if around.relays:
        return list(
            await asyncio.gather(*(_look_at_relay(host, port, around, resolver) for host, port in around.relays))
        )
    if not around.direct:
        return [Finding("port_25", OK, "nothing leaves this server: SENDKIT_ROUTE=capture")]
    if not around.probe_domains:
        return [Finding("port_25", UNKNOWN, "not looked at: SENDKIT_PROBE_DOMAINS names no domain whose server to try")]
    tried = await probe(around.probe_domains, resolver, around.guard, around.mx_port, timeout_s=CONNECT_S)
    lines = "; ".join(tried.lines)
    if tried.reachable:
        return [Finding("port_25", OK, lines)]
    if tried.reachable is None:
        return [Finding("port_25", UNKNOWN, lines or "DNS named no mail host to connect to")]
    why = "Nothing can be delivered directly: other mail servers are reached on their port 25."
    fix = "ask the hosting provider to open outgoing port 25, or SENDKIT_ROUTE=smarthost://user:password@relay.example:587"
    return [Finding("port_25", ERROR, f"no mail server can be reached: {lines}", why, fix)]


async def _look_at_relay(host: str, port: int, around: Surroundings, resolver: Resolver) -> Finding:
    subject = f"{host}:{port}"
    targets = await _targets([host], port, resolver)
    if isinstance(targets, DnsProblem):
        if targets.trouble is DnsTrouble.UNAVAILABLE:
            return _not_asked("relay", targets, subject)
        return Finding("relay", ERROR, targets.text, "Nothing can leave.", "mend SENDKIT_ROUTE", subject=subject)
    # The operator has named the relay: it may be anywhere.
    anywhere = Guard((ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")))
    answer = (
        await greeting(targets, anywhere, deadline_s=CONNECT_S) if port != 465 else await _connected(targets, anywhere)
    )
    if answer.target is not None:
        refused = around.down().get(subject)
        if refused is None:
            return Finding("relay", OK, f"{subject} answers", subject=subject)
        text = f"{subject} answers, but no mail goes that way: {refused}"
        return Finding("relay", ERROR, text, "Nothing can leave.", "mend SENDKIT_ROUTE", subject=subject)
    text = "; ".join(answer.failures) or f"{subject} does not answer"
    return Finding("relay", ERROR, text, "Nothing can leave.", "mend SENDKIT_ROUTE, or the way there", subject=subject)


async def _connected(targets: Sequence[Target], guard: Guard) -> Greeting:
    """As greeting, of a server that begins with TLS and so says nothing by itself."""
    failures: list[str] = []
    found = await connect(
        asyncio.Protocol, targets, guard, deadline_s=CONNECT_S, on_failure=lambda each: failures.append(each.text)
    )
    return Greeting(None, None if found is None else found[1], tuple(failures))


async def look_at_inbound(name: str, around: Surroundings, resolver: Resolver, domain: str | None) -> Finding:
    """Whether mail for a return path at this name comes to us, as far as it can be seen from here."""
    why = "Bounces and complaints are sent there; without them dead addresses are written to again and again."
    hosts = await resolver.mail_hosts(name)
    if isinstance(hosts, DnsProblem) and hosts.trouble is DnsTrouble.UNAVAILABLE:
        return _not_asked("inbound", hosts, domain=domain)
    host = around.names.hostname
    line = f"{name}. 3600 IN MX 10 {host}." if "." in host else NAME_THE_HOST
    if isinstance(hosts, DnsProblem):
        return Finding("inbound", ERROR, hosts.text, why, line, domain)
    targets = await _targets([mx.host for mx in hosts], around.mx_port, resolver)
    if isinstance(targets, DnsProblem):
        if targets.trouble is DnsTrouble.UNAVAILABLE:
            return _not_asked("inbound", targets, domain=domain)
        return Finding("inbound", ERROR, targets.text, why, line, domain)
    answer = await greeting(targets, around.guard, deadline_s=CONNECT_S)
    if answer.line is None or answer.target is None:
        text = "; ".join(answer.failures) or f"{targets[0].host} takes the connection and says nothing"
        note = "" if around.serving else " (no server is running here)"
        fix = f"SENDKIT_INBOUND_BIND=0.0.0.0:{around.mx_port}, and let port {around.mx_port} through the firewall"
        return Finding("inbound", ERROR, f"nobody answers for {name}: {text}{note}", why, fix, domain)
    at = f"{answer.target.host} [{answer.target.address}]:{answer.target.port}"
    if _greets_as(answer.line, host):
        return Finding("inbound", OK, f"{name} leads to this server at {at}", domain=domain)
    text = f"another server answers for {name} at {at}: {answer.line[:100]!r}"
    fix = f"{line}  (or let that server hand bounces to `sendkit inbound`)"
    return Finding("inbound", WARNING, text, why, fix, domain)


def _greets_as(line: str, hostname: str) -> bool:
    """`220 name …`, or `220-name …` when more lines follow (RFC 5321 4.2)."""
    return line[:3] == "220" and line[3:4] in (" ", "-") and [hostname.lower()] == line[4:].lower().split()[:1]


async def _targets(hosts: Sequence[str], port: int, resolver: Resolver) -> list[Target] | DnsProblem:
    found = [await resolver.host_addresses(host) for host in hosts[:MAX_ADDRESSES]]
    targets = choose_targets(hosts, [() if isinstance(each, DnsProblem) else each for each in found], port)
    problems = [each for each in found if isinstance(each, DnsProblem)]
    return targets or max(problems, key=lambda problem: problem.trouble is DnsTrouble.UNAVAILABLE)


def _holds(found: tuple[str, ...] | DnsProblem, address: str) -> bool:
    return not isinstance(found, DnsProblem) and address in found


def _address_line(host: str, addresses: Sequence[str]) -> str:
    lines = [f"{host}. 3600 IN {'AAAA' if ':' in each else 'A'} {each}" for each in addresses]
    return "; ".join(lines) or f"an A record of {host} with the public address of this server"


def _not_asked(name: str, problem: DnsProblem, subject: str | None = None, domain: str | None = None) -> Finding:
    why = "It says nothing about how it stands: look again, or mend the resolver (SENDKIT_DNS_SERVERS)."
    return Finding(name, UNKNOWN, f"DNS could not be asked: {problem.text}", why, domain=domain, subject=subject)
