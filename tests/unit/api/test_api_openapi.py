"""The description tells the truth: every reply has the shape that it declares."""

from __future__ import annotations

import msgspec
import pytest
from api_world import Api

from sendkit_server.api import schema
from sendkit_server.api.routes import ROUTES
from sendkit_server.model.roles import Role


async def test_the_description_names_every_built_route_and_resolves_every_reference(api: Api) -> None:
    described = (await api.call("GET", "/openapi.json", key=None)).json
    assert described["openapi"].startswith("3.1")
    for route in ROUTES:
        assert (route.method.lower() in described["paths"].get(route.path, {})) is route.built, route.path
    text = msgspec.json.encode(described).decode()
    for name in {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in described["components"]["schemas"]


async def test_every_reply_has_the_shape_that_it_declares(api: Api) -> None:
    sent = await api.send(tags=["x"], metadata={"a": "b"}, text=..., html="<p>x</p>")
    suppressed = await api.call("POST", "/suppressions", {"email": "gone@there.test"})
    sender = {"name": "Ann", "username": "ann", "domain_id": "sender.test"}
    sender = (await api.call("POST", "/senders", sender)).json
    member = await api.make_member("ann@sender.test", Role.OWNER)
    invited = await api.call("POST", "/team/invitations", {"email": "bob@sender.test", "role": "viewer"})
    msgspec.json.decode(invited.body, type=schema.NewInvitationShape)
    await api.call("GET", "/emails/msg_nope")
    await api.refusals.flush()
    paths = {
        "/emails/{id}": sent.json["id"], "/emails/{id}/attempts": sent.json["id"], "/domains/{id}": "sender.test",
        "/suppressions/{id}": suppressed.json["id"], "/senders/{id}": sender["id"],
        "/team/members/{id}": member, "/team/invitations/{id}": invited.json["id"],
        "/api-keys/{id}": (await api.call("GET", "/api-keys")).json["data"][0]["id"],
        "/logs/{id}": (await api.call("GET", "/logs")).json["data"][0]["id"],
    }  # fmt: skip
    msgspec.json.decode(sent.body, type=schema.SendReply)
    for route in ROUTES:
        if route.built and route.method == "GET" and route.reply not in (None, dict):
            answer = await api.call("GET", route.path.replace("{id}", paths.get(route.path, "")))
            assert answer.status == 200, route.path
            msgspec.json.decode(answer.body, type=route.reply)


@pytest.mark.parametrize("path", ["/emails/msg_nope", "/nope", "/emails?page=x"])
async def test_every_error_has_the_shape_of_errors(api: Api, path: str) -> None:
    error = msgspec.json.decode((await api.call("GET", path)).body, type=schema.ErrorShape)
    page = (await api.call("GET", "/docs", key=None)).body.decode()
    assert f'id="{error.name}"' in page
