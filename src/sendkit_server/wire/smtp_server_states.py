"""Where a submission session stands between two commands, and what it refuses there.

    state       how one gets there                            what it allows next
    GREETED     connected, or TLS has just begun              EHLO
    INSECURE    EHLO, AUTH needed, but not before TLS         STARTTLS
    ANONYMOUS   EHLO, AUTH needed                             AUTH
    OPEN        EHLO where AUTH is a matter of taste          MAIL, AUTH
    READY       AUTH                                          MAIL
    MAIL        MAIL                                          RCPT
    RECIPIENTS  RCPT                                          RCPT, DATA, BDAT
    CHUNKS      BDAT that was not the last                    BDAT

EHLO, RSET, NOOP, QUIT, VRFY and HELP are allowed everywhere. REFUSED is the same table for what is not.
"""

from __future__ import annotations

from enum import StrEnum

from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import Reply


class State(StrEnum):
    """Where a session stands between two commands; the module's text says how one gets there."""

    GREETED = "greeted"
    INSECURE = "insecure"
    ANONYMOUS = "anonymous"
    OPEN = "open"
    READY = "ready"
    MAIL = "mail"
    RECIPIENTS = "recipients"
    CHUNKS = "chunks"


_IN_MAIL = {"STARTTLS": say.IN_TRANSACTION, "AUTH": say.IN_TRANSACTION, "MAIL": say.SENDER_KNOWN}
_NO_MAIL_YET = {"RCPT": say.MAIL_FIRST, "DATA": say.MAIL_FIRST, "BDAT": say.MAIL_FIRST}

REFUSED: dict[State, dict[str, Reply]] = {
    State.GREETED: dict.fromkeys(("STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT"), say.HELLO_FIRST),
    State.INSECURE: {"AUTH": say.TLS_FIRST, **dict.fromkeys(("MAIL", "RCPT", "DATA", "BDAT"), say.AUTH_FIRST)},
    State.ANONYMOUS: dict.fromkeys(("MAIL", "RCPT", "DATA", "BDAT"), say.AUTH_FIRST),
    State.OPEN: _NO_MAIL_YET,
    State.READY: {"AUTH": say.AUTHENTICATED_ALREADY, **_NO_MAIL_YET},
    State.MAIL: {**_IN_MAIL, "DATA": say.NO_RECIPIENTS, "BDAT": say.NO_RECIPIENTS},
    State.RECIPIENTS: _IN_MAIL,
    State.CHUNKS: {**_IN_MAIL, "MAIL": say.CHUNKS_BEGUN, "RCPT": say.CHUNKS_BEGUN, "DATA": say.CHUNKS_BEGUN},
}
