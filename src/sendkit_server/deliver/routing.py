"""Which route a mail takes: chains, alternatives by weight, named routes, and rules by domain or stream.

route = "direct, smarthost://user:pass@relay.example:587"      a chain: the next when the one before cannot connect
route = "own*9 | new*1, relay"                                 of ten mails nine begin with `own`

[routes.own]                                                   a route with a name
kind = "direct"
addresses = ["192.0.2.10", { ip = "192.0.2.11", ehlo = "mx2.example.com", warm_up = 2026-11-20 }]

[[routing]]                                                    the first rule that fits decides, else `route`
domain = "news.example.com"
stream = "broadcast"
route = "own"
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec

from sendkit_server.deliver.route import (
    STARTTLS_PORT,
    TLS_PORT,
    WARM_UP_CAPS,
    Capture,
    Direct,
    Hosted,
    Route,
    Smarthost,
    Source,
    WarmUp,
)
from sendkit_server.model.address import AddressError, ascii_domain
from sendkit_server.model.mail import STREAM
from sendkit_server.wire.providers import PROVIDERS, Provider
from sendkit_server.wire.smtp_client import Login

BUILT_IN = ("direct", "capture")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_WEIGHTED = re.compile(r"(?P<name>[^*|\s]+)\s*(?:\*\s*(?P<weight>[0-9]{1,6}))?")

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]


class Choice(msgspec.Struct, frozen=True):
    """One of the alternatives of a step."""

    route: Route
    weight: int = 1


Step: TypeAlias = tuple[Choice, ...]
Chain: TypeAlias = tuple[Step, ...]


class Rule(msgspec.Struct, frozen=True):
    """Mail that takes a chain of its own. Empty: any.  domains: of From.  to: of the recipient.

    `*.example.com` stands for every name below example.com, not for itself.
    """

    chain: Chain
    domains: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()

    def fits(self, domain: str, to: str, stream: str) -> bool:
        """Whether it is meant for such a mail."""
        return (
            (not self.streams or stream in self.streams)
            and (not self.domains or _is_among(domain, self.domains))
            and (not self.to or _is_among(to, self.to))
        )


class Routing(msgspec.Struct, frozen=True):
    """All of it. The first rule that fits decides."""

    default: Chain
    rules: tuple[Rule, ...] = ()

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The default first."""
        return (self.default, *(rule.chain for rule in self.rules))

    @property
    def routes(self) -> tuple[Route, ...]:
        """Each route that any mail may take, once, in the order in which they are named."""
        return tuple(dict.fromkeys(choice.route for chain in self.chains for step in chain for choice in step))


def chain_of(*routes: Route) -> Chain:
    """One route after the other."""
    return tuple((Choice(route),) for route in routes)


def parse_routing(route: str, named: Mapping[str, Any], rules: Sequence[Any]) -> Routing:
    """From the settings `route`, `routes` and `routing`. ValueError says what is wrong and where, without secrets."""
    routes = {name: _named_route(name, table) for name, table in named.items()}
    default = parse_chain(route, routes)
    return Routing(default, tuple(_rule(f"routing[{n}]", table, routes) for n, table in enumerate(rules)))


def parse_chain(text: str, named: Mapping[str, Route]) -> Chain:
    """`direct`, `capture`, `smarthost://user:pass@host:port`, `smarthosts://…` or names, comma between; `a*3 | b` by weight.

    User and password are percent-decoded (a comma in them is `%2C`, a bar `%7C`).
    """
    chain = tuple(_step(part.strip(), named) for part in text.split(",") if part.strip())
    if not chain:
        raise ValueError("no route: say direct, capture, smarthost://user:pass@host:port, or a name of [routes.NAME]")
    if any(isinstance(choice.route, Capture) for step in chain[:-1] for choice in step):
        raise ValueError("nothing can follow 'capture' in a route chain: it takes every mail")
    return chain


def _step(text: str, named: Mapping[str, Route]) -> Step:
    choices = tuple(_choice(part.strip(), named) for part in text.split("|"))
    if len({choice.route for choice in choices}) < len(choices):
        raise ValueError(f"'{_shown(text)}' names a route twice")
    return choices


def _choice(text: str, named: Mapping[str, Route]) -> Choice:
    if "://" in text:
        return Choice(_smarthost(text, "smarthost"))
    found = _WEIGHTED.fullmatch(text)
    if found is None:
        raise ValueError(f"cannot read '{_shown(text)}': give a route's name, or NAME*WEIGHT | NAME*WEIGHT")
    name, weight = found["name"], int(found["weight"] or 1)
    if weight < 1:
        raise ValueError(f"the weight of '{name}' must be at least 1")
    if name in named:
        return Choice(named[name], weight)
    if name == "direct":
        return Choice(Direct(), weight)
    if name == "capture":
        return Choice(Capture(), weight)
    known = ", ".join([*BUILT_IN, "smarthost://", "smarthosts://", *sorted(named)])
    raise ValueError(f"unknown route '{name[:40]}': known are {known}")


