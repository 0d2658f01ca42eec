"""Receivers' reports, as big receivers write them, and what only looks like one."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from base64 import encodebytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendkit_server.wire.compressed import CannotOpen, pieces
from sendkit_server.wire.dmarc_report import (
    MAX_KEPT,
    MAX_RECORDS,
    MAX_XML_BYTES,
    DmarcReport,
    DmarcRow,
    NotAReport,
    merged,
    read_dmarc_report,
)
from sendkit_server.wire.report_mail import MAX_MAIL_BYTES, read_report_mail
from sendkit_server.wire.tls_report import TlsFailure, TlsReport, read_tls_report

RECORD = """<record><row><source_ip>192.0.2.1</source_ip><count>3</count><policy_evaluated><disposition>none</disposition>
<dkim>pass</dkim><spf>fail</spf></policy_evaluated></row><identifiers><header_from>a.test</header_from></identifiers>
<auth_results><dkim><domain>a.test</domain><result>pass</result><selector>sendkit</selector></dkim>
<spf><domain>send.a.test</domain><result>fail</result></spf></auth_results></record>"""
# Plain, no namespace, one record a line of figures.
GOOGLE = f"""<?xml version="1.0" encoding="UTF-8" ?>
<feedback><report_metadata><org_name>google.com</org_name><email>noreply-dmarc-support@google.com</email>
<extra_contact_info>https://support.google.com/a/answer/2466580</extra_contact_info><report_id>11223344556677889900</report_id>
<date_range><begin>1763942400</begin><end>1764028799</end></date_range></report_metadata>
<policy_published><domain>a.test</domain><adkim>r</adkim><aspf>r</aspf><p>none</p><sp>none</sp><pct>100</pct><np>none</np></policy_published>
{RECORD}</feedback>"""
# With schema attributes, a version, envelope names, and the reason why the policy was not obeyed.
MICROSOFT = """<?xml version="1.0"?>
<feedback xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><version>1.0</version>
<report_metadata><org_name>Outlook.com</org_name><email>dmarcreport@microsoft.com</email><report_id>aabbccdd00112233</report_id>
<date_range><begin>1763942400</begin><end>1764028800</end></date_range></report_metadata>
<policy_published><domain>a.test</domain><adkim>r</adkim><aspf>r</aspf><p>reject</p><sp>reject</sp><pct>100</pct><fo>0</fo></policy_published>
<record><row><source_ip>2001:DB8:0::1</source_ip><count>1</count><policy_evaluated><disposition>none</disposition><dkim>fail</dkim><spf>fail</spf>
<reason><type>local_policy</type><comment>arc=pass</comment></reason></policy_evaluated></row>
<identifiers><envelope_to>hotmail.com</envelope_to><envelope_from>list.test</envelope_from><header_from>News.A.test</header_from></identifiers>
<auth_results><spf><domain>list.test</domain><scope>mfrom</scope><result>pass</result></spf></auth_results></record></feedback>"""
# In a namespace, as RFC 7489 has it, with a comment and an unknown element.
YAHOO = GOOGLE.replace("<feedback>", '<feedback xmlns="http://dmarc.org/dmarc-xml/0.1">').replace(
    "<report_metadata>", "<!-- hi --><new_thing><deep>x</deep></new_thing><report_metadata>", 1
)
TLS = {
    "organization-name": "Google Inc.",
    "date-range": {"start-datetime": "2025-11-24T00:00:00Z", "end-datetime": "2025-11-24T23:59:59Z"},
    "contact-info": "smtp-tls-reporting@google.com",
    "report-id": "2025-11-24T00:00:00Z_send.a.test",
    "policies": [
        {
            "policy": {"policy-type": "sts", "policy-string": ["version: STSv1"], "policy-domain": "send.A.test", "mx-host": ["mail.a.test"]},
            "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 3},
            "failure-details": [
                {
                    "result-type": "certificate-expired",
                    "sending-mta-ip": "2001:db8::a",
                    "receiving-mx-hostname": "mail.a.test",
                    "receiving-ip": "192.0.2.1",
                    "failed-session-count": 3,
                    "failure-reason-code": "X509_V_ERR_CERT_HAS_EXPIRED",
                }
            ],
        }
    ],
}  # fmt: skip


def zipped(text: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("google.com!a.test!1!2.xml", text)
    return made.getvalue()


def mail(data: bytes, media_type: str, name: str = "report.xml") -> bytes:
    text = encodebytes(data).decode().replace("\n", "\r\n")
    return (
        "From: noreply@receiver.test\r\nTo: dmarc-reports@send.a.test\r\nSubject: Report domain: a.test\r\n"
        'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nA report.\r\n'
        f'--b\r\nContent-Type: {media_type}; name="{name}"\r\nContent-Disposition: attachment; filename="{name}"\r\n'
        f"Content-Transfer-Encoding: base64\r\n\r\n{text}\r\n--b--\r\n"
    ).encode()


def dmarc(text: str | bytes) -> DmarcReport:
    return read_dmarc_report([text.encode() if isinstance(text, str) else text])


def why(raw: bytes) -> str:
    found = read_report_mail(raw)
    assert found.report is None
    return found.why


def test_a_report_is_read_as_google_microsoft_and_yahoo_write_it():
    google = dmarc(GOOGLE)
    assert google == DmarcReport(
        "google.com", "11223344556677889900", 1763942400000, 1764028799000, "a.test", "none",
        (DmarcRow("192.0.2.1", 3, "none", True, False, "a.test"),), "noreply-dmarc-support@google.com",
    )  # fmt: skip
    assert dmarc(YAHOO).rows == google.rows
    microsoft = dmarc(MICROSOFT)
    assert microsoft.rows == (DmarcRow("2001:db8::1", 1, "none", False, False, "news.a.test", "local_policy"),)
    assert microsoft.policy == "reject"
    assert dmarc(MICROSOFT.encode("utf-16")).rows == microsoft.rows


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (gzip.compress(GOOGLE.encode()), "application/gzip"),
        (gzip.compress(GOOGLE.encode()), "application/octet-stream"),
        (zipped(GOOGLE), "application/zip"),
        (zipped(GOOGLE, zipfile.ZIP_STORED), "application/x-zip-compressed"),
        (GOOGLE.encode(), "text/xml"),
        (GOOGLE.encode(), "application/xml"),
        (GOOGLE.encode(), "application/octet-stream"),
    ],
    ids=range(7),
)
def test_every_packing_is_opened(data: bytes, media_type: str):
    assert read_report_mail(mail(data, media_type)).report == dmarc(GOOGLE)


def test_a_mail_that_is_nothing_but_the_report_is_read():
    data = encodebytes(zipped(GOOGLE)).decode()
    raw = f"Subject: Report\nContent-Type: application/zip\nContent-Transfer-Encoding: base64\n\n{data}"
    assert read_report_mail(raw.encode()).report == dmarc(GOOGLE)


@pytest.mark.parametrize("media_type", ["application/tlsrpt+gzip", "application/tlsrpt+json"])
def test_a_tls_report_is_read(media_type: str):
    raw = json.dumps(TLS).encode()
    found = read_report_mail(mail(gzip.compress(raw) if "gzip" in media_type else raw, media_type)).report
    assert isinstance(found, TlsReport)
    (policy,) = found.policies
    assert (found.organization, policy.domain, policy.succeeded, policy.failed) == (
        "Google Inc.",
        "send.a.test",
        5326,
        3,
    )
    assert policy.failures == (
        TlsFailure("certificate-expired", 3, "mail.a.test", "2001:db8::a", "192.0.2.1", "X509_V_ERR_CERT_HAS_EXPIRED"),
    )


BOMB = '<!DOCTYPE f [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (GOOGLE.replace("<feedback>", BOMB + "<feedback>"), "document type"),
        (GOOGLE.replace("<feedback>", '<!DOCTYPE f SYSTEM "http://b.test/x.dtd"><feedback>'), "document type"),
        (GOOGLE.replace("google.com", "&undefined;"), "cannot be read"),
        (GOOGLE.replace(RECORD, "<record>" * 20), "deeper"),
        (GOOGLE.replace(RECORD, RECORD * (MAX_RECORDS + 1)), f"more than {MAX_RECORDS} records"),
        (GOOGLE.replace("192.0.2.1", "not an address"), "no address"),
        (GOOGLE.replace("<count>3", "<count>-3"), "no number"),
        (GOOGLE.replace("<count>3", "<count>" + "9" * 5000), "no number"),
        (GOOGLE.replace("1763942400", "9" * 19), "no number"),
        (GOOGLE.replace("1763942400", "1764028800"), "time range"),
        (GOOGLE.replace("1763942400", "0"), "time range"),
        (GOOGLE.replace("<report_id>11223344556677889900</report_id>", ""), "no report_id"),
        (GOOGLE.replace("<domain>a.test</domain><adkim>", "<domain> </domain><adkim>"), "no domain"),
        ("<html><body>hi</body></html>", "not a <feedback>"),
        (GOOGLE[:-5], "cannot be read"),
        ('<?xml version="1.0" encoding="nothing"?><feedback/>', "cannot be read"),
        ('<?xml version="1.0" encoding="shift_jis"?><feedback/>', "cannot be read"),
        ("", "cannot be read"),
        ("<feedback " + " ".join(f'a{n}=""' for n in range(100_000)) + "/>", "a tag that is longer"),
    ],
    ids=range(19),
)  # fmt: skip
def test_hostile_xml_is_refused(xml: str, words: str):
    assert words in why(mail(gzip.compress(xml.encode(), 1), "application/gzip"))


def test_a_long_text_is_cut_and_not_kept():
    found = dmarc(GOOGLE.replace("google.com</org_name>", "x" * 5_000_000 + "</org_name>"))
    assert len(found.organization) <= 255


@pytest.mark.parametrize(
    "change",
    [{"report-id": ""}, {"date-range": None}, {"policies": [{"policy": {}, "summary": {"total-failure-session-count": -1}}]}, {"policies": 3}, {"date-range": {"start-datetime": "2025-11-24T00:00:00Z", "end-datetime": "9999-12-31T23:59:59-14:00"}}],
)  # fmt: skip
def test_json_that_is_no_report_is_refused(change: dict[str, object]):
    with pytest.raises(NotAReport):
        read_tls_report(json.dumps({**TLS, **change}).encode())


def test_a_domain_that_is_none_is_nobodys():
    odd = json.loads(json.dumps(TLS))
    odd["policies"][0]["policy"]["policy-domain"] = "a\0.test"
    odd["organization-name"] = "a\0b"
    found = read_tls_report(json.dumps(odd).encode())
    assert (found.policies[0].domain, found.organization) == ("", "ab")


def bomb(window: int, size: int = 2 * MAX_XML_BYTES) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, window)
    return b"".join(
        [packer.compress(b"<feedback>")]
        + [packer.compress(b" " * 65536) for _ in range(size // 65536)]
        + [packer.flush()]
    )


def test_bombs_are_left_after_ten_megabytes():
    assert "larger" in why(mail(bomb(31), "application/gzip"))
    header = zipped("x")[:30]
    in_zip = header[:26] + b"\0\0\0\0" + bomb(-15)
    assert "larger" in why(mail(in_zip, "application/zip"))
    taken = 0
    with pytest.raises(CannotOpen):
        for piece in pieces(bomb(31, 4 * MAX_XML_BYTES), MAX_XML_BYTES):
            taken += len(piece)
            assert len(piece) <= 65536
    assert taken <= MAX_XML_BYTES


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b",
        gzip.compress(b"<feedback/>")[:-9],
        gzip.compress(b"x" * 1000)[:20] + b"\xff" * 20,
        b"PK\x03\x04",
        zipped(GOOGLE)[:100],
        zipped(GOOGLE, zipfile.ZIP_STORED)[:300],
        zipped(GOOGLE, zipfile.ZIP_BZIP2),
        zipped(GOOGLE)[:6] + b"\x01\x00" + zipped(GOOGLE)[8:],
    ],
    ids=range(8),
)
def test_what_is_damaged_is_refused(data: bytes):
    with pytest.raises(CannotOpen):
        list(pieces(data, MAX_XML_BYTES))
    assert why(mail(data, "application/zip"))


def test_a_mail_that_is_too_large_or_holds_nothing_is_refused():
    assert "larger" in why(mail(b"x" * MAX_MAIL_BYTES, "application/zip"))
    assert why(b"") == why(b"Subject: hi\r\n\r\nhello") == "it holds no report"


def test_the_smallest_of_many_sources_are_kept_without_their_addresses():
    rows = [DmarcRow(f"10.0.{n // 256}.{n % 256}", n + 1, "none", True, True, "a.test") for n in range(MAX_KEPT + 500)]
    found = merged([*rows, *rows])
    assert len(found) == MAX_KEPT + 1
    assert sum(row.count for row in found) == 2 * sum(row.count for row in rows)
    assert found[0] == DmarcRow(rows[-1].source, 2 * rows[-1].count, "none", True, True, "a.test")
    assert found[-1].source == ""


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([GOOGLE.encode(), gzip.compress(GOOGLE.encode()), zipped(GOOGLE), json.dumps(TLS).encode()]), st.integers(0, 2000))  # fmt: skip
def test_nothing_that_comes_makes_it_raise(noise: bytes, good: bytes, at: int):
    for data in (noise, good[:at] + noise, good[:at] + noise + good[at + len(noise) :]):
        read_report_mail(mail(data, "application/xml"))
        read_report_mail(data)
