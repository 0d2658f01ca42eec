"""Rows from values and values from rows: what both engines' hot operations share. No SQL, no connection.

A content body is MessagePack, then zstd level 1: 5 KB take 20 µs (40 µs if each made its own compressor) and shrink to
a half or a third for text.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from sendkit_server.model.address import Mailbox
from sendkit_server.model.ids import ENTROPY_BYTES, make_id
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Content, Door, Message, Priority, Recipient, Role
from sendkit_server.model.status import Status, message_status
from sendkit_server.model.suppression import PREFIX, SuppressionReason
from sendkit_server.store.values import Completion, Job, NewMail, NewMessage

ZSTD_LEVEL = 1

_pack = msgspec.msgpack.Encoder()
# It locks itself; in fact only the writer's thread uses it. The checksum makes a flipped bit an error, not a wrong mail.
_compressor = zstd.ZstdCompressor(
    options={
        zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
    }
)
_unpack: msgspec.msgpack.Decoder[Content] = msgspec.msgpack.Decoder(Content)
_json = msgspec.json.Encoder()
_mailbox: msgspec.json.Decoder[Mailbox] = msgspec.json.Decoder(Mailbox)
_mailboxes: msgspec.json.Decoder[tuple[Mailbox, ...]] = msgspec.json.Decoder(tuple[Mailbox, ...])

Row = tuple[Any, ...]
Key = tuple[int, str]  # team and public id


class Numbers:
    """Makes the ids of attempts and events: 63 bits that sort by time and that no two processes make alike.

    43 bits of milliseconds, 10 of the incarnation's number, 10 that count within a millisecond.
    """

    def __init__(self) -> None:
        self._tick = 0  # milliseconds and count of the last one

    def next(self, at: Instant, owner: int) -> int:
        """An id that is greater than every one before it."""
        tick = self._tick = max(self._tick + 1, at << 10)
        return (tick >> 10) << 20 | (owner & 1023) << 10 | (tick & 1023)


numbers = Numbers()


def words(text: str | None) -> str | None:
    """Text from elsewhere as both engines can keep it: PostgreSQL's text has no NUL."""
    return text.replace("\0", "\ufffd") if text and "\0" in text else text


def json_text(value: object) -> str:
    """Compact JSON as text."""
    return _json.encode(value).decode()


def packed(content: Content) -> bytes:
    """A content as it is stored."""
    return compressed(_pack.encode(content))


def content_of(body: bytes) -> Content:
    """The content that `packed` stored. ValueError when the bytes are damaged."""
    try:
        return _unpack.decode(zstd.decompress(body))
    except (zstd.ZstdError, msgspec.MsgspecError) as error:
        raise ValueError(f"a stored content is damaged: {error}") from error


def compressed(raw: bytes) -> bytes:
    """Bytes such as a captured mail's, as they are stored."""
    return _compressor.compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)


def decompressed(stored: bytes) -> bytes:
    """The bytes that `compressed` stored."""
    return zstd.decompress(stored)


def content_row(mail: NewMail) -> Row:
    """team_id, id, size_bytes, body"""
    first = mail.messages[0].message
    return first.team_id, first.content_id, mail.size_bytes, packed(mail.content)


def message_rows(mail: NewMail) -> list[Row]:
    """The columns of message, but for sent_at, in the schema's order."""
    tags = json_text(mail.tags) if mail.tags else "[]"
    metadata = json_text(dict(mail.metadata)) if mail.metadata else "{}"
    return [
        (
            (message := new.message).team_id,
            message.id,
            mail.parent_id,
            message.content_id,
            message.door.value,
            message.key_id,
            message.domain_id,
            message.capture,
            message.protocol,
            json_text(message.from_),
            json_text(message.to),
            json_text(message.cc),
            words(message.subject),
            words(message.message_id),
            tags,
            metadata,
            words(message.stream),
            _status_of(new),
            len(new.recipients),
            mail.size_bytes,
            message.created_at,
            message.priority.value,
            message.expires_at,
            message.require_tls,
        )
        for new in mail.messages
    ]


def _status_of(new: NewMessage) -> str:
    return message_status([one.status for one in new.recipients]).value if new.ended else Status.QUEUED.value


