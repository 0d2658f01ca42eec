"""Suppressions: addresses that are not sent to, by id or URL-encoded address, one by one and up to a hundred at once."""

from __future__ import annotations

from collections.abc import Mapping

from sendkit_server.api import payload, shapes
from sendkit_server.api.http import Request, Response, json_response, listed, page
from sendkit_server.api.service import Service
from sendkit_server.manage import suppressions
from sendkit_server.manage.suppressions import Added
from sendkit_server.model.refusal import Refusal, Refused, invalid, required, wrong_type
from sendkit_server.model.suppression import SuppressionReason
from sendkit_server.store.queries.emails import MAX_COUNT
from sendkit_server.store.queries.suppressions import SuppressionFilter

MAX_BATCH = 100
_NOT_FOUND = Refusal("not_found", "Suppression not found.", 404)


async def list_(service: Service, request: Request) -> Response | Refusal:
    """GET /suppressions"""
    query = request.query()
    current, per_page = page(query)
    chosen = SuppressionFilter(request.team_id, _reason(query), query.get("search") or query.get("email") or None)
    found, total = await suppressions.list_suppressions(service.store, chosen, (current - 1) * per_page, per_page)
    data = [shapes.suppression(row) for row in found]
    return json_response(listed(f"{service.public_url}/suppressions", query, data, total, total >= MAX_COUNT))


async def read(service: Service, request: Request) -> Response | Refusal:
    """GET /suppressions/{id}"""
    found = await suppressions.show(service.store, request.team_id, request.path_args[0])
    return _NOT_FOUND if found is None else json_response(shapes.suppression(found))


async def add(service: Service, request: Request) -> Response | Refusal:
    """POST /suppressions: 201, or 200 when the address is suppressed already"""
    email = payload.members(request.headers, request.body).get("email")
    added = (await _add(service, request, [payload.address("email", email)]))[0]
    return json_response(shapes.suppression(added.row), 201 if added.is_new else 200)


async def remove(service: Service, request: Request) -> Response | Refusal:
    """DELETE /suppressions/{id}"""
    removed = (
        await suppressions.remove(service.store, request.team_id, [request.path_args[0]], service.actor(request))
    )[0]
    return _NOT_FOUND if removed is None else json_response(shapes.removed("suppression", removed))


async def add_batch(service: Service, request: Request) -> Response | Refusal:
    """POST /suppressions/batch/add"""
    given = _strings(payload.members(request.headers, request.body), "emails")
    added = await _add(service, request, [payload.address(f"emails[{n}]", email) for n, email in enumerate(given)])
    return json_response({"data": [{"object": "suppression", "id": one.row.id} for one in added]}, 201)


async def remove_batch(service: Service, request: Request) -> Response | Refusal:
    """POST /suppressions/batch/remove: what was not there is left out of the answer"""
    members = payload.members(request.headers, request.body)
    given = _strings(members, "ids" if members.get("ids") else "emails")
    removed = await suppressions.remove(service.store, request.team_id, given, service.actor(request))
    return json_response({"data": [shapes.removed("suppression", one) for one in removed if one is not None]})


async def _add(service: Service, request: Request, addresses: list[str]) -> list[Added]:
    return await suppressions.add(service.store, request.team_id, addresses, service.actor(request))


def _strings(members: payload.Members, name: str) -> list[str]:
    value = members.get(name)
    if value is None or value == []:
        raise Refused(required(name))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Refused(wrong_type(name, "an array of strings"))
    if len(value) > MAX_BATCH:
        raise Refused(invalid(f"The {name} field must not have more than {MAX_BATCH} items.", name))
    if any("\0" in item for item in value):
        raise Refused(invalid(f"The {name} field must not contain NUL.", name))
    return value


def _reason(query: Mapping[str, str]) -> str | None:
    reason = query.get("reason") or query.get("origin") or None
    if reason is not None and reason not in set(SuppressionReason):
        raise Refused(invalid(f"The reason field must be one of {', '.join(SuppressionReason)}.", "reason"))
    return reason
