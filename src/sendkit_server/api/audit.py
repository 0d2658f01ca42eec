"""The audit log: who changed what."""

from __future__ import annotations

from sendkit_server.api.http import Request, Response, json_response, listed, page
from sendkit_server.api.service import Service
from sendkit_server.manage import audit
from sendkit_server.model.refusal import Refusal


async def list_(service: Service, request: Request) -> Response | Refusal:
    """GET /audit"""
    query = request.query()
    current, per_page = page(query)
    rows, total = await audit.list_changes(service.store, request.team_id, (current - 1) * per_page, per_page)
    data = [audit.worded(row) for row in rows]
    return json_response(listed(f"{service.public_url}/audit", query, data, total, False))
