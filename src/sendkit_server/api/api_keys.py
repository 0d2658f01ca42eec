"""API keys: made, shown once, listed, renamed, rotated, revoked."""

from __future__ import annotations

import re

from sendkit_server.api import payload, shapes
from sendkit_server.api.dialect import Dialect, page_size, time_in
from sendkit_server.api.http import Request, Response, json_response, listed_part, window
from sendkit_server.api.service import Service
from sendkit_server.manage import keys
from sendkit_server.manage.keys import CreatedKey, KeyWish
from sendkit_server.model.instant import DAY_MS
from sendkit_server.model.refusal import Refusal, Refused, invalid, required
from sendkit_server.store.queries.rows import AnyRow

_NOT_FOUND = Refusal("not_found", "API key not found.", 404)
_RESEND = {"full_access": "full", "sending_access": "send"}
_FIXED = (
    "permission", "permissions", "test", "domain_id", "domain_ids", "senders", "recipient_domains", "networks",
    "daily_limit", "rewrite_from", "shadow", "expires_at",
)  # fmt: skip
_TIMES = ("expires_at", "last_used_at", "created_at")
_OVERLAP = re.compile(r"([0-9]{1,6})\s*(s|m|h|d)")
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}


async def list_(service: Service, request: Request) -> Response | Refusal:
    """GET /api-keys"""
    query = request.query()
    shown = window(query, page_size(request.dialect))
    part = await keys.list_keys(service.store, request.team_id, shown)
    data = [_worded(service, request, row) for row in part.rows]
    return json_response(listed_part(f"{service.public_url}/api-keys", query, shown, part, data))


async def read(service: Service, request: Request) -> Response | Refusal:
    """GET /api-keys/{id}"""
    found = await keys.show_key(service.store, request.team_id, request.path_args[0])
    return _NOT_FOUND if found is None else json_response(_worded(service, request, found))


async def create(service: Service, request: Request) -> Response | Refusal:
    """POST /api-keys: the only answer that has the secret, as `token`"""
    wish = _wish(payload.members(request.headers, request.body), request.dialect)
    created = await keys.create_key(service.store, request.team_id, wish, service.actor(request), request.key)
    return await _with_token(service, request, created)


async def rename(service: Service, request: Request) -> Response | Refusal:
    """PATCH /api-keys/{id}"""
    given = payload.members(request.headers, request.body)
    for fixed in _FIXED:
        if fixed in given:
            text = f"The {fixed} field of an API key cannot be changed: make a new key (POST /api-keys), and revoke this one."
            return invalid(text, fixed)
    name = payload.string(given, "name")
    if name is None:
        return required("name")
    found = await keys.rename_key(
        service.store, request.team_id, request.path_args[0], name, service.actor(request), request.key
    )
    if found is None:
        return _NOT_FOUND
    return json_response({"object": "api_key", **_worded(service, request, found)})


async def rotate(service: Service, request: Request) -> Response | Refusal:
    """POST /api-keys/{id}/rotate: a new key with the same rights; the old one ends after the overlap"""
    overlap_ms = _overlap(payload.string(payload.members(request.headers, request.body), "overlap"))
    actor = service.actor(request)
    created = await keys.rotate_key(
        service.store, request.team_id, request.path_args[0], overlap_ms, actor, request.key
    )
    return _NOT_FOUND if created is None else await _with_token(service, request, created)


async def revoke(service: Service, request: Request) -> Response | Refusal:
    """DELETE /api-keys/{id}"""
    key_id = request.path_args[0]
    if not await keys.revoke_key(service.store, request.team_id, key_id, service.actor(request), request.key):
        return _NOT_FOUND
    return json_response({"object": "api_key", "id": key_id, "deleted": True})


async def _with_token(service: Service, request: Request, created: CreatedKey) -> Response:
    row = await keys.show_key(service.store, request.team_id, created.key.id)
    assert row is not None
    told = {"token": created.secret, "warnings": shapes.warnings(created.warnings)}
    return json_response({**_worded(service, request, row), **told}, 201)


def _worded(service: Service, request: Request, row: AnyRow) -> dict[str, object]:
    times = {name: time_in(request.dialect, row._mapping[name]) for name in _TIMES}
    return {**keys.worded(row, service.clock()), **times}


def _wish(given: payload.Members, dialect: Dialect) -> KeyWish:
    name = payload.string(given, "name")
    if name is None:
        raise Refused(required("name"))
    domain_id = payload.string(given, "domain_id")
    return KeyWish(
        name,
        _permissions(given, dialect),
        payload.boolean(given, "test") or False,
        domains=_restriction(given, "domain_ids") or (() if domain_id is None else (domain_id,)),
        senders=_restriction(given, "senders"),
        recipient_domains=_restriction(given, "recipient_domains"),
        networks=_restriction(given, "networks"),
        daily_limit=payload.whole(given, "daily_limit"),
        rewrite_from=payload.boolean(given, "rewrite_from") or False,
        shadow=payload.boolean(given, "shadow") or False,
        expires_at=payload.moment(given, "expires_at"),
    )


def _restriction(given: payload.Members, name: str) -> tuple[str, ...]:
    # An unset variable of a script, or a form field left blank, would make a key that may do everything.
    if given.get(name) == "":
        raise Refused(invalid(f"The {name} field must not be empty: leave it out for no restriction.", name))
    return payload.strings(given, name)


def _permissions(given: payload.Members, dialect: Dialect) -> str:
    several = payload.strings(given, "permissions")
    if several:
        return ",".join(several)
    one = payload.string(given, "permission")
    if one is None:
        if dialect is Dialect.RESEND:
            return "full"
        raise Refused(required("permission"))
    return _RESEND.get(one, one)


def _overlap(text: str | None) -> int:
    if text is None:
        return DAY_MS
    found = _OVERLAP.fullmatch(text.strip())
    if found is None:
        raise Refused(invalid("The overlap field must be a number and a unit, such as 24h, 30m or 7d.", "overlap"))
    return int(found[1]) * _UNITS_MS[found[2]]
