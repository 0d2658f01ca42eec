"""Postfix as the relay that everything leaves by: who may log in, to whom the password is said, and what follows it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from instance import PASSWORD, USER, Postfix, parsed
from server import Server, until

pytestmark = pytest.mark.engine("sqlite")
LOGIN = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"
DOORS = {"smarthost": 587, "smarthosts": 465}


async def transcript(server: Server, key: str, message_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.call("GET", f"/emails/{message_id}/attempts", key)).json["data"]
    return found


def closed_port(host: str) -> int:
    with socket.create_server((host, 0)) as held:
        return int(held.getsockname()[1])


@pytest.mark.parametrize("scheme", DOORS)
async def test_the_right_login_over_verified_tls_relays_the_mail(
    make_mta: Callable[..., Server], ca_file: str, postfix: Postfix, scheme: str
) -> None:
    route = f"{scheme}://{LOGIN}@relay.test:{DOORS[scheme]}"
    server = await make_mta(SENDKIT_ROUTE=route, SENDKIT_CA_FILE=ca_file).start()
    key = await server.live_key()
    before = len(postfix.logins)
    message_id = await server.send(key, subject=f"by {scheme}")
    await server.settled(key, message_id, "delivered")
    await until(lambda: postfix.mails(f"by {scheme}"), what="the relayed mail")
    (raw,) = postfix.mails(f"by {scheme}")
    (received,) = parsed(raw).get_all("Received", [])
    assert "ESMTPSA" in received and f"Authenticated sender: {USER}" in received
    assert postfix.logins[before:] == [(USER, PASSWORD)]
    (attempt,) = await transcript(server, key, message_id)
    assert (attempt["route"], attempt["host"]) == ("smarthost", "relay.test")
    assert attempt["tls"].endswith(" verified")
    assert PASSWORD not in json.dumps(attempt, ensure_ascii=False) + server.log


@pytest.mark.parametrize("scheme", DOORS)
async def test_a_wrong_login_defers_and_says_so(
    make_mta: Callable[..., Server], ca_file: str, postfix: Postfix, scheme: str
) -> None:
    route = f"{scheme}://{quote(USER)}:wrong@relay.test:{DOORS[scheme]}"
    server = await make_mta(SENDKIT_ROUTE=route, SENDKIT_CA_FILE=ca_file, SENDKIT_RETRY_SCHEDULE="1h").start()
    key = await server.live_key()
    message_id = await server.send(key, subject=f"wrong login by {scheme}")
    found = await server.settled(key, message_id, "delivery_delayed")
    assert "relay.test" in found["reason"] and "535" in found["reason"]
    assert found["next_attempt_at"] is not None
    (attempt,) = await transcript(server, key, message_id)
    assert [one["reason"] for one in attempt["recipients"]] == ["smarthost_auth_failed"]
    assert not any("wrong" in line["text"] for line in attempt["transcript"])
    assert postfix.logins[-1] == (USER, "wrong")
    assert postfix.mails(f"wrong login by {scheme}") == []


@pytest.mark.parametrize("scheme", DOORS)
async def test_the_password_is_not_said_to_a_relay_whose_certificate_cannot_be_verified(
    make_mta: Callable[..., Server], postfix: Postfix, scheme: str
) -> None:
    server = await make_mta(
        SENDKIT_ROUTE=f"{scheme}://{LOGIN}@relay.test:{DOORS[scheme]}", SENDKIT_RETRY_SCHEDULE="1h"
    ).start()
    key = await server.live_key()
    before = postfix.logins
    message_id = await server.send(key, subject=f"unproven {scheme}")
    found = await server.settled(key, message_id, "delivery_delayed")
    assert "certificate" in found["reason"] and found["next_attempt_at"] is not None
    assert postfix.logins == before
    (attempt,) = await transcript(server, key, message_id)
    assert not any(line["text"].startswith("AUTH") for line in attempt["transcript"])
    assert postfix.mails(f"unproven {scheme}") == []


async def test_a_relay_that_is_down_makes_way_for_the_next_route(
    make_mta: Callable[..., Server], ca_file: str, postfix: Postfix
) -> None:
    down = f"smarthost://{LOGIN}@relay.test:{closed_port(postfix.address)}"
    server = await make_mta(
        SENDKIT_ROUTE=f"{down},smarthosts://{LOGIN}@relay.test:465", SENDKIT_CA_FILE=ca_file
    ).start()
    key = await server.live_key()
    message_id = await server.send(key, subject="second route")
    await server.settled(key, message_id, "delivered")
    (attempt,) = await transcript(server, key, message_id)
    lines = [line["text"] for line in attempt["transcript"]]
    assert any("not connected to relay.test" in line for line in lines)
    await until(lambda: postfix.mails("second route"), what="the mail by the second route")
