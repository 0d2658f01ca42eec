"""Who is at the other end of a connection, by address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address


def peer_address(host: str) -> IPv4Address | IPv6Address | None:
    """A peer's address as sockets tell it, without its zone (RFC 4007 11); None when it is none. An IPv4 peer of an IPv6
    socket is that IPv4 address (RFC 4291 2.5.5.2)."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def address_group(host: str) -> str:
    """What counts as one client: an IPv4 address, an IPv6 /64, for nobody owns less; the text itself when it is no address."""
    address = peer_address(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return host if address is None else str(address)
