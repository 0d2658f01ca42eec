"""Published records compared with ours: right, wrong, missing, and DNS that does not say."""

from __future__ import annotations

from typing import Any

import pytest
from sinks import DnsServer, Fault

from sendkit_server.manage.dns_checks import RecordCheck, Verdict, check_records
from sendkit_server.manage.domains import DnsNames, DnsRecord
from sendkit_server.net.resolver import Resolver
from sendkit_server.wire import dkim_keys

KEY = dkim_keys.public_record(dkim_keys.generate("rsa-sha256"))
OTHER = dkim_keys.public_record(dkim_keys.generate("rsa-sha256"))
NAMES = DnsNames("mail.a.test", ("ip4:192.0.2.1", "ip6:2001:db8::1"))
DKIM = DnsRecord("DKIM", "TXT", "sendkit._domainkey.a.test", KEY)
SPF = DnsRecord("SPF", "TXT", "send.a.test", "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 ~all")
MX = DnsRecord("MX", "MX", "send.a.test", "mail.a.test", priority=10)
TRACKING = DnsRecord("Tracking", "CNAME", "links.a.test", "mail.a.test")
DMARC = DnsRecord("DMARC", "TXT", "_dmarc.a.test", "v=DMARC1; p=none;")


def quoted(*texts: str) -> str:
    return " ".join(f'"{text}"' for text in texts)


async def check(record: DnsRecord, zone: dict[str, Any], names: DnsNames = NAMES) -> RecordCheck:
    async with DnsServer(zone) as dns:
        (found,) = await check_records(Resolver([dns.address], deadline_s=2.0), [record], names)
        return found


async def dkim(*texts: str) -> RecordCheck:
    return await check(DKIM, {DKIM.name: {"TXT": list(texts)}})


async def test_our_key_is_right_split_spread_and_in_any_order():
    key = KEY.partition("p=")[2]
    assert (await dkim(quoted(KEY[:250], KEY[250:]))).verdict is Verdict.OK
    assert (await dkim(quoted(f"p={key[:99]}", f" {key[99:250]}", f"{key[250:]} ; k=rsa"))).verdict is Verdict.OK
    assert (await dkim(quoted(KEY[:200], KEY[200:] + "; t=s; s=email; h=sha1:sha256; n=note"))).verdict is Verdict.OK
    # Something else at the same name, such as a wildcard record, is no key.
    assert (await dkim(quoted(KEY[:250], KEY[250:]), '"v=spf1 -all"')).verdict is Verdict.OK


async def test_a_cname_to_the_key_is_followed():
    zone = {DKIM.name: {"CNAME": ["key.b.test."]}, "key.b.test": {"TXT": [quoted(KEY[:250], KEY[250:])]}}
    assert (await check(DKIM, zone)).verdict is Verdict.OK


async def test_the_zone_line_that_we_print_is_what_we_take_for_right():
    assert (await dkim(DKIM.zone_line().partition(" TXT ")[2])).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([quoted(OTHER[:250], OTHER[250:])], "another key"),
        ([quoted(KEY[:250], KEY[250:].replace("k=rsa", ""))[:-40] + '"'], "cut short|no base64"),
        (['"v=DKIM1; k=rsa; p="'], "revoked"),
        (['"v=DKIM1; k=rsa"'], "no p="),
        (['"v=DKIM1; k=ed25519; p=abcd"'], "kind ed25519"),
        (['"v=DKIM2; p=abcd"'], "v=DKIM1 has to come first"),
        (['"v=DKIM1; h=sha1; p=abcd"'], "forbids sha256"),
        (['"v=DKIM1; s=other; p=abcd"'], "forbids email"),
        (['"v=DKIM1; p=!!!"'], "no base64"),
        ([r'"v=DKIM1\\; p=abcd"'], "backslashes"),
        (['"v=DKIM1; p"'], "cannot be read"),
        ([quoted(KEY[:250], KEY[250:]), quoted(OTHER[:250], OTHER[250:])], "2 keys are published"),
    ],
)  # fmt: skip
async def test_a_key_that_does_not_verify_is_wrong_and_says_why(texts: list[str], words: str):
    found = await dkim(*texts)
    assert found.verdict is Verdict.WRONG
    assert any(word in found.found for word in words.split("|")), found.found


