"""What comes back: bounces and complaints about mail that was sent, recorded where they belong.

Only a return path that this server made (wire.return_path) says which message a mail is about; what the mail itself
says of that is not believed, so a forged report changes nothing. Where the return path names a recipient, the
report counts for the recipients at his domain alone, for only there was this return path told. Of several the report's
addresses tell which; a single one needs none.

- A notification's `failed` makes the recipient bounced, also after delivered, and a hard one suppresses the address, as
  does the third soft one in a row.
- `delayed` is told as an event and changes nothing; `delivered`, `relayed` and `expanded` are no news.
- A complaint makes the recipient complained and suppresses the address.
- The same report once more changes nothing, by whatever way it comes.
- A recipient that is being delivered to at this moment is left alone: the reporting server is asked to come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from enum import StrEnum

import msgspec
import structlog
from sqlalchemy import Connection

from sendkit_server.model.address import AddressError, parse_address
from sendkit_server.model.bounce import Bounce, BounceType, classify
from sendkit_server.model.instant import Instant, api_time
from sendkit_server.model.status import Status, moved
from sendkit_server.store.errors import StoreUnavailable
from sendkit_server.store.queries import bounces as queries
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.sealed import OlderKey
from sendkit_server.store.store import Store
from sendkit_server.wire import return_path
from sendkit_server.wire.dsn import Action, RecipientReport
from sendkit_server.wire.feedback import Complaint
from sendkit_server.wire.inbound_mail import Kind, Report, read

# A bounce may be faster than the writing down of the delivery that it is about.
WAITS_S = (0.1, 0.3, 0.6, 1.0)

Suppress = Callable[[Connection, int, str, str, Mapping[str, object], Instant], bool]
"""Connection, team, address as recipient.matching, reason (`bounce`, `complaint`), evidence, now → whether it is new."""

JudgeSoft = Callable[[Connection, int, str, Instant], bool]
"""As Suppress, for an address that has bounced softly: suppresses it if that was once too often."""

Token = tuple[str, int | None]
"""A message's id and the recipient's n; None: any of them."""

log = structlog.get_logger("inbound")


class Taken(StrEnum):
    """What became of a mail that came in. REPORTED: it was a receiver's report.  BUSY and UNAVAILABLE: it has to come
    again; FORGED: nobody's."""

    BOUNCED = "bounced"
    COMPLAINED = "complained"
    DELAYED = "delayed"
    REPORTED = "reported"
    REPEATED = "repeated"
    IGNORED = "ignored"
    NOBODY = "nobody"
    FORGED = "forged"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"

    @property
    def is_final(self) -> bool:
        """Whether there is no use in trying again."""
        return self not in (Taken.BUSY, Taken.UNAVAILABLE)


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event's detail, as JSON without what is not known. report: names the mail that told it."""

    report: str
    code: int | None = None
    enhanced: str | None = None
    text: str | None = None
    bounce: Bounce | None = None
    reporting_mta: str | None = None
    remote_mta: str | None = None
    read_as: str | None = None
    feedback_type: str | None = None
    user_agent: str | None = None


_encode = msgspec.json.Encoder().encode


