"""The inbound door: other servers bring back bounces and complaints. It never relays, and takes mail for nobody else.

A recipient must be a return path that this server made, at whatever domain; the token in it is looked at before a byte
of the message is taken. 250 comes after what the message says is recorded, 451 when it could not be.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from sendkit_server.events.refusals import Note
from sendkit_server.model.address import Mailbox
from sendkit_server.smtp.listener import Listener
from sendkit_server.smtp.service import Door
from sendkit_server.smtp.shell import Shell, fault
from sendkit_server.smtp.submission import SubmissionSettings
from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.smtp_server import Event, Mail, Message, SubmissionSession
from sendkit_server.wire.smtp_server_inbound import InboundSession

MAX_RECIPIENTS = 10  # a notification is about one mail; servers that bring several begin anew


class Result(Protocol):
    """What became of a mail."""

    @property
    def is_final(self) -> bool:
        """False: it has to come again."""


Take = Callable[[Sequence[str], bytes], Awaitable[Result]]
"""Records a mail that came to these local parts."""


class InboundDoor(Listener):
    """One inbound listener.

    takes: whether a local part is a return path of ours.  take: records what came there.  on_error: told the name of
    each refusal, time-out and fault.  note_refusal: takes a row of the log for each session that had one.
    """

    def __init__(
        self,
        settings: SubmissionSettings,
        takes: Callable[[str], bool],
        take: Take,
        *,
        tls: Callable[[], ssl.SSLContext],
        on_error: Callable[[str], None],
        note_refusal: Note = lambda entry: None,
    ) -> None:
        door = Door(settings, tls=tls, on_error=on_error, name="inbound", note_refusal=note_refusal)
        super().__init__(door, self._connected)
        self._takes_local = takes
        self._take_mail = take

    def _connected(self, host: str, address: str) -> InboundConnection:
        session = InboundSession(
            self._settings.hostname,
            takes=self._takes,
            max_size_bytes=self._settings.max_message_bytes,
            max_recipients=min(self._settings.max_recipients, MAX_RECIPIENTS),
            max_errors=self._settings.max_errors,
            tls_offered=True,
        )
        return InboundConnection(self._door, session, host, address, self._take_mail)

    def _takes(self, mailbox: Mailbox) -> bool:
        taken = self._takes_local(mailbox.local)
        if not taken:
            self._door.on_error("not_a_return_path")
        return taken


class InboundConnection(Shell):
    """A server that brings something back."""

    def __init__(self, door: Door, session: SubmissionSession, host: str, address: str, take: Take) -> None:
        super().__init__(door, session, host, address)
        self._take_mail = take

    def decide(self, event: Event) -> None:
        """Any sender may begin; a message is recorded."""
        if isinstance(event, Mail):
            self.session.answer(say.SENDER_OK)
        elif isinstance(event, Message):
            self.start(self._record(event))

    async def _record(self, message: Message) -> None:
        try:
            result = await self._take_mail([mailbox.local for mailbox in message.recipients], message.raw)
        except Exception:
            fault("inbound")
            self.finish(say.NOT_NOW)
            return
        self.finish(say.RETURNED_OK if result.is_final else say.NOT_NOW)
