"""Whether what arrived carries signatures that strangers verify: dkimpy here, mailauth in Node, both asking the test's DNS."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Sequence

import dkim
from clients import node
from server import Server
from sinks import DnsServer


async def publish(server: Server, dns: DnsServer, domain: str = "sender.test") -> None:
    """Puts the domain's records into DNS as an operator would."""
    records = (await server.act("domains.show", name=domain))["records"]
    for record in records:
        if record["type"] == "TXT":
            pieces = [record["value"][at : at + 255] for at in range(0, len(record["value"]), 255)]
            dns.zone[record["name"]] = {"TXT": [" ".join(f'"{piece}"' for piece in pieces)]}


def answers_of(dns: DnsServer) -> Callable[..., bytes | None]:
    """The test's DNS as dkimpy asks it."""

    def txt(name: bytes, timeout: int = 5) -> bytes | None:
        records = dns.zone.get(name.decode().rstrip("."), {})
        texts = records.get("TXT", []) if isinstance(records, dict) else []
        return b"".join(piece.encode() for piece in texts[0].split('"')[1::2]) if texts else None

    return txt


def verified(raw: bytes, dns: DnsServer, signatures: int = 1) -> bool:
    """Whether dkimpy finds exactly this many signatures, all valid. Runs outside the loop's thread."""
    message = dkim.DKIM(raw)
    found = sum(name.lower() == b"dkim-signature" for name, _ in message.headers)
    return found == signatures and all(message.verify(number, dnsfunc=answers_of(dns)) for number in range(found))


async def verdicts(raws: Sequence[bytes], dns: DnsServer) -> list[list[str]]:
    """What mailauth says of each mail's signatures, in order: `rsa-sha256 pass`, …"""
    asked = {"dns": dns.address, "mails": [base64.b64encode(raw).decode() for raw in raws]}
    ran = await node("dkim.mjs", stdin=json.dumps(asked))
    assert ran.status == 0, ran.err
    answer: list[list[str]] = json.loads(ran.out)
    return answer


async def both_verify(raws: Sequence[bytes], dns: DnsServer, algorithms: Sequence[str] = ("rsa-sha256",)) -> None:
    """Fails unless dkimpy and mailauth find exactly these signatures on every mail, all valid."""
    assert raws
    for raw in raws:
        assert await asyncio.to_thread(verified, raw, dns, len(algorithms)), raw.decode("utf-8", "replace")
    wanted = sorted(f"{algorithm} pass" for algorithm in algorithms)
    assert [sorted(found) for found in await verdicts(raws, dns)] == [wanted] * len(raws)
