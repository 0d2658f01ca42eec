"""Domains are verified, the doctor looks, receivers report: the real program against a DNS server of the test's."""

from __future__ import annotations

import asyncio
import gzip
import json
import smtplib
import time
from base64 import b64encode, encodebytes
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from server import MAIL, Server, until
from sinks import DnsServer, Fault, SmtpSink

HOST = "mail.sender.test"
REPORT = """<feedback><report_metadata><org_name>google.com</org_name><report_id>1</report_id><date_range><begin>{begin}</begin>
<end>{begin}</end></date_range></report_metadata><policy_published><domain>{domain}</domain><p>none</p></policy_published><record><row>
<source_ip>192.0.2.1</source_ip><count>12</count><policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf>
</policy_evaluated></row><identifiers><header_from>{domain}</header_from></identifiers></record></feedback>"""


def well(dns: DnsServer, sink: SmtpSink) -> None:
    """The server's own names, as they should be. Bounces lead to the sink, which greets as the server."""
    sink.answers["greeting"] = f"220 {HOST} ESMTP"
    dns.zone |= {
        HOST: {"A": [sink.host]},
        "2.0.0.127.list.test": {"A": ["127.0.0.2"]},
        f"{'.'.join(reversed(sink.host.split('.')))}.in-addr.arpa": {"PTR": [f"{HOST}."]},
    }


def publish(dns: DnsServer, records: list[dict[str, Any]], *leave_out: str) -> None:
    """A domain's records, from the lines that `domains dns` prints."""
    for record in records:
        if record["record_type"] not in leave_out:
            value = record["zone_line"].partition(f" {record['type']} ")[2]
            found = dns.zone.get(record["name"])
            kept = dict(found) if isinstance(found, Mapping) else {}
            dns.zone[record["name"]] = {**kept, record["type"]: [value]}


async def report(server: Server, *arguments: str) -> tuple[int, dict[tuple[str | None, str], dict[str, Any]]]:
    """`sendkit doctor --json`: exit status, and what it found by domain and name."""
    status, out, err = await server.command("doctor", "--json", *arguments)
    assert status in (0, 1), err
    found = json.loads(out)
    return status, {(finding["domain"], finding["name"]): finding for finding in found["findings"]}


def settings(sink: SmtpSink, **more: str) -> dict[str, str]:
    return {
        "SENDKIT_SEND_ADDRESSES": sink.host,
        "SENDKIT_PROBE_DOMAINS": "there.test",
        "SENDKIT_BLOCKLISTS": "list.test",
        **more,
    }


@pytest.mark.engine("sqlite")
async def test_a_domain_sends_once_its_published_records_are_seen(
    make_server: Callable[..., Server], dns: DnsServer, sink: SmtpSink
) -> None:
    well(dns, sink)
    server = await make_server(**settings(sink)).start()
    records = (await server.act("domains.add", name="sender.test", trust=False))["records"]
    key = str((await server.act("keys.create", name="k", permission="full", test=False))["token"])
    status, out, _ = await server.command("domains", "verify", "sender.test")
    assert (status, out.count("missing  "), "sender.test is pending." in out) == (1, 4, True)
    assert records[1]["zone_line"] in out
    assert (await server.call("POST", "/emails", key, MAIL)).status == 422
    publish(dns, records, "DMARC")
    status, out, _ = await server.command("domains", "verify", "sender.test")
    assert (status, out.splitlines()[-1]) == (0, "sender.test is verified.")
    message_id = await server.send(key)
    await server.settled(key, message_id, "delivered")
    assert sink.mails[-1].return_path.endswith("@send.sender.test")
    dns.zone = dict.fromkeys(dns.zone, Fault.SERVFAIL)
    status, out, _ = await server.command("domains", "verify", "sender.test")
    # The three that are required, and the sentence about it; nobody has a DMARC record.
    assert (status, out.count("unavailable")) == (0, 3 + 1)


async def test_the_api_verifies_as_well(server: Server, key: str, dns: DnsServer, sink: SmtpSink) -> None:
    well(dns, sink)
    added = await server.act("domains.add", name="other.test", trust=False)
    found = await server.call("POST", f"/domains/{added['id']}/verify", key)
    assert (found.status, found.json["status"], found.json["sending_enabled"]) == (200, "pending", False)
    publish(dns, added["records"])
    found = await server.call("POST", "/domains/other.test/verify", key)
    assert (found.json["status"], found.json["sending_enabled"]) == ("verified", True)
    assert {record["status"] for record in found.json["dns_records"]} == {"verified"}
    dns.zone["send.other.test"] = {"TXT": ['"v=spf1 -all"'], "MX": [f"10 {HOST}."]}
    found = await server.call("POST", "/domains/other.test/verify", key)
    statuses = {record["record_type"]: record["status"] for record in found.json["dns_records"]}
    assert (found.json["status"], statuses["SPF"], statuses["MX"]) == ("failed", "failed", "verified")
    assert (await server.call("POST", "/domains/nobody.test/verify", key)).status == 404
    reader = str((await server.act("keys.create", name="k", permission="read", test=False))["token"])
    assert (await server.call("POST", "/domains/other.test/verify", reader)).status == 401


