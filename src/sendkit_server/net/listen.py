"""Listening sockets, and who holds a port that is taken."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

TRIES_FOR_FREE_PORT = 100


class PortTaken(Exception):
    """Somebody else listens there; the message names who, if the kernel tells, and the setting that moves us."""


def listen(host: str, port: int, setting: str, *, next_free: bool = False) -> socket.socket:
    """A bound, not yet listening TCP socket. next_free: take one of the following ports instead of failing."""
    last: OSError | None = None
    for candidate in range(port, min(port + (TRIES_FOR_FREE_PORT if next_free and port else 1), 65536)):
        try:
            return _bound(host, candidate)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise PortTaken(f"cannot listen on {host}:{port} ({setting}): {error.strerror or error}") from error
            last = error
    assert last is not None
    if last.errno == errno.EACCES:
        raise PortTaken(
            f"no permission to listen on {host}:{port}: ports below 1024 need root or CAP_NET_BIND_SERVICE; set {setting}"
        ) from last
    raise PortTaken(
        f"cannot listen on {host}:{port}: {holder(port) or 'another process'} holds it; set {setting} to another address"
    ) from last


def _bound(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    # With the protocol's number: asyncio turns Nagle off only for a socket that has it, and then for all it accepts.
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        # Linux lets two sockets with SO_REUSEADDR bind one port and refuses only the second listen.
        sock.listen(1)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def holder(port: int) -> str | None:
    """`name (pid N)` of who listens on a TCP port here; None when the kernel does not tell us."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        if any(_target(link) in inodes for link in _children(process / "fd")):
            return f"{_name(process)} (pid {process.name})"
    return None


def _children(directory: Path) -> list[Path]:
    """A process's open files; none for one that is not ours or has ended."""
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{columns[9]}]")
    return found


def can_bind(address: str) -> bool:
    """Whether this machine has the address, to connect from."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True


def source_addresses() -> tuple[str, ...]:
    """The addresses that this machine would send from: asked of the routing table, no packet leaves."""
    found = []
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((target, 25))
                found.append(str(sock.getsockname()[0]))
        except OSError:
            continue
    return tuple(address for address in found if not address.startswith(("127.", "::1", "fe80")))
