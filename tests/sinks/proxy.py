"""What a proxy sends first: a PROXY header of version 2."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, ip_address

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def proxy_header(source: str, *, command: int = 1, more: bytes = b"") -> bytes:
    """For a TCP connection from an address. command: 1 PROXY, 0 LOCAL.  more: TLVs."""
    client = ip_address(source)
    is_v4 = isinstance(client, IPv4Address)
    ours = ip_address("127.0.0.1" if is_v4 else "::1")
    rest = client.packed + ours.packed + struct.pack("!HH", 40_000, 25) + more
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, 0x11 if is_v4 else 0x21, len(rest)) + rest