class Returns:
    """Takes in what came back, and counts it.

    secret: of the return paths.  suppress: writes a suppression in the same transaction.  count: told each result.
    older: the secrets of return paths before the secret key was changed.
    """

    def __init__(
        self,
        store: Store,
        secret: bytes,
        suppress: Suppress,
        clock: Callable[[], Instant],
        count: Callable[[str], None],
        waits_s: Sequence[float] = WAITS_S,
        older: Sequence[OlderKey] = (),
    ) -> None:
        self._store = store
        self._secret = secret
        self._suppress = suppress
        self._clock = clock
        self._count = count
        self._waits_s = waits_s
        self._older = older

    def token_of(self, local: str) -> Token | None:
        """What a local part names, if this server made it."""
        found = return_path.parse(local, self._secret)
        for one in self._older:
            if found is None and one.until > self._clock():
                found = return_path.parse(local, one.key)
        return found

    async def take(self, locals_: Sequence[str], raw: bytes) -> Taken:
        """Records a mail that came to these local parts; durable once it returns. FORGED: none of them is ours.

        A complaint may name its return path itself, because providers send it where they were told to.
        """
        report = await asyncio.to_thread(read, raw)
        named = [*locals_]
        if report.complaint is not None:
            named += [address.rpartition("@")[0] for address in report.complaint.return_paths]
        tokens = dict.fromkeys(token for local in named if (token := self.token_of(local)) is not None)
        results = [await self._take(token, report) for token in tokens] or [Taken.FORGED]
        # What has to come again decides: the rest is recorded already and will be repeated.
        result = next((one for one in results if not one.is_final), results[0])
        self._count(str(result))
        log.info(
            "inbound.taken", result=str(result), kind=str(report.kind), reason=report.reason, report=report.digest,
            messages=[message_id for message_id, _ in tokens],
        )  # fmt: skip
        return result

    async def _take(self, token: Token, report: Report) -> Taken:
        if report.kind is Kind.IGNORED:
            return Taken.IGNORED
        for wait_s in (*self._waits_s, None):
            try:
                result = await self._store.write_quietly(lambda connection: self._record(connection, token, report))
            except StoreUnavailable as error:
                log.warning("inbound.unavailable", message=token[0], error=str(error))
                return Taken.UNAVAILABLE
            if result is not Taken.BUSY or wait_s is None:
                return result
            await asyncio.sleep(wait_s)
        raise AssertionError("the last round returns")

    def _record(self, connection: Connection, token: Token, report: Report) -> Taken:
        message_id, n = token
        found = queries.find_message(connection, message_id)
        if found is None:
            return Taken.NOBODY
        judge_soft = self._store.suppressed.suppress_soft
        record = _Record(
            connection, found.team_id, message_id, report, self._suppress, judge_soft, self._clock(), self._store.owner
        )
        return record.run(n)


