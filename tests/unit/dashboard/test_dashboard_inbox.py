"""The inbox page: whom it is shown to, and that a stranger's mail stays harmless."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from sendkit_server.dashboard.door import Pages
from sendkit_server.manage.guesses import Guesses
from sendkit_server.store import rows, schema
from sendkit_server.store.store import Store, open_store

Ask = Callable[..., Awaitable[tuple[int, dict[str, str], bytes]]]
EVIL = '"><img src=x onerror=alert(1)>'
RAW = f"""From: a@b.test
To: c@d.test
Subject: {EVIL}
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: text/html; charset=utf-8

<script>alert(1)</script><img src="cid:logo"><p>hello</p>
--x
Content-Type: image/png
Content-ID: <logo>
Content-Transfer-Encoding: base64

aGVsbG8=
--x
Content-Type: text/html
Content-Disposition: attachment; filename="{EVIL.replace('"', "'")}.html"

<script>alert(2)</script>
--x--
""".replace("\n", "\r\n").encode()


@pytest.fixture
async def store(tmp_path: Path, database_url: str | None) -> AsyncIterator[Store]:
    opened = open_store(tmp_path, "s", "tests", database_url)
    opened.start(1)
    yield opened
    opened.close()


def asking(store: Store, *, dev: bool = True) -> Ask:
    async def api(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{}"})

    guesses = Guesses(lambda: 0.0)
    pages = Pages(api, store, dev=dev, clock=lambda: 1, public_url="http://localhost:8080", guesses=guesses)

    async def ask(
        path: str, method: str = "GET", peer: str = "127.0.0.1", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        sent = {"host": "localhost:8080", **{name.replace("_", "-"): value for name, value in headers.items()}}
        scope = {
            "type": "http", "method": method, "path": path, "client": (peer, 1),
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }  # fmt: skip
        answered: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            answered.append(message)

        await pages(scope, receive, send)
        found = {name.decode(): value.decode() for name, value in answered[0]["headers"]}
        return answered[0]["status"], found, answered[1]["body"]

    return ask


async def captured(store: Store, raw: bytes = RAW) -> str:
    message = {
        "team_id": 1, "id": "msg_1", "parent_id": "req", "content_id": "con", "door": "http", "key_id": "k", "capture": True, "protocol": "",
        "from_mailbox": '["a","b.test",""]', "to_mailboxes": "[]", "cc_mailboxes": "[]", "subject": EVIL, "message_id": "<1@b.test>", "tags": "[]",
        "metadata": "{}", "stream": "transactional", "status": "delivered", "recipient_count": 0, "size_bytes": 1, "created_at": 1_000,
    }  # fmt: skip
    await store.write(lambda connection: connection.execute(insert(schema.message).values(**message)))
    await store.write(
        lambda connection: connection.execute(
            insert(schema.captured).values(team_id=1, message_id="msg_1", captured_at=1_000, raw=rows.compressed(raw))
        )
    )
    return "msg_1"


async def test_an_empty_inbox_says_what_to_do(store: Store) -> None:
    status, headers, body = await asking(store)("/ui/inbox")
    assert status == 200 and b"Nothing here yet" in body
    assert "default-src 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("192.0.2.7", {}),
        ("127.0.0.1", {"host": "evil.test"}),
        ("127.0.0.1", {"host": "localhost.evil.test:8080"}),
        ("127.0.0.1", {"host": "127.0.0.1.evil.test"}),
        ("127.0.0.1", {"host": ""}),
        ("127.0.0.1", {"host": "[::1"}),
        ("127.0.0.1", {"x_forwarded_for": "192.0.2.7"}),
        ("127.0.0.1", {"forwarded": "for=192.0.2.7"}),
    ],
)
async def test_others_than_this_machine_have_to_sign_in(store: Store, peer: str, headers: dict[str, str]) -> None:
    await captured(store)
    for path, method in (
        ("/ui/inbox", "GET"), ("/ui/inbox/msg_1", "GET"), ("/ui/inbox/msg_1/source", "GET"), ("/ui/inbox/clear", "POST"),
    ):  # fmt: skip
        status, answered, body = await asking(store)(path, method, peer=peer, **headers)
        assert (status, answered["location"], body) == (303, "/ui/sign-in", b"")
    assert b"msg_1" in (await asking(store)("/ui/inbox"))[2]


async def test_without_dev_the_inbox_is_behind_the_sign_in(store: Store) -> None:
    ask = asking(store, dev=False)
    assert (await ask("/ui/inbox"))[1]["location"] == "/ui/sign-in"
    assert (await ask("/ui"))[0] == 200


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:8080", "[::1]:8080", "127.9.8.7"])
async def test_loopback_in_every_spelling_is_this_machine(store: Store, host: str) -> None:
    assert (await asking(store)("/ui/inbox", host=host))[0] == 200


async def test_what_a_mail_says_is_text_on_every_page(store: Store) -> None:
    await captured(store)
    for path in ("/ui/inbox", "/ui/inbox/msg_1"):
        status, headers, body = await asking(store)(path)
        assert status == 200 and b"<img src=x" not in body and b"onerror=alert(1)&gt;" in body
        assert "script" not in headers["content-security-policy"]
    assert b'sandbox=""' in body


async def test_the_html_of_a_mail_is_sandboxed_and_its_inline_images_work(store: Store) -> None:
    await captured(store)
    ask = asking(store)
    status, headers, body = await ask("/ui/inbox/msg_1/html")
    assert status == 200 and b'src="/ui/inbox/msg_1/cid/logo"' in body
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    status, headers, body = await ask("/ui/inbox/msg_1/cid/logo")
    assert (status, headers["content-type"], body) == (200, "image/png", b"hello")


async def test_attachments_are_downloads_whatever_they_are(store: Store) -> None:
    await captured(store)
    status, headers, body = await asking(store)("/ui/inbox/msg_1/parts/3")
    assert status == 200 and b"alert(2)" in body
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment;") and "\n" not in headers["content-disposition"]
    assert headers["x-content-type-options"] == "nosniff"


async def test_the_source_is_plain_text_byte_for_byte(store: Store) -> None:
    await captured(store)
    status, headers, body = await asking(store)("/ui/inbox/msg_1/source")
    assert (status, body) == (200, RAW) and headers["content-type"].startswith("text/plain")


async def test_clearing_is_for_our_own_page(store: Store) -> None:
    await captured(store)
    ask = asking(store)
    assert (await ask("/ui/inbox/clear", "POST", origin="http://evil.test"))[0] == 403
    assert (await ask("/ui/inbox/clear", "POST", sec_fetch_site="cross-site"))[0] == 403
    assert b"msg_1" in (await ask("/ui/inbox"))[2]
    assert (await ask("/ui/inbox/clear", "POST", origin="http://localhost:8080"))[0] == 303
    assert b"Nothing here yet" in (await ask("/ui/inbox"))[2]


async def test_the_root_sends_browsers_to_the_pages_and_nobody_else(store: Store) -> None:
    ask = asking(store)
    status, headers, _ = await ask("/", accept="text/html,*/*")
    assert (status, headers["location"]) == (303, "/ui")
    assert (await ask("/"))[0] == 404
    assert (await ask("/ui"))[1]["location"] == "/ui/inbox"


@pytest.mark.parametrize("path", ["/ui/inbox/msg_2", "/ui/inbox/msg_1/parts/99", "/ui/inbox/msg_1/cid/x", "/ui/static/../door.py", "/ui/nope",
                                  "/ui/inbox/msg_1/nope", "/ui/inbox/msg_1/parts/x"])  # fmt: skip
async def test_what_is_not_there_is_404(store: Store, path: str) -> None:
    await captured(store)
    assert (await asking(store)(path))[0] == 404


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"From: x\r\nContent-Type: text/html; charset=nope\r\n\r\n\xff", b"\xff\xfe\x00" * 50,
                                 b"Content-Type: multipart/mixed\r\n\r\n--\r\n"])  # fmt: skip
async def test_a_broken_mail_is_shown_all_the_same(store: Store, raw: bytes) -> None:
    await captured(store, raw)
    assert (await asking(store)("/ui/inbox/msg_1"))[0] == 200
    assert (await asking(store)("/ui/inbox/msg_1/html"))[0] in (200, 404)
