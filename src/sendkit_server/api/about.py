"""The API about itself: its OpenAPI description and a page for people."""

from __future__ import annotations

from importlib.metadata import version

from sendkit_server.api import openapi as description
from sendkit_server.api.http import Request, Response, json_response
from sendkit_server.api.service import Service
from sendkit_server.model.refusal import Refusal

POLICY = (b"content-security-policy", b"default-src 'none'; style-src 'self'")


async def openapi(service: Service, request: Request) -> Response | Refusal:
    """GET /openapi.json"""
    return json_response(description.description(service.routes, _version(), service.public_url))


async def docs(service: Service, request: Request) -> Response | Refusal:
    """GET /docs"""
    page = description.reference_page(service.routes, _version())
    return Response(200, page, b"text/html; charset=utf-8", (POLICY,))


def _version() -> str:
    return version("sendkit-server")
