"""Wrong keys and passwords at one process are known to all, and a right one works wherever it comes from."""

from __future__ import annotations

import asyncio
import base64
import smtplib
from collections.abc import Callable

import pytest
from pages import Browser
from server import MAIL, Server
from test_nodes_together import LOOPBACK_AUTH, eventually, start_all

from sendkit_server.manage.guesses import LIMITS, Kind

pytestmark = pytest.mark.engine("postgres")

WRONG = "sk_live_AbCd" + "x" * 40
PASSWORD = "correct horse battery"


async def status(node: Server, key: str) -> int:
    return (await node.call("POST", "/emails", key, MAIL)).status


async def login_code(node: Server, key: str) -> int:
    """What AUTH is answered."""

    def log_in() -> int:
        # One try: smtplib's own login goes on with the next mechanism.
        credentials = base64.b64encode(f"\0sendkit\0{key}".encode()).decode()
        with smtplib.SMTP("127.0.0.1", node.port("SMTP, STARTTLS"), timeout=20) as client:
            client.ehlo()
            return client.docmd("AUTH PLAIN", credentials)[0]

    return await asyncio.to_thread(log_in)


async def sign_in(node: Server, address: str, password: str) -> int:
    browser = Browser(address)
    await browser.get(f"{node.url}/ui/sign-in")
    await browser.post(f"{node.url}/ui/sign-in", email="ann@sender.test", password=password)
    return browser.status


async def test_wrong_keys_at_one_node_make_wrong_ones_wait_at_the_other_and_right_ones_never(
    make_server: Callable[..., Server],
) -> None:
    one, other = await start_all([make_server(**LOOPBACK_AUTH), make_server(**LOOPBACK_AUTH)])
    key = await one.live_key()
    wrong = [await status(one, WRONG) for _ in range(LIMITS[Kind.KEY] // 2)]
    # From there the other door goes on: both count together.
    wrong += [await login_code(one, WRONG) for _ in range(LIMITS[Kind.KEY] // 2)]
    assert set(wrong) == {401, 535}

    async def waits() -> bool:
        return await status(other, WRONG) == 429

    await eventually(waits, 10, "the other node to hear of it")
    assert await login_code(other, WRONG) == 421
    reply = await one.call("POST", "/emails", WRONG, MAIL)
    assert reply.status == 429 and 0 < int(reply.headers["retry-after"]) <= 600
    for node in (one, other):
        assert await status(node, key) == 200
        assert await login_code(node, key) == 235
    late = await make_server(**LOOPBACK_AUTH).start()
    assert await status(late, WRONG) == 429, "one that starts later knows at once"
    assert await status(late, key) == 200


async def test_wrong_passwords_at_one_node_make_their_address_wait_at_the_other_and_no_one_else(
    make_server: Callable[..., Server],
) -> None:
    one, other = await start_all([make_server(), make_server()])
    await one.act("users.create", email="ann@sender.test", role="owner", password=PASSWORD)
    assert {await sign_in(one, "127.0.0.7", f"guess number {n}") for n in range(LIMITS[Kind.SIGN_IN])} == {401}

    async def waits() -> bool:
        return await sign_in(other, "127.0.0.7", PASSWORD) == 429

    await eventually(waits, 10, "the other node to hear of it")
    for node in (one, other):
        assert await sign_in(node, "127.0.0.8", PASSWORD) == 200
