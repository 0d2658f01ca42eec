"""Domains: read, list and verify. Adding and changing them comes by the command line in this version."""

from __future__ import annotations

from sendkit_server.api import shapes
from sendkit_server.api.http import Request, Response, json_response, listed, page
from sendkit_server.api.service import Service
from sendkit_server.manage import domains, verification
from sendkit_server.model.refusal import Refusal


async def list_(service: Service, request: Request) -> Response | Refusal:
    """GET /domains"""
    query = request.query()
    current, per_page = page(query)
    found, total = await domains.list_domains(
        service.store, request.team_id, service.dns_names, (current - 1) * per_page, per_page
    )
    data = [shapes.domain(one) for one in found]
    return json_response(listed(f"{service.public_url}/domains", query, data, total, False))


async def read(service: Service, request: Request) -> Response | Refusal:
    """GET /domains/{id}: by id or name"""
    found = await domains.show_domain(service.store, request.team_id, request.path_args[0], service.dns_names)
    return Refusal("not_found", "Domain not found.", 404) if found is None else json_response(shapes.domain(found))


async def verify(service: Service, request: Request) -> Response | Refusal:
    """POST /domains/{id}/verify: asks DNS now, and answers the domain as it is then"""
    around = service.around
    done = await verification.verify(
        service.store, request.team_id, request.path_args[0], around.names, around.resolver(), service.clock()
    )
    return Refusal("not_found", "Domain not found.", 404) if done is None else json_response(shapes.domain(done.domain))
