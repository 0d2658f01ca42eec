"""The SMTP client's half of a conversation, as values and bytes (RFC 5321, 2920, 3030, 3207, 4954, 6152, 6531, 1870).

`ReplyReader` turns bytes into replies, one at a time. `Opening` says what comes between the greeting and the first
mail, `Transaction` what one mail takes. Both are asked the same way: `start()` and `take(reply)` return the bytes to
send next, `done` says that nothing more is awaited, `lost()` that no further reply will come.

What a server says is hostile input: a reply is capped, made printable and never trusted further than its code. A
reply that breaks the grammar raises ProtocolError, and a recipient is accepted only by a 2xx to the final dot.

Hot path: 12 µs for a pipelined mail of 4.5 kB with one recipient (benchmarks/smtp_client.py).
"""

from __future__ import annotations

import base64
import re
from enum import StrEnum

import msgspec

from sendkit_server.model.outcome import Exchange

MAX_LINE_BYTES = 4096  # RFC 5321 4.5.3.1.5 allows 512; some write more, nobody means well beyond this
KEPT_LINE_BYTES = 512
MAX_LINES = 100
KEPT_TEXT_CHARACTERS = 1000

# Reply-code = %x32-35 %x30-35 %x30-39 (RFC 5321 4.2)
_CODES = {b"%d%d%d" % (a, b, c): a * 100 + b * 10 + c for a in range(2, 6) for b in range(6) for c in range(10)}
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?=\s|$)")
_NO_EHLO = frozenset({500, 501, 502, 504, 550})


class ProtocolError(Exception):
    """The server said what no SMTP server may say here; the text tells what. The connection is of no more use."""


class Step(StrEnum):
    """Where in the conversation a verdict fell."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    MESSAGE = "message"


class Trouble(StrEnum):
    """Why there is no reply to go by."""

    LOST = "connection_lost"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol_error"
    POLICY = "policy"


class Reply(msgspec.Struct, frozen=True):
    """One reply: its code and the text of each line, printable, without the code."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The server's words in one line, at most KEPT_TEXT_CHARACTERS."""
        return " ".join(self.lines)[:KEPT_TEXT_CHARACTERS]

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 2034) when it is there and agrees with the code's class."""
        found = _ENHANCED.match(self.lines[0])
        return found.group() if found and int(found.group(1)) == self.code // 100 else None

    @property
    def transcript(self) -> str:
        """As it stands in a transcript: `250 2.0.0 Ok`, several lines with a line break between."""
        if len(self.lines) == 1:
            return f"{self.code} {self.lines[0]}"
        *before, last = self.lines
        return "\n".join([*(f"{self.code}-{line}" for line in before), f"{self.code} {last}"])


class Verdict(msgspec.Struct, frozen=True):
    """What decided over a recipient, or over a connection: a reply, or the trouble that there was none."""

    step: Step
    reply: Reply | None
    trouble: Trouble | None = None
    text: str = ""


class Capabilities(msgspec.Struct, frozen=True):
    """What the server offered in answer to EHLO. size_bytes: None when it named no limit."""

    pipelining: bool = False
    chunking: bool = False
    eightbit: bool = False
    smtputf8: bool = False
    starttls: bool = False
    size: bool = False
    size_bytes: int | None = None
    auth: frozenset[str] = frozenset()


