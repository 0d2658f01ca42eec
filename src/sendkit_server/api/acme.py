"""What a certificate authority asks for to see that a name leads here (http-01, RFC 8555 8.3)."""

from __future__ import annotations

from sendkit_server.api.http import (
    Receive,
    Request,
    Response,
    Scope,
    Send,
    json_response,
    path_segments,
    send_response,
)
from sendkit_server.api.service import Service
from sendkit_server.manage.certificate_book import answer
from sendkit_server.model import refusal
from sendkit_server.model.refusal import Refusal
from sendkit_server.store.errors import StoreError
from sendkit_server.store.store import Store

PATH = (".well-known", "acme-challenge")


async def challenge(service: Service, request: Request) -> Response | Refusal:
    """GET /.well-known/acme-challenge/{token}: the answer, while an order is open"""
    found = await answer(service.store, request.path_args[0])
    return refusal.NOT_FOUND if found is None else _answered(found)


class ChallengeDoor:
    """One ASGI application that answers challenges and nothing else: what may stand open on port 80 in plain HTTP."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        response = await self._answer(path_segments(scope["raw_path"].decode("latin-1").partition("?")[0]))
        await send_response(scope, send, response, head=scope["method"] == "HEAD", unread=receive)

    async def _answer(self, segments: list[str]) -> Response:
        try:
            found = (
                await answer(self._store, segments[2]) if tuple(segments[:2]) == PATH and len(segments) == 3 else None
            )
        except StoreError:
            return json_response({"error": "the database does not answer"}, 503)
        if found is None:
            return json_response(
                {"error": "this port is for certificate authorities; the API is served over HTTPS"}, 404
            )
        return _answered(found)


def _answered(text: str) -> Response:
    return Response(200, text.encode(), b"application/octet-stream")
