"""The HTTP door as one ASGI application.

Order of the checks: route → verb → key → permission → body → handler. Whatever happens, the answer is JSON in the
contract's shape; a fault of ours is logged with its request's id and answered 500 without its insides.
"""

from __future__ import annotations

import msgspec
import structlog

from sendkit_server.accept import rights
from sendkit_server.api.dialect import dialect_of, refusal_in
from sendkit_server.api.http import (
    ClientGone,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    bearer,
    path_segments,
    read_body,
    refusal_response,
    send_response,
)
from sendkit_server.api.routes import ROUTES, Route, Router
from sendkit_server.api.service import Service
from sendkit_server.events.refusals import Entry
from sendkit_server.manage.keys import ManageError
from sendkit_server.model import refusal
from sendkit_server.model.mail import ApiKey
from sendkit_server.model.refusal import Refusal, Refused
from sendkit_server.store.errors import OutcomeUnknown, StoreUnavailable

MAX_PATH_CHARACTERS = 4_096
MAX_AGENT_CHARACTERS = 300
BODY_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})

log = structlog.get_logger("api")


class _Said(msgspec.Struct):
    name: str = ""
    message: str = ""


_said = msgspec.json.Decoder(_Said)


class HttpDoor:
    """Routes a request, checks its key, and answers. Paths are served bare and under `/v1`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._router = Router()
        service.routes = ROUTES
        self._doc_url = f"{service.public_url}/docs"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        method: str = scope["method"]
        unread: Receive | None = None
        result: Response | Refusal
        try:
            result = await self._answer(scope, receive)
        except Refused as refused:
            result = refused.refusal
            unread = receive if refused.refusal.http_status in (408, 413) else None
        except ManageError as error:
            result = refusal.invalid(str(error), error.field)
        except StoreUnavailable as error:
            log.warning("api.store_unavailable", path=scope["path"], error=str(error))
            unknown = isinstance(error, OutcomeUnknown)
            result = refusal.OUTCOME_UNKNOWN if unknown else refusal.CANNOT_COMMIT
        except ClientGone:
            return
        except Exception:
            log.exception("api.fault", method=method, path=scope["path"])
            result = refusal.UNEXPECTED
        response = self._refused(result, scope) if isinstance(result, Refusal) else result
        if response.status >= 400 and not (isinstance(result, Refusal) and result.is_repeated):
            self._note(scope, response)
        await send_response(scope, send, response, head=method == "HEAD", unread=unread)

    async def _answer(self, scope: Scope, receive: Receive) -> Response | Refusal:
        method: str = scope["method"]
        raw_path = scope["raw_path"].decode("latin-1").partition("?")[0]
        if len(raw_path) > MAX_PATH_CHARACTERS:
            return refusal.NOT_FOUND
        segments = path_segments(raw_path)
        if segments and segments[0] == "v1":
            del segments[0]
        match = self._router.find(method, segments)
        if match is None or any("\0" in segment for segment in segments):
            return refusal.NOT_FOUND
        if match.route is None:
            return _wrong_verb(method, match.allowed)
        headers = dict(scope["headers"])
        request = Request(
            method=method,
            path="/" + "/".join(segments),
            query_string=scope["query_string"].decode("latin-1"),
            headers=headers,
            path_args=match.arguments,
            client=(scope.get("client") or ("", 0))[0],
        )
        if match.route.permission is not None:
            refused = await self._check_key(match.route, request)
            if refused is not None:
                return refused
        if method in BODY_METHODS:
            request.body = await read_body(scope, headers, receive)
        return await match.route.handler(self._service, request)

    async def _check_key(self, route: Route, request: Request) -> Refusal | None:
        secret = bearer(request.headers)
        if secret is None:
            return refusal.MISSING_KEY
        service = self._service
        now = service.clock()
        cached = service.store.cached_key(secret, now)
        key: ApiKey | None = cached[0] if cached is not None else await service.store.key(secret, now)
        if key is None:
            wait = service.guesses.wrong_key(request.client, secret)
            if wait is None:
                return refusal.INVALID_KEY
            return refusal.too_many_wrong_keys(wait.seconds, is_repeated=not wait.is_new)
        assert route.permission is not None
        if route.permission not in key.permissions:
            return refusal.restricted(route.permission)
        if (refused := rights.from_network(key, request.client)) is not None:
            return refused
        request.key = key
        service.used(key)
        return None

    def _note(self, scope: Scope, response: Response) -> None:
        """Puts a request that was refused on the log: never its query, its body or its key."""
        headers = dict(scope["headers"])
        secret = bearer(headers)
        cached = self._service.store.cached_key(secret, self._service.clock()) if secret is not None else None
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        said = _said.decode(response.body)
        if not said.name:
            return  # `/ready` that tells of a problem refuses nothing
        detail = {
            "status": response.status,
            "name": said.name,
            "message": said.message,
            "user_agent": headers.get(b"user-agent", b"").decode("latin-1")[:MAX_AGENT_CHARACTERS] or None,
        }
        self._service.note_refusal(
            Entry(
                door="http",
                address=(scope.get("client") or ("", 0))[0],
                step=f"{scope['method']} {path}",
                reply=f"{response.status} {said.name}: {said.message}",
                detail=detail,
                key=cached[0] if cached is not None else None,
                secret=secret,
            )
        )

    def _refused(self, refused: Refusal, scope: Scope) -> Response:
        headers = dict(scope["headers"])
        refused = refusal_in(dialect_of(headers, bearer(headers)), refused)
        self._service.metrics.errors.labels(refused.name, "http").inc()
        return refusal_response(refused, self._doc_url)


def _wrong_verb(method: str, allowed: tuple[str, ...]) -> Refusal:
    verbs = ", ".join(allowed)
    shown = method if method.isalpha() and len(method) <= 16 else "This method"
    base = Refusal("method_not_allowed", f"{shown} is not allowed here; use {verbs or 'another path'}.", 405)
    return msgspec.structs.replace(base, allow=verbs)
