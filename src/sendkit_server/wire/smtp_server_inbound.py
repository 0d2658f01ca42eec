"""The session in which other servers hand over what came back: no AUTH, no BDAT, and only recipients that are taken.

Everything else is as in submission: strict line ends, the same states, the same limits.
"""

from __future__ import annotations

from collections.abc import Callable

from sendkit_server.model.address import Mailbox
from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import ProtocolError
from sendkit_server.wire.smtp_server import Event, SubmissionSession

_NOT_OFFERED = frozenset({"AUTH", "BDAT"})


class InboundSession(SubmissionSession):
    """One server's session. takes: whether a recipient is one of ours; a wrong one counts as an error, so that nobody can
    try many."""

    takes_chunks = False
    takes_logins = False

    def __init__(
        self,
        hostname: str,
        *,
        takes: Callable[[Mailbox], bool],
        max_size_bytes: int,
        max_recipients: int,
        max_errors: int,
        tls_offered: bool,
    ) -> None:
        super().__init__(
            hostname,
            max_size_bytes=max_size_bytes,
            max_recipients=max_recipients,
            max_errors=max_errors,
            tls_offered=tls_offered,
            auth_required=False,
        )
        self._takes = takes

    def _command(self, line: str) -> Event | None:
        if line.partition(" ")[0].upper() in _NOT_OFFERED:
            raise ProtocolError(say.NOT_IMPLEMENTED)
        return super()._command(line)

    def _check_recipient(self, mailbox: Mailbox) -> None:
        if not self._takes(mailbox):
            raise ProtocolError(say.NOT_OURS)