def _smarthost(text: str, name: str, source: Source | None = None) -> Smarthost:
    scheme = text.partition("://")[0]
    if scheme not in ("smarthost", "smarthosts"):
        raise ValueError(
            f"unknown route '{scheme[:40]}://': known are direct, capture, smarthost://, smarthosts:// and names of [routes.NAME]"
        )
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ValueError(f"the {scheme}:// route has no valid host and port: {error}") from None
    if not host or url.path.strip("/") or url.query or url.fragment:
        raise ValueError(f"the {scheme}:// route must be {scheme}://user:pass@host:port")
    login = None
    if url.username is not None:
        if url.password is None:
            raise ValueError(f"the {scheme}:// route names a user without a password")
        login = Login(unquote(url.username), unquote(url.password))
    tls = scheme == "smarthosts"
    return Smarthost(host, port or (TLS_PORT if tls else STARTTLS_PORT), login, tls, name, source or Source())


# Named routes.


class _SourceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ip: str | tuple[str, ...]
    ehlo: str | None = None
    weight: Count = 1
    warm_up: date | None = None
    warm_up_caps: tuple[Count, ...] | None = None


class _DirectTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    ehlo: str | None = None
    addresses: tuple[str | _SourceTable, ...] = ()


class _SmarthostTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    url: str
    ehlo: str | None = None
    address: str | None = None


def _named_route(name: str, table: Any) -> Route:
    where = f"routes.{name}"
    if not _NAME.fullmatch(name) or name in (*BUILT_IN, "smarthost"):
        raise ValueError(
            f"[{where}]: a route's name is lower-case letters, digits, - and _, at most 32, and not direct, capture or smarthost"
        )
    kinds = ["direct", "smarthost", *sorted(PROVIDERS)]
    kind = table.get("kind") if isinstance(table, Mapping) else None
    if kind not in kinds:
        raise ValueError(f'[{where}] needs kind = "…", one of {", ".join(kinds)}')
    try:
        if kind == "direct":
            return _direct(name, msgspec.convert(table, _DirectTable, strict=False))
        if kind == "smarthost":
            return _named_smarthost(name, msgspec.convert(table, _SmarthostTable))
        members = {key: value for key, value in table.items() if key != "kind"}
        provider: Provider = msgspec.convert(members, PROVIDERS[kind])
        return Hosted(name, provider)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"[{where}]: {error}") from None


def _direct(name: str, table: _DirectTable) -> Direct:
    if table.ehlo is not None and not table.addresses:
        return Direct(name, (Source(ehlo=_ehlo(table.ehlo)),))
    sources = tuple(_source(each, table.ehlo) for each in table.addresses)
    addresses = [address for source in sources for address in source.addresses]
    if len(set(addresses)) < len(addresses):
        raise ValueError("an address stands twice in addresses")
    return Direct(name, sources or (Source(),))


def _named_smarthost(name: str, table: _SmarthostTable) -> Smarthost:
    addresses = () if table.address is None else _addresses(table.address)
    return _smarthost(table.url, name, Source(addresses, None if table.ehlo is None else _ehlo(table.ehlo)))


def _source(table: str | _SourceTable, ehlo: str | None) -> Source:
    if isinstance(table, str):
        table = _SourceTable(table)
    name = table.ehlo or ehlo
    warm_up = None
    if table.warm_up is not None:
        since = datetime(table.warm_up.year, table.warm_up.month, table.warm_up.day, tzinfo=UTC)
        warm_up = WarmUp(round(since.timestamp() * 1000), table.warm_up_caps or WARM_UP_CAPS)
    elif table.warm_up_caps is not None:
        raise ValueError("warm_up_caps needs warm_up, the first day, such as 2026-11-20")
    return Source(_addresses(table.ip), None if name is None else _ehlo(name), table.weight, warm_up)


def _addresses(text: str | Sequence[str]) -> tuple[str, ...]:
    texts = [text] if isinstance(text, str) else text
    found = [ipaddress.ip_address(each.strip()) for each in texts]
    if len({address.version for address in found}) < len(found) or not found:
        raise ValueError("ip is one IPv4 address, one IPv6 address, or a list of one of each")
    return tuple(str(address) for address in found)


def _ehlo(text: str) -> str:
    try:
        return ascii_domain(text)
    except AddressError as error:
        raise ValueError(f"ehlo = {text!r} is no host name: {error}") from None


# Rules.


class _RuleTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    route: str
    domain: str | tuple[str, ...] = ()
    to: str | tuple[str, ...] = ()
    stream: str | tuple[str, ...] = ()


def _rule(where: str, table: Any, named: Mapping[str, Route]) -> Rule:
    try:
        read = msgspec.convert(table, _RuleTable)
        if not (read.domain or read.to or read.stream):
            raise ValueError("a rule needs domain, to or stream; what is meant for all mail is the setting `route`")
        return Rule(
            parse_chain(read.route, named),
            tuple(_pattern(each) for each in _listed(read.domain)),
            tuple(_pattern(each) for each in _listed(read.to)),
            tuple(_stream(each) for each in _listed(read.stream)),
        )
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _stream(text: str) -> str:
    if not STREAM.fullmatch(text):
        raise ValueError(f'{text!r} is no stream: write it in lower case, such as stream = "broadcast"')
    return text


def _pattern(text: str) -> str:
    star = "*." if text.startswith("*.") else ""
    try:
        return star + ascii_domain(text.removeprefix("*."))
    except AddressError as error:
        raise ValueError(f"{text!r} is no domain: {error}") from None


def _is_among(domain: str, patterns: Sequence[str]) -> bool:
    return any(domain == each or (each[0] == "*" and domain.endswith(each[1:])) for each in patterns)


def _shown(text: str) -> str:
    """Without what may be a password."""
    return re.sub(r"//[^@/]*@", "//…@", text)[:60]
