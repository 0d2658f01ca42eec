"""The rules of a mail that came in whole by SMTP: its headers are the user's, its envelope is ours to check."""

from __future__ import annotations

import msgspec

from sendkit_server.accept import once, wishes
from sendkit_server.accept.fields import MAX_SUBJECT_CHARACTERS, is_message_id, is_not_built
from sendkit_server.model.address import AddressError, Mailbox, parse_mailbox
from sendkit_server.model.mail import RawSubmission, Role
from sendkit_server.model.refusal import (
    Refusal,
    Refused,
    bad_address,
    invalid,
    message_too_large,
    not_built_yet,
    required,
)
from sendkit_server.wire.raw_message import RawHeaders, headers_of

MAX_RECEIVED = 50

LOOP = Refusal("validation_error", "The mail has passed more than 50 servers: it runs in a loop.", 422, 554, "5.4.6")


class Head(msgspec.Struct, frozen=True):
    """What the headers say. to, cc: the mailboxes that could be read; message_id, idempotency_key None: there was none."""

    from_: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    subject: str
    message_id: str | None
    wishes: wishes.Wishes
    idempotency_key: str | None


def checked(submission: RawSubmission, max_message_bytes: int) -> Head:
    """The headers of a mail, if it may be taken. Refused otherwise."""
    if len(submission.raw) > max_message_bytes:
        raise Refused(message_too_large(max_message_bytes))
    try:
        found = headers_of(submission.raw)
    except ValueError as error:
        raise Refused(invalid(f"The message's headers cannot be read: {error}")) from None
    if found.received_count > MAX_RECEIVED:
        raise Refused(LOOP)
    for name, _ in found.extensions:
        if is_not_built(name.lower()):
            raise Refused(not_built_yet(name))
    wanted = wishes.with_headers(wishes.Wishes(), found.extensions)
    return Head(
        from_=_only_from(found),
        to=_readable(found.to),
        cc=_readable(found.cc),
        subject=found.subject[:MAX_SUBJECT_CHARACTERS],
        message_id=found.message_id if found.message_id and is_message_id(found.message_id) else None,
        wishes=wanted,
        idempotency_key=once.given(found.extensions),
    )


def with_roles(recipients: tuple[Mailbox, ...], head: Head) -> list[tuple[Mailbox, Role]]:
    """The envelope's recipients, each as to, cc, or (in neither header) bcc."""
    to = {mailbox.matching: mailbox for mailbox in head.to}
    cc = {mailbox.matching: mailbox for mailbox in head.cc}
    found: list[tuple[Mailbox, Role]] = []
    for mailbox in recipients:
        shown = to.get(mailbox.matching) or cc.get(mailbox.matching)
        role = Role.TO if mailbox.matching in to else Role.CC if mailbox.matching in cc else Role.BCC
        found.append((Mailbox(mailbox.local, mailbox.domain, shown.name if shown else ""), role))
    return found


def _only_from(found: RawHeaders) -> Mailbox:
    """RFC 5322 3.6: one From field; here with one mailbox, for only one domain can be the signer's."""
    if found.from_count == 0 or not found.from_:
        raise Refused(required("from"))
    if found.from_count > 1 or len(found.from_) > 1:
        raise Refused(invalid("The message must have exactly one From header with one address.", "from"))
    try:
        return parse_mailbox(found.from_[0])
    except AddressError:
        raise Refused(bad_address("from")) from None


def _readable(texts: tuple[str, ...]) -> tuple[Mailbox, ...]:
    """The mailboxes that can be read; `undisclosed-recipients:;` and the like are nobody's address."""
    found = []
    for text in texts:
        try:
            found.append(parse_mailbox(text))
        except AddressError:
            continue
    return tuple(found)