class Login(msgspec.Struct, frozen=True):
    """Who we are to a smarthost."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r}, …)"


class TlsWish(StrEnum):
    """never: in clear on purpose.  offered: when the server offers it.  required: or nothing goes over this connection."""

    NEVER = "never"
    OFFERED = "offered"
    REQUIRED = "required"


class Mail(msgspec.Struct, frozen=True):
    """One transaction's envelope and bytes. raw: CRLF line ends, dots not stuffed.

    eightbit, smtputf8: what the bytes need of the server (RFC 6152, 6531).
    """

    return_path: str
    recipients: tuple[str, ...]
    raw: bytes
    eightbit: bool = False
    smtputf8: bool = False


class ReplyReader:
    """Bytes in, replies out, one by one: after STARTTLS and before the final dot it matters what came too early."""

    __slots__ = ("_buffer", "_code", "_lines")

    def __init__(self) -> None:
        self._buffer = b""
        self._code = 0  # of the lines
        self._lines: list[str] = []

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer = self._buffer + data if self._buffer else data

    @property
    def pending(self) -> bool:
        """Whether there is anything, even half a line, that no reply was made of yet."""
        return bool(self._buffer or self._lines)

    def next_reply(self) -> Reply | None:
        """The next whole reply; None when more bytes are needed. ProtocolError on anything else."""
        # A bare LF ends a line here, too: such servers exist, and no reply's text becomes a command.
        while (end := self._buffer.find(b"\n")) >= 0:
            line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
            code = _CODES.get(line[:3])
            if code is None or end > MAX_LINE_BYTES:
                raise ProtocolError(f"not a reply: {printable(line[:80])!r}")
            separator = line[3:4]
            text = printable(line[4:KEPT_LINE_BYTES].rstrip(b"\r"))
            if self._lines and code != self._code:
                # Which of them was meant nobody can tell; taking the last may take a refusal for a delivery.
                before = f"{self._code}-{self._lines[-1][:80]}"
                raise ProtocolError(f"one reply with different codes: {before!r}, {printable(line[:80])!r}")
            if separator == b" " or separator == b"" or separator == b"\r":
                if not self._lines:
                    return Reply(code, (text,))
                lines, self._lines = (*self._lines, text), []
                return Reply(code, lines)
            if separator != b"-":
                raise ProtocolError(f"not a reply: {printable(line[:80])!r}")
            self._code = code
            self._lines.append(text)
            if len(self._lines) >= MAX_LINES:
                raise ProtocolError(f"a reply of more than {MAX_LINES} lines")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise ProtocolError(f"a reply line longer than {MAX_LINE_BYTES} bytes")
        return None


def printable(raw: bytes) -> str:
    """A server's bytes as text that is safe to keep: invalid UTF-8 and control characters written as `\\x1b`."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text])


def parse_capabilities(reply: Reply) -> Capabilities:
    """The keywords of an EHLO reply; its first line is the server's name (RFC 5321 4.1.1.1)."""
    offered: dict[str, list[str]] = {}
    for line in filter(str.strip, reply.lines[1:]):
        keyword, *parameters = line.upper().split()
        # `AUTH=PLAIN` is how servers of the nineties wrote it; some still add it for their sake.
        name, equals, first = keyword.partition("=")
        offered.setdefault(name, []).extend([first, *parameters] if equals else parameters)
    size = offered.get("SIZE", [])
    return Capabilities(
        pipelining="PIPELINING" in offered,
        chunking="CHUNKING" in offered,
        eightbit="8BITMIME" in offered,
        smtputf8="SMTPUTF8" in offered,
        starttls="STARTTLS" in offered,
        size="SIZE" in offered,
        # `SIZE 0` and a bare `SIZE` name no limit (RFC 1870 4).
        size_bytes=int(size[0]) or None if size and size[0].isascii() and size[0].isdigit() else None,
        auth=frozenset(offered.get("AUTH", ())),
    )


def has_bare_line_end(raw: bytes) -> bool:
    """Whether a CR or LF stands alone: what such bytes mean to the next server is anybody's guess (smuggling)."""
    rest = raw.replace(b"\r\n", b"")
    return b"\n" in rest or b"\r" in rest


def dot_stuffed(raw: bytes) -> bytes:
    """The message as DATA carries it, with the final dot (RFC 5321 4.5.2)."""
    stuffed = raw.replace(b"\r\n.", b"\r\n..")
    start = b"." if raw[:1] == b"." else b""
    return b"".join((start, stuffed, b".\r\n" if raw[-2:] == b"\r\n" else b"\r\n.\r\n"))


