"""A stored message becomes the bytes that its recipients get. Pure: no clock, no randomness, no I/O.

Everything derives from stored values: the date is when the message was made, boundaries come from its id, and a retry
after a crash sends the same bytes. The headers show message.to and message.cc, never who gets a blind copy. Signing
comes last.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sendkit_server.model.instant import SECOND_MS, header_date
from sendkit_server.model.mail import Content, Message, PartsContent, RawContent
from sendkit_server.wire import dkim, mime, raw_message
from sendkit_server.wire.dkim import DkimKey


class Composed(msgspec.Struct, frozen=True):
    """A complete, signed message with CRLF line ends, not dot-stuffed.

    eightbit: its body needs 8BITMIME.  smtputf8: its header needs SMTPUTF8.
    """

    raw: bytes
    eightbit: bool
    smtputf8: bool


class CannotCompose(Exception):
    """No bytes can be made of this message for this hop: an outcome for its recipients, no fault of ours.

    reason: a stable word, `cannot_travel` (would have to change what must not be changed) or `broken_message`.
    enhanced: the status code the recipients end with.  The text is for people.
    """

    def __init__(self, reason: str, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.enhanced = enhanced
        self.text = text


def compose(
    message: Message,
    content: Content,
    keys: Sequence[DkimKey],
    *,
    hostname: str,
    eightbit_allowed: bool = True,
) -> Composed:
    """The bytes of one message, signed with each key in order; the same arguments give the same bytes.

    hostname: ours, for the Received field of what came by SMTP.  eightbit_allowed: the hop offers 8BITMIME.
    CannotCompose when there is no way to bring it to that hop.
    """
    try:
        if isinstance(content, PartsContent):
            composed = _from_parts(message, content)
        else:
            composed = _from_raw(message, content, hostname, eightbit_allowed)
    except raw_message.CannotTravel as error:
        raise CannotCompose("cannot_travel", "5.6.3", f"The mail cannot be sent as it is: {error}.") from None
    except ValueError as error:
        raise CannotCompose("broken_message", "5.6.0", f"The mail cannot be composed: {error}") from None
    if not keys:
        return composed
    signatures = dkim.sign(composed.raw, keys, message.created_at // SECOND_MS)
    return Composed(signatures + composed.raw, composed.eightbit, composed.smtputf8)


def _from_parts(message: Message, content: PartsContent) -> Composed:
    raw = mime.build(
        content,
        from_=message.from_,
        to=message.to,
        cc=message.cc,
        date=message.created_at,
        message_id=message.message_id,
        seed=message.id,
    )
    # Bodies are always made 7-bit here; only an international address can be left.
    return Composed(raw, eightbit=False, smtputf8=not raw.isascii())


def _from_raw(message: Message, content: RawContent, hostname: str, eightbit_allowed: bool) -> Composed:
    date = header_date(message.created_at)
    received = (
        f"Received: by {hostname} (Sendkit) with {message.protocol or 'HTTP'}\r\n id {message.id};\r\n {date}\r\n"
    )
    raw = raw_message.prepared(content.raw, date=date, message_id=message.message_id, received=received.encode("ascii"))
    needs = raw_message.needs(raw)
    if needs.eightbit and not eightbit_allowed:
        raw = raw_message.made_7bit(raw)
    elif needs.unsafe:
        raw = raw_message.made_safe(raw)
    else:
        return Composed(raw, needs.eightbit, needs.smtputf8)
    needs = raw_message.needs(raw)
    return Composed(raw, needs.eightbit, needs.smtputf8)
