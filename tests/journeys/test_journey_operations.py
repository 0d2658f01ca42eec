"""Running it: start, refusals to start, health, logs, secrets, the end."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import needs, run
from databases import dump
from raw_talk import connected
from server import MAIL, Server, until
from sinks import SILENCE, DnsServer, Session, SmtpSink


async def test_https_is_served_directly_and_verifies_with_the_local_ca(make_server: Callable[..., Server]) -> None:
    curl = needs("curl")
    server = await make_server(SENDKIT_HTTPS_BIND="127.0.0.1:0").start()
    key = await server.live_key()
    url = f"https://localhost:{server.port('HTTPS API')}"
    ran = await run(
        curl, "--silent", "--show-error", "--cacert", server.ca_file, f"{url}/emails", "-H", f"Authorization: Bearer {key}",
        "-H", "Content-Type: application/json", "-d", json.dumps(MAIL),
    )  # fmt: skip
    assert json.loads(ran.out)["status"] == "queued", ran.err
    ran = await run(curl, "--silent", "--show-error", f"{url}/health")
    assert ran.status == 60, "curl must not trust it without the CA"
    context = ssl.create_default_context(cafile=str(server.ca_file))
    async with connected(server.port("HTTPS API"), context) as talk:
        await talk.say(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await talk.http()).json["name"] == "not_found"
        await talk.say(b"GET /health HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")
        assert (await talk.http()).status == 431
    # Plain HTTP on the TLS port ends the connection and harms nobody.
    async with connected(server.port("HTTPS API")) as talk:
        await talk.say(b"GET / HTTP/1.1\r\n\r\n")
        await talk.rest()
    assert (await server.call("GET", "/health")).status == 200


async def test_health_ready_and_metrics_need_no_key_and_count_what_happened(
    server: Server, key: str, sink: SmtpSink
) -> None:
    assert (await server.call("GET", "/health")).json == {"status": "ok"}
    assert (await server.call("GET", "/ready")).json == {"status": "ready", "problems": [], "warnings": []}
    sink.answers["RCPT"] = ["250 2.1.5 ok", "450 4.2.0 later", "550 5.1.1 no such user"]
    for wanted in ("delivered", "delivery_delayed", "bounced"):
        await server.settled(key, await server.send(key), wanted)
    await server.call("POST", "/emails", "sk_wrong", MAIL)
    reply = await server.call("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    lines = reply.raw.decode().splitlines()
    for line in (
        'sendkit_accepted_total{door="http"} 3.0', "sendkit_delivered_total 1.0", "sendkit_deferred_total 1.0",
        "sendkit_failed_total 1.0", 'sendkit_errors_total{door="http",name="invalid_api_key"} 1.0',
        'sendkit_queue_recipients{state="waiting"} 1.0',
    ):  # fmt: skip
        assert line in lines, line
    assert any(line.startswith("sendkit_accept_seconds_count 3") for line in lines)


async def test_a_mails_id_finds_its_whole_way_in_the_log_which_names_no_address_and_no_secret(
    server: Server, key: str, sink: SmtpSink
) -> None:
    message_id = await server.send(key, to="very.private@there.test", subject="Private subject", text="private body")
    await server.settled(key, message_id, "delivered")
    await asyncio.to_thread(
        server.smtp_send, key, ["very.private@there.test"], b"From: a@sender.test\r\n\r\nprivate body"
    )
    await until(lambda: len(sink.mails) == 2)
    await server.call("POST", "/emails", f"{key}x", MAIL)
    assert await server.stop() == 0
    events = [json.loads(line) for line in server.log.splitlines()]
    about = [event["event"] for event in events if event.get("message") == message_id]
    assert about[0].endswith("accepted") and about[-1].endswith("delivered"), about
    for secret in ("very.private", "Private subject", "private body", key):
        assert secret not in server.log
    assert all({"event", "level", "timestamp"} <= event.keys() for event in events)


async def test_human_logs_are_lines_for_people(make_server: Callable[..., Server]) -> None:
    server = await make_server(SENDKIT_LOG_FORMAT="human").start()
    assert await server.stop() == 0
    assert "server.stopped" in server.log
    assert "{" not in server.log and "\x1b" not in server.log


async def test_sigterm_finishes_what_is_said_lets_go_what_hangs_and_ends_in_time(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server(SENDKIT_DRAIN_SECONDS="3", SENDKIT_RETRY_SCHEDULE="1s").start()
    key = await server.live_key()
    sink.answers["dot"] = SILENCE
    message_id = await server.send(key)
    await until(lambda: sink.bodies)
    context = ssl.create_default_context(cafile=str(server.ca_file))
    async with (
        connected(server.port("HTTP API")) as idle,
        connected(server.port("SMTP, TLS"), context) as waiting,
        connected(server.port("SMTP, STARTTLS")) as greeted,
    ):
        await idle.say(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await idle.http()).status == 200
        await waiting.smtp()
        await greeted.smtp()
        started = time.monotonic()
        stopping = asyncio.create_task(server.stop())
        assert await greeted.smtp() == "421 4.3.2 Service shutting down"
        assert await idle.rest() == b""
        assert await stopping == 0
    assert time.monotonic() - started < 6
    assert "part.died" not in server.log
    sink.answers.clear()
    await server.start()
    assert (await server.settled(key, message_id, "delivered"))["recipients"][0]["attempts"] >= 1


async def test_a_receiver_that_takes_most_of_the_drain_time_to_answer_gets_the_mail_once(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    async def answered_late(session: Session, argument: str) -> str:
        await asyncio.sleep(2.2)
        return "250 2.0.0 taken"

    server = await make_server(SENDKIT_DRAIN_SECONDS="4").start()
    key = await server.live_key()
    sink.answers["dot"] = answered_late
    message_id = await server.send(key)
    await until(lambda: sink.bodies)
    assert await server.stop() == 0
    await server.start()
    assert (await server.settled(key, message_id, "delivered"))["recipients"][0]["attempts"] == 1
    assert len(sink.bodies) == 1


async def test_a_mail_whose_data_has_begun_is_taken_before_the_server_ends(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server().start()
    key = await server.live_key()
    context = ssl.create_default_context(cafile=str(server.ca_file))
    async with connected(server.port("SMTP, TLS"), context) as talk:
        await talk.smtp()
        await talk.login(key)
        await talk.smtp("MAIL FROM:<a@sender.test>")
        await talk.smtp("RCPT TO:<ann@there.test>")
        assert (await talk.smtp("DATA")).startswith("354 ")
        await talk.say(b"From: a@sender.test\r\n\r\nhalf")
        stopping = asyncio.create_task(server.stop())
        await until(lambda: "server.stopping" in server.log)
        await talk.say(b" and half\r\n.\r\n")
        assert (await talk.smtp()).startswith("250 2.0.0 Ok: msg_")
        assert await talk.smtp() == "421 4.3.2 Service shutting down"
        assert await stopping == 0
    await server.start()
    await until(lambda: sink.mails)
    assert sink.mails[0].raw.endswith(b"\r\n\r\nhalf and half\r\n")


async def test_a_second_server_on_the_same_data_is_refused_and_harms_nothing(server: Server, key: str) -> None:
    status, out, err = await server.command("serve")
    assert (status, out) == (1, "")
    assert str(server.data_dir) in err and "in use" in err.lower(), err
    assert server.process is not None and str(server.process.pid) in err
    await server.settled(key, await server.send(key), "delivered")


@pytest.mark.engine("sqlite")
async def test_a_taken_port_is_named_with_who_holds_it_and_the_setting_that_moves_it(
    make_server: Callable[..., Server],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        for door in ("HTTP", "SMTP", "SMTPS", "HTTPS", "INBOUND"):
            setting = f"SENDKIT_{door}_BIND"
            status, _, err = await make_server(**{setting: f"127.0.0.1:{port}"}).command("serve")
            assert status == 1
            assert f"127.0.0.1:{port}" in err and setting in err and f"pid {os.getpid()}" in err, err


@pytest.mark.engine("sqlite")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SENDKIT_HTTP_BIND": "0.0.0.0:0"}, "SENDKIT_BEHIND_PROXY"),
        ({"SENDKIT_ROUTE": "pigeon"}, "unknown route 'pigeon'"),
        ({"SENDKIT_RETRY_WINDOW": "soon"}, "retry_window = 'soon' (from SENDKIT_RETRY_WINDOW)"),
        ({"SENDKIT_DATA_DIR": "/proc/nowhere"}, "/proc/nowhere"),
        ({"SENDKIT_TLS_CERT": "/nowhere.pem", "SENDKIT_TLS_KEY": "/nowhere.key"}, "/nowhere.pem"),
        ({"SENDKIT_DATABASE_URL": "postgresql://x"}, "SENDKIT_DATABASE_URL"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_setting_that_cannot_be_used_is_named_in_one_line(
    make_server: Callable[..., Server], settings: dict[str, str], said: str
) -> None:
    status, _, err = await make_server(**settings).command("serve")
    assert status == 1
    assert said in err and "Traceback" not in err, err


@pytest.mark.engine("sqlite")
async def test_domains_add_prints_the_records_and_a_key_is_shown_once_and_kept_as_a_hash(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = make_server()
    status, out, err = await server.command("domains", "add", "example.com")
    assert status == 0, err
    zone = [line for line in out.splitlines() if "\tIN\t" in line or " IN " in line]
    assert any(line.startswith("sendkit._domainkey.example.com.") and "v=DKIM1" in line for line in zone)
    assert any("v=spf1" in line for line in zone) and any(" MX " in line or "\tMX\t" in line for line in zone)
    assert any(line.startswith("_dmarc.example.com.") for line in zone)
    status, out, _ = await server.command("keys", "create", "--name", "app")
    assert status == 0
    key = out.strip()
    assert out == f"{key}\n" and key.startswith("sk_live_")
    await server.start()
    await server.act("domains.add", name="sender.test", trust=True)
    await server.settled(key, await server.send(key), "delivered")
    await asyncio.to_thread(server.smtp_send, key, ["ann@there.test"], b"From: a@sender.test\r\n\r\nx")
    refused = await server.call("POST", "/emails", key, {**MAIL, "to": key})
    shown = [refused.raw.decode(), str(await server.act("keys.list")), (await server.command("keys", "list"))[1]]
    shown += [(await server.call("GET", "/emails", key)).raw.decode(), (await server.command("config"))[1]]
    assert await server.stop() == 0
    # All but the part that lists show, so that the key can be told from others.
    secret = key[16:]
    for text in (*shown, server.log):
        assert secret not in text
    for file in server.data_dir.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file
    url = server.settings.get("SENDKIT_DATABASE_URL")
    if url is not None:
        dumped = await asyncio.to_thread(dump, url)
        assert "example.com" in dumped
        assert secret not in dumped and secret.encode().hex() not in dumped


@pytest.mark.engine("sqlite")
async def test_a_rotated_key_is_listed_with_its_end_beside_the_new_one(make_server: Callable[..., Server]) -> None:
    server = await make_server().start()
    made = await server.command("keys", "create", "--name", "app", "--sender", "a@sender.test")
    assert "The restrictions hold for what the key sends" in made[2], "it is a full one"
    (old,) = json.loads((await server.command("keys", "list", "--json"))[1])
    status, out, err = await server.command("keys", "rotate", old["id"], "--overlap", "1h")
    assert status == 0 and out.startswith("sk_live_"), err
    new, ending = json.loads((await server.command("keys", "list", "--json"))[1])
    assert (ending["id"], new["expires_at"]) == (old["id"], None) and ending["expires_at"]
    lines = (await server.command("keys", "list"))[1].splitlines()
    bounds = {line.split()[0]: line.partition("(")[2] for line in lines}
    assert bounds[old["id"]] == f"ends {ending['expires_at']}; from a@sender.test)"
    assert bounds[new["id"]] == "from a@sender.test)"


async def test_secrets_in_the_data_directory_are_for_its_owner_alone(make_server: Callable[..., Server]) -> None:
    server = make_server(empty=True)
    server.data_dir.rmdir()
    await server.start("--dev")
    assert server.data_dir.stat().st_mode & 0o077 == 0
    private = [
        path
        for path in server.data_dir.rglob("*")
        if path.is_file() and (path.name in ("secret-key", "control", "dev-key") or b"PRIVATE KEY" in path.read_bytes())
    ]
    assert len(private) >= 4 - ("SENDKIT_SECRET_KEY" in server.settings)
    for path in private:
        assert path.stat().st_mode & 0o077 == 0, path


async def test_a_closed_port_25_is_told_by_log_ready_and_every_reply(
    make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer
) -> None:
    with socket.create_server((sink.host, 0)) as held:
        closed = held.getsockname()[1]
    server = await make_server(SENDKIT_PROBE_DOMAINS="there.test,elsewhere.test", SENDKIT_MX_PORT=str(closed)).start()
    key = await server.live_key()
    await until(lambda: "port_25_blocked" in server.log)
    ready = await server.call("GET", "/ready")
    assert (ready.status, ready.json["status"]) == (200, "ready")
    assert [warning["name"] for warning in ready.json["warnings"]] == ["port_25_blocked"]
    reply = await server.call("POST", "/emails", key, MAIL)
    (warning,) = reply.json["warnings"]
    assert warning["name"] == "port_25_blocked" and "SENDKIT_ROUTE" in warning["fix"]
    test_key = (await server.act("keys.create", name="t", permission="full", test=True))["token"]
    assert (await server.call("POST", "/emails", test_key, MAIL)).json["warnings"] == []
    (line,) = [json.loads(line) for line in server.log.splitlines() if "port_25_blocked" in line]
    assert any("mx.there.test" in tried for tried in line["tried"])


async def test_an_open_port_25_is_not_warned_of(make_server: Callable[..., Server], sink: SmtpSink) -> None:
    server = await make_server(SENDKIT_PROBE_DOMAINS="there.test,nowhere.test").start()
    key = await server.live_key()
    await until(lambda: sink.sessions)
    assert (await server.call("POST", "/emails", key, MAIL)).json["warnings"] == []
    assert (await server.call("GET", "/ready")).json["warnings"] == []


async def test_settings_come_from_a_file_and_an_unknown_one_refuses_the_start(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = tmp_path / "sendkit.toml"
    file.write_text('hostname = "mx.from-file.test"\n')
    server = make_server(SENDKIT_CONFIG=str(file))
    del server.settings["SENDKIT_HOSTNAME"]
    status, out, _ = await server.command("config")
    assert status == 0 and "SENDKIT_HOSTNAME=mx.from-file.test" in out
    file.write_text('hostnam = "x"\n')
    status, _, err = await server.command("serve")
    assert status == 1 and "unknown setting 'hostnam'" in err


@pytest.mark.engine("sqlite")
async def test_a_nearly_full_disk_refuses_mail_at_both_doors_and_says_so(make_server: Callable[..., Server]) -> None:
    server = await make_server(SENDKIT_MIN_FREE_DISK="900000GB").start()
    key = await server.live_key()
    await until(lambda: "disk.low" in server.log)
    reply = await server.call("POST", "/emails", key, MAIL)
    assert (reply.status, reply.json["name"], reply.json["retryable"]) == (507, "internal_server_error", True)
    assert int(reply.headers["retry-after"]) > 0
    async with connected(server.port("SMTP, TLS"), ssl.create_default_context(cafile=str(server.ca_file))) as talk:
        await talk.smtp()
        await talk.login(key)
        assert (await talk.smtp("MAIL FROM:<a@sender.test>")).startswith("452 4.3.1 ")
    ready = (await server.call("GET", "/ready")).json
    assert [warning["name"] for warning in ready["warnings"]] == ["disk_full"]
