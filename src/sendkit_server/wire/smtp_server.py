"""The server's side of an SMTP submission session (RFC 5321, 6409), without a socket or a clock.

The shell feeds what it reads with receive(), pulls events one by one with next_event(), answers each with answer(),
and writes bytes_to_send(). Only what somebody else must decide on is an event: credentials, a sender, a message,
STARTTLS. Everything else the session answers itself. The greeting is there from the start.

Strict: only CRLF ends a line. After max_errors wrong commands the session ends, whatever was right between them.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sendkit_server.model.address import Mailbox
from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import ProtocolError, Reply
from sendkit_server.wire.smtp_server_auth import AuthAttempt, AuthExchange
from sendkit_server.wire.smtp_server_content import ChunkReader, DataReader, has_bare_line_ends
from sendkit_server.wire.smtp_server_states import REFUSED, State
from sendkit_server.wire.smtp_server_syntax import parse_chunk, parse_mail, parse_recipient
from sendkit_server.wire.smtp_server_transcript import HIDDEN, MAX_LINE_CHARACTERS, Transcript

MAX_LINE_BYTES = 4_096  # RFC 5321 4.5.3.1.4 asks for 512; extensions add to it
MAX_AUTH_LINE_BYTES = 12_288  # RFC 4954 4
MAX_UNENDED_BYTES = 16_384  # a line longer than this is not waited for
OUTBOX_BYTES = 65_536  # no command is read while so much waits to be written

_HTTP_VERBS = frozenset({"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE"})
_NOT_IMPLEMENTED = frozenset({"EXPN", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML", "XCLIENT", "XFORWARD"})
_TLS_HELLO = b"\x16\x03"  # RFC 8446 5.1: a handshake record of any version


class StartTls(msgspec.Struct, frozen=True):
    """The client asks for TLS. After answer(220) and the handshake, call secured()."""


class Mail(msgspec.Struct, frozen=True):
    """A transaction wants to begin. return_path: "" for `<>`."""

    return_path: str


class Message(msgspec.Struct, frozen=True):
    """A whole message. protocol: RFC 3848's word for how it came, for the Received line."""

    return_path: str
    recipients: tuple[Mailbox, ...]
    raw: bytes
    protocol: str


Event = StartTls | AuthAttempt | Mail | Message


