"""Pebble, Let's Encrypt's own authority for tests of clients, as a process on loopback.

async with Pebble(tmp_path, dns=dns.address, http=port, tls=port) as pebble:
    …SENDKIT_ACME_DIRECTORY=pebble.directory, SENDKIT_CA_FILE=pebble.ca_file…
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import trustme

PROGRAM = shutil.which("pebble")
START_S = 20.0


class Pebble:
    """See above. http, tls: the ports where it looks for answers.  bindings: keys by their ids, of which accounts need one;
    none: they need none.  It refuses one good nonce in five."""

    def __init__(
        self, folder: Path, *, dns: str, http: int, tls: int, bindings: Mapping[str, str] | None = None
    ) -> None:
        self._folder, self._dns, self._http, self._tls = folder, dns, http, tls
        self._bindings = dict(bindings or {})
        self.ca_file = folder / "pebble-ca.pem"
        self._process: asyncio.subprocess.Process | None = None
        self._port, self._management = free_ports(2)

    async def __aenter__(self) -> Pebble:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        own = authority.issue_cert("localhost", "127.0.0.1")
        own.cert_chain_pems[0].write_to_path(self._folder / "pebble.pem")
        own.private_key_pem.write_to_path(self._folder / "pebble.key")
        settings = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(self._folder / "pebble.pem"),
            "privateKey": str(self._folder / "pebble.key"),
            "httpPort": self._http,
            "tlsPort": self._tls,
            "externalAccountBindingRequired": bool(self._bindings),
            "externalAccountMACKeys": self._bindings,
        }
        (self._folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        assert PROGRAM is not None
        self._process = await asyncio.create_subprocess_exec(
            PROGRAM, "-strict", "-config", str(self._folder / "pebble.json"), "-dnsserver", self._dns,
            env={**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20"},
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(START_S):
            while not await asyncio.to_thread(self._answers):
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    @property
    def directory(self) -> str:
        """As SENDKIT_ACME_DIRECTORY takes it."""
        return f"https://localhost:{self._port}/dir"

    def root(self) -> str:
        """The root of what it signs, PEM; another one at each start."""
        return self._get("/roots/0")

    def _answers(self) -> bool:
        try:
            return bool(self.root())
        except OSError:
            return False

    def _get(self, path: str) -> str:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"https://localhost:{self._management}{path}", timeout=10) as reply:
            return str(reply.read().decode())


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, for programs that must be told one."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