class Opening:
    """From the greeting to a connection that takes mail: EHLO, STARTTLS, EHLO again, AUTH.

    When `wants_tls` is set the shell makes the handshake and calls `secured()`. `refused` tells why this host is of
    no use now; `log` is the transcript, secrets left out.
    """

    def __init__(self, hostname: str, tls: TlsWish, login: Login | None = None, *, encrypted: bool = False) -> None:
        self.capabilities = Capabilities()
        self.step = Step.GREETING
        self.done = False
        self.refused: Verdict | None = None
        self.wants_tls = False
        self.log: list[Exchange] = []
        self._hostname = hostname.encode("ascii")
        self._tls = tls
        self._login = login
        self._encrypted = encrypted
        self._greeted_with_ehlo = True
        self._secrets: list[bytes] = []

    def take(self, reply: Reply, at_ms: int) -> bytes:
        """Consume one reply; returns what to send next."""
        self.log.append(Exchange(at_ms, "<", reply.transcript))
        match self.step:
            case Step.GREETING:
                return self._hello(at_ms) if reply.code == 220 else self._refuse(reply)
            case Step.EHLO:
                return self._after_hello(reply, at_ms)
            case Step.STARTTLS:
                return self._after_starttls(reply, at_ms)
            case _:
                return self._after_auth(reply, at_ms)

    def secured(self, description: str, at_ms: int) -> bytes:
        """The handshake is made: forget what was offered in clear and ask again (RFC 3207 4.2)."""
        self.log.append(Exchange(at_ms, "*", f"TLS {description}"))
        self.wants_tls = False
        self._encrypted = True
        self.capabilities = Capabilities()
        return self._hello(at_ms)

    def lost(self, trouble: Trouble, text: str, at_ms: int) -> None:
        """Nothing more will come from the server."""
        self.log.append(Exchange(at_ms, "*", text))
        self.refused = Verdict(self.step, None, trouble, text)
        self.done = True

    def _hello(self, at_ms: int) -> bytes:
        self.step = Step.EHLO
        return self._say((b"EHLO " if self._greeted_with_ehlo else b"HELO ") + self._hostname, at_ms)

    def _after_hello(self, reply: Reply, at_ms: int) -> bytes:
        if reply.code in _NO_EHLO and self._greeted_with_ehlo:
            self._greeted_with_ehlo = False
            return self._hello(at_ms)
        if reply.code != 250:
            return self._refuse(reply)
        if self._greeted_with_ehlo:
            self.capabilities = parse_capabilities(reply)
        if self._encrypted or self._tls is TlsWish.NEVER:
            return self._authenticate(at_ms)
        if self.capabilities.starttls:
            self.step = Step.STARTTLS
            return self._say(b"STARTTLS", at_ms)
        if self._tls is TlsWish.REQUIRED:
            self.step = Step.STARTTLS
            self.lost(Trouble.POLICY, "the server does not offer STARTTLS, which this route requires", at_ms)
            return b""
        return self._authenticate(at_ms)

    def _after_starttls(self, reply: Reply, at_ms: int) -> bytes:
        if reply.code == 220:
            self.wants_tls = True
            return b""
        if self._tls is TlsWish.REQUIRED or reply.code == 421:
            return self._refuse(reply)
        # Offered, then refused: opportunistic means that the mail goes in clear rather than not at all.
        return self._authenticate(at_ms)

    def _authenticate(self, at_ms: int) -> bytes:
        if self._login is None:
            self.done = True
            return b""
        self.step = Step.AUTH
        if not self._encrypted:
            self.lost(Trouble.POLICY, "the connection is not encrypted: the password is not sent", at_ms)
            return b""
        user, password = self._login.user.encode(), self._login.password.encode()
        if "PLAIN" in self.capabilities.auth:
            token = base64.b64encode(b"\0" + user + b"\0" + password)
            self.log.append(Exchange(at_ms, ">", "AUTH PLAIN [secret]"))
            return b"AUTH PLAIN " + token + b"\r\n"
        if "LOGIN" in self.capabilities.auth:
            self._secrets = [base64.b64encode(user), base64.b64encode(password)]
            return self._say(b"AUTH LOGIN", at_ms)
        self.lost(Trouble.POLICY, "the server offers neither AUTH PLAIN nor AUTH LOGIN", at_ms)
        return b""

    def _after_auth(self, reply: Reply, at_ms: int) -> bytes:
        if reply.code == 334 and self._secrets:
            self.log.append(Exchange(at_ms, ">", "[secret]"))
            return self._secrets.pop(0) + b"\r\n"
        if reply.code == 235:
            self.done = True
            return b""
        if reply.code < 400:
            raise ProtocolError(f"{reply.code} in answer to AUTH")
        return self._refuse(reply)

    def _say(self, command: bytes, at_ms: int) -> bytes:
        self.log.append(Exchange(at_ms, ">", command.decode("ascii")))
        return command + b"\r\n"

    def _refuse(self, reply: Reply) -> bytes:
        if reply.code < 400:
            raise ProtocolError(f"{reply.code} in answer to {self.step}")
        self.refused = Verdict(self.step, reply)
        self.done = True
        return b""