@pytest.mark.parametrize("record", [DKIM, SPF, MX, DMARC], ids=lambda record: record.kind)
async def test_missing_is_told_from_trouble_with_dns(record: DnsRecord):
    assert (await check(record, {})).verdict is Verdict.MISSING
    assert (await check(record, {record.name: {"A": ["192.0.2.1"]}})).verdict is Verdict.MISSING
    assert (await check(record, {record.name: Fault.SERVFAIL})).verdict is Verdict.UNAVAILABLE
    assert (await check(record, {record.name: Fault.SILENT})).verdict is Verdict.UNAVAILABLE


@pytest.mark.parametrize(
    ("texts", "verdict"),
    [
        (['"v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 ~all"'], "ok"),
        (['"v=spf1 ip6:2001:db8::/32 include:b.test -all"'], "ok"),
        (['"v=spf1 ip4:192.0.2.1 ~all"'], "wrong"),
        (['"v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 ~all"', '"v=spf1 -all"'], "wrong"),
        (['"v=spf1 ip4:192.0.2.1000"'], "wrong"),
        (['"v=spf1 include:%{i}.b.test ip4:192.0.2.1 -all"'], "unavailable"),
        (['"something else"'], "missing"),
    ],
)
async def test_spf_has_to_let_every_address_of_ours_send(texts: list[str], verdict: str):
    zone = {"send.a.test": {"TXT": texts}, "b.test": {"TXT": ['"v=spf1 ip4:192.0.2.0/28 -all"']}}
    assert (await check(SPF, zone)).verdict == verdict


async def test_a_name_stands_for_its_addresses():
    names = DnsNames("mail.a.test", ("a:mail.a.test",))
    zone: dict[str, Any] = {
        "send.a.test": {"TXT": ['"v=spf1 ip4:192.0.2.1 -all"']},
        "mail.a.test": {"A": ["192.0.2.1"]},
    }
    assert (await check(SPF, zone, names)).verdict is Verdict.OK
    zone["mail.a.test"] = {"A": ["192.0.2.1", "192.0.2.2"]}
    assert (await check(SPF, zone, names)).verdict is Verdict.WRONG
    del zone["mail.a.test"]
    assert (await check(SPF, zone, names)).verdict is Verdict.UNAVAILABLE


@pytest.mark.parametrize(
    ("spf", "relay", "verdict"),
    [
        ("include:relay.test", {"TXT": ['"v=spf1 ip4:198.51.100.1 -all"']}, "ok"),
        ("include:b.test", {"TXT": ['"v=spf1 ip4:198.51.100.1 -all"']}, "ok"),
        ("ip4:198.51.100.7", {"TXT": ['"v=spf1 -all"'], "A": ["198.51.100.7"]}, "ok"),
        ("ip4:203.0.113.1", {"TXT": ['"v=spf1 ip4:198.51.100.1 -all"']}, "wrong"),
        ("include:relay.test", {"A": ["198.51.100.7"]}, "wrong"),
        ("include:c.test", {"A": ["198.51.100.7"]}, "ok"),
        ("ip4:203.0.113.1", {"A": ["198.51.100.7"]}, "wrong"),
        ("include:relay.test", Fault.SERVFAIL, "unavailable"),
    ],
)
async def test_a_relay_has_to_be_included(spf: str, relay: Any, verdict: str):
    zone = {
        "send.a.test": {"TXT": [f'"v=spf1 {spf} -all"']},
        "b.test": {"TXT": ['"v=spf1 include:relay.test -all"']},
        "c.test": {"TXT": ['"v=spf1 ip4:203.0.113.0/24 -all"']},
        "relay.test": relay,
    }
    assert (await check(SPF, zone, DnsNames("mail.a.test", ("include:relay.test",)))).verdict == verdict


@pytest.mark.parametrize(
    ("records", "verdict"),
    [
        (["10 MAIL.a.test."], "ok"),
        (["10 mail.a.test.", "20 backup.a.test."], "ok"),
        (["10 other.a.test.", "20 mail.a.test."], "wrong"),
        (["10 other.a.test.", "10 mail.a.test."], "wrong"),
        (["0 ."], "wrong"),
    ],
)
async def test_bounces_have_to_come_to_us_first(records: list[str], verdict: str):
    assert (await check(MX, {"send.a.test": {"MX": records}})).verdict == verdict


