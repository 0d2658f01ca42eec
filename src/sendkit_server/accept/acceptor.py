"""accept: the one way in. Both doors hand their submission here; out comes a durable mail or one refusal.

Order of the checks: key, permission and network → an earlier call → fields → sender → size → recipients → amounts. The reply may be
sent once `accept` has returned: the commit is on the disk by then. What this node has room for is stored as already its own
and handed to delivery in memory; the rest is stored unowned and claimed later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Protocol

import msgspec
import structlog

from sendkit_server.accept import fields, once, raw, rights, wishes
from sendkit_server.accept.fields import Checked
from sendkit_server.accept.limits import Limits, Rate
from sendkit_server.accept.waiting import Waiting
from sendkit_server.events import suppressed_at_accept
from sendkit_server.events.metrics import Metrics
from sendkit_server.model import refusal
from sendkit_server.model.address import Mailbox
from sendkit_server.model.ids import ENTROPY_BYTES, make_id
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import (
    Accepted,
    AcceptedMessage,
    ApiKey,
    CheckedRecipient,
    Door,
    Message,
    PartsContent,
    Priority,
    RawContent,
    RawSubmission,
    Recipient,
    Role,
    Submission,
    Warning_,
)
from sendkit_server.model.refusal import NotAllowed, Refusal, Refused
from sendkit_server.model.status import Status
from sendkit_server.model.suppression import explanation
from sendkit_server.store.directory import SendingDomain
from sendkit_server.store.errors import OutcomeUnknown, StoreFull, StoreUnavailable
from sendkit_server.store.queries import once as queries
from sendkit_server.store.store import Store
from sendkit_server.store.values import Ended, Job, NewMail, NewMessage, Repeat
from sendkit_server.wire.mime import build, estimated_size
from sendkit_server.wire.raw_message import with_sender

Suppressed = Mapping[str, str]
"""Recipients that are not sent to, by Mailbox.matching, and why: bounce, complaint or manual."""

log = structlog.get_logger("accept")

NO_TEXT_PART = Warning_(
    "no_text_part", "This mail has no text part.", "Send `text` too: some readers and filters look only at it."
)
NOT_VERIFIED = Warning_(
    "domain_not_verified",
    "The from address domain is not verified; a live key would be refused.",
    "Add the domain, publish its DNS records, and verify it.",
)


class _Sender(msgspec.Struct, frozen=True):
    """Who a mail is from. domain None: a test key's foreign one.  rewritten: it is not the one that was given."""

    mailbox: Mailbox
    domain: SendingDomain | None
    rewritten: bool = False


class AcceptSettings(msgspec.Struct, frozen=True):
    """Limits of one message. dedupe_message_id: the same mail that comes again by SMTP is taken once."""

    max_message_bytes: int = 41_943_040
    max_recipients: int = 50
    strict_test: bool = False
    dedupe_message_id: bool = True


class Handover(Protocol):
    """How an accepted mail reaches delivery without a look at the store. app gives one object to both."""

    def has_room(self, site: str, size_bytes: int, priority: Priority) -> bool:
        """Whether delivery would take a job for this site now."""

    def foresee(self, job: Job) -> None:
        """This job, for which there is room, will be offered or forgotten when its commit is done. It takes its room from
        now on, and what can be prepared meanwhile may be."""

    def forget(self, job: Job) -> None:
        """The commit of a foreseen job has failed: there is no such mail."""

    def offer(self, job: Job) -> None:
        """Takes a job whose recipients this node owns, after the commit."""

    def wake(self) -> None:
        """There is unowned work."""