class SubmissionSession:
    """One client's session. closed: nothing more is read; write what bytes_to_send() has, then hang up.

    tls_offered: STARTTLS may be asked for.  auth_offered: AUTH is allowed as things are; after TLS it always is.
    auth_required: nothing is taken from strangers.
    """

    takes_chunks = True
    takes_logins = True

    def __init__(
        self,
        hostname: str,
        *,
        max_size_bytes: int,
        max_recipients: int = 50,
        max_errors: int = 10,
        tls_offered: bool = False,
        tls_active: bool = False,
        auth_offered: bool = False,
        auth_required: bool = True,
    ) -> None:
        self.closed = False
        self.state = State.GREETED
        self.transcript = Transcript()
        self._note = self.transcript.recent.append
        self._hostname = hostname
        self._max_size_bytes = max_size_bytes
        self._max_recipients = max_recipients
        self._max_errors = max_errors
        self._tls_offered = tls_offered
        self._tls_active = tls_active
        self._auth_offered = auth_offered or tls_active
        self._auth_required = auth_required
        self._too_large = Reply(552, "5.3.4", f"Message too large: the limit is {max_size_bytes} bytes")
        self._buffer = b""
        self._at = 0
        self._starved = True
        self._first_line = True
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._errors = 0
        self._pending: Event | None = None
        self._securing = False
        self._authenticated = False
        self._extended = False
        self._exchange: AuthExchange | None = None
        self._content: DataReader | ChunkReader | None = None
        self._chunks: ChunkReader | None = None
        self._chunk_refusal: Reply | None = None
        self._return_path: Mailbox | None = None
        self._smtputf8 = False
        self._recipients: dict[Mailbox, None] = {}
        self._say(Reply(220, "", f"{hostname} ESMTP Sendkit"))

    # What the shell calls

    def receive(self, data: bytes) -> None:
        """Bytes from the client, in pieces of any size."""
        if self._securing:
            # Said in clear between our 220 and the handshake: it must never count as said under TLS.
            self.end(say.EARLY_TLS_INPUT)
        if self.closed:
            return
        self._buffer = data if self._at == len(self._buffer) else self._buffer[self._at :] + data
        self._at = 0
        self._starved = False

    def next_event(self) -> Event | None:
        """The next thing to decide on. None: write what there is to send, then wait for more bytes.

        None also while an event waits for its answer, and while much waits to be written: call again after writing.
        """
        while not (self._starved or self._pending or self.closed) and self._outbox_bytes < OUTBOX_BYTES:
            if self._at == len(self._buffer):
                self._buffer, self._at, self._starved = b"", 0, True
            else:
                self._pending = self._read_content() if self._content else self._read_line()
                if self._pending:
                    return self._pending
        return None

    def answer(self, reply: Reply) -> None:
        """The decision on the last event. A 421 ends the session, a 535 to anything but AUTH as well."""
        event, self._pending = self._pending, None
        self._say(reply)
        if reply.code == 421 or (reply.code == 535 and not isinstance(event, AuthAttempt)):
            self.closed = True
        accepted = reply.code < 300
        if isinstance(event, Mail) and accepted:
            self.state = State.MAIL
        elif isinstance(event, Message):
            self._forget_transaction()
        elif isinstance(event, StartTls) and accepted:
            self._securing = True
        elif isinstance(event, AuthAttempt):
            self._authenticated = accepted
            self.state = self._resting_state()
            if not accepted:
                self._count_error()

    def secured(self) -> None:
        """The TLS handshake is done: everything said before it is forgotten (RFC 3207 4.2)."""
        self._securing = False
        self._tls_active = self._auth_offered = True
        self._authenticated = False
        self._forget_transaction()
        self.state = State.GREETED
        self._buffer, self._at, self._starved = b"", 0, True

    def end(self, reply: Reply) -> None:
        """Say this and close: a time-out, a shutdown."""
        if not self.closed:
            self._say(reply)
            self.closed = True

    def bytes_to_send(self) -> bytes:
        """What has been said since the last call."""
        outbox = self._outbox
        if not outbox:
            return b""
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        outbox.clear()
        self._outbox_bytes = 0
        return data

    @property
    def content_bytes(self) -> int | None:
        """Bytes of the message that has begun to come; None between messages."""
        reader = self._content or self._chunks
        return None if reader is None else reader.received_bytes

    @property
    def in_mid_command(self) -> bool:
        """Whether the beginning of a line has come and its end has not."""
        return self._at < len(self._buffer)

    # Lines

    def _read_line(self) -> Event | None:
        buffer, at = self._buffer, self._at
        if self._first_line and buffer.startswith(_TLS_HELLO):
            self.end(say.NOT_TLS)
            return None
        end = buffer.find(b"\r\n", at)
        if end < 0:
            self._starved = True
            if len(buffer) - at > MAX_UNENDED_BYTES:
                self.end(say.LINE_TOO_LONG)
            return None
        self._at = end + 2
        try:
            if end + 2 - at > MAX_LINE_BYTES:
                self._check_length(buffer[at : end + 2])
            text = _decode_line(buffer[at:end])
            exchange = self._exchange
            self.transcript.recent.append(
                HIDDEN if exchange else text if len(text) <= MAX_LINE_CHARACTERS else text[:MAX_LINE_CHARACTERS]
            )
            return self._auth_step(exchange, exchange.respond(text)) if exchange else self._command(text)
        except ProtocolError as error:
            self._exchange = None
            self._say(error.reply)
            # A large mail or a mistyped recipient is no wrong command: a long list may hold many.
            if error.reply.code not in (552, 553):
                self._count_error()
            return None

    def _check_length(self, line: bytes) -> None:
        if not (self._exchange or line[:5].upper() == b"AUTH "):
            raise ProtocolError(say.LINE_TOO_LONG)
        if len(line) > MAX_AUTH_LINE_BYTES:
            raise ProtocolError(say.AUTH_LINE_TOO_LONG)

    def _command(self, line: str) -> Event | None:
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        first_line, self._first_line = self._first_line, False
        step = _STEPS.get(verb)
        if step is None:
            if first_line and verb in _HTTP_VERBS:
                self.end(say.NOT_SMTP)
                return None
            raise ProtocolError(say.NOT_IMPLEMENTED if verb in _NOT_IMPLEMENTED else say.UNKNOWN)
        refusal = REFUSED[self.state].get(verb)
        if refusal is None:
            return step(self, argument.strip(" "))
        if verb == "BDAT":
            self._skip_chunk(argument.strip(" "), refusal)
            return None
        raise ProtocolError(refusal)

    def _ehlo(self, argument: str) -> None:
        self._hello(argument)
        self._extended = True
        extensions = [self._hostname, "PIPELINING", f"SIZE {self._max_size_bytes}", "8BITMIME", "SMTPUTF8"]
        extensions.append("ENHANCEDSTATUSCODES")
        if self.takes_chunks:
            extensions.append("CHUNKING")
        if self._tls_offered and not self._tls_active:
            extensions.append("STARTTLS")
        if self._auth_offered and self.takes_logins:
            extensions.append("AUTH PLAIN LOGIN")
        self._say(Reply(250, "", "\n".join(extensions)))

    def _helo(self, argument: str) -> None:
        self._hello(argument)
        self._extended = False
        self._say(Reply(250, "", self._hostname))

    def _hello(self, argument: str) -> None:
        if not argument:
            raise ProtocolError(say.HELLO_SYNTAX)
        self._forget_transaction()
        self.state = self._resting_state()

    def _start_tls(self, argument: str) -> Event | None:
        if argument:
            raise ProtocolError(say.NO_ARGUMENT)
        if self._tls_active:
            raise ProtocolError(say.TLS_ACTIVE)
        if not self._tls_offered:
            raise ProtocolError(say.TLS_UNAVAILABLE)
        if self._at < len(self._buffer):
            self.end(say.EARLY_TLS_INPUT)
            return None
        return StartTls()

    def _reset(self, argument: str) -> None:
        _wants_no_argument(argument)
        self._forget_transaction()
        self._say(say.OK)

    def _quit(self, argument: str) -> None:
        _wants_no_argument(argument)
        self.end(say.BYE)

    def _auth(self, argument: str) -> Event | None:
        exchange = AuthExchange()
        return self._auth_step(exchange, exchange.begin(argument))

    def _auth_step(self, exchange: AuthExchange, result: AuthAttempt | Reply) -> Event | None:
        if isinstance(result, AuthAttempt):
            self._exchange = None
            return result
        self._exchange = exchange
        self._say(result)
        return None

    # The mail transaction

    def _mail(self, argument: str) -> Event:
        command = parse_mail(argument)
        if command.size_bytes is not None and command.size_bytes > self._max_size_bytes:
            raise ProtocolError(self._too_large)
        self._return_path = command.return_path
        self._smtputf8 = command.smtputf8
        return Mail(self._return_path.address if self._return_path else "")

    def _rcpt(self, argument: str) -> None:
        mailbox = parse_recipient(argument, self._smtputf8)
        self._check_recipient(mailbox)
        # The same address again is no further recipient: it gets one mail.
        if len(self._recipients) >= self._max_recipients and mailbox not in self._recipients:
            self._say(say.TOO_MANY_RECIPIENTS)
            return
        self._recipients[mailbox] = None
        self.state = State.RECIPIENTS
        self._say(say.RECIPIENT_OK)

    def _check_recipient(self, mailbox: Mailbox) -> None:
        """ProtocolError with the refusal; submission takes any recipient."""

    def _data(self, argument: str) -> None:
        _wants_no_argument(argument)
        self._content = DataReader(self._max_size_bytes)
        self._say(say.SEND_DATA)

    def _bdat(self, argument: str) -> Event | None:
        chunk = parse_chunk(argument)
        if chunk is None:
            self.end(say.CHUNK_SYNTAX)  # where the chunk ends is anybody's guess, so nothing behind it can be read
            return None
        self.state = State.CHUNKS
        self._chunks = self._chunks or ChunkReader(self._max_size_bytes)
        return self._begin_chunk(self._chunks, *chunk)

    def _skip_chunk(self, argument: str, refusal: Reply) -> None:
        """A chunk that is refused comes all the same (RFC 3030 2): read it, forget it, then say so."""
        chunk = parse_chunk(argument)
        if chunk is None:
            self.end(say.CHUNK_SYNTAX)
            return
        self._chunk_refusal = refusal
        self._begin_chunk(ChunkReader(0, keep=False), *chunk)

    def _begin_chunk(self, reader: ChunkReader, size_bytes: int, last: bool) -> Event | None:
        reader.expect(size_bytes, last)
        self._content = reader
        return None if size_bytes else self._read_content()  # an empty chunk is complete, whatever comes behind it

    def _read_content(self) -> Event | None:
        reader = self._content
        assert reader is not None
        end = reader.feed(self._buffer, self._at)
        if end is None:
            self._at = len(self._buffer)
            return None
        self._at = end
        self._content = None
        if isinstance(reader, DataReader):
            return self._message(reader.raw)
        if self._chunk_refusal:
            self._say(self._chunk_refusal)
            self._chunk_refusal = None
            self._count_error()
            return None
        if reader.last or reader.too_large:
            return self._message(reader.raw)
        self._say(Reply(250, "2.0.0", f"{reader.size_bytes} octets received"))
        return None

    def _message(self, raw: bytes | None) -> Event | None:
        refusal = self._too_large if raw is None else say.BARE_LINE_END if has_bare_line_ends(raw) else None
        if raw is None or refusal is not None:
            self._say(refusal or self._too_large)
            self._forget_transaction()
            return None
        return Message(
            self._return_path.address if self._return_path else "", tuple(self._recipients), raw, self._protocol()
        )

    def _protocol(self) -> str:
        if not self._extended:
            return "SMTP"
        # RFC 3848, RFC 6531 3.7.3. Where any password is good, none says who it was: no A.
        name = "UTF8SMTP" if self._smtputf8 else "ESMTP"
        return f"{name}{'S' * self._tls_active}{'A' * (self._authenticated and self._auth_required)}"

    # Small change

    def _resting_state(self) -> State:
        if self._authenticated:
            return State.READY
        if not self._auth_required:
            return State.OPEN
        return State.ANONYMOUS if self._auth_offered else State.INSECURE

    def _forget_transaction(self) -> None:
        self._return_path = None
        self._smtputf8 = False
        self._recipients = {}
        self._content = self._chunks = None
        if self.state is not State.GREETED:
            self.state = self._resting_state()

    def _say(self, reply: Reply) -> None:
        data = reply.to_bytes()
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        self._note(reply)
        if reply.code >= 400:
            self.transcript.refused(reply)

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= self._max_errors:
            self.end(say.TOO_MANY_ERRORS)


