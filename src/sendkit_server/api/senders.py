"""Senders: made, listed, read, changed, deleted."""

from __future__ import annotations

from sendkit_server.api import payload, shapes
from sendkit_server.api.dialect import page_size
from sendkit_server.api.http import Request, Response, json_response, listed_part, window
from sendkit_server.api.service import Service
from sendkit_server.manage import senders
from sendkit_server.manage.senders import Sender, SenderWish
from sendkit_server.model.refusal import Refusal, required

_NOT_FOUND = Refusal("not_found", "Sender not found.", 404)


async def list_(service: Service, request: Request) -> Response | Refusal:
    """GET /senders"""
    query = request.query()
    shown = window(query, page_size(request.dialect))
    found, part = await senders.list_senders(service.store, request.team_id, shown)
    data = [shapes.sender(one, request.dialect) for one in found]
    return json_response(listed_part(f"{service.public_url}/senders", query, shown, part, data))


async def read(service: Service, request: Request) -> Response | Refusal:
    """GET /senders/{id}"""
    return _answer(request, await senders.show_sender(service.store, request.team_id, request.path_args[0]))


async def create(service: Service, request: Request) -> Response | Refusal:
    """POST /senders: 201"""
    given = payload.members(request.headers, request.body)
    for member in ("name", "username", "domain_id"):
        if not payload.string(given, member):
            return required(member)
    made = await senders.create_sender(service.store, request.team_id, _wish(given), service.actor(request))
    return json_response(shapes.sender(made, request.dialect), 201)


async def change(service: Service, request: Request) -> Response | Refusal:
    """PUT or PATCH /senders/{id}: what is not named stays as it is"""
    wish = _wish(payload.members(request.headers, request.body))
    actor = service.actor(request)
    sender_id = request.path_args[0]
    return _answer(request, await senders.change_sender(service.store, request.team_id, sender_id, wish, actor))


async def delete(service: Service, request: Request) -> Response | Refusal:
    """DELETE /senders/{id}"""
    sender_id = request.path_args[0]
    if not await senders.delete_sender(service.store, request.team_id, sender_id, service.actor(request)):
        return _NOT_FOUND
    return json_response({"object": "sender", "id": sender_id, "deleted": True})


def _answer(request: Request, found: Sender | None) -> Response | Refusal:
    return _NOT_FOUND if found is None else json_response(shapes.sender(found, request.dialect))


def _wish(given: payload.Members) -> SenderWish:
    return SenderWish(
        payload.string(given, "name"),
        payload.string(given, "username"),
        payload.string(given, "domain_id"),
        # PHP clients leave null out, so that "" has to take it away; null does, too.
        "" if "reply_to" in given and given["reply_to"] is None else payload.string(given, "reply_to"),
    )