class Acceptor:
    """Turns submissions into stored messages. closed: a refusal that answers everything (draining, disk full)."""

    def __init__(
        self,
        settings: AcceptSettings,
        store: Store,
        handover: Handover,
        metrics: Metrics,
        *,
        clock: Callable[[], Instant],
        entropy: Callable[[int], bytes],
        warnings: Callable[[], tuple[Warning_, ...]],
        limits: Limits | None = None,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._store = store
        self._handover = handover
        self._metrics = metrics
        self._clock = clock
        self._entropy = entropy
        self._warnings = warnings
        self._accepted = {door: metrics.accepted.labels(door) for door in Door}
        self._storing = 0
        self._waiting = Waiting(store)
        self._earlier = once.Earlier(store)
        self.closed: Refusal | None = None

    @property
    def storing(self) -> int:
        """Mails whose commit is awaited: how busy the doors are."""
        return self._storing

    def check_mail(self, key: ApiKey, client: str) -> Refusal | None:
        """Whether this key may send at all; asked before a door takes a whole mail in. client: the caller's address."""
        return self.closed if self.closed is not None else rights.to_send(key, client)

    async def call(self, key: ApiKey) -> Rate | None:
        """Counts a call before it is looked at: where its caller stands; None when calls are not limited."""
        if self._limits is None:
            return None
        try:
            return await self._limits.call(key, self._clock())
        except StoreUnavailable:
            return None  # that the mail cannot be stored either is said in a moment

    async def accept(self, submission: Submission) -> Accepted | Refusal:
        """Accepts an API call: one message for each `to` address, each seeing only itself."""
        try:
            self._check(submission.key, submission.client)
            call = once.of_submission(submission)
            if call is None or submission.check_only:
                return await self._accept(submission, None)
            return await self._once(call, lambda: self._accept(submission, call))
        except Refused as error:
            return error.refusal
        except StoreUnavailable:
            return refusal.CANNOT_COMMIT

    async def accept_raw(self, submission: RawSubmission) -> Accepted | Refusal:
        """Accepts an SMTP transaction: one message with the envelope's recipients, headers as written."""
        try:
            self._check(submission.key, submission.client)
            rate = await self.call(submission.key)
            if rate is not None and rate.refused:
                return rate.refusal
            head = raw.checked(submission, self._settings.max_message_bytes)
            call = once.of_raw(submission, head.idempotency_key)
            if call is not None:
                return await self._once(call, lambda: self._accept_raw(submission, head, call))
            if self._settings.dedupe_message_id:
                call = once.same_bytes(submission, named=head.message_id is not None)
            if call is None:
                return await self._accept_raw(submission, head, None)
            return await self._unless_obeyed(call, lambda: self._accept_raw(submission, head, call))
        except Refused as error:
            return error.refusal
        except StoreUnavailable:
            return refusal.CANNOT_COMMIT

    def _check(self, key: ApiKey, client: str) -> None:
        if (refused := self.check_mail(key, client)) is not None:
            raise Refused(refused)

    async def _once(self, call: once.Call, accept: Callable[[], Awaitable[Accepted | Refusal]]) -> Accepted | Refusal:
        """Obeys a call that has a key, unless it was obeyed before."""
        await self._earlier.begin(call)
        try:
            return await self._unless_obeyed(call, accept)
        finally:
            self._earlier.end(call)

    async def _unless_obeyed(
        self, call: once.Call, accept: Callable[[], Awaitable[Accepted | Refusal]]
    ) -> Accepted | Refusal:
        """Storing the mail finds an earlier call by itself. It is looked for only where this one would be refused: what was
        obeyed once is answered so, whatever has changed since; but nobody is told what his key may not do."""
        try:
            result = await accept()
        except NotAllowed:
            raise
        except Refused as error:
            result = error.refusal
        if isinstance(result, Refusal):
            with suppress(StoreUnavailable):
                earlier = await self._earlier.find(call, self._clock())
                return result if earlier is None else await self._repeated(call, earlier)
        return result

    async def _accept(self, submission: Submission, call: once.Call | None) -> Accepted | Refusal:
        values = fields.checked(submission, self._settings.max_recipients)
        travel = wishes.checked(values.wishes, self._clock(), len(values.to))
        sender = await self._sender(submission.key, values.from_)
        if sender.mailbox is not values.from_:
            values = fields.with_sender(values, sender.mailbox)
        content = _parts(values)
        size = await self._checked_size(values, content)
        everybody = values.to + values.cc + values.bcc
        rights.check_recipients(submission.key, everybody)
        suppressed = await self._suppressed(submission.key, everybody)
        warnings = self._warnings_for(submission.key, sender, no_text=values.text is None)
        checked = _checked(everybody, suppressed)
        if submission.check_only:
            return Accepted((), checked, warnings, checked_only=True)
        now = self._clock()
        new = self._messages(submission, values, travel, sender.domain, suppressed, now)
        mail = NewMail(
            parent_id=_of_call("req", new[0].message.id),
            owner=self._store.owner,
            content=content,
            size_bytes=size,
            messages=tuple(new),
            tags=submission.tags,
            metadata=submission.metadata,
        )
        accepted = Accepted(_accepted_messages(mail), checked, warnings)
        return await self._limited(submission.key, sender.domain, mail, accepted, call)

    async def _accept_raw(
        self, submission: RawSubmission, head: raw.Head, call: once.Call | None
    ) -> Accepted | Refusal:
        key = submission.key
        travel = wishes.checked(head.wishes, self._clock())
        sender = await self._sender(key, head.from_)
        rights.check_recipients(key, submission.recipients)
        suppressed = await self._suppressed(key, submission.recipients)
        data = submission.raw
        if sender.mailbox is not head.from_:
            data = with_sender(data, sender.mailbox)
        now = self._clock()
        message_id = self._id("msg", now)
        domain = sender.domain
        message = Message(
            id=message_id,
            team_id=key.team_id,
            content_id=_of_call("con", message_id),
            door=Door.SMTP,
            key_id=key.id,
            from_=sender.mailbox,
            to=head.to,
            cc=head.cc,
            subject=head.subject,
            message_id=head.message_id or f"<{message_id}@{sender.mailbox.domain}>",
            created_at=now,
            domain_id=domain.id if domain else None,
            capture=submission.capture or key.captures,
            protocol=submission.protocol,
            priority=travel.priority,
            expires_at=travel.expires_at,
            require_tls=travel.require_tls or (domain is not None and domain.tls_enforced),
            stream=travel.stream,
        )
        new = _new_message(message, raw.with_roles(submission.recipients, head), suppressed)
        mail = NewMail(
            parent_id=_of_call("req", message_id),
            owner=self._store.owner,
            content=RawContent(data),
            size_bytes=len(data),
            messages=(new,),
        )
        checked = _checked(submission.recipients, suppressed)
        warnings = self._warnings_for(key, sender, no_text=False)
        return await self._limited(key, domain, mail, Accepted(_accepted_messages(mail), checked, warnings), call)

    async def _sender(self, key: ApiKey, from_: Mailbox) -> _Sender:
        """The sender that the key may use: the one that is given, or the one that a key with rewrite_from puts there."""
        try:
            return await self._usable(key, from_)
        except Refused:
            instead = rights.rewritten(key, from_)
            if instead is None:
                raise
        return msgspec.structs.replace(await self._usable(key, instead), rewritten=True)

    async def _usable(self, key: ApiKey, from_: Mailbox) -> _Sender:
        domain = await self._sending_domain(key, from_)
        rights.check_sender(key, from_)
        return _Sender(from_, domain)

    async def _sending_domain(self, key: ApiKey, from_: Mailbox) -> SendingDomain | None:
        """The domain that the key may send from; None only for a test key's foreign From."""
        cached = self._store.cached_domain(key.team_id, from_.domain)
        domain = cached[0] if cached is not None else await self._store.domain(key.team_id, from_.domain)
        if domain is not None and domain.sendable and rights.may_use_domain(key, domain.id):
            return domain
        if key.test and not rights.is_bound_to_domains(key) and not self._settings.strict_test:
            return None
        raise Refused(refusal.DOMAIN_NOT_VERIFIED)

    async def _suppressed(self, key: ApiKey, mailboxes: Sequence[Mailbox]) -> Suppressed:
        """Those of the recipients that are not sent to."""
        suppressed = self._store.suppressed
        if suppressed.clear(key.team_id, mailboxes):
            return {}
        return await suppressed.among(key.team_id, mailboxes)

    async def _checked_size(self, values: Checked, content: PartsContent) -> int:
        """About how large the composed mail is; Refused when it is over the limit."""
        limit = self._settings.max_message_bytes
        size = estimated_size(content, (values.from_, *values.to, *values.cc, *values.reply_to))
        if size <= limit:
            return size
        # The estimate is an upper bound: a mail near the limit is composed to know. Base64 makes 4 bytes of 3, so what
        # is over twice the limit as an estimate is over it in truth.
        size = size if size > 2 * limit else await asyncio.to_thread(_composed_size, values, content)
        if size > limit:
            raise Refused(refusal.message_too_large(limit))
        return size

    def _warnings_for(self, key: ApiKey, sender: _Sender, *, no_text: bool) -> tuple[Warning_, ...]:
        found = () if key.test else self._warnings()
        if sender.domain is None:
            found = (NOT_VERIFIED, *found)
        if sender.rewritten:
            found = (_from_rewritten(sender.mailbox), *found)
        return (NO_TEXT_PART, *found) if no_text else found

    def _messages(
        self,
        submission: Submission,
        values: Checked,
        travel: wishes.Travel,
        domain: SendingDomain | None,
        suppressed: Suppressed,
        now: Instant,
    ) -> list[NewMessage]:
        """One message a `to` address; cc and bcc travel once, with the first."""
        key, content_id = submission.key, ""
        found: list[NewMessage] = []
        for index, to in enumerate(values.to):
            message_id = self._id("msg", now)
            content_id = content_id or _of_call("con", message_id)
            message = Message(
                id=message_id,
                team_id=key.team_id,
                content_id=content_id,
                door=Door.HTTP,
                key_id=key.id,
                from_=values.from_,
                to=(to,),
                cc=() if index else values.cc,
                subject=values.subject,
                message_id=values.message_id or f"<{message_id}@{values.from_.domain}>",
                created_at=now,
                domain_id=domain.id if domain else None,
                capture=key.captures,
                priority=travel.priority,
                expires_at=travel.expires_at,
                require_tls=travel.require_tls or (domain is not None and domain.tls_enforced),
                stream=travel.stream,
            )
            roles = [(to, Role.TO)]
            if index == 0:
                roles += [(cc, Role.CC) for cc in values.cc] + [(bcc, Role.BCC) for bcc in values.bcc]
            found.append(_new_message(message, roles, suppressed))
        return found

    async def _limited(
        self, key: ApiKey, domain: SendingDomain | None, mail: NewMail, accepted: Accepted, call: once.Call | None
    ) -> Accepted | Refusal:
        """Stores the mail if its recipients are not too many for the key, the team or the domain. Refused."""
        limits = self._limits
        if limits is None or not (limits.settings.any_amount or key.restrictions.daily_limit):
            return await self._stored(mail, accepted, call)
        recipients = sum(len(new.recipients) for new in mail.messages)
        taken = await limits.take(key, domain, recipients, self._clock())
        result = await self._stored(mail, accepted, call)
        if isinstance(result, Refusal) or result.replayed:
            limits.give_back(taken, recipients)
        return result

    async def _stored(self, mail: NewMail, accepted: Accepted, call: once.Call | None) -> Accepted | Refusal:
        """Stores the mail. accepted: what the caller is told then, and whoever makes the same call again."""
        started = perf_counter()
        first = mail.messages[0].message
        if call is not None:
            mail = msgspec.structs.replace(mail, once=call.answered(accepted, first.created_at))
        # A client that hangs up cancels this task, and with it its own future, not the commit; what was committed must
        # still reach delivery. The callback does what asyncio.shield would, and the hand-over, at half the cost.
        told: asyncio.Future[Repeat | None] = asyncio.get_running_loop().create_future()
        mail, jobs = self._with_owned(mail)
        self._storing += 1
        operation = self._store.accept_in_time(mail)
        operation.future.add_done_callback(lambda done: self._committed(done, told, mail, jobs))
        self._waiting.add(operation, told)
        try:
            earlier = await told
        except StoreFull:
            return refusal.DISK_FULL
        except OutcomeUnknown:
            return refusal.OUTCOME_UNKNOWN
        except StoreUnavailable:
            return refusal.CANNOT_COMMIT
        if earlier is not None and call is not None:
            return await self._repeated(call, earlier)
        self._metrics.accept_seconds.observe(perf_counter() - started)
        self._accepted[first.door].inc(len(mail.messages))
        for new in mail.messages:
            log.info(
                "mail.accepted",
                message=new.message.id,
                door=first.door,
                recipients=len(new.recipients),
                size_bytes=mail.size_bytes,
                parent=mail.parent_id,
            )
        return accepted

    def _with_owned(self, mail: NewMail) -> tuple[NewMail, list[Job]]:
        """The mail as this node's own at the sites that delivery has room for, and its jobs there."""
        jobs: list[Job] = []
        messages: list[NewMessage] = []
        for new in mail.messages:
            sites = sorted({one.mailbox.domain for one in new.recipients if one.n not in new.ended})
            owned: list[str] = []
            for site in sites:
                if self._handover.has_room(site, mail.size_bytes, new.message.priority):
                    # Before the next one is asked for: each takes from what there is room for.
                    self._handover.foresee(job := _job(new, site, mail))
                    jobs.append(job)
                    owned.append(site)
            messages.append(msgspec.structs.replace(new, owned_sites=frozenset(owned)))
        return msgspec.structs.replace(mail, messages=tuple(messages)), jobs

    async def _repeated(self, call: once.Call, earlier: Repeat) -> Accepted | Refusal:
        """The answer to a call that was obeyed before; a mail that came twice without a key shows that it did."""
        answer = once.answer_of(call, earlier)
        if isinstance(answer, Accepted) and call.scope == once.SAME_BYTES:
            message_id = answer.messages[0].id
            log.info("mail.deduplicated", message=message_id)
            now, owner = self._clock(), self._store.owner
            with suppress(StoreUnavailable):
                await self._store.write_quietly(
                    lambda connection: queries.deduplicated(connection, call.team_id, message_id, now, owner)
                )
        return answer

    def _committed(
        self,
        done: asyncio.Future[Repeat | None],
        told: asyncio.Future[Repeat | None],
        mail: NewMail,
        jobs: Sequence[Job],
    ) -> None:
        self._storing -= 1
        self._waiting.remove(told)
        error = done.exception()
        is_new = error is None and done.result() is None
        for job in jobs:
            if is_new:
                self._handover.offer(job)
            else:
                self._handover.forget(job)
        if not told.done():
            if error is None:
                told.set_result(done.result())
            else:
                told.set_exception(error)
        if is_new and any(
            one.mailbox.domain not in new.owned_sites and one.n not in new.ended
            for new in mail.messages
            for one in new.recipients
        ):
            self._handover.wake()

    def _id(self, prefix: str, now: Instant) -> str:
        return make_id(prefix, now, self._entropy(ENTROPY_BYTES))


def _composed_size(values: Checked, content: PartsContent) -> int:
    first = values.from_
    return len(
        build(content, from_=first, to=values.to, cc=values.cc, date=0, message_id="<size@size.invalid>", seed="")
    )


def _of_call(prefix: str, message_id: str) -> str:
    """The id of what a call makes once, after its first message: as unique, and seen to belong together."""
    return prefix + message_id[message_id.index("_") :]


def _parts(values: Checked) -> PartsContent:
    return PartsContent(
        subject=values.subject,
        html=values.html,
        text=values.text,
        reply_to=values.reply_to,
        headers=values.headers,
        attachments=values.attachments,
    )


def _checked(mailboxes: Sequence[Mailbox], suppressed: Suppressed) -> tuple[CheckedRecipient, ...]:
    if not suppressed:
        return tuple([CheckedRecipient(one.address) for one in mailboxes])
    return tuple(
        CheckedRecipient(one.address, False, (Status.SUPPRESSED.value, explanation(suppressed[one.matching])))
        if one.matching in suppressed
        else CheckedRecipient(one.address)
        for one in mailboxes
    )


def _new_message(message: Message, roles: list[tuple[Mailbox, Role]], suppressed: Suppressed) -> NewMessage:
    """The message with its recipients, nobody's own yet."""
    if suppressed:
        recipients, ended = _with_ends(roles, suppressed, message.created_at)
        return NewMessage(message, recipients, frozenset(), ended)
    return NewMessage(
        message, tuple([Recipient(n, mailbox, role) for n, (mailbox, role) in enumerate(roles)]), frozenset()
    )


def _with_ends(
    roles: list[tuple[Mailbox, Role]], suppressed: Suppressed, now: Instant
) -> tuple[tuple[Recipient, ...], dict[int, Ended]]:
    """The recipients, and why those that are suppressed are at their end."""
    recipients: list[Recipient] = []
    ended: dict[int, Ended] = {}
    for n, (mailbox, role) in enumerate(roles):
        reason = suppressed.get(mailbox.matching)
        if reason is None:
            recipients.append(Recipient(n, mailbox, role))
            continue
        recipients.append(Recipient(n, mailbox, role, Status.SUPPRESSED))
        ended[n] = suppressed_at_accept(n, reason, now)
    return tuple(recipients), ended


def _accepted_messages(mail: NewMail) -> tuple[AcceptedMessage, ...]:
    return tuple(
        AcceptedMessage(
            id=new.message.id,
            to=", ".join(mailbox.address for mailbox in new.message.to),
            status=_status(new),
        )
        for new in mail.messages
    )


def _from_rewritten(sender: Mailbox) -> Warning_:
    return Warning_(
        "from_rewritten",
        f"The From address is one that this API key may not use: the mail was sent from {sender.address}, and replies go to "
        "the original.",
        "Send from a verified domain.",
    )


def _status(new: NewMessage) -> str:
    """What the reply says of a message."""
    if len(new.ended) == len(new.recipients):
        return Status.SUPPRESSED.value
    return "captured" if new.message.capture else Status.QUEUED.value


def _job(new: NewMessage, site: str, mail: NewMail) -> Job:
    """What is this node's own at one site, with fence 1 as it is inserted."""
    members = tuple([one for one in new.recipients if one.mailbox.domain == site and one.n not in new.ended])
    shared = len(members) != len(new.recipients)
    return Job(new.message, members, site, mail.size_bytes, 1, mail.content, mail.owner, shared)
