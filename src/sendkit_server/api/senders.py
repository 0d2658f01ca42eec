"""Senders: made, listed, read, changed, deleted."""

from __future__ import annotations

from sendkit_server.api import payload, shapes
from sendkit_server.api.http import Request, Response, json_response, listed, page
from sendkit_server.api.service import Service
from sendkit_server.manage import senders
from sendkit_server.manage.senders import Sender, SenderWish
from sendkit_server.model.refusal import Refusal, required

_NOT_FOUND = Refusal("not_found", "Sender not found.", 404)


async def list_(service: Service, request: Request) -> Response | Refusal:
    """GET /senders"""
    query = request.query()
    current, per_page = page(query)
    found, total = await senders.list_senders(service.store, request.team_id, (current - 1) * per_page, per_page)
    data = [shapes.sender(one) for one in found]
    return json_response(listed(f"{service.public_url}/senders", query, data, total, False))


async def read(service: Service, request: Request) -> Response | Refusal:
    """GET /senders/{id}"""
    return _answer(await senders.show_sender(service.store, request.team_id, request.path_args[0]))


async def create(service: Service, request: Request) -> Response | Refusal:
    """POST /senders: 201"""
    given = payload.members(request.headers, request.body)
    for member in ("name", "username", "domain_id"):
        if not payload.string(given, member):
            return required(member)
    made = await senders.create_sender(service.store, request.team_id, _wish(given), service.actor(request))
    return json_response(shapes.sender(made), 201)


async def change(service: Service, request: Request) -> Response | Refusal:
    """PUT or PATCH /senders/{id}: what is not named stays as it is"""
    wish = _wish(payload.members(request.headers, request.body))
    actor = service.actor(request)
    return _answer(await senders.change_sender(service.store, request.team_id, request.path_args[0], wish, actor))


async def delete(service: Service, request: Request) -> Response | Refusal:
    """DELETE /senders/{id}"""
    sender_id = request.path_args[0]
    if not await senders.delete_sender(service.store, request.team_id, sender_id, service.actor(request)):
        return _NOT_FOUND
    return json_response({"object": "sender", "id": sender_id, "deleted": True})


def _answer(found: Sender | None) -> Response | Refusal:
    return _NOT_FOUND if found is None else json_response(shapes.sender(found))


def _wish(given: payload.Members) -> SenderWish:
    return SenderWish(
        payload.string(given, "name"),
        payload.string(given, "username"),
        payload.string(given, "domain_id"),
        # PHP clients leave null out, so that "" has to take it away; null does, too.
        "" if "reply_to" in given and given["reply_to"] is None else payload.string(given, "reply_to"),
    )