def recipient_rows(mail: NewMail) -> list[Row]:
    """The columns of recipient as accept inserts them: owned by a node with fence 1, or by nobody with fence 0.

    Without those that are at an end already (ended_recipient_rows).
    """
    found = []
    for new in mail.messages:
        message, ended = new.message, new.ended
        for recipient in new.recipients:
            if ended and recipient.n in ended:
                continue
            mailbox = recipient.mailbox
            owned = mailbox.domain in new.owned_sites
            found.append(
                (
                    message.team_id,
                    message.id,
                    recipient.n,
                    mailbox.local,
                    mailbox.domain,
                    words(mailbox.name),
                    mailbox.matching,
                    recipient.role.value,
                    recipient.status.value,
                    recipient.attempts,
                    message.created_at,
                    mail.owner if owned else None,
                    1 if owned else 0,
                    message.created_at,
                    message.priority.value,
                )
            )
    return found


def ended_recipient_rows(mail: NewMail) -> list[Row]:
    """team_id, message_id, n, local, site, name, matching, role, status, updated_at, priority, reason, explanation: of
    recipients that are at an end when they are accepted."""
    return [
        (
            new.message.team_id,
            new.message.id,
            recipient.n,
            recipient.mailbox.local,
            recipient.mailbox.domain,
            words(recipient.mailbox.name),
            recipient.mailbox.matching,
            recipient.role.value,
            recipient.status.value,
            new.message.created_at,
            new.message.priority.value,
            new.ended[recipient.n].reason,
            new.ended[recipient.n].explanation,
        )
        for new in mail.messages
        if new.ended
        for recipient in new.recipients
        if recipient.n in new.ended
    ]


def accepted_event_rows(mail: NewMail) -> list[Row]:
    """team_id, message_id, id, n, type, at, detail: of what happened to recipients when they were accepted."""
    return [
        (
            new.message.team_id,
            new.message.id,
            numbers.next(ended.event.at, mail.owner),
            ended.event.n,
            str(ended.event.type),
            ended.event.at,
            ended.event.detail,
        )
        for new in mail.messages
        for ended in new.ended.values()
    ]


def label_rows(mail: NewMail) -> list[Row]:
    """team_id, kind, name, value, message_id: one row a tag and a metadata member, for the filters."""
    if not mail.tags and not mail.metadata:
        return []
    labels = [("tag", tag.name, tag.value) for tag in mail.tags] + [("metadata", k, v) for k, v in mail.metadata]
    return [
        (new.message.team_id, kind, name, value, new.message.id)
        for new in mail.messages
        for kind, name, value in labels
    ]


def message_of(team_id: int, row: Sequence[Any], wishes: Sequence[Any]) -> Message:
    """A Message from id, content_id, door, key_id, from, to, cc, subject, message_id, created_at, domain_id, capture, protocol,
    and from priority, expires_at, require_tls, stream."""
    return Message(
        id=row[0],
        team_id=team_id,
        content_id=row[1],
        door=Door(row[2]),
        key_id=row[3],
        from_=_mailbox.decode(row[4]),
        to=_mailboxes.decode(row[5]),
        cc=_mailboxes.decode(row[6]),
        subject=row[7],
        message_id=row[8],
        created_at=row[9],
        domain_id=row[10],
        capture=bool(row[11]),
        protocol=row[12],
        priority=Priority(wishes[0]),
        expires_at=wishes[1],
        require_tls=bool(wishes[2]),
        stream=wishes[3],
    )


def recipient_of(row: Sequence[Any]) -> Recipient:
    """A Recipient from n, local, site, name, role, status, attempts."""
    return Recipient(row[0], Mailbox(row[1], row[2], row[3]), Role(row[4]), Status(row[5]), row[6])


def update_rows(completion: Completion) -> list[Row]:
    """What changes of each recipient, then the key and the ownership it must still have."""
    job = completion.job
    at: Instant = completion.at
    return [
        (
            update.status.value,
            update.attempts,
            update.reason,
            words(update.explanation),
            update.code,
            words(update.enhanced),
            update.next_attempt_at,
            at,
            job.message.team_id,
            job.message.id,
            update.n,
            job.owner,
            job.fence,
        )
        for update in completion.updates
    ]


