"""Whether the process lives, whether it can serve, and its figures. None needs a key: who reaches them, the bind decides."""

from __future__ import annotations

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sendkit_server.api.http import Request, Response, json_response
from sendkit_server.api.service import Service
from sendkit_server.model.refusal import Refusal


async def health(service: Service, request: Request) -> Response | Refusal:
    """GET /health: the process answers"""
    return json_response({"status": "ok"})


async def ready(service: Service, request: Request) -> Response | Refusal:
    """GET /ready: database and queue work; 503 names what does not"""
    problems = await service.health.problems()
    body = {
        "status": "unavailable" if problems else "ready",
        "problems": problems,
        "warnings": service.health.warnings(),
    }
    return json_response(body, 503 if problems else 200)


async def metrics(service: Service, request: Request) -> Response | Refusal:
    """GET /metrics: Prometheus"""
    await service.refresh_metrics()
    return Response(200, generate_latest(service.metrics.registry), CONTENT_TYPE_LATEST.encode())
