"""The submission door: clients with an API key hand their mail in."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from sendkit_server.events.refusals import Note
from sendkit_server.manage.guesses import Guesses
from sendkit_server.model.mail import ApiKey
from sendkit_server.smtp.connection import Connection
from sendkit_server.smtp.listener import Listener
from sendkit_server.smtp.peers import is_loopback
from sendkit_server.smtp.service import Service
from sendkit_server.smtp.submission import Acceptor, KeyRing, Mode, SubmissionSettings
from sendkit_server.wire.smtp_server import SubmissionSession


class SubmissionDoor(Listener):
    """One kind of listener, on as many sockets as wanted.

    tls: the context to use for the next handshake, so that a renewed certificate needs no restart.  dev_key: whose
    mail it is in mode `dev`, and only there.  plain_auth_loopback: AUTH without TLS for clients on this machine.
    on_error: told the name of each refusal, failed login, time-out and fault.  note_refusal: takes a row of the log for each
    session that had one.
    """

    def __init__(
        self,
        settings: SubmissionSettings,
        keys: KeyRing,
        acceptor: Acceptor,
        guesses: Guesses,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        mode: Mode | str = Mode.STARTTLS,
        dev_key: ApiKey | None = None,
        plain_auth_loopback: bool = False,
        on_error: Callable[[str], None] = lambda name: None,
        note_refusal: Note = lambda entry: None,
    ) -> None:
        self._mode = Mode(mode)
        if (self._mode is Mode.DEV) != (dev_key is not None):
            raise ValueError("mode dev needs a dev_key, and no other mode takes one")
        if (self._mode is Mode.DEV) != (tls is None):
            raise ValueError("modes starttls and tls need tls, and mode dev has none")
        self._plain_auth_loopback = plain_auth_loopback
        self._service = Service(
            settings, keys, acceptor, guesses, tls=tls, dev_key=dev_key, on_error=on_error, note_refusal=note_refusal
        )
        super().__init__(self._service, self._connected, implicit_tls=self._mode is Mode.TLS)

    def _connected(self, host: str, address: str) -> Connection:
        return Connection(self._service, self._session(host), host, address)

    def _session(self, host: str) -> SubmissionSession:
        dev = self._mode is Mode.DEV
        return SubmissionSession(
            self._settings.hostname,
            max_size_bytes=self._settings.max_message_bytes,
            max_recipients=self._settings.max_recipients,
            max_errors=self._settings.max_errors,
            tls_offered=self._mode is Mode.STARTTLS,
            tls_active=self._mode is Mode.TLS,
            auth_offered=dev or (self._plain_auth_loopback and is_loopback(host)),
            auth_required=not dev,
        )