class Transaction:
    """One mail over an open connection: what to send, and from the replies a verdict for each recipient.

    With PIPELINING the envelope goes in one piece (RFC 2920), with CHUNKING the message follows by BDAT (RFC 3030),
    else by DATA. reset: the transaction before was left half-way, RSET goes first.
    """

    __slots__ = (
        "_accepted",
        "_at",
        "_capabilities",
        "_commands",
        "_mail",
        "clean",
        "done",
        "hung_up",
        "log",
        "step",
        "untouched",
        "verdicts",
    )

    def __init__(self, capabilities: Capabilities, mail: Mail, *, reset: bool = False) -> None:
        self.verdicts: list[Verdict | None] = [None] * len(mail.recipients)
        self.log: list[Exchange] = []
        self.done = False
        self.hung_up = False  # the connection is of no more use, whatever the verdicts are
        self.clean = False  # the server has forgotten this mail: the next needs no RSET
        self.untouched = True  # the server has not answered a single command of this mail
        self.step = Step.MAIL
        self._capabilities = capabilities
        self._mail = mail
        self._accepted = 0
        self._at = -1 if reset else 0  # whose reply is next: -1 RSET, 0 MAIL, 1… RCPT, then DATA, then the message
        self._commands = _envelope(capabilities, mail, reset=reset)

    def start(self, at_ms: int) -> bytes:
        """The first bytes: the whole envelope when the server takes pipelining."""
        commands = self._commands
        if not self._capabilities.pipelining:
            return self._say(commands.pop(0), at_ms)
        log = self.log
        for command in commands:
            log.append(Exchange(at_ms, ">", command))
        said = "\r\n".join(commands)
        commands.clear()
        return said.encode() + b"\r\n"

    def take(self, reply: Reply, at_ms: int) -> bytes:
        """Consume one reply; returns what to send next. ProtocolError when no server may say that here."""
        self.log.append(Exchange(at_ms, "<", reply.transcript))
        code, at = reply.code, self._at
        self._at = at + 1
        count = len(self.verdicts)
        if code == 421:
            self.hung_up = True
            return self._end(Verdict(self._step_of(at), reply))
        if at >= 0:
            self.untouched = False
        if at == count + 2:
            return self._after_message(reply)
        if at == count + 1:
            return self._after_data(reply, at_ms)
        if at < 0:
            return self._next_command(at_ms)
        if 300 <= code < 400:
            raise self._out_of_place(reply, at)
        if at == 0:
            return self._after_mail(reply, at_ms)
        if code >= 400:
            if self.verdicts[at - 1] is None:
                self.verdicts[at - 1] = Verdict(Step.RCPT, reply)
        elif self.verdicts[at - 1] is None:
            self._accepted += 1
        if at < count:
            return self._next_command(at_ms)
        return self._after_envelope(at_ms)

    def lost(self, trouble: Trouble, text: str, at_ms: int) -> None:
        """No further reply will come: whoever has no verdict yet gets this one."""
        self.log.append(Exchange(at_ms, "*", text))
        self.hung_up = True
        self._end(Verdict(self._step_of(self._at), None, trouble, text))

    def _after_mail(self, reply: Reply, at_ms: int) -> bytes:
        if reply.code >= 400:
            self.verdicts = [Verdict(Step.MAIL, reply)] * len(self.verdicts)
            if not self._capabilities.pipelining:
                self.done = True
                return b""
        self.step = Step.RCPT
        return self._next_command(at_ms)

    def _after_envelope(self, at_ms: int) -> bytes:
        self.step = Step.DATA
        if self._accepted and self._capabilities.chunking:
            self._at += 1
            self.step = Step.MESSAGE
            raw = self._mail.raw
            self.log.append(Exchange(at_ms, ">", f"BDAT {len(raw)} LAST [{len(raw)} bytes]"))
            return b"BDAT %d LAST\r\n" % len(raw) + raw
        if self._capabilities.pipelining and not self._capabilities.chunking:
            return b""
        if not self._accepted:
            self.done = True
            return b""
        return self._next_command(at_ms)

    def _after_data(self, reply: Reply, at_ms: int) -> bytes:
        if reply.code == 354:
            self.step = Step.MESSAGE
            if not self._accepted:
                # Pipelined, so the server could not know that we would not mean it (RFC 2920 3.1).
                self.log.append(Exchange(at_ms, ">", "."))
                return b".\r\n"
            self.log.append(Exchange(at_ms, ">", f"[{len(self._mail.raw)} bytes]"))
            return dot_stuffed(self._mail.raw)
        if reply.code < 400 and self._accepted:
            raise self._out_of_place(reply, len(self.verdicts) + 1)
        return self._end(Verdict(Step.DATA, reply))

    def _after_message(self, reply: Reply) -> bytes:
        if 300 <= reply.code < 400:
            raise ProtocolError(f"{reply.code} in answer to the message")
        self.clean = True
        return self._end(Verdict(Step.MESSAGE, reply))

    def _out_of_place(self, reply: Reply, at: int) -> ProtocolError:
        self._at = at  # nothing was sent on it: after DATA that means that no byte of the message was
        return ProtocolError(f"{reply.code} in answer to {self._step_of(at)}")

    def _end(self, verdict: Verdict) -> bytes:
        self.verdicts = [verdict if own is None else own for own in self.verdicts]
        self.step = verdict.step
        self.done = True
        return b""

    def _step_of(self, at: int) -> Step:
        count = len(self.verdicts)
        if at <= 0:
            return Step.MAIL
        return Step.RCPT if at <= count else Step.DATA if at == count + 1 else Step.MESSAGE

    def _next_command(self, at_ms: int) -> bytes:
        return self._say(self._commands.pop(0), at_ms) if self._commands else b""

    def _say(self, command: str, at_ms: int) -> bytes:
        self.log.append(Exchange(at_ms, ">", command))
        return command.encode() + b"\r\n"


def _envelope(capabilities: Capabilities, mail: Mail, *, reset: bool) -> list[str]:
    """The commands before the message. ValueError when an address would smuggle a second command in."""
    command = f"MAIL FROM:<{mail.return_path}>"
    if capabilities.size:
        command += f" SIZE={len(mail.raw)}"
    if mail.eightbit and capabilities.eightbit:
        command += " BODY=8BITMIME"
    if capabilities.smtputf8 and (mail.smtputf8 or not all(map(str.isascii, (mail.return_path, *mail.recipients)))):
        command += " SMTPUTF8"
    commands = ["RSET", command] if reset else [command]
    commands += [f"RCPT TO:<{recipient}>" for recipient in mail.recipients]
    if not capabilities.chunking:
        commands.append("DATA")
    for said in commands:
        if "\n" in said or "\r" in said:
            raise ValueError(f"a line break in an envelope address: {said!r}")
    return commands
