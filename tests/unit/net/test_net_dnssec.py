"""What a validating resolver vouches for, and what follows when it does not."""

from __future__ import annotations

import asyncio

import pytest
from sinks import DnsServer, Fault

from sendkit_server.net.dnssec import Dnssec, HostTlsa, trusted_servers
from sendkit_server.net.resolver import DnsProblem, Mx
from sendkit_server.wire.tlsa import Tlsa

RECORD = "3 1 1 " + "ab" * 32
PARSED = Tlsa(3, 1, 1, b"\xab" * 32)
ZONE = {
    "there.test": {"MX": ["10 mx.there.test."]},
    "mx.there.test": {"A": ["127.0.0.1"]},
    "_25._tcp.mx.there.test": {"TLSA": [RECORD]},
}


async def test_a_hosts_records_count_when_all_on_the_way_is_authentic():
    async with DnsServer(ZONE, authentic=ZONE) as dns:
        dnssec = Dnssec([dns.address])
        assert await dnssec.mail_hosts("there.test") == (Mx(10, "mx.there.test"),)
        assert await dnssec.tlsa("mx.there.test", 25) == HostTlsa((PARSED,), ("mx.there.test",))
        asked = len(dns.questions)
        await asyncio.gather(*(dnssec.tlsa("mx.there.test", 25) for _ in range(20)))
        assert len(dns.questions) == asked


@pytest.mark.parametrize("missing", [*ZONE])
async def test_one_answer_that_nobody_vouches_for_means_no_dane(missing):
    async with DnsServer(ZONE, authentic=set(ZONE) - {missing}) as dns:
        dnssec = Dnssec([dns.address])
        if missing == "there.test":
            assert await dnssec.mail_hosts("there.test") is None
        else:
            assert await dnssec.tlsa("mx.there.test", 25) is None


async def test_a_host_in_a_zone_that_is_not_signed_is_not_asked_about():
    async with DnsServer({**ZONE, "_25._tcp.mx.there.test": Fault.SERVFAIL}) as dns:
        assert await Dnssec([dns.address]).tlsa("mx.there.test", 25) is None
        assert ("_25._tcp.mx.there.test", "TLSA") not in dns.questions


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.SILENT])
@pytest.mark.parametrize("where", ["there.test", "mx.there.test", "_25._tcp.mx.there.test"])
async def test_an_answer_that_is_kept_back_is_not_taken_for_none(fault, where):
    async with DnsServer({**ZONE, where: fault}, authentic=ZONE) as dns:
        dnssec = Dnssec([dns.address], deadline_s=0.3)
        answer = await (dnssec.mail_hosts(where) if where == "there.test" else dnssec.tlsa("mx.there.test", 25))
        assert isinstance(answer, DnsProblem)


async def test_a_record_whose_digest_has_another_length_makes_the_answer_unreadable():
    zone = {**ZONE, "_25._tcp.mx.there.test": {"TLSA": [RECORD, "3 1 1 abcd"]}}
    async with DnsServer(zone, authentic=zone) as dns:
        assert isinstance(await Dnssec([dns.address], deadline_s=2.0).tlsa("mx.there.test", 25), DnsProblem)


async def test_a_host_without_records_has_none():
    zone = {"mx.there.test": {"AAAA": ["::1"]}, "a.test": {"TXT": ['"x"']}}
    async with DnsServer(zone, authentic=[*zone, "_25._tcp.mx.there.test"]) as dns:
        dnssec = Dnssec([dns.address])
        assert await dnssec.tlsa("mx.there.test", 25) is None
        assert await dnssec.tlsa("no.there.test", 25) is None
        assert await dnssec.tlsa("192.0.2.1", 25) is None
        assert await dnssec.mail_hosts("a.test") == (Mx(0, "a.test"),)
        assert await dnssec.mail_hosts("no.test") is None


async def test_one_signed_family_of_addresses_does():
    zone = {**ZONE, "mx.there.test": {"A": ["127.0.0.1"], "!": Fault.TRUNCATED}}
    async with DnsServer(zone, authentic=ZONE) as dns:
        assert await Dnssec([dns.address]).tlsa("mx.there.test", 25) == HostTlsa((PARSED,), ("mx.there.test",))


async def test_an_alias_is_followed_to_its_records_or_has_its_own():
    zone = {
        "mx.there.test": {"CNAME": ["real.else.test."]},
        "real.else.test": {"A": ["127.0.0.1"]},
        "_25._tcp.real.else.test": {"TLSA": [RECORD]},
    }
    async with DnsServer(zone, authentic=zone) as dns:
        found = await Dnssec([dns.address]).tlsa("mx.there.test", 25)
        assert found == HostTlsa((PARSED,), ("real.else.test", "mx.there.test"))
    own = {**zone, "_25._tcp.mx.there.test": {"TLSA": ["2 0 1 " + "cd" * 32]}}
    async with DnsServer(own, authentic=["mx.there.test", "_25._tcp.mx.there.test"]) as dns:
        found = await Dnssec([dns.address]).tlsa("mx.there.test", 25)
        assert found == HostTlsa((Tlsa(2, 0, 1, b"\xcd" * 32),), ("mx.there.test",))
    async with DnsServer(own) as dns:
        assert await Dnssec([dns.address]).tlsa("mx.there.test", 25) is None


@pytest.mark.parametrize(
    ("named", "dns_servers", "expected"),
    [
        ("none", ("127.0.0.1",), ()),
        ("", ("127.0.0.1",), ()),
        ("loopback", ("127.0.0.1:5353", "[::1]:53"), ("127.0.0.1:5353", "[::1]:53")),
        ("loopback", ("127.0.0.1", "192.0.2.1"), ()),
        ("loopback", ("127.0.0.11",), ()),
        ("127.0.0.11", ("127.0.0.1",), ("127.0.0.11",)),
        ("192.0.2.1, 127.0.0.1:54", ("127.0.0.1",), ("192.0.2.1", "127.0.0.1:54")),
    ],
)
def test_only_resolvers_that_are_named_or_on_this_machine_are_believed(named, dns_servers, expected):
    assert trusted_servers(named, dns_servers) == expected


def test_a_resolver_that_is_no_address_is_refused():
    with pytest.raises(ValueError, match=r"dns\.test"):
        trusted_servers("dns.test", ())
