"""Logs: requests and sessions of the team that were refused or failed."""

from __future__ import annotations

from sendkit_server.api.http import Request, Response, json_response, listed, page
from sendkit_server.api.service import Service
from sendkit_server.manage import refusals
from sendkit_server.model.refusal import Refusal, Refused, invalid
from sendkit_server.store.queries.refusals import RefusalFilter


async def list_(service: Service, request: Request) -> Response | Refusal:
    """GET /logs"""
    query = request.query()
    current, per_page = page(query)
    door = query.get("door") or None
    if door is not None and door not in refusals.DOORS:
        raise Refused(invalid(f"The door field must be one of {', '.join(refusals.DOORS)}.", "door"))
    chosen = RefusalFilter((request.team_id,), door, query.get("address") or None, query.get("q") or None)
    rows, total = await refusals.list_refusals(service.store, chosen, (current - 1) * per_page, per_page)
    data = [refusals.worded(row) for row in rows]
    return json_response(listed(f"{service.public_url}/logs", query, data, total, False))


async def read(service: Service, request: Request) -> Response | Refusal:
    """GET /logs/{id}"""
    found = await refusals.show_refusal(service.store, request.team_id, request.path_args[0])
    return Refusal("not_found", "Log not found.", 404) if found is None else json_response(refusals.worded(found))
