"""What all connections of one door share: of any door, and of the submission door."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from sendkit_server.events.refusals import Note
from sendkit_server.manage.guesses import Guesses
from sendkit_server.model.mail import ApiKey
from sendkit_server.smtp.peers import ConnectionCounts
from sendkit_server.smtp.submission import Acceptor, KeyRing, SubmissionSettings

if TYPE_CHECKING:
    from sendkit_server.smtp.shell import Shell


class Door:
    """Settings, who is connected, and whether the door is closing. empty: nobody is connected.

    on_error: told the name of each refusal, time-out and fault.  name, note_refusal: what this door is called on the log of
    refused sessions, and who writes that.
    """

    def __init__(
        self,
        settings: SubmissionSettings,
        *,
        tls: Callable[[], ssl.SSLContext] | None,
        on_error: Callable[[str], None],
        name: str = "smtp",
        note_refusal: Note = lambda entry: None,
    ) -> None:
        self.name = name
        self.note_refusal = note_refusal
        self.settings = settings
        self.tls = tls
        self.on_error = on_error
        self.counts = ConnectionCounts(settings.max_connections, settings.max_connections_per_address)
        self.connections: set[Shell] = set()
        self.draining = False
        self.empty = asyncio.Event()
        self.empty.set()


class Service(Door):
    """The submission door's: keys, acceptance, and who has guessed at keys as well."""

    def __init__(
        self,
        settings: SubmissionSettings,
        keys: KeyRing,
        acceptor: Acceptor,
        guesses: Guesses,
        *,
        tls: Callable[[], ssl.SSLContext] | None,
        dev_key: ApiKey | None,
        on_error: Callable[[str], None],
        note_refusal: Note = lambda entry: None,
    ) -> None:
        super().__init__(settings, tls=tls, on_error=on_error, note_refusal=note_refusal)
        self.keys = keys
        self.acceptor = acceptor
        self.dev_key = dev_key
        self.guesses = guesses
