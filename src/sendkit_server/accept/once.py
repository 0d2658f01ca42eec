"""Calls that are obeyed once: by a key that the caller gives, or, by SMTP, because the very same mail comes again.

A client that lost the connection before it read the answer cannot know whether the mail was taken, and tries again. With a
key it gets the first answer again, for 24 hours, within its team and path. By SMTP the same Message-ID, bytes and recipients
from the same key are as good as a key: Nodemailer, Postfix and every other client behave like that by themselves. Where there is
no Message-ID the queue id in a relay's Received line is as good.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Sequence

import msgspec

from sendkit_server.model import refusal
from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.model.mail import Accepted, ApiKey, RawSubmission, Submission
from sendkit_server.model.refusal import Refusal, Refused
from sendkit_server.store.queries import once as queries
from sendkit_server.store.store import Store
from sendkit_server.store.values import Once, Repeat

KEPT_MS = DAY_MS
PATIENCE_S = 5.0
MAX_KEY_CHARACTERS = 256
SMTP = "smtp"
SAME_BYTES = "smtp-bytes"
MOST_SEARCHED_BYTES = 1024 * 1024
MOST_BOUNDARIES = 20
HEADERS = ("x-sendkit-idempotency-key", "resend-idempotency-key", "idempotency-key")
"""Headers of a mail that give its key, by lower-cased name; they never leave."""

_FIELD_END = rb"[ \t]*:[^\r\n]*(?:\r\n[ \t][^\r\n]*)*"
_CHANCE = re.compile(rb"\r\n(?:date|received)" + _FIELD_END, re.IGNORECASE)
_CHANCE_BESIDE_A_KEY = re.compile(rb"\r\n(?:date|received|message-id)" + _FIELD_END, re.IGNORECASE)
_RECEIVED = re.compile(rb"\r\nreceived" + _FIELD_END, re.IGNORECASE)
_QUEUE_ID = re.compile(rb"\sid\s+[!-:<-~]", re.IGNORECASE)  # RFC 5321 4.4: "ID" FWS ( Atom / msg-id )
_BOUNDARY = re.compile(rb"boundary=\"?([!#-:<-~]{8,70})", re.IGNORECASE)

_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode
_reply: msgspec.json.Decoder[Accepted] = msgspec.json.Decoder(Accepted)


class Call(msgspec.Struct, frozen=True):
    """By what a call is known again. fingerprint: of what it asks for."""

    team_id: int
    scope: str
    key: str
    fingerprint: bytes

    def answered(self, answer: Accepted, now: Instant) -> Once:
        """What is stored with the mail."""
        return Once(self.scope, self.key, self.fingerprint, _json(answer).decode(), now, now + KEPT_MS)


def of_submission(submission: Submission) -> Call | None:
    """The API call's, if it has a key. Refused: a key that is none."""
    key = submission.idempotency_key
    if key is None and submission.headers:
        key = given(submission.headers)
    if key is None:
        return None
    # The members and not the bytes: the same mail as JSON and as a form is the same call.
    asked = msgspec.structs.replace(submission, key=_NOBODY, idempotency_key=None, client="")
    fingerprint = hashlib.sha256(_pack(asked)).digest()
    return Call(submission.key.team_id, _scope(submission.path, submission.key.captures), _checked(key), fingerprint)


def of_raw(submission: RawSubmission, key: str | None) -> Call | None:
    """The transaction's, if it has a key. Refused: a key that is none."""
    if key is None:
        return None
    # A mailer makes the mail anew when it tries again: what names it and when is not what is asked for.
    bare = msgspec.structs.replace(submission, raw=_without_chance(submission.raw, _CHANCE_BESIDE_A_KEY))
    scope = _scope(SMTP, submission.capture or submission.key.captures)
    return Call(submission.key.team_id, scope, _checked(key), _digest(bare))


