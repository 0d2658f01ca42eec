"""How a domain stands: its records, whether they make DMARC pass, and whether its bounces find their way."""

from __future__ import annotations

from sendkit_server.manage.dmarc import DmarcPolicy, find_policy
from sendkit_server.manage.dns_checks import RecordCheck, Verdict, check_records, without_empty_includes
from sendkit_server.manage.doctor_outside import look_at_inbound
from sendkit_server.manage.domains import Domain
from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.manage.verification import required
from sendkit_server.model.finding import Finding, FindingStatus
from sendkit_server.net.resolver import Resolver
from sendkit_server.store.queries.domains import return_path_of

DMARC_REPORTS = "dmarc-reports"
TLS_REPORTS = "tls-reports"
OK, WARNING, ERROR, UNKNOWN = FindingStatus.OK, FindingStatus.WARNING, FindingStatus.ERROR, FindingStatus.UNKNOWN

NAMES = {"DKIM": "dkim", "SPF": "spf", "MX": "return_path", "DMARC": "dmarc", "Tracking": "tracking"}
WHY = {
    "DKIM": "Receivers find the key there that proves the mail to be yours; without it much of it is spam to them.",
    "SPF": "Receivers find there who may send with this return path; Gmail and Yahoo want it from everybody.",
    "MX": "Bounces and complaints are sent there; without them dead addresses are written to again and again.",
    "DMARC": "Gmail, Yahoo and Outlook want a DMARC record from everybody who sends more than a few mails.",
    "Tracking": "Links in mail lead to this name; while it does not lead here, they lead nowhere.",
}


async def look_at_domain(
    domain: Domain, around: Surroundings, resolver: Resolver
) -> tuple[tuple[RecordCheck, ...], list[Finding]]:
    """What DNS says of each record, and what that means."""
    name, place = str(domain.row.name), return_path_of(domain.row)
    checks = await check_records(resolver, domain.records, around.names)
    by_kind = {check.record.kind: check for check in reversed(checks)}  # of several keys the first
    needed = required(domain.records)
    findings = [_of_record(check, check.record in needed, name, await _fix(check, resolver)) for check in checks]
    policy = await find_policy(resolver, name) if by_kind["DMARC"].verdict is Verdict.OK else None
    if isinstance(policy, DmarcPolicy):
        findings.append(_alignment(by_kind["DKIM"], by_kind["SPF"], policy, name, place))
    if by_kind["MX"].verdict is Verdict.OK:
        findings.append(await look_at_inbound(place, around, resolver, name))
    return checks, [_with_reports(finding, findings, policy, name, place) for finding in findings]


async def _fix(check: RecordCheck, resolver: Resolver) -> str:
    record = check.record
    if record.kind == "SPF" and check.verdict in (Verdict.WRONG, Verdict.MISSING):
        record = await without_empty_includes(resolver, record)
    return record.zone_line()


def _of_record(check: RecordCheck, is_required: bool, domain: str, fix: str) -> Finding:
    record = check.record
    # A second key is told apart by its selector.
    subject = record.name.partition(".")[0] if record.kind == "DKIM" and not is_required else None
    if check.verdict is Verdict.OK:
        return Finding(NAMES[record.kind], OK, check.found, domain=domain, subject=subject)
    if check.verdict is Verdict.UNAVAILABLE:
        why = "It says nothing about how it stands: look again, or mend the resolver (SENDKIT_DNS_SERVERS)."
        text = f"could not be told: {check.found}"
        return Finding(NAMES[record.kind], UNKNOWN, text, why, domain=domain, subject=subject)
    status = ERROR if is_required else WARNING
    return Finding(NAMES[record.kind], status, check.found, WHY[record.kind], fix, domain=domain, subject=subject)


def _alignment(dkim: RecordCheck, spf: RecordCheck, policy: DmarcPolicy, domain: str, return_path: str) -> Finding:
    """Whether what proves the mail is proved for the domain in From (RFC 7489 3.1). Every signature has its d=."""
    spf_aligns = spf.verdict is Verdict.OK and not policy.spf_strict
    if dkim.verdict is Verdict.OK:
        other = f", and so does the return path {return_path}" if spf_aligns else ""
        return Finding("alignment", OK, f"DKIM's d={domain} aligns with From{other}", domain=domain)
    if Verdict.UNAVAILABLE in (dkim.verdict, spf.verdict):
        return Finding("alignment", UNKNOWN, "could not be told: DNS could not be asked for everything", domain=domain)
    why = f"DMARC passes only by DKIM or SPF of the domain in From; the policy of {policy.domain} is p={policy.policy}."
    if spf_aligns:
        text = f"only the return path {return_path} aligns with From; a forwarded mail fails DMARC"
        return Finding("alignment", WARNING, text, why, dkim.record.zone_line(), domain)
    status = WARNING if policy.policy == "none" else ERROR
    text = "neither DKIM nor SPF passes for the domain in From, so DMARC fails"
    return Finding("alignment", status, text, why, dkim.record.zone_line(), domain)


def _with_reports(finding: Finding, findings: list[Finding], policy: object, domain: str, return_path: str) -> Finding:
    """A DMARC record may also ask for reports, once there is a mailbox that takes them."""
    works = any(each.name == "inbound" and each.status is OK for each in findings)
    if finding.name != "dmarc" or not works:
        return finding
    if finding.status is OK:
        wanted = isinstance(policy, DmarcPolicy) and policy.reports_to is not None
        note = "" if wanted else f"; with rua=mailto:{DMARC_REPORTS}@{return_path} receivers would report"
        return Finding(finding.name, OK, finding.found + note, domain=domain)
    if finding.status is UNKNOWN:
        return finding
    return Finding(
        finding.name, finding.status, finding.found, finding.why, report_lines(domain, return_path)[0], domain
    )


def report_lines(domain: str, return_path: str) -> tuple[str, str]:
    """Zone lines that ask receivers for reports: DMARC's in place of the plain record, and TLS-RPT's (RFC 8460 3)."""
    return (
        f'_dmarc.{domain}. 3600 IN TXT "v=DMARC1; p=none; rua=mailto:{DMARC_REPORTS}@{return_path}"',
        f'_smtp._tls.{return_path}. 3600 IN TXT "v=TLSRPTv1; rua=mailto:{TLS_REPORTS}@{return_path}"',
    )
