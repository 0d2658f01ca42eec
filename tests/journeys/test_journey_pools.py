"""sendkit.toml with named routes: pools, rules, warm-up and a provider, in the whole program."""

from __future__ import annotations

import datetime
import json
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme
from server import SENDKIT, Server, until
from sinks import ApiSink, DnsServer, SmtpSink

TODAY = datetime.datetime.now(datetime.UTC).date()


def toml(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return {"SENDKIT_CONFIG": str(path)}


async def send(server: Server, key: str, to: str, **members: Any) -> str:
    reply = await server.call(
        "POST", "/emails", key, {"from": "shop@sender.test", "to": to, "subject": "Hi", "text": "x", **members}
    )
    assert reply.status == 200, reply.raw
    return str(reply.json["id"])


async def route_of(server: Server, key: str, message_id: str) -> str:
    await server.settled(key, message_id, "delivered")
    return str((await server.call("GET", f"/emails/{message_id}/attempts", key)).json["data"][-1]["route"])


async def test_a_new_address_sends_a_big_receiver_its_cap_and_the_rest_goes_through_a_provider(
    make_server: Callable[..., Server], sink: SmtpSink, dns: DnsServer, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    dns.zone["small.test"] = {"MX": ["10 mx.small.test."]}
    dns.zone["mx.small.test"] = {"A": [sink.host]}
    async with ApiSink(context, answers=[(200, {"id": "r1"})]) as api:
        settings = toml(
            tmp_path / "sendkit.toml",
            f"""
            route = "own, resend"
            [routes.own]
            kind = "direct"
            addresses = [{{ ip = "127.0.0.41", ehlo = "new.sender.test", warm_up = {TODAY}, warm_up_caps = [2, 50] }}]
            [routes.resend]
            kind = "resend"
            api_key = "re_secret"
            url = "https://localhost:{api.port}"
            [receivers.there]
            mx = ["there.test"]
            [[routing]]
            stream = "broadcast"
            route = "resend"
            """,
        )
        server = await make_server(SENDKIT_CA_FILE=str(tmp_path / "ca.pem"), **settings).start()
        key = await server.live_key()
        found = [await route_of(server, key, await send(server, key, f"a{n}@there.test")) for n in range(3)]
        assert found == ["own", "own", "resend"]
        assert await route_of(server, key, await send(server, key, "a@small.test")) == "own", "it is no big receiver"
        assert await route_of(server, key, await send(server, key, "b@small.test", stream="broadcast")) == "resend"
        assert "EHLO new.sender.test" in sink.sessions[0].commands
        assert {call.json["to"][0] for call in api.calls} == {"a2@there.test", "b@small.test"}
        (own, resend) = (await server.act("routes.list"))["data"]
        assert (own["route"], own["addresses"], own["status"]) == ("own", ["127.0.0.41"], "up")
        assert own["warm_up"]["cap"] == 2 and own["warm_up"]["sent_today"] == {"there": 2}
        assert (resend["route"], resend["to"]) == ("resend", "localhost")
        assert (
            'sendkit_route_up{route="own",source="127.0.0.41",to="MX hosts"} 1.0'
            in (await server.call("GET", "/metrics")).raw.decode()
        )
        await server.stop()
        # What was sent before the restart counts.
        await server.start()
        assert await route_of(server, key, await send(server, key, "again@there.test")) == "resend"


async def test_the_routes_are_shown_without_a_server_and_a_mistake_refuses_the_start(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    good = make_server(**toml(tmp_path / "good.toml", '[routes.own]\nkind = "direct"\nehlo = "mx.here.test"\n'))
    good.settings["SENDKIT_ROUTE"] = "own*3 | direct"
    shown = subprocess.run(
        [SENDKIT, "routes", "--json"], env=good.environment, capture_output=True, text=True, timeout=30
    )
    assert [(way["route"], way["ehlo"], way["status"]) for way in json.loads(shown.stdout)] == [
        ("own", "mx.here.test", "up"), ("direct", None, "up"),
    ], shown.stderr  # fmt: skip
    bad = make_server(
        **toml(tmp_path / "bad.toml", '[routes.own]\nkind = "resend"\napi_key = "re_secret"\nregoin = "x"\n')
    )
    refused = subprocess.run([SENDKIT, "serve"], env=bad.environment, capture_output=True, text=True, timeout=30)
    assert refused.returncode != 0
    assert "[routes.own]" in refused.stderr and "regoin" in refused.stderr and "re_secret" not in refused.stderr
    hidden = subprocess.run([SENDKIT, "config"], env=good.environment, capture_output=True, text=True, timeout=30)
    assert "re_secret" not in hidden.stdout


async def test_an_address_of_another_machine_is_left_out_and_named_at_the_start(
    make_server: Callable[..., Server], sink: SmtpSink, tmp_path: Path
) -> None:
    settings = toml(
        tmp_path / "sendkit.toml",
        'route = "own"\n[routes.own]\nkind = "direct"\naddresses = ["203.0.113.9", "127.0.0.42"]\n',
    )
    server = await make_server(**settings).start()
    key = await server.live_key()
    for n in range(6):
        await route_of(server, key, await send(server, key, f"a{n}@there.test"))
    assert len(sink.mails) == 6
    await until(lambda: "route.addresses_missing" in server.log)
    assert "203.0.113.9" in server.log
