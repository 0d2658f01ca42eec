"""The OpenAPI description, made from the table of routes and the shapes; and a plain reference page from the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import msgspec

from sendkit_server.api.schema import ErrorShape

if TYPE_CHECKING:
    from sendkit_server.api.routes import Route

ERROR_NAMES = {
    "missing_api_key": (401, "There is no Authorization header with a Bearer key."),
    "invalid_api_key": (401, "The key is unknown, revoked or expired."),
    "restricted_api_key": (401, "The key is right, but may not do this; the message names the permission."),
    "not_found": (404, "There is no such path or id."),
    "method_not_allowed": (405, "The path is known, the verb is not; the Allow header tells which are."),
    "validation_error": (
        422,
        "Something in the request is wrong; the member field names it. Also 400, 408, 413, 415 and 431.",
    ),
    "invalid_idempotency_key": (400, "The idempotency key is empty or too long."),
    "invalid_idempotent_request": (409, "The idempotency key was used for another request."),
    "concurrent_idempotent_requests": (409, "The first request with this idempotency key is still running."),
    "rate_limit_exceeded": (
        429,
        "Too many calls in this minute, or too many with a wrong key; Retry-After says when to come again.",
    ),
    "warmup_limit": (429, "The domain is new, and has sent as much today as it may."),
    "internal_server_error": (
        503,
        "Nothing was accepted: the store cannot commit (503), is full (507), or a fault (500).",
    ),
}
QUERY = {
    "/emails": (
        "page", "per_page", "search", "status", "domain_id", "start_date", "end_date", "tag", "metadata[key]", "stream",
        "door", "message_id", "q",
    ),
    "/domains": ("page", "per_page"),
    "/suppressions": ("page", "per_page", "reason", "origin", "search"),
    "/team/members": ("page", "per_page"),
    "/team/invitations": ("page", "per_page"),
}  # fmt: skip


def description(routes: Sequence[Route], version: str, server_url: str) -> dict[str, Any]:
    """The document served at /openapi.json (OpenAPI 3.1)."""
    built = [route for route in routes if route.built]
    types = [kind for route in built for kind in (route.request, route.reply) if kind is not None and kind is not dict]
    _, components = msgspec.json.schema_components([*types, ErrorShape], ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in built:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sendkit server",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server_url}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"[^a-z]+", "_", f"{route.method} {route.path}".lower()).strip("_"),
        "responses": {
            **{str(status): {"description": "Success", "content": _content(route.reply)} for status in route.statuses},
            "default": {"description": "Error", "content": _content(ErrorShape)},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    if route.method == "GET":
        parameters += [
            {"name": name, "in": "query", "schema": {"type": "string"}} for name in QUERY.get(route.path, ())
        ]
    if parameters:
        found["parameters"] = parameters
    if route.permission is not None:
        found["security"] = [{"key": []}]
        found["description"] = f"Needs the permission `{route.permission}`."
    if route.request is not None:
        content = _content(route.request)
        schema = content["application/json"]
        found["requestBody"] = {
            "required": True,
            "content": dict.fromkeys(
                ("application/json", "multipart/form-data", "application/x-www-form-urlencoded"), schema
            ),
        }
    return found


def _content(kind: type | None) -> dict[str, Any]:
    if kind is None:
        return {"text/plain": {"schema": {"type": "string"}}}
    if not issubclass(kind, msgspec.Struct):
        return {"application/json": {"schema": {"type": "object"}}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def reference_page(routes: Sequence[Route], version: str) -> bytes:
    """The page at /docs: every route and every error name, without scripts."""
    rows = "".join(
        f"<tr><td><code>{route.method}</code></td><td><code>{escape(route.path)}</code></td>"
        f"<td>{escape(route.summary)}</td><td>{escape(route.permission or 'no key needed')}</td></tr>"
        for route in routes
        if route.built
    )
    errors = "".join(
        f'<tr id="{name}"><td><code>{name}</code></td><td>{status}</td><td>{escape(text)}</td></tr>'
        for name, (status, text) in ERROR_NAMES.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sendkit server API</title>'
        '<link rel="stylesheet" href="/ui/static/sendkit.css"></head><body><main>'
        f"<h1>Sendkit server API {escape(version)}</h1>"
        '<p>The machine-readable description is <a href="/openapi.json">/openapi.json</a>. Every path is also served under '
        "<code>/v1</code>. The key goes into <code>Authorization: Bearer sk_…</code>.</p>"
        f"<h2>Calls</h2><table><tr><th>Verb</th><th>Path</th><th>What it does</th><th>Permission</th></tr>{rows}</table>"
        f"<h2>Errors</h2><table><tr><th>Name</th><th>Status</th><th>When</th></tr>{errors}</table></main></body></html>"
    ).encode()
