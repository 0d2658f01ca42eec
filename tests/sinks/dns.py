"""A DNS server on loopback (UDP and TCP on one port) that answers from a dictionary.

    zone = {"there.test": {"MX": ["10 mx.there.test."]}, "mx.there.test": {"A": ["127.0.0.1"]}}
    async with DnsServer(zone) as dns:
        resolver = Resolver([dns.address])

Whoever asks for it is told that the answers for the names in `authentic` are (the AD bit of a validating resolver).
A name that is not there does not exist. One with a CNAME is answered with the chain that begins there. A Fault in place of
the records, or of all of a name's types, is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import TypeAlias

from dnslib import QTYPE, RCODE, RR, DNSRecord

PATIENT_S = 20.0
"""What to give an answer that does come, however busy the machine is. Only where none comes, a test is brief."""


class Fault(Enum):
    """SERVFAIL; no answer at all; cut short over UDP; an answer to another question first, then the right one;
    a CNAME that leads back to itself."""

    SERVFAIL = "servfail"
    SILENT = "silent"
    TRUNCATED = "truncated"
    WRONG_ID = "wrong id"
    LOOP = "loop"


Records: TypeAlias = "Sequence[str] | Fault"
Zone: TypeAlias = "dict[str, dict[str, Sequence[str]] | Fault]"


class DnsServer:
    """See above. questions: (name, type) of each question, in order."""

    def __init__(
        self,
        zone: Mapping[str, Mapping[str, Sequence[str]] | Fault],
        *,
        ttl_s: int = 300,
        authentic: Iterable[str] = (),
    ) -> None:
        self.authentic = set(authentic)
        self.zone: dict[str, Mapping[str, Sequence[str]] | Fault] = dict(zone)
        self.ttl_s = ttl_s
        self.questions: list[tuple[str, str]] = []
        self.port = 0
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """As SENDKIT_DNS_SERVERS takes it."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> DnsServer:
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", 0)
        self.port = self._tcp.sockets[0].getsockname()[1]
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=("127.0.0.1", self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._udp is not None and self._tcp is not None
        self._udp.close()
        self._tcp.close()
        await self._tcp.wait_closed()

    def answers(self, data: bytes, *, udp: bool) -> list[bytes]:
        """The packets to answer a packet with."""
        question = DNSRecord.parse(data)
        name = str(question.q.qname).rstrip(".").lower()
        kind = _type_name(question.q.qtype)
        self.questions.append((name, kind))
        reply = question.reply()
        found = self.zone.get(name)
        records: Sequence[str] = []
        match found:
            case None:
                reply.header.rcode = RCODE.NXDOMAIN
            case Fault.SERVFAIL:
                reply.header.rcode = RCODE.SERVFAIL
            case Fault.SILENT:
                return []
            case Fault.LOOP:
                reply.add_answer(*RR.fromZone(f"{name}. {self.ttl_s} CNAME b.{name}."))
                reply.add_answer(*RR.fromZone(f"b.{name}. {self.ttl_s} CNAME {name}."))
            case Fault():
                raise ValueError(f"{found} needs records: put it under the type '!'")
            case _:
                owner = name
                while isinstance(found, Mapping) and "CNAME" in found and kind not in found:
                    alias = found["CNAME"][0]
                    reply.add_answer(*RR.fromZone(f"{owner}. {self.ttl_s} CNAME {alias}"))
                    owner = alias.rstrip(".")
                    found = self.zone.get(owner, {})
                records = found.get(kind, []) if isinstance(found, Mapping) else []
                for record in records:
                    reply.add_answer(*RR.fromZone(f"{owner}. {self.ttl_s} {kind} {record}"))
        wants_to_know = any(record.rtype == QTYPE.OPT and record.edns_do for record in question.ar)
        if wants_to_know and all(str(each).rstrip(".").lower() in self.authentic for each in _names(question, reply)):
            reply.header.ad = 1
        packet: bytes = reply.pack()
        fault = found.get("!") if isinstance(found, Mapping) else None
        if fault is Fault.TRUNCATED and udp and records:
            short = question.reply()
            short.header.tc = 1
            return [short.pack()]
        if fault is Fault.WRONG_ID and udp:
            return [bytes([packet[0] ^ 0xFF]) + packet[1:], packet]
        return [packet]

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while size := await reader.readexactly(2):
                data = await reader.readexactly(int.from_bytes(size, "big"))
                for packet in self.answers(data, udp=False):
                    writer.write(len(packet).to_bytes(2, "big") + packet)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        for packet in self._server.answers(data, udp=True):
            self._transport.sendto(packet, address)


def _names(question: DNSRecord, reply: DNSRecord) -> list[object]:
    return [question.q.qname, *(record.rname for record in reply.rr)]


def _type_name(number: int) -> str:
    return str(QTYPE[number])
