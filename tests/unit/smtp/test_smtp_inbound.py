"""The inbound door, talked to over a socket: what it takes, what it never does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trustme

from sendkit_server.events.bounces import Taken
from sendkit_server.smtp.inbound import InboundDoor
from sendkit_server.smtp.submission import SubmissionSettings

PATIENCE_S = 10.0
OURS = "b-1-all-mac"
CA = trustme.CA()


class Client:
    """One server that brings something back; replies are read whole."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> str:
        lines = []
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), PATIENCE_S)).decode()
            lines.append(line)
            if line[3:4] != "-":
                return "".join(lines)

    async def say(self, line: str) -> str:
        self.writer.write(line.encode() + b"\r\n")
        return await self.reply()


class World:
    """A door whose mails are answered as the test wants."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[str], bytes]] = []
        self.answer: Taken | Exception = Taken.BOUNCED
        self.errors: list[str] = []
        self.address = ("", 0)

    async def take(self, locals_: Sequence[str], raw: bytes) -> Taken:
        self.taken.append((list(locals_), raw))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(*self.address)
        client = Client(reader, writer)
        assert (await client.reply()).startswith("220 ")
        try:
            yield client
        finally:
            writer.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("mail.here.test").configure_cert(context)
    door = InboundDoor(
        SubmissionSettings("mail.here.test", max_message_bytes=10_000),
        lambda local: local.lower() == OURS,
        world.take,
        tls=lambda: context,
        on_error=world.errors.append,
    )
    world.address = await door.start("127.0.0.1", 0)
    yield world
    await door.close(0)


async def begin(client: Client, sender: str = "<>", recipient: str = f"<{OURS}@mail.here.test>") -> str:
    assert (await client.say("EHLO mx.there.test")).startswith("250")
    assert (await client.say(f"MAIL FROM:{sender}")).startswith("250 2.1.0")
    return await client.say(f"RCPT TO:{recipient}")


async def finish(client: Client, body: bytes = b"Subject: Returned\r\n\r\nbody\r\n") -> str:
    assert (await client.say("DATA")).startswith("354")
    client.writer.write(body + b".\r\n")
    return await client.reply()


@pytest.mark.parametrize("sender", ["<>", "<MAILER-DAEMON@mx.there.test>"])
@pytest.mark.parametrize("domain", ["mail.here.test", "send.customer.test"])
async def test_what_comes_to_a_return_path_of_ours_is_recorded_and_then_answered(
    world: World, sender: str, domain: str
):
    async with world.client() as client:
        assert (await begin(client, sender, f"<{OURS.upper()}@{domain}>")).startswith("250 2.1.5")
        assert await finish(client) == "250 2.0.0 Ok\r\n"
    assert world.taken == [([OURS.upper()], b"Subject: Returned\r\n\r\nbody\r\n")]


@pytest.mark.parametrize(
    "recipient", ["<ann@there.test>", "<b-1-all-forged@mail.here.test>", "<postmaster@mail.here.test>"]
)
async def test_mail_for_anybody_else_is_refused_before_a_byte_of_it_comes(world: World, recipient: str):
    async with world.client() as client:
        assert (await begin(client, recipient=recipient)).startswith("550 5.7.1 ")
        assert (await client.say("DATA")).startswith("554 5.5.1")
    assert world.taken == []
    assert world.errors == ["not_a_return_path"]


async def test_nobody_can_try_many_return_paths_over_one_connection(world: World):
    async with world.client() as client:
        await begin(client, recipient="<b-1-all-1@mail.here.test>")
        for n in range(2, 10):
            assert (await client.say(f"RCPT TO:<b-1-all-{n}@mail.here.test>")).startswith("550 ")
        client.writer.write(b"RCPT TO:<b-1-all-10@mail.here.test>\r\n")
        assert (await client.reply()).startswith("550 ")
        assert (await client.reply()).startswith("421 4.7.0")


async def test_a_wrong_recipient_does_not_spoil_the_right_one(world: World):
    async with world.client() as client:
        await begin(client, recipient="<ann@there.test>")
        assert (await client.say(f"RCPT TO:<{OURS}@mail.here.test>")).startswith("250")
        assert (await finish(client)).startswith("250")
    assert world.taken[0][0] == [OURS]


@pytest.mark.parametrize("answer", [Taken.BUSY, Taken.UNAVAILABLE, RuntimeError("a fault of ours")])
async def test_what_could_not_be_recorded_is_asked_for_again(world: World, answer: Taken | Exception):
    world.answer = answer
    async with world.client() as client:
        await begin(client)
        assert await finish(client) == "451 4.3.0 Temporary failure, try again\r\n"


@pytest.mark.parametrize("answer", [Taken.IGNORED, Taken.REPEATED, Taken.NOBODY, Taken.COMPLAINED])
async def test_what_changes_nothing_is_taken_all_the_same_so_that_it_does_not_come_again(world: World, answer: Taken):
    world.answer = answer
    async with world.client() as client:
        await begin(client)
        assert (await finish(client)).startswith("250")


async def test_starttls_is_offered_and_authentication_and_chunks_are_not(world: World):
    async with world.client() as client:
        offered = await client.say("EHLO mx.there.test")
        assert "STARTTLS" in offered and "SIZE 10000" in offered
        assert "AUTH" not in offered and "CHUNKING" not in offered
        assert (await client.say("AUTH PLAIN AHNlbmRraXQAc2tfbGl2ZV94")).startswith("502 5.5.1")
        assert (await client.say("STARTTLS")).startswith("220")
        await client.writer.start_tls(trusting(), server_hostname="mail.here.test")
        assert "AUTH" not in await client.say("EHLO mx.there.test")
        assert (await client.say("AUTH PLAIN AHNlbmRraXQAc2tfbGl2ZV94")).startswith("502 5.5.1")
        await client.say("MAIL FROM:<>")
        assert (await client.say(f"RCPT TO:<{OURS}@mail.here.test>")).startswith("250")
        assert (await client.say("BDAT 5 LAST")).startswith("502 5.5.1")
        assert (await finish(client)).startswith("250")
    assert len(world.taken) == 1


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


async def test_a_mail_over_the_limit_is_refused(world: World):
    async with world.client() as client:
        await begin(client)
        assert (await finish(client, b"x" * 80 + b"\r\n" + b"y" * 70 * 200 + b"\r\n")).startswith("552 5.3.4")
    assert world.taken == []


async def test_bare_line_ends_are_refused_here_too(world: World):
    async with world.client() as client:
        await begin(client)
        assert (await finish(client, b"Subject: x\n\nbody\r\n")).startswith("550 5.5.2")
    assert world.taken == []