class _Record:
    """One report written into one message, in a transaction of the caller's."""

    def __init__(
        self,
        connection: Connection,
        team_id: int,
        message_id: str,
        report: Report,
        suppress: Suppress,
        judge_soft: JudgeSoft,
        now: Instant,
        owner: int,
    ) -> None:
        self._connection = connection
        self._team_id = team_id
        self._message_id = message_id
        self._report = report
        self._suppress = suppress
        self._judge_soft = judge_soft
        self._now = now
        self._owner = owner

    def run(self, n: int | None) -> Taken:
        """n: the recipient that the return path names; None: the report has to tell."""
        everyone = queries.recipients_of(self._connection, self._team_id, self._message_id)
        sites = {row.site for row in everyone if n is None or row.n == n}
        recipients = [row for row in everyone if row.site in sites]
        others = {row.matching for row in everyone if row.site not in sites}
        complaint = self._report.complaint
        if complaint is not None:
            row = complained(complaint, recipients)
            results = [] if row is None else [self._complain(row, complaint)]
        else:
            told = concerned(self._report.recipients, recipients, others)
            results = [self._bounce(row, one) for row, one in told]
        if not results:
            return Taken.NOBODY
        if any(result in (Taken.BOUNCED, Taken.COMPLAINED) for result in results):
            queries.sum_up(self._connection, self._team_id, self._message_id)
        # The same order as the enumeration, but for what has to come again.
        return Taken.BUSY if Taken.BUSY in results else min(results, key=list(Taken).index)

    def _bounce(self, row: AnyRow, told: RecipientReport) -> Taken:
        bounce = classify(told.code, told.enhanced, told.diagnostic, row.site)
        detail = Detail(
            self._report.digest,
            told.code,
            told.enhanced,
            told.diagnostic or None,
            bounce if told.action is Action.FAILED else None,
            self._report.reporting_mta,
            told.remote_mta,
            self._report.reason,
        )
        if told.action is Action.DELAYED:
            return self._delay(row, detail)
        if told.action is not Action.FAILED:
            return Taken.IGNORED
        result = self._end(row, Status.BOUNCED, bounce.subtype, told, detail)
        if result is Taken.BOUNCED and bounce.suppresses:
            evidence: dict[str, object] = {
                "code": told.code,
                "enhanced": told.enhanced,
                "text": told.diagnostic,
                "subtype": bounce.subtype,
            }
            self._suppress_address(row, "bounce", evidence)
        elif result is Taken.BOUNCED and bounce.type is BounceType.SOFT:
            self._judge_soft(self._connection, self._team_id, row.matching, self._now)
        return result

    def _delay(self, row: AnyRow, detail: Detail) -> Taken:
        events = queries.events_of(self._connection, self._team_id, self._message_id)
        mine = f'"report":"{self._report.digest}"'
        if any(event.n == row.n and mine in event.detail for event in events):
            return Taken.REPEATED
        self._tell(row, Status.DELAYED, detail)
        return Taken.DELAYED

    def _complain(self, row: AnyRow, complaint: Complaint) -> Taken:
        detail = Detail(
            self._report.digest,
            reporting_mta=self._report.reporting_mta,
            read_as=self._report.reason,
            feedback_type=complaint.feedback_type[:64],
            user_agent=complaint.user_agent,
        )
        who = self._report.reporting_mta or complaint.user_agent or "a feedback report"
        text = f"The recipient complained ({detail.feedback_type}); {who} told it at {api_time(self._now)} UTC."
        told = RecipientReport(Action.FAILED, (), row.code, row.enhanced, text)
        result = self._end(row, Status.COMPLAINED, "complaint", told, detail)
        if result is Taken.COMPLAINED:
            self._suppress_address(row, "complaint", {"feedback_type": complaint.feedback_type[:64]})
        return result

    def _end(self, row: AnyRow, to: Status, reason: str, told: RecipientReport, detail: Detail) -> Taken:
        if row.owner is not None:
            return Taken.BUSY
        if moved(Status(row.status), to) is not to or row.status == to:
            return Taken.REPEATED
        if not queries.end_recipient(
            self._connection, row, to, reason, told.diagnostic, told.code, told.enhanced, self._now
        ):
            return Taken.BUSY
        self._tell(row, to, detail)
        return Taken.COMPLAINED if to is Status.COMPLAINED else Taken.BOUNCED

    def _tell(self, row: AnyRow, type_: Status, detail: Detail) -> None:
        queries.add_event(self._connection, row, type_, _encode(detail).decode(), self._now, self._owner)

    def _suppress_address(self, row: AnyRow, reason: str, evidence: dict[str, object]) -> None:
        detail = {"message_id": self._message_id, "report": self._report.digest, **evidence}
        self._suppress(self._connection, self._team_id, row.matching, reason, detail, self._now)


def concerned(
    reports: Sequence[RecipientReport], recipients: Sequence[AnyRow], others: Set[str]
) -> list[tuple[AnyRow, RecipientReport]]:
    """Whom each part of a report is about. A single recipient needs no address: aliases and forwardings change it.

    recipients: whom it may be about.  others: the addresses of the mail's other recipients, of whom it proves nothing.
    """
    by_address = {row.matching: row for row in recipients}
    found: dict[int, tuple[AnyRow, RecipientReport]] = {}
    for report in reports:
        row = next((by_address[spelled] for spelled in map(_matching, report.addresses) if spelled in by_address), None)
        if row is not None:
            found.setdefault(row.n, (row, report))
    unnamed = [report for report in reports if others.isdisjoint(map(_matching, report.addresses))]
    if not found and len(recipients) == 1 and unnamed:
        failed = next((report for report in unnamed if report.action is Action.FAILED), unnamed[0])
        return [(recipients[0], failed)]
    return list(found.values())


def complained(complaint: Complaint, recipients: Sequence[AnyRow]) -> AnyRow | None:
    """Whose complaint it is; None when several may have made it and the address is left out or redacted.

    Of a single one it is, whoever is named: the mail that it is about shows its other recipients.
    """
    if len(recipients) == 1:
        return recipients[0]
    named = set(map(_matching, complaint.addresses))
    matching = [row for row in recipients if row.matching in named]
    return matching[0] if len(matching) == 1 else None


def _matching(address: str) -> str:
    """As recipient.matching spells it."""
    try:
        return parse_address(address).matching
    except AddressError:
        return address