def same_bytes(submission: RawSubmission, *, named: bool) -> Call | None:
    """The transaction's without a key: what it consists of is its key. named: it has a Message-ID.

    But for what is made anew though somebody asks for the same: Date and the boundaries of parts, by a client's library;
    Received, by a relay whose queue is filled anew (`postsuper -r`). Without a Message-ID two mails may say the same and be
    meant to be two: then every byte counts, and a queue id must be among them. None: nothing tells.
    """
    if named:
        submission = msgspec.structs.replace(submission, raw=_without_chance(submission.raw, _CHANCE))
    elif not _has_queue_id(submission.raw):
        return None
    digest = _digest(submission, submission.key.id)
    return Call(submission.key.team_id, SAME_BYTES, digest.hex(), digest)


def _scope(path: str, is_captured: bool) -> str:
    """What is only captured is no answer to who wants it sent, such as the same program once its key is a live one."""
    return f"{path} captured" if is_captured else path


def given(headers: Iterable[tuple[str, str]]) -> str | None:
    """The key among a mail's headers."""
    found = {name.lower(): value.strip() for name, value in headers}
    return next((found[name] for name in HEADERS if name in found), None)


def answer_of(call: Call, earlier: Repeat) -> Accepted | Refusal:
    """What a call that was made before is told."""
    if earlier.fingerprint != call.fingerprint:
        return refusal.OTHER_REQUEST
    return msgspec.structs.replace(_reply.decode(earlier.reply), replayed=True)


class Earlier:
    """The calls that run in this process or have been obeyed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: dict[tuple[int, str, str], asyncio.Future[None]] = {}

    async def begin(self, call: Call) -> None:
        """Begins the call, once the same one that runs in this process has ended. `end` must follow.

        Refused: it runs for longer than is waited.
        """
        name = call.team_id, call.scope, call.key
        while (running := self._running.get(name)) is not None:
            done, _ = await asyncio.wait([running], timeout=PATIENCE_S)
            if not done:
                raise Refused(refusal.STILL_RUNNING)
        self._running[name] = asyncio.get_running_loop().create_future()

    async def find(self, call: Call, now: Instant) -> Repeat | None:
        """The call as it was obeyed before; None: it was not. StoreUnavailable."""
        name = call.team_id, call.scope, call.key
        return await self._store.read(lambda connection: queries.find(connection, name, now))

    def end(self, call: Call) -> None:
        """It has an answer, whichever."""
        running = self._running.pop((call.team_id, call.scope, call.key), None)
        if running is not None and not running.done():
            running.set_result(None)


def _checked(key: str) -> str:
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS or not key.isprintable():
        raise Refused(refusal.BAD_IDEMPOTENCY_KEY)
    return key


def _without_chance(raw: bytes, chance: re.Pattern[bytes]) -> bytes:
    head, _, body = raw.partition(b"\r\n\r\n")
    head = chance.sub(b"", b"\r\n" + head)
    whole = head + b"\r\n\r\n" + body
    if len(raw) > MOST_SEARCHED_BYTES or b"multipart/" not in head.lower():
        return whole
    for n, boundary in enumerate(dict.fromkeys(_BOUNDARY.findall(whole)[:MOST_BOUNDARIES])):
        whole = whole.replace(boundary, b"boundary-%d" % n)
    return whole


def _has_queue_id(raw: bytes) -> bool:
    """Whether a server that the mail has passed has given it an id."""
    head = b"\r\n" + raw.partition(b"\r\n\r\n")[0]
    return any(_QUEUE_ID.search(received.group()) for received in _RECEIVED.finditer(head))


def _digest(submission: RawSubmission, *more: str) -> bytes:
    recipients: Sequence[str] = [mailbox.address for mailbox in submission.recipients]
    digest = hashlib.sha256("\0".join([*more, submission.return_path, *recipients, ""]).encode())
    digest.update(submission.raw)
    return digest.digest()


_NOBODY = ApiKey("", 0, "", "", frozenset(), test=False)
