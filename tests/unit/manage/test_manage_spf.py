"""SPF as a receiver evaluates it, against a DNS server."""

from __future__ import annotations

from typing import Any

import pytest
from sinks import DnsServer, Fault

from sendkit_server.manage.spf import SpfResult, SpfVerdict, evaluate
from sendkit_server.net.resolver import Resolver

US = "192.0.2.1"


def spf(*terms: str) -> dict[str, list[str]]:
    return {"TXT": [f'"{" ".join(("v=spf1", *terms))}"']}


async def verdict(zone: dict[str, Any], address: str = US) -> SpfVerdict:
    async with DnsServer(zone) as dns:
        return await evaluate(Resolver([dns.address], deadline_s=1.5), "a.test", address)


@pytest.mark.parametrize(
    ("zone", "result"),
    [
        ({"a.test": spf("ip4:192.0.2.0/24", "-all")}, "pass"),
        ({"a.test": spf("ip4:192.0.2.2", "-all")}, "fail"),
        ({"a.test": spf("ip4:192.0.2.2", "~all")}, "softfail"),
        ({"a.test": spf("ip4:192.0.2.2", "?all")}, "neutral"),
        ({"a.test": spf("ip4:192.0.2.2")}, "neutral"),
        ({"a.test": spf("-ip4:192.0.2.1", "+all")}, "fail"),
        ({"a.test": {"TXT": ['"hello"']}}, "none"),
        ({}, "none"),
        ({"a.test": {"TXT": ['"v=spf1 ip4:192" ".0.2.1 -all"']}}, "pass"),
        ({"a.test": {**spf("a", "-all"), "A": [US]}}, "pass"),
        ({"a.test": {**spf("a/28", "-all"), "A": ["192.0.2.14"]}}, "pass"),
        ({"a.test": spf("a:b.test", "-all"), "b.test": {"A": ["192.0.2.9"]}}, "fail"),
        ({"a.test": spf("mx:b.test", "-all"), "b.test": {"MX": ["10 c.test."]}, "c.test": {"A": [US]}}, "pass"),
        ({"a.test": spf("include:b.test", "-all"), "b.test": spf("ip4:192.0.2.1", "-all")}, "pass"),
        ({"a.test": spf("include:b.test", "~all"), "b.test": spf("-all")}, "softfail"),
        ({"a.test": spf("include:b.test", "-all")}, "permerror"),
        ({"a.test": spf("redirect=b.test"), "b.test": spf("ip4:192.0.2.1", "-all")}, "pass"),
        ({"a.test": spf("redirect=b.test")}, "permerror"),
        ({"a.test": spf("-all", "redirect=b.test"), "b.test": spf("+all")}, "fail"),
        ({"a.test": spf("what:ever")}, "permerror"),
        ({"a.test": {"TXT": ['"v=spf1 -all"', '"v=spf1 +all"']}}, "permerror"),
        ({"a.test": spf("a:x.test", "a:y.test", "a:z.test", "+all")}, "permerror"),
        ({"a.test": spf("include:a.test", "+all")}, "permerror"),
        ({"a.test": spf("include:b.test", "+all"), "b.test": Fault.SERVFAIL}, "temperror"),
        ({"a.test": Fault.SILENT}, "temperror"),
        ({"a.test": spf("exists:%{i}.x.test", "-all")}, "unclear"),
        ({"a.test": spf("-include:%{d}.x.test", "+all")}, "unclear"),
        ({"a.test": spf("ptr", "ip4:192.0.2.1", "-all")}, "pass"),
        ({"a.test": spf("redirect=%{d}.x.test")}, "unclear"),
    ],
)  # fmt: skip
async def test_a_record_has_its_result(zone: dict[str, Any], result: str):
    assert (await verdict(zone)).result == result


async def test_ten_questions_may_be_asked_and_the_eleventh_ends_it():
    zone: dict[str, Any] = {f"n{n}.test": spf(f"include:n{n + 1}.test") for n in range(1, 12)}
    zone["n11.test"] = spf("ip4:192.0.2.1")
    zone["a.test"] = spf("include:n2.test")
    assert (await verdict(zone)).result is SpfResult.PASS
    zone["a.test"] = spf("include:n1.test")
    found = await verdict(zone)
    assert (found.result, found.text) == (SpfResult.PERMERROR, "it asks DNS more than 10 times")


async def test_an_mx_of_many_hosts_is_a_permerror():
    zone = {"a.test": {**spf("mx", "+all"), "MX": [f"10 h{n}.test." for n in range(11)]}}
    assert (await verdict(zone)).result is SpfResult.PERMERROR


async def test_ipv6_addresses_are_told_apart_by_their_own_prefixes():
    zone = {"a.test": {**spf("a//64", "-all"), "AAAA": ["2001:db8::1"], "A": [US]}}
    assert (await verdict(zone, "2001:db8::ffff")).result is SpfResult.PASS
    assert (await verdict(zone, "2001:db8:1::1")).result is SpfResult.FAIL
