"""The real program's backup, restore, export and migrate, while mail comes in and goes out."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from server import SENDKIT, Server, until
from sinks import Session, SmtpSink


def hold(sink: SmtpSink) -> None:
    """The sink puts off whoever is called waiting."""

    def answer(session: Session, argument: str) -> str:
        return "450 4.2.0 later" if "waiting" in argument else "250 2.1.5 ok"

    sink.answers["RCPT"] = answer


def arrived(sink: SmtpSink) -> set[str]:
    return {recipient for mail in sink.mails for recipient in mail.recipients}


async def test_a_backup_under_load_restores_to_an_installation_that_goes_on(
    make_server: Callable[..., Server],
    new_database: Callable[..., str | None],
    sink: SmtpSink,
    tmp_path: Path,
) -> None:
    hold(sink)
    server = await make_server(SENDKIT_RETRY_SCHEDULE="1s").start()
    key = await server.live_key()
    acknowledged: dict[str, str] = {}
    stopping = False

    async def client(name: str) -> None:
        while not stopping:
            n = len(acknowledged)
            to = f"waiting.{name}.{n}@there.test" if n % 3 == 0 else f"{name}.{n}@elsewhere.test"
            acknowledged[await server.send(key, to=to)] = to

    clients = [asyncio.create_task(client(f"client{n}")) for n in range(4)]
    await until(lambda: len(acknowledged) >= 60 and len(sink.mails) >= 20)
    before = dict(acknowledged)
    archive = tmp_path / "night.skb"
    status, out, err = await server.command("backup", str(archive))
    assert status == 0, err
    assert len(acknowledged) > len(before), "mail was accepted all the while"
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert "waiting recipients" in out
    assert "secret key" in err
    stopping = True
    await asyncio.gather(*clients)
    await server.kill()

    fresh = make_server(new_database(empty=True), empty=True, SENDKIT_RETRY_SCHEDULE="1s")
    status, out, err = await fresh.command("restore", str(archive))
    assert status == 0, err
    del sink.answers["RCPT"]
    sink.mails.clear()
    await fresh.start()
    for message_id, to in before.items():
        assert to in str((await fresh.email(key, message_id))["to"])
    waited = {message_id: to for message_id, to in before.items() if to.startswith("waiting")}
    assert len(waited) >= 15
    for message_id in waited:
        await fresh.settled(key, message_id, "delivered")
    assert set(waited.values()) <= arrived(sink)
    status, out, err = await fresh.command("restore", str(archive))
    assert (status, "in use by another process" in err) == (1, True)


async def test_a_damaged_backup_is_refused_in_one_line(
    server: Server, key: str, make_server: Callable[..., Server], tmp_path: Path
) -> None:
    await server.send(key)
    archive = tmp_path / "a.skb"
    assert (await server.command("backup", str(archive)))[0] == 0
    status, _, err = await server.command("backup", str(archive))
    assert (status, err.splitlines()[-1]) == (1, f"Error: {archive} is there already; give another name")
    raw = bytearray(archive.read_bytes())
    raw[len(raw) // 2] ^= 1
    archive.write_bytes(raw)
    status, _, err = await make_server(empty=True).command("restore", str(archive))
    assert status == 1
    assert err.splitlines()[-1].startswith(f"Error: {archive} is damaged")


@pytest.mark.engine("sqlite")
async def test_a_backup_has_a_name_of_its_own_and_a_bar_on_a_terminal(server: Server, key: str) -> None:
    await server.send(key)
    terminal, its_end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        SENDKIT, "backup", env=server.environment, cwd=server.data_dir.parent, stdout=asyncio.subprocess.PIPE,
        stderr=its_end,
    )  # fmt: skip
    os.close(its_end)
    out, _ = await process.communicate()
    shown = os.read(terminal, 65_536).decode()
    os.close(terminal)
    assert process.returncode == 0, shown
    name = out.decode().partition(":")[0]
    assert name.startswith("sendkit-backup-2")
    assert (server.data_dir.parent / name).stat().st_size > 500
    assert "Backing up" in shown
    assert "100%" in shown


async def test_an_export_runs_beside_the_server_and_ends_quietly_when_nobody_reads_on(
    server: Server, key: str, sink: SmtpSink
) -> None:
    big = await server.send(key, text="a line of text\n" * 40_000)
    await server.settled(key, big, "delivered")
    status, out, err = await server.command("export", "--kind", "all")
    assert (status, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["id"] for one in found if one["object"] == "email"] == [big]
    assert {one["type"] for one in found if one["object"] == "event"} == {"sent", "delivered"}
    assert key not in out
    process = await asyncio.create_subprocess_exec(
        "bash", "-o", "pipefail", "-c", f"{SENDKIT} export --bodies | head -c 20", env=server.environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    raw, raw_err = await process.communicate()
    assert (process.returncode, raw, raw_err) == (0, b'{"object":"email","t', b"")
    status, _, err = await server.command("export", "--since", "yesterday")
    assert (status, "no ISO 8601 time" in err) == (2, True)


@pytest.mark.engine("postgres")
async def test_a_sqlite_installation_moves_to_postgres_with_the_mail_that_waits(
    make_server: Callable[..., Server], new_database: Callable[..., str | None], sink: SmtpSink
) -> None:
    hold(sink)
    old = await make_server(None, SENDKIT_RETRY_SCHEDULE="1s").start()
    key = await old.live_key()
    sent = [await old.send(key, to=f"waiting{n}@there.test") for n in range(10)]
    delivered = await old.send(key, to="bob@elsewhere.test")
    await old.settled(key, delivered, "delivered")
    for message_id in sent:
        await old.settled(key, message_id, "delivery_delayed")
    url = new_database(empty=True)
    assert url is not None
    status, _, err = await old.command("migrate", "--to", url)
    assert (status, "sendkit serve, pid" in err) == (1, True), err
    assert await old.stop() == 0

    status, out, err = await old.command("migrate", "--to", url)
    assert status == 0, err
    assert "11 mails, 10 waiting recipients: the same on both sides" in out
    assert "SENDKIT_DATABASE_URL" in out
    status, _, err = await old.command("keys", "list")
    assert (status, "sendkit migrate --undo" in err) == (1, True), err

    secret = (old.data_dir / "secret-key").read_text().strip()
    del sink.answers["RCPT"]
    new = await make_server(url, SENDKIT_SECRET_KEY=secret, SENDKIT_RETRY_SCHEDULE="1s").start()
    for message_id in sent:
        await new.settled(key, message_id, "delivered")
    assert (await new.email(key, delivered))["status"] == "delivered"
    assert sorted(mail.recipients[0] for mail in sink.mails) == sorted(
        ["bob@elsewhere.test", *(f"waiting{n}@there.test" for n in range(10))]
    )
    assert await new.stop() == 0

    status, out, _ = await old.command("migrate", "--undo")
    assert (status, "can be served again" in out) == (0, True)
    status, _, _ = await old.command("keys", "list")
    assert status == 0
