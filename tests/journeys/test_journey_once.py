"""What a client that did not hear the answer does: it asks again. There is one mail all the same, on every door."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
from clients import node
from cutting import cutting
from raw_talk import connected
from server import MAIL, Reply, Server, until
from sinks import SmtpSink

KEY = {"Idempotency-Key": "order-17"}
SMTP = "SMTP, STARTTLS"
PLAIN = {"SENDKIT_SMTP_PLAIN_AUTH": "loopback"}
RAW = "From: app@sender.test\r\nTo: ann@there.test\r\nMessage-ID: <17@app.sender.test>\r\nSubject: Once\r\n\r\nIt works\r\n"


async def a_hundred(server: Server, key: str) -> list[Reply | BaseException]:
    calls = (server.call("POST", "/emails", key, MAIL, KEY) for _ in range(100))
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_a_hundred_with_one_key_across_a_kill_make_one_mail(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server().start()
    key = await server.live_key()
    asking = asyncio.create_task(a_hundred(server, key))
    await until(lambda: sink.mails or "mail.accepted" in server.log)
    await server.kill()
    before = [answer for answer in await asking if isinstance(answer, Reply)]
    await server.start()
    after = await a_hundred(server, key)
    assert all(isinstance(answer, Reply) and answer.status == 200 for answer in after), after
    ids = {answer.json["id"] for answer in [*before, *after] if isinstance(answer, Reply) and answer.status == 200}
    assert len(ids) == 1
    await server.settled(key, ids.pop(), "delivered")
    listed = await server.call("GET", "/emails", key)
    assert listed.json["meta"]["total"] == 1
    # At its place in the queue the mail may have been on the wire when the process was killed; its bytes are the same then.
    assert len({mail.raw for mail in sink.mails}) == 1


async def test_a_client_that_is_cut_off_behind_the_dot_and_comes_again_is_given_the_first_answer(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server(**PLAIN).start()
    key = await server.live_key()
    for answer in (None, "250 2.0.0 Ok: msg_"):
        async with connected(server.port(SMTP)) as talk:
            await talk.smtp()
            await talk.login(key)
            for command in ("MAIL FROM:<app@sender.test>", "RCPT TO:<ann@there.test>", "DATA"):
                await talk.smtp(command)
            await talk.say(f"{RAW}.\r\n".encode())
            if answer is None:
                await until(lambda: "mail.accepted" in server.log)
            else:
                said = await talk.smtp()
                assert said.startswith(answer)
                message_id = said.rpartition(" ")[2]
    found = await server.settled(key, message_id, "delivered")
    assert found["deduplicated"] is True
    assert len(sink.mails) == 1
    assert (await server.call("GET", "/emails/%3C17@app.sender.test%3E", key)).json["id"] == message_id


@pytest.mark.engine("sqlite")
async def test_nodemailer_that_tries_again_after_cuts_sends_one_mail(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server(**PLAIN).start()
    key = await server.live_key()
    async with cutting(server.port(SMTP), times=2) as proxy:
        ran = await node("cut.mjs", environment={"PORT": str(proxy.port), "KEY": key})
    assert ran.status == 0, ran.err
    message_id = re.search(r"Ok: (msg_\S+)", ran.out)
    assert message_id is not None, ran.out
    assert proxy.cut == {message_id[1]: 2}
    await server.settled(key, message_id[1], "delivered")
    assert len(sink.mails) == 1


async def test_a_revoked_key_is_dead_on_connections_that_are_open(make_server: Callable[..., Server]) -> None:
    server = await make_server(**PLAIN).start()
    key = await server.live_key()
    keep = await server.live_key(domain="other.test")
    made = (await server.call("POST", "/api-keys", keep, {"name": "short", "permission": "send"})).json
    async with connected(server.port(SMTP)) as talk:
        await talk.smtp()
        await talk.login(made["token"])
        assert (await talk.smtp("MAIL FROM:<app@sender.test>")).startswith("250")
        assert (await server.call("DELETE", f"/api-keys/{made['id']}", keep)).status == 200
        await talk.smtp("RCPT TO:<ann@there.test>")
        await talk.smtp("DATA")
        assert await talk.smtp(f"{RAW}.") == "535 5.7.8 Authentication failed"
        assert await talk.rest() == b""
    assert (await server.call("POST", "/emails", made["token"], MAIL)).status == 401
    assert (await server.call("POST", "/emails", key, MAIL)).status == 200