@pytest.mark.engine("sqlite")
async def test_the_doctor_finds_everything_well_and_then_what_is_not(
    make_server: Callable[..., Server], dns: DnsServer, sink: SmtpSink
) -> None:
    well(dns, sink)
    server = await make_server(**settings(sink)).start()
    records = (await server.act("domains.add", name="sender.test", trust=False))["records"]
    publish(dns, records)
    status, found = await report(server)
    assert (status, {finding["status"] for finding in found.values()}) == (0, {"ok"}), found
    assert {name for domain, name in found if domain is None} == {
        "database", "secret_key", "disk", "clock", "queue", "certificate", "hostname", "reverse_dns", "blocklist", "port_25", "inbound",
    }  # fmt: skip
    # What works is proposed from then on.
    _, out, _ = await server.command("domains", "dns", "sender.test")
    assert '; _dmarc.sender.test. 3600 IN TXT "v=DMARC1; p=none; rua=mailto:dmarc-reports@send.sender.test"' in out
    publish(
        dns, [{**record, "zone_line": 'x TXT "v=DKIM1; p="'} for record in records if record["record_type"] == "DKIM"]
    )
    status, found = await report(server, "sender.test")
    dkim = found["sender.test", "dkim"]
    assert (status, dkim["status"], dkim["fix"]) == (1, "error", records[0]["zone_line"])
    ready = (await server.call("GET", "/ready")).json
    assert [warning["name"] for warning in ready["warnings"]] == ["doctor_dkim"]
    metrics = (await server.call("GET", "/metrics")).raw.decode()
    assert 'sendkit_doctor_findings{status="error"} 1.0' in metrics
    assert [line["name"] for line in changes(server)] == ["dkim", "alignment"]


@pytest.mark.engine("sqlite")
async def test_the_doctor_looks_without_a_server_and_in_words(
    make_server: Callable[..., Server], dns: DnsServer, sink: SmtpSink
) -> None:
    server = make_server(**settings(sink, SENDKIT_HOSTNAME="mail"))
    status, out, err = await server.command("doctor")
    assert (status, err) == (1, "")
    assert out.startswith("this server, which is not running\n")
    assert "  error    hostname     SENDKIT_HOSTNAME 'mail' is not a fully qualified name\n" in out
    assert "\x1b" not in out
    status, out, err = await server.command("doctor", "nobody.test")
    assert (status, out) == (2, "")
    assert err == "Error: there is no domain nobody.test; add it with `sendkit domains add nobody.test`\n"
    server.settings["SENDKIT_MX_PORT"] = "no"
    assert (await server.command("doctor"))[0] == 2


async def test_the_server_looks_by_itself_and_tells_each_change_once(
    make_server: Callable[..., Server], dns: DnsServer, sink: SmtpSink
) -> None:
    well(dns, sink)
    server = await make_server(**settings(sink, SENDKIT_DOCTOR_INTERVAL="100ms")).start()
    records = (await server.act("domains.add", name="sender.test", trust=False))["records"]
    publish(dns, records)
    await until(lambda: '"domain.status"' in server.log)
    assert (await server.act("domains.show", name="sender.test"))["status"] == "verified"
    dns.zone["send.sender.test"] = {"MX": [f"10 {HOST}."]}
    await until(lambda: changes(server, "spf"))
    asked = dns.questions.count(("send.sender.test", "MX"))
    await until(lambda: dns.questions.count(("send.sender.test", "MX")) > asked + 2)
    publish(dns, records)
    await until(lambda: len(changes(server, "spf")) > 1)
    first, second = changes(server, "spf")
    assert (first["domain"], first["from"], first["to"], first["fix"]) == (
        "sender.test",
        "ok",
        "error",
        records[1]["zone_line"],
    )
    assert (second["from"], second["to"], second["fix"]) == ("error", "ok", None)
    # A record that went for a while has not stopped the domain.
    assert '"status": "failed"' not in server.log


def changes(server: Server, name: str | None = None) -> list[dict[str, Any]]:
    """What the log says has changed, of one thing or of all."""
    lines = [json.loads(line) for line in server.log.splitlines() if '"doctor.changed"' in line]
    return [line for line in lines if line["name"] == (name or line["name"]) and line["from"] is not None]


def report_mail(begin: int, domain: str) -> bytes:
    data = encodebytes(gzip.compress(REPORT.format(begin=begin, domain=domain).encode())).replace(b"\n", b"\r\n")
    return b"Subject: Report\r\nContent-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n" + data


async def test_receivers_reports_come_by_mail(server: Server, key: str) -> None:
    begin = int(time.time()) - 86_400

    def bring(raw: bytes) -> None:
        with smtplib.SMTP("127.0.0.1", server.port("Bounces and complaints"), timeout=20) as client:
            client.sendmail("noreply@google.com", ["DMARC-Reports@send.sender.test"], raw)

    raw = report_mail(begin, "sender.test")
    await asyncio.to_thread(bring, raw)
    await asyncio.to_thread(bring, raw)
    await asyncio.to_thread(bring, report_mail(begin, "foreign.test"))
    # As a mail server's pipe hands it over.
    piped = await server.act("inbound.take", locals=["tls-reports"], raw=b64encode(raw).decode())
    assert piped == {"result": "repeated", "final": True}
    metrics = (await server.call("GET", "/metrics")).raw.decode()
    for kind, count in (("reported", 1), ("repeated", 2), ("nobody", 1)):
        assert f'sendkit_inbound_total{{kind="{kind}"}} {count}.0' in metrics
    (summary,) = (await server.act("reports.list", domain=None, days=7))["data"]
    assert (summary["domain"], summary["mails"], summary["passed"], summary["spf"]) == ("sender.test", 12, 12, 0)
    _, out, _ = await server.command("reports", "sender.test", "--days", "7")
    assert "DMARC: 1 reports, 12 mails, 12 passed (100.0%), 0 quarantined or rejected" in out