def attempt_row(completion: Completion) -> Row:
    """The columns of attempt, in the schema's order."""
    attempt = completion.attempt
    assert attempt is not None
    message = completion.job.message
    outcomes = [
        {
            "n": n,
            "result": outcome.result,
            "reason": outcome.reason,
            "text": outcome.text,
            "code": outcome.code,
            "enhanced": outcome.enhanced,
            "possible_duplicate": outcome.possible_duplicate,
        }
        for n, outcome in zip(attempt.recipients, attempt.outcomes, strict=True)
    ]
    return (
        message.team_id,
        message.id,
        numbers.next(attempt.started_at, completion.job.owner),
        attempt.route,
        words(attempt.host),
        attempt.address,
        words(attempt.tls),
        attempt.started_at,
        attempt.milliseconds,
        json_text(outcomes),
        json_text([(line.at_ms, line.side, line.text) for line in attempt.transcript]),
    )


def event_rows(completion: Completion) -> list[Row]:
    """team_id, message_id, id, n, type, at, detail"""
    job = completion.job
    return [
        (
            job.message.team_id,
            job.message.id,
            numbers.next(event.at, job.owner),
            event.n,
            str(event.type),
            event.at,
            event.detail,
        )
        for event in completion.events
    ]


def message_row(completion: Completion) -> Row:
    """team_id, id, status (None: it depends on other recipients, too), sent_at (None: not by this)"""
    job = completion.job
    sent = next((event.at for event in completion.events if event.type == Status.SENT), None)
    status = None if job.shared else message_status([update.status for update in completion.updates]).value
    return job.message.team_id, job.message.id, status, sent


def without_repetition(completions: Sequence[Completion]) -> Iterator[list[Completion]]:
    """In order, in batches that name no recipient twice: of two rows for one, UPDATE … FROM would take either."""
    seen: set[tuple[int, str, int]] = set()
    batch: list[Completion] = []
    for completion in completions:
        message = completion.job.message
        recipients = [(message.team_id, message.id, update.n) for update in completion.updates]
        if not seen.isdisjoint(recipients):
            yield batch
            seen, batch = set(), []
        seen.update(recipients)
        batch.append(completion)
    yield batch


class Taken(msgspec.Struct, frozen=True):
    """A recipient that a claim took, and where it belongs."""

    team_id: int
    message_id: str
    site: str
    fence: int
    recipient: Recipient


class StoredMessage(msgspec.Struct, frozen=True):
    """A message with what its jobs need beside it."""

    message: Message
    size_bytes: int
    recipient_count: int


def bodies_that_fit(messages: Iterable[StoredMessage], body_bytes: int) -> list[Key]:
    """Whose contents to load along with a claim: in their order, while they fit into body_bytes."""
    wanted: dict[Key, None] = {}
    for stored in messages:
        if stored.size_bytes <= body_bytes:
            wanted[stored.message.team_id, stored.message.content_id] = None
            body_bytes -= stored.size_bytes
    return list(wanted)


def jobs_of(
    owner: int, taken: Iterable[Taken], stored: Mapping[Key, StoredMessage], contents: Mapping[Key, Content]
) -> list[Job]:
    """One job for the recipients of one message at one site with one fence."""
    grouped: dict[tuple[int, str, str, int], list[Recipient]] = {}
    for one in taken:
        grouped.setdefault((one.team_id, one.message_id, one.site, one.fence), []).append(one.recipient)
    jobs = []
    for (team_id, message_id, site, fence), recipients in grouped.items():
        whole = stored[team_id, message_id]
        jobs.append(
            Job(
                message=whole.message,
                recipients=tuple(sorted(recipients, key=lambda recipient: recipient.n)),
                site=site,
                size_bytes=whole.size_bytes,
                fence=fence,
                content=contents.get((team_id, whole.message.content_id)),
                owner=owner,
                shared=len(recipients) != whole.recipient_count,
            )
        )
    return jobs


def suppression_rows(completions: Iterable[Completion]) -> list[Row]:
    """team_id, address, id, reason, detail, at: each address once, in an order that is the same on all nodes."""
    found: dict[Key, Row] = {}
    for one in completions:
        team_id = one.job.message.team_id
        for new in one.suppressions:
            new_id = make_id(PREFIX, one.at, os.urandom(ENTROPY_BYTES))
            found[team_id, new.address] = (
                team_id, new.address, new_id, SuppressionReason.BOUNCE.value, words(new.detail), one.at,
            )  # fmt: skip
    return [found[key] for key in sorted(found)]


def captured_row(completion: Completion) -> Row:
    """team_id, message_id, captured_at, raw"""
    message = completion.job.message
    assert completion.captured is not None
    return message.team_id, message.id, completion.at, compressed(completion.captured)
