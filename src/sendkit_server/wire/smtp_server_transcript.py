"""What was said around the refusals of an SMTP session, without its secrets and its messages.

Hot path: while nothing is refused, a line is one append to a bounded deque of what there is anyway, about 1 µs a mail in all,
and nothing is formatted. A refusal keeps the lines that led to it.
"""

from __future__ import annotations

from collections import deque

from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import Reply

LINES_BEFORE = 24  # of a refusal
MAX_KEPT_CHARACTERS = 4_000
MAX_LINE_CHARACTERS = 200
HIDDEN = "[hidden]"
LEFT_OUT = "…"

_SHOWN = frozenset(
    {"EHLO", "HELO", "STARTTLS", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "QUIT", "NOOP", "VRFY", "HELP", "EXPN", "ETRN"}
)
_MECHANISMS = frozenset({"PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "XOAUTH2", "OAUTHBEARER", "NTLM", "SCRAM-SHA-256"})


class Transcript:
    """One session's. step: of the first refusal: a command's verb, `connect` or `timeout`; None: nothing was refused.

    reply: what was said then.  refusals: how many there were.  lines: (`C` or `S`, text), with what came before each.
    """

    def __init__(self) -> None:
        self.step: str | None = None
        self.reply: Reply | None = None
        self.refusals = 0
        self.lines: list[tuple[str, str]] = []
        self.recent: deque[str | Reply] = deque(maxlen=LINES_BEFORE)
        self._kept_characters = 0

    def refused(self, reply: Reply) -> None:
        """The reply that was said last is a refusal."""
        if reply is say.SHUTTING_DOWN:
            return  # nobody's doing
        self.refusals += 1
        if self.step is None:
            self.step, self.reply = self._step(reply), reply
        if len(self.recent) == LINES_BEFORE:
            self._keep("", LEFT_OUT)
        for said in self.recent:
            if isinstance(said, Reply):
                self._keep("S", said.to_bytes().decode("utf-8", "replace").strip().replace("\r\n", " / "))
            else:
                self._keep("C", redacted(said))
        self.recent.clear()

    def _step(self, reply: Reply) -> str:
        if reply is say.TIMEOUT:
            return "timeout"
        last = next((said for said in reversed(self.recent) if isinstance(said, str)), None)
        if last is None:
            return "connect"
        verb = "AUTH" if last == HIDDEN else last.partition(" ")[0].upper()
        return verb if verb == "AUTH" or verb in _SHOWN else "unknown command"

    def _keep(self, side: str, text: str) -> None:
        text = text[:MAX_LINE_CHARACTERS]
        self._kept_characters += len(text)
        if self._kept_characters <= MAX_KEPT_CHARACTERS:
            self.lines.append((side, text))


def redacted(line: str) -> str:
    """A client's line for other eyes. What is no command may be a password: who is refused AUTH often goes on with it."""
    verb, _, argument = line.partition(" ")
    verb = verb.upper()
    if verb == "AUTH":
        mechanism = argument.split(" ")[0].upper()
        return f"AUTH {mechanism} {HIDDEN}" if mechanism in _MECHANISMS else f"AUTH {HIDDEN}"
    if line == HIDDEN or verb in _SHOWN:
        return line
    return f"[{len(line)} characters that are no command]"
