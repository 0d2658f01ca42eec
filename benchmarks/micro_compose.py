"""What composing one mail of 5 KB costs, step by step. Run: .venv/bin/python benchmarks/micro_compose.py"""

from __future__ import annotations

import time
from collections.abc import Callable

from sendkit_server.compose import compose
from sendkit_server.model.address import Mailbox
from sendkit_server.model.mail import Attachment, Content, Door, Message, PartsContent, RawContent
from sendkit_server.wire import dkim, dkim_keys, raw_message, return_path

SECONDS_EACH = 0.4

TEXT = "\r\n".join(["Thank you for your order. It leaves our house tomorrow morning."] * 25)
HTML = "<html><body>" + "\n".join(["  <p>Thank you for your order. It leaves our house <b>tomorrow</b>.</p>"] * 45)
MESSAGE = Message(
    id="msg_01hd5v7p3c9k2m4n6q8r0s1t2v",
    team_id=1,
    content_id="c",
    door=Door.HTTP,
    key_id="key",
    from_=Mailbox("orders", "shop.example", "The Shop"),
    to=(Mailbox("jane", "example.org", "Jane Doe"),),
    cc=(),
    subject="Your order 4711 is on its way",
    message_id="<01hd5v7p3c9k2m4n6q8r0s1t2v@shop.example>",
    created_at=1_773_239_405_000,
    protocol="ESMTPSA",
)
LATIN = PartsContent(MESSAGE.subject, HTML, TEXT)
UMLAUTS = PartsContent("Größe 42 ist unterwegs", HTML.replace("tomorrow", "übermorgen"), TEXT.replace("our", "für"))
FILE = PartsContent(
    MESSAGE.subject, HTML, TEXT, attachments=(Attachment("a.pdf", "application/pdf", b"%PDF" * 250_000),)
)


def microseconds(step: Callable[[], object]) -> float:
    """The best of five rounds, each long enough for the clock."""
    step()
    best = float("inf")
    for _ in range(5):
        rounds = 0
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SECONDS_EACH / 5:
            for _ in range(10 if elapsed > 0.001 or rounds else 1):
                step()
                rounds += 1
        best = min(best, elapsed / rounds)
    return best * 1e6


def main() -> None:
    """Print the table."""
    rsa, ed25519 = (
        dkim_keys.load(dkim_keys.generate(algorithm), domain="shop.example", selector="s1")
        for algorithm in ("rsa-sha256", "ed25519-sha256")
    )
    unsigned = dkim.DkimKey("shop.example", "s1", "ed25519-sha256", lambda data: bytes(64))
    made = compose(MESSAGE, LATIN, (), hostname="mx.example").raw
    raw = RawContent(made)
    long_lines = RawContent(made.replace(b"morning.\r\n", b"morning. "))
    secret = bytes(32)
    local = return_path.make(MESSAGE.id, 3, secret)

    def composing(content: Content, *with_keys: dkim.DkimKey) -> Callable[[], object]:
        return lambda: compose(MESSAGE, content, with_keys, hostname="mx.example")

    rows: list[tuple[str, Callable[[], object]]] = [
        ("compose, alternative, ASCII", composing(LATIN)),
        ("compose, alternative, umlauts", composing(UMLAUTS)),
        ("compose, with 1 MB attached", composing(FILE)),
        ("compose, raw", composing(raw)),
        ("compose, raw, long lines mended", composing(long_lines)),
        ("headers_of, raw", lambda: raw_message.headers_of(made)),
        ("needs, raw", lambda: raw_message.needs(made)),
        ("canonicalise and hash, key for free", lambda: dkim.sign(made, (unsigned,), 1)),
        ("sign, Ed25519", lambda: dkim.sign(made, (ed25519,), 1)),
        ("sign, RSA-2048", lambda: dkim.sign(made, (rsa,), 1)),
        ("compose and sign with both", composing(LATIN, ed25519, rsa)),
        ("return path, made", lambda: return_path.make(MESSAGE.id, 3, secret)),
        ("return path, parsed", lambda: return_path.parse(local, secret)),
    ]
    print(f"a mail of {len(made)} bytes")
    for name, step in rows:
        print(f"{name:<38}{microseconds(step):>10.1f} µs")


if __name__ == "__main__":
    main()