@pytest.mark.parametrize(
    ("zone", "verdict", "words"),
    [
        ({"_dmarc.a.test": {"TXT": ['"v=DMARC1; p=none;"']}}, "ok", "p=none, published at _dmarc.a.test"),
        ({"_dmarc.a.test": {"TXT": ['"v=DMARC1;p=reject;sp=none"']}}, "ok", "p=reject"),
        ({"_dmarc.test": {"TXT": ['"v=DMARC1; p=reject; sp=quarantine"']}}, "ok", "p=quarantine, published at _dmarc.test"),
        ({"_dmarc.test": {"TXT": ['"v=DMARC1; p=reject"']}}, "ok", "p=reject, published at _dmarc.test"),
        ({"_dmarc.a.test": {"TXT": ['"v=DMARC1; rua=mailto:x@a.test"']}}, "ok", "p=none"),
        ({"_dmarc.a.test": {"TXT": ['"v=DMARC1; p=none"', '"v=DMARC1; p=reject"']}}, "wrong", "2 DMARC records"),
        ({"_dmarc.a.test": {"TXT": ['"v=DMARC1; p=maybe"']}}, "wrong", "no p="),
        ({"_dmarc.a.test": {"TXT": ['"v=DMARC1; p=none; p=none"']}}, "wrong", "cannot be read"),
        ({"_dmarc.test": Fault.SERVFAIL}, "unavailable", "_dmarc.test"),
        ({"_dmarc.a.test": {"TXT": ['"v=spf1 -all"']}}, "missing", "neither a.test nor"),
    ],
)  # fmt: skip
async def test_any_valid_policy_will_do_also_an_inherited_one(zone: dict[str, Any], verdict: str, words: str):
    found = await check(DMARC, zone)
    assert found.verdict == verdict
    assert words in found.found


async def test_the_organizational_domain_is_where_the_walk_ends_or_where_psd_says():
    record = DnsRecord("DMARC", "TXT", "_dmarc.x.y.a.test", "")
    zone: dict[str, Any] = {
        "_dmarc.y.a.test": {"TXT": ['"v=DMARC1; p=none"']},
        "_dmarc.a.test": {"TXT": ['"v=DMARC1; p=reject"']},
    }
    assert "_dmarc.a.test" in (await check(record, zone)).found
    zone["_dmarc.y.a.test"] = {"TXT": ['"v=DMARC1; p=none; psd=n"']}
    assert "_dmarc.y.a.test" in (await check(record, zone)).found
    zone = {"_dmarc.a.test": {"TXT": ['"v=DMARC1; p=none"']}, "_dmarc.test": {"TXT": ['"v=DMARC1; p=reject; psd=y"']}}
    assert "_dmarc.a.test" in (await check(record, zone)).found


async def test_a_name_of_many_labels_costs_no_more_than_eight_questions():
    name = ".".join(f"l{n}" for n in range(30)) + ".test"
    async with DnsServer({}) as dns:
        record = DnsRecord("DMARC", "TXT", f"_dmarc.{name}", "")
        await check_records(Resolver([dns.address]), [record], NAMES)
        assert len(dns.questions) == 8


# The host of tracking links.

US = {"mail.a.test": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]}}


@pytest.mark.parametrize(
    ("links", "verdict", "words"),
    [
        ({"CNAME": ["mail.a.test."]}, Verdict.OK, "alias of mail.a.test"),
        ({"CNAME": ["MAIL.A.test."]}, Verdict.OK, "alias"),
        ({"A": ["192.0.2.1"]}, Verdict.OK, "as mail.a.test does"),
        ({"CNAME": ["edge.b.test."]}, Verdict.OK, "as mail.a.test does"),
        ({"CNAME": ["other.b.test."]}, Verdict.WRONG, "leads to other.b.test, not to mail.a.test"),
        ({"CNAME": ["nowhere.b.test."]}, Verdict.WRONG, "nowhere.b.test, which has no address"),
        ({"A": ["192.0.2.1", "192.0.2.9"]}, Verdict.WRONG, "192.0.2.9"),
        ({"TXT": [quoted("x")]}, Verdict.MISSING, "no address"),
        ({"CNAME": Fault.SERVFAIL}, Verdict.UNAVAILABLE, "links.a.test"),
    ],
)
async def test_the_tracking_host_has_to_lead_to_us(links: dict[str, Any], verdict: Verdict, words: str):
    others = {"edge.b.test": {"A": ["192.0.2.1"]}, "other.b.test": {"A": ["192.0.2.7"]}}
    found = await check(TRACKING, {**US, **others, TRACKING.name: links})
    assert (found.verdict, words in found.found) == (verdict, True), found.found
    assert (await check(TRACKING, US)).verdict is Verdict.MISSING


def test_where_we_have_only_an_address_the_record_names_it():
    assert DnsRecord("Tracking", "AAAA", "links.a.test", "2001:db8::1").zone_line().endswith(" IN AAAA 2001:db8::1")
    assert TRACKING.zone_line() == "links.a.test. 3600 IN CNAME mail.a.test."
