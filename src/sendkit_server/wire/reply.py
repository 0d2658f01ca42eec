"""An SMTP reply: code, enhanced code, text (RFC 5321 4.2, RFC 2034)."""

from __future__ import annotations

import msgspec

MAX_LINE_BYTES = 512  # RFC 5321 4.5.3.1.5, with the code and CRLF
MAX_LINES = 64  # no reply of ours comes near; one made from somebody else's text must end


class Reply(msgspec.Struct, frozen=True):
    """One reply. enhanced: `5.5.2`, or "" for none.  text: `\\n` between lines of a multi-line reply."""

    code: int
    enhanced: str = ""
    text: str = ""

    def to_bytes(self) -> bytes:
        """The reply on the wire. Whatever the text holds, it is one reply: see _safe_lines."""
        head = f" {self.enhanced} " if self.enhanced else " "
        text = self.text
        if len(text) < MAX_LINE_BYTES - 16 and text.isascii() and text.isprintable():
            return f"{self.code}{head}{text}\r\n".encode()
        lines = _safe_lines(text, MAX_LINE_BYTES - len(f"{self.code}{head}\r\n"))
        rows = [f"{self.code}-{head[1:]}{line}\r\n" for line in lines[:-1]]
        return "".join([*rows, f"{self.code}{head}{lines[-1]}\r\n"]).encode()


class ProtocolError(Exception):
    """What came breaks the protocol. reply: what to say to it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply.code} {reply.enhanced} {reply.text}")
        self.reply = reply


def _safe_lines(text: str, room: int) -> list[str]:
    """The text's lines, at least one, in printable ASCII: a text from elsewhere must not be able to end the reply."""
    split = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:MAX_LINES]
    return ["".join([char if " " <= char <= "~" else "?" for char in line[:room]]) for line in split]
