"""Each look of the doctor, at a world that is well and at one that is not."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sinks import DnsServer, Fault, SmtpSink, own_addresses

from sendkit_server.manage import doctor_here, doctor_outside
from sendkit_server.manage.certificates import local_certificate
from sendkit_server.manage.dns_checks import Verdict
from sendkit_server.manage.doctor_domains import look_at_domain, report_lines
from sendkit_server.manage.domains import DnsNames, DnsRecord, Domain
from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.model.finding import Finding
from sendkit_server.net.resolver import Resolver
from sendkit_server.wire import dkim_keys

HOST = "mail.a.test"
US = "192.0.2.1"
NAMES = DnsNames(HOST, (f"ip4:{US}",))
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
WELL: dict[str, Any] = {
    HOST: {"A": [US]},
    "1.2.0.192.in-addr.arpa": {"PTR": [f"{HOST}."]},
    "2.0.0.127.list.test": {"A": ["127.0.0.2"]},
}


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer(dict(WELL)) as running:
        yield running


def resolver(dns: DnsServer) -> Resolver:
    return Resolver([dns.address], deadline_s=2.0)


def around(**changes: Any) -> Surroundings:
    return Surroundings(
        **{"names": NAMES, "addresses": (US,), "blocklists": ("list.test",), "allowed": LOOPBACK, **changes}
    )


def statuses(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(finding.name, str(finding.status)) for finding in findings]


async def hostname(dns: DnsServer, **changes: Any) -> Finding:
    (found,) = await doctor_outside.look_at_hostname(around(**changes), resolver(dns))
    return found


async def test_our_name_has_to_lead_to_where_mail_leaves_from(dns: DnsServer):
    assert (await hostname(dns)).status == "ok"
    elsewhere = await hostname(dns, addresses=("192.0.2.9",))
    assert (elsewhere.status, elsewhere.fix) == ("warning", f"{HOST}. 3600 IN A 192.0.2.9")
    short = await hostname(dns, names=DnsNames("mail", ()))
    assert (short.status, "fully qualified" in short.found) == ("error", True)
    assert (await hostname(dns, names=DnsNames("nowhere.a.test", ()))).status == "error"
    dns.zone[HOST] = Fault.SERVFAIL
    assert (await hostname(dns)).status == "unknown"


async def test_a_reverse_name_has_to_lead_back(dns: DnsServer):
    assert (await doctor_outside.look_at_reverse(US, HOST, resolver(dns))).status == "ok"
    other = await doctor_outside.look_at_reverse(US, "other.a.test", resolver(dns))
    assert (other.status, other.found.endswith("SENDKIT_HOSTNAME is other.a.test")) == ("ok", True)
    missing = await doctor_outside.look_at_reverse("192.0.2.9", HOST, resolver(dns))
    assert (missing.status, missing.subject, HOST in (missing.fix or "")) == ("error", "192.0.2.9", True)
    dns.zone[HOST] = {"A": ["192.0.2.8"]}
    astray = await doctor_outside.look_at_reverse(US, HOST, resolver(dns))
    assert (astray.status, astray.fix) == ("error", f"{HOST}. 3600 IN A {US}")
    dns.zone[HOST] = Fault.SERVFAIL
    assert (await doctor_outside.look_at_reverse(US, HOST, resolver(dns))).status == "unknown"
    dns.zone["1.2.0.192.in-addr.arpa"] = Fault.SERVFAIL
    assert (await doctor_outside.look_at_reverse(US, HOST, resolver(dns))).status == "unknown"


@pytest.mark.parametrize(
    ("records", "status", "words"),
    [
        (None, "ok", "does not list"),
        ({"A": ["127.0.0.2", "127.0.0.4"], "TXT": ['"https://list.test/why"']}, "error", "https://list.test/why"),
        ({"A": ["127.255.255.254"]}, "unknown", "does not answer this resolver"),
        ({"A": ["198.51.100.1"]}, "unknown", "no listing"),
        (Fault.SERVFAIL, "unknown", "could not be asked"),
    ],
)
async def test_a_blocklist_that_refuses_to_answer_lists_nobody(dns: DnsServer, records: Any, status: str, words: str):
    if records is not None:
        dns.zone["1.2.0.192.list.test"] = records
    found = await doctor_outside.look_at_blocklist(US, "list.test", resolver(dns))
    assert (found.status, words in found.found) == (status, True), found


async def test_a_blocklist_without_its_test_address_does_not_work(dns: DnsServer):
    del dns.zone["2.0.0.127.list.test"]
    found = await doctor_outside.look_at_blocklist(US, "list.test", resolver(dns))
    assert (found.status, "test address" in found.found) == ("unknown", True)


async def test_an_ipv6_address_is_looked_up_by_its_digits(dns: DnsServer):
    await doctor_outside.look_at_blocklist("2001:db8::1", "list.test", resolver(dns))
    assert dns.questions[0][0] == "1." + "0." * 23 + "8.b.d.0.1.0.0.2.list.test"


async def test_every_address_is_looked_at_and_ours_is_found_behind_translation(dns: DnsServer):
    found = await doctor_outside.look_at_addresses(around(addresses=()), resolver(dns))
    assert statuses(found) == [("reverse_dns", "ok"), ("blocklist", "ok")]
    found = await doctor_outside.look_at_addresses(around(addresses=(US, "192.0.2.9")), resolver(dns))
    assert statuses(found) == [
        ("reverse_dns", "ok"),
        ("reverse_dns", "error"),
        ("blocklist", "ok"),
        ("blocklist", "ok"),
    ]
    del dns.zone[HOST]
    found = await doctor_outside.look_at_addresses(around(addresses=()), resolver(dns))
    assert statuses(found) == [("reverse_dns", "unknown")]
    assert await doctor_outside.look_at_addresses(around(direct=False), resolver(dns)) == []


async def port_25(dns: DnsServer, **changes: Any) -> tuple[str, str]:
    (found,) = await doctor_outside.look_at_port_25(around(**changes), resolver(dns))
    return found.name, str(found.status)


async def test_port_25_is_tried_at_the_hosts_of_big_receivers(dns: DnsServer):
    async with SmtpSink(next(own_addresses())) as sink:
        dns.zone |= {"big.test": {"MX": ["10 mx.big.test."]}, "mx.big.test": {"A": [sink.host]}}
        asked: dict[str, Any] = {"probe_domains": ("big.test",), "mx_port": sink.port}
        assert await port_25(dns, **asked) == ("port_25", "ok")
    assert await port_25(dns, **asked) == ("port_25", "error")
    del dns.zone["big.test"]
    assert await port_25(dns, **asked) == ("port_25", "unknown")
    assert await port_25(dns) == ("port_25", "unknown")
    assert await port_25(dns, direct=False) == ("port_25", "ok")


async def test_a_relay_is_tried_instead(dns: DnsServer):
    async with SmtpSink(next(own_addresses())) as sink:
        assert await port_25(dns, relays=((sink.host, sink.port),), direct=False) == ("relay", "ok")
        refused = {f"{sink.host}:{sink.port}": "it said 535"}
        looked = around(relays=((sink.host, sink.port),), direct=False, down=lambda: refused)
        (found,) = await doctor_outside.look_at_port_25(looked, resolver(dns))
        assert found.status == "error" and found.found.endswith("but no mail goes that way: it said 535")
    assert await port_25(dns, relays=((sink.host, sink.port),), direct=False) == ("relay", "error")
    assert await port_25(dns, relays=(("relay.b.test", 587),), direct=False) == ("relay", "error")


async def inbound(dns: DnsServer, **changes: Any) -> Finding:
    return await doctor_outside.look_at_inbound("send.a.test", around(**changes), resolver(dns), "a.test")


@pytest.mark.parametrize(
    ("greeting", "status", "words"),
    [
        (f"220 {HOST} ESMTP", "ok", "leads to this server"),
        ("220-Mail.A.test hi\r\n220 there", "ok", "leads to this server"),
        ("220", "warning", "another server"),
        ("220 mx.other.test ESMTP", "warning", "another server"),
        (f"554 {HOST} no", "warning", "another server"),
        (b"", "error", "nobody answers"),
    ],
)
async def test_mail_for_the_return_path_has_to_come_to_us(
    dns: DnsServer, greeting: Any, status: str, words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor_outside, "CONNECT_S", 0.5)
    async with SmtpSink(next(own_addresses()), answers={"greeting": greeting}) as sink:
        dns.zone |= {"send.a.test": {"MX": [f"10 mx.{HOST}."]}, f"mx.{HOST}": {"A": [sink.host]}}
        found = await inbound(dns, mx_port=sink.port)
    assert (found.status, words in found.found) == (status, True), found


async def test_a_return_path_that_leads_nowhere_is_an_error(dns: DnsServer):
    assert (await inbound(dns)).status == "error"
    dns.zone["send.a.test"] = {"MX": ["10 nowhere.a.test."]}
    assert (await inbound(dns)).status == "error"
    dns.zone |= {"send.a.test": {"MX": ["10 in.a.test."]}, "in.a.test": {"A": ["10.0.0.1"]}}
    hidden = await inbound(dns)
    assert (hidden.status, "10.0.0.1" in hidden.found) == ("error", True)
    dns.zone["send.a.test"] = Fault.SERVFAIL
    assert (await inbound(dns)).status == "unknown"


async def test_without_a_name_the_cure_is_a_name_and_no_record_that_leads_to_nobody(dns: DnsServer):
    looked = around(names=DnsNames("localhost", (), ("rsa-sha256",)))
    found = await doctor_outside.look_at_inbound("localhost", looked, resolver(dns), None)
    assert (found.status, found.fix) == ("error", doctor_outside.NAME_THE_HOST)
    assert "SENDKIT_HOSTNAME=" in doctor_outside.NAME_THE_HOST


# Domains

KEY = dkim_keys.public_record(dkim_keys.generate("rsa-sha256"))
RECORDS = (
    DnsRecord("DKIM", "TXT", "sendkit._domainkey.a.test", KEY),
    DnsRecord("SPF", "TXT", "send.a.test", f"v=spf1 ip4:{US} ~all"),
    DnsRecord("MX", "MX", "send.a.test", HOST, priority=10),
    DnsRecord("DMARC", "TXT", "_dmarc.a.test", "v=DMARC1; p=none;"),
)


class Row:
    id = "dom_1"
    name = "a.test"
    return_path = "send"


def published(*kinds: str) -> dict[str, Any]:
    zone: dict[str, Any] = {}
    for record in RECORDS:
        if record.kind in kinds:
            zone.setdefault(record.name, {})[record.type] = [record.zone_line().partition(f" {record.type} ")[2]]
    return zone


async def look(dns: DnsServer, zone: dict[str, Any], *, spf: str = "", **changes: Any) -> dict[str, Finding]:
    """spf: what ours says instead."""
    dns.zone = {**WELL, **zone}
    records = [
        msgspec.structs.replace(each, value=spf or each.value) if each.kind == "SPF" else each for each in RECORDS
    ]
    domain = Domain(Row(), tuple(records))  # type: ignore[arg-type]
    _, findings = await look_at_domain(domain, around(**changes), resolver(dns))
    return {finding.name: finding for finding in findings}


async def test_a_domain_that_is_well_has_nothing_to_mend(dns: DnsServer):
    async with SmtpSink(next(own_addresses()), answers={"greeting": f"220 {HOST} ESMTP"}) as sink:
        zone = {**published("DKIM", "SPF", "MX", "DMARC"), HOST: {"A": [sink.host]}}
        found = await look(dns, zone, mx_port=sink.port)
        assert {name: str(each.status) for name, each in found.items()} == dict.fromkeys(
            ("dkim", "spf", "return_path", "dmarc", "alignment", "inbound"), "ok"
        )
        assert all(each.fix is None and each.domain == "a.test" for each in found.values())
        assert found["dmarc"].found.endswith("with rua=mailto:dmarc-reports@send.a.test receivers would report")
        zone["_dmarc.a.test"] = {"TXT": ['"v=DMARC1; p=none; rua=mailto:x@a.test"']}
        assert "rua" not in (await look(dns, zone, mx_port=sink.port))["dmarc"].found
        del zone["_dmarc.a.test"]
        assert (await look(dns, zone, mx_port=sink.port))["dmarc"].fix == report_lines("a.test", "send.a.test")[0]


async def test_what_is_missing_comes_with_the_line_to_publish(dns: DnsServer):
    found = await look(dns, {})
    assert {name: str(each.status) for name, each in found.items()} == {
        "dkim": "error", "spf": "error", "return_path": "error", "dmarc": "warning",
    }  # fmt: skip
    assert found["spf"].fix == f'send.a.test. 3600 IN TXT "v=spf1 ip4:{US} ~all"'
    assert found["return_path"].fix == f"send.a.test. 3600 IN MX 10 {HOST}."
    # Nobody could write to an address that leads nowhere.
    assert found["dmarc"].fix == '_dmarc.a.test. 3600 IN TXT "v=DMARC1; p=none;"'


async def test_a_relay_without_an_spf_record_is_let_send_by_its_addresses(dns: DnsServer):
    zone = {"one.test": {"TXT": ['"v=spf1 ip4:192.0.2.7 -all"']}, "two.test": {"A": ["192.0.2.8"]}}
    names = DnsNames(HOST, ("include:one.test", "include:two.test"))
    ours = "v=spf1 include:one.test include:two.test ~all"
    found = (await look(dns, zone, spf=ours, names=names))["spf"]
    assert found.fix == 'send.a.test. 3600 IN TXT "v=spf1 include:one.test a:two.test ~all"'
    zone["send.a.test"] = {"TXT": [found.fix.partition(" TXT ")[2]]}
    assert (await look(dns, zone, spf=ours, names=names))["spf"].status == "ok"
    zone["send.a.test"] = {"TXT": [f'"{ours}"']}
    assert (await look(dns, zone, spf=ours, names=names))["spf"].status == "error"


@pytest.mark.parametrize(
    ("kinds", "policy", "status"),
    [
        (("DKIM",), "v=DMARC1; p=reject", "ok"),
        (("SPF",), "v=DMARC1; p=reject", "warning"),
        (("SPF",), "v=DMARC1; p=reject; aspf=s", "error"),
        ((), "v=DMARC1; p=quarantine", "error"),
        ((), "v=DMARC1; p=none", "warning"),
    ],
)
async def test_alignment_is_what_dmarc_passes_by(dns: DnsServer, kinds: tuple[str, ...], policy: str, status: str):
    found = await look(dns, {**published(*kinds), "_dmarc.a.test": {"TXT": [f'"{policy}"']}})
    assert found["alignment"].status == status


async def test_what_could_not_be_asked_is_no_error(dns: DnsServer):
    found = await look(dns, {record.name: Fault.SERVFAIL for record in RECORDS})
    assert {str(each.status) for each in found.values()} == {"unknown"}
    assert Verdict.UNAVAILABLE not in [each.found for each in found.values()]


# The certificate

NOW = 1_764_028_800_000


def own_certificate(path: Path, *, days: int, name: str = HOST) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.fromtimestamp(NOW / 1000, datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=100))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("days", "name", "status"),
    [
        (90, HOST, "ok"),
        (90, "*.a.test", "ok"),
        (90, "other.test", "warning"),
        (5, HOST, "warning"),
        (-1, HOST, "error"),
    ],
)
async def test_a_certificate_is_for_our_name_and_has_time_left(tmp_path: Path, days: int, name: str, status: str):
    path = own_certificate(tmp_path / "cert.pem", days=days, name=name)
    (found,) = await doctor_here.look_at_certificate(around(certificate=path, own_authority=False), NOW)
    assert found.status == status


async def test_a_certificate_of_our_own_is_nothing_for_others(tmp_path: Path):
    path, _ = local_certificate(tmp_path, HOST, datetime.datetime.fromtimestamp(NOW / 1000, datetime.UTC))
    (found,) = await doctor_here.look_at_certificate(around(certificate=path), NOW)
    assert found.status == "ok"
    (found,) = await doctor_here.look_at_certificate(around(certificate=path, reachable=True), NOW)
    assert found.status == "warning"
    path.write_text("no certificate")
    (found,) = await doctor_here.look_at_certificate(around(certificate=path), NOW)
    assert found.status == "error"
    (found,) = await doctor_here.look_at_certificate(around(certificate=tmp_path / "none.pem"), NOW)
    assert found.status == "ok"
