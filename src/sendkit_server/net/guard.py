"""Which addresses may be connected to.

Names come from strangers (recipients' domains, webhook URLs), so an address is judged right before the connection to
it is made, and the connection goes to the judged address, never to the name again (DNS rebinding). Allowed is global
unicast, judged by what an address finally reaches: an IPv4 address inside an IPv6 one is unwrapped first. Everything
else needs to stand in SENDKIT_ALLOW_PRIVATE_NETWORKS; our own listeners are refused even then, a mail would loop.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

import msgspec

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# IPv6 prefixes whose last 32 bits are the IPv4 address that is finally reached.
_WRAPPING = (
    ip_network("::ffff:0:0/96"),  # IPv4-mapped, RFC 4291 2.5.5.2
    ip_network("::ffff:0:0:0/96"),  # IPv4-translated, RFC 2765
    ip_network("64:ff9b::/96"),  # NAT64, RFC 6052
    ip_network("::/96"),  # IPv4-compatible, RFC 4291 2.5.5.1, long deprecated; holds :: and ::1 as well
)
_6TO4 = ip_network("2002::/16")  # RFC 3056: the IPv4 address follows the prefix
_ISATAP_INTERFACE_IDS = (0x00005EFE, 0x02005EFE)  # RFC 5214 6.1
# What the standard library calls global though no mail server lives there.
_NOT_UNICAST = (
    ip_network("192.88.99.0/24"),  # 6to4 relay anycast, RFC 7526
    ip_network("192.0.0.0/24"),  # IETF protocol assignments, RFC 6890
    ip_network("64:ff9b:1::/48"),  # local-use NAT64, RFC 8215
    ip_network("fec0::/10"),  # site-local, RFC 3879
    ip_network("5f00::/16"),  # segment routing SIDs, RFC 9602
    ip_network("3fff::/20"),  # documentation, RFC 9637
)


class Guard(msgspec.Struct, frozen=True):
    """allowed: networks the operator vouches for.  own: our own listeners as (address, port), numeric."""

    allowed: tuple[Network, ...] = ()
    own: frozenset[tuple[str, int]] = frozenset()

    def refusal(self, address: str, port: int) -> str | None:
        """Why nothing may connect to this numeric address and port; None when it may. ValueError: not an address."""
        wanted = ip_address(address)
        reached = embedded(wanted)
        forms = (wanted,) if reached is None else (wanted, reached)
        if any((str(form), port) in self.own for form in forms):
            return f"{address} port {port} is this server itself"
        if any(form in network for form in forms for network in self.allowed):
            return None
        # A wrapping prefix says nothing of its own: only what it wraps is judged.
        judged = (reached,) if reached is not None and is_wrapping(wanted) else forms
        return next((reason for form in judged if (reason := _kind(form))), None)


def is_wrapping(address: Address) -> bool:
    """Whether an IPv6 address is nothing but another spelling of an IPv4 address."""
    return address in _6TO4 or any(address in network for network in _WRAPPING)


def embedded(address: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped, compatible, translated, NAT64, 6to4 or ISATAP."""
    if isinstance(address, IPv4Address):
        return None
    number = int(address)
    if address in _6TO4:
        return IPv4Address((number >> 80) & 0xFFFFFFFF)
    is_isatap = (number >> 32) & 0xFFFFFFFF in _ISATAP_INTERFACE_IDS
    if number > 1 and (is_isatap or is_wrapping(address)):
        return IPv4Address(number & 0xFFFFFFFF)
    return None


def _kind(address: Address) -> str | None:
    """What is wrong with an address in words; None for global unicast."""
    for name, wrong in (
        ("the unspecified address", address.is_unspecified),
        ("a loopback address", address.is_loopback),
        ("a multicast address", address.is_multicast),
        ("a link-local address", address.is_link_local),
        ("a reserved address", address.is_reserved),
        ("a special-purpose address", any(address in network for network in _NOT_UNICAST)),
        ("a private or special-purpose address", not address.is_global),
    ):
        if wrong:
            return f"{address} is {name}"
    return None