def speaks_other_protocol(first: bytes) -> bool:
    """Whether a client's first bytes are those of HTTP or TLS: it has the wrong port, and is told so."""
    return first.startswith(_TLS_HELLO) or first.partition(b" ")[0].decode("ascii", "replace") in _HTTP_VERBS


def _wants_no_argument(argument: str) -> None:
    if argument:
        raise ProtocolError(say.NO_ARGUMENT)


def _decode_line(raw: bytes) -> str:
    """A command line without its CRLF, as text that has no control character in it."""
    try:
        line = raw.decode()
    except UnicodeDecodeError:
        raise ProtocolError(say.NOT_UTF8) from None
    if not line.isprintable() and any(char < " " or char == "\x7f" for char in line):
        raise ProtocolError(say.BARE_LINE_END if "\r" in line or "\n" in line else say.CONTROL_CHARACTER)
    return line


def _answers(reply: Reply) -> _Step:
    """A command that is answered the same, whatever stands behind it."""
    return lambda session, _argument: session._say(reply)


_Step = Callable[[SubmissionSession, str], Event | None]
_STEPS: dict[str, _Step] = {
    "EHLO": SubmissionSession._ehlo,
    "HELO": SubmissionSession._helo,
    "STARTTLS": SubmissionSession._start_tls,
    "AUTH": SubmissionSession._auth,
    "MAIL": SubmissionSession._mail,
    "RCPT": SubmissionSession._rcpt,
    "DATA": SubmissionSession._data,
    "BDAT": SubmissionSession._bdat,
    "RSET": SubmissionSession._reset,
    "QUIT": SubmissionSession._quit,
    "NOOP": _answers(say.OK),
    "VRFY": _answers(say.CANNOT_VERIFY),
    "HELP": _answers(say.HELP),
}
COMMANDS = tuple(_STEPS)
