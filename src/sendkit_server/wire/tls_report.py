"""Reports on TLS (RFC 8460 4.4): how a sender's connections to a domain's mail servers fared in a day.

JSON from strangers: texts are cut to length, lists too, and what is missing is left out rather than refused.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from sendkit_server.wire.dmarc_report import MAX_COUNT, MAX_WORDS, NotAReport, check_days, domain_of

MAX_JSON_BYTES = 10 * 1024 * 1024
MAX_POLICIES = 100
MAX_FAILURES = 1_000  # of one policy


class TlsFailure(msgspec.Struct, frozen=True):
    """One kind of failure. result: RFC 8460 4.3's word.  reason: the sender's words."""

    result: str
    count: int
    mx: str = ""
    sending: str = ""
    receiving: str = ""
    reason: str = ""


class TlsPolicy(msgspec.Struct, frozen=True):
    """How it went under one policy. type: `sts`, `tlsa` or `no-policy-found`.  domain: whose mail it was sent to."""

    type: str
    domain: str
    succeeded: int
    failed: int
    failures: tuple[TlsFailure, ...]


class TlsReport(msgspec.Struct, frozen=True):
    """begins_at, ends_at: milliseconds."""

    organization: str
    report_id: str
    begins_at: int
    ends_at: int
    policies: tuple[TlsPolicy, ...]
    email: str = ""


class _Range(msgspec.Struct, rename="kebab", frozen=True):
    start_datetime: datetime
    end_datetime: datetime


class _Policy(msgspec.Struct, rename="kebab", frozen=True):
    policy_type: str = ""
    policy_domain: str = ""


class _Summary(msgspec.Struct, rename="kebab", frozen=True):
    total_successful_session_count: int = 0
    total_failure_session_count: int = 0


class _Failure(msgspec.Struct, rename="kebab", frozen=True):
    result_type: str = ""
    sending_mta_ip: str | None = None
    receiving_mx_hostname: str | None = None
    receiving_ip: str | None = None
    failed_session_count: int = 0
    additional_information: str | None = None
    failure_reason_code: str | None = None


class _Item(msgspec.Struct, rename="kebab", frozen=True):
    policy: _Policy
    summary: _Summary = _Summary()
    failure_details: list[_Failure] = []


class _Report(msgspec.Struct, rename="kebab", frozen=True):
    date_range: _Range
    report_id: str
    policies: list[_Item]
    organization_name: str = ""
    contact_info: str | None = None


_decoder = msgspec.json.Decoder(_Report, strict=False)


def read_tls_report(raw: bytes) -> TlsReport:
    """A report, from its JSON. NotAReport."""
    try:
        found = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotAReport(f"the JSON is no report: {error}") from None
    if not found.report_id:
        raise NotAReport("the report has no report-id")
    begins_at, ends_at = _instant(found.date_range.start_datetime), _instant(found.date_range.end_datetime)
    check_days(begins_at, ends_at)
    return TlsReport(
        _words(found.organization_name or found.contact_info) or "unknown",
        _words(found.report_id),
        begins_at,
        ends_at,
        tuple(_policy(item) for item in found.policies[:MAX_POLICIES]),
        _words(found.contact_info),
    )


def _policy(item: _Item) -> TlsPolicy:
    return TlsPolicy(
        _words(item.policy.policy_type),
        domain_of(item.policy.policy_domain),
        _count(item.summary.total_successful_session_count),
        _count(item.summary.total_failure_session_count),
        tuple(
            TlsFailure(
                _words(failure.result_type),
                _count(failure.failed_session_count),
                _words(failure.receiving_mx_hostname),
                _words(failure.sending_mta_ip),
                _words(failure.receiving_ip),
                _words(" ".join(filter(None, (failure.failure_reason_code, failure.additional_information)))),
            )
            for failure in item.failure_details[:MAX_FAILURES]
        ),
    )


def _count(number: int) -> int:
    if not 0 <= number <= MAX_COUNT:
        raise NotAReport(f"{number} is no count")
    return number


def _words(text: str | None) -> str:
    # A NUL cannot be kept in PostgreSQL's text.
    return (text or "").replace("\0", "").strip()[:MAX_WORDS]


def _instant(at: datetime) -> int:
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
