"""Emails: send, read, list, attempts; what waits."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from sendkit_server.accept.limits import Rate
from sendkit_server.api import payload, shapes
from sendkit_server.api.http import Request, Response, json_response, listed, page
from sendkit_server.api.service import Service
from sendkit_server.manage.queue import CANCELLED, MAX_LANES, waiting
from sendkit_server.manage.queue import cancel as queue_cancel
from sendkit_server.manage.queue import retry as queue_retry
from sendkit_server.model.instant import DAY_MS, Instant, day_start
from sendkit_server.model.mail import Door
from sendkit_server.model.refusal import Refusal, Refused, invalid
from sendkit_server.model.status import Status
from sendkit_server.store.queries import emails as queries
from sendkit_server.store.queries.emails import MAX_COUNT, Email, EmailFilter
from sendkit_server.store.queries.queue import Target

LARGE_BODY_BYTES = 1_000_000
_REPLAYED = ((b"idempotent-replayed", b"true"),)
_EMAIL_NOT_FOUND = Refusal("not_found", "Email not found.", 404)
_IN_FLIGHT = invalid("This email cannot be cancelled: it is being delivered at this moment.")


async def send(service: Service, request: Request) -> Response | Refusal:
    """POST /emails"""
    assert request.key is not None
    rate = await service.acceptor.call(request.key)
    if rate is None:
        return await _send(service, request)
    answer: Response | Refusal
    try:
        answer = rate.refusal if rate.refused else await _send(service, request)
    except Refused as refused:
        answer = refused.refusal
    return msgspec.structs.replace(answer, headers=(*answer.headers, *_rate_headers(rate)))


def _rate_headers(rate: Rate) -> tuple[tuple[bytes, bytes], ...]:
    """Where the caller stands, in the words of the vendors' APIs."""
    return (
        (b"ratelimit-limit", b"%d" % rate.limit),
        (b"ratelimit-remaining", b"%d" % rate.remaining),
        (b"ratelimit-reset", b"%d" % rate.reset_s),
    )


async def _send(service: Service, request: Request) -> Response | Refusal:
    assert request.key is not None
    if len(request.body) > LARGE_BODY_BYTES:
        # Decoding tens of megabytes takes a good part of a second; other requests go on meanwhile.
        submission = await service.in_thread(payload.submission, request.key, request.headers, request.body)
    else:
        submission = payload.submission(request.key, request.headers, request.body)
    result = await service.acceptor.accept(msgspec.structs.replace(submission, client=request.client))
    if isinstance(result, Refusal):
        return result
    reply = json_response(shapes.accepted(result))
    return msgspec.structs.replace(reply, headers=_REPLAYED) if result.replayed else reply


async def read(service: Service, request: Request) -> Response | Refusal:
    """GET /emails/{id}: by id or Message-ID"""
    found = await _find(service, request)
    return _EMAIL_NOT_FOUND if found is None else json_response(shapes.email(found, service.turn))


async def attempts(service: Service, request: Request) -> Response | Refusal:
    """GET /emails/{id}/attempts"""
    found = await _find(service, request)
    if found is None:
        return _EMAIL_NOT_FOUND
    rows = await service.store.read(
        lambda connection: queries.list_attempts(connection, request.team_id, found.message.id)
    )
    return json_response({"object": "list", "has_more": False, "data": [shapes.attempt(row, found) for row in rows]})


async def list_(service: Service, request: Request) -> Response | Refusal:
    """GET /emails"""
    query = request.query()
    current, per_page = page(query)
    chosen = filter_of(request.team_id, query)
    found, total = await service.store.read(
        lambda connection: queries.list_emails(connection, chosen, (current - 1) * per_page, per_page)
    )
    data = [shapes.email(one, service.turn) for one in found]
    return json_response(listed(f"{service.public_url}/emails", query, data, total, total >= MAX_COUNT))


async def queue(service: Service, request: Request) -> Response | Refusal:
    """GET /queue: what waits, by site, and why"""
    lanes = await waiting(service.store, request.team_id)
    data = [shapes.lane(lane, service.delay(lane.site) if lane.in_flight else None) for lane in lanes]
    return json_response({"object": "list", "has_more": len(lanes) >= MAX_LANES, "data": data})


async def cancel(service: Service, request: Request) -> Response | Refusal:
    """POST /emails/{id}/cancel: what waits is not sent"""
    found = await _find(service, request)
    if found is None:
        return _EMAIL_NOT_FOUND
    target = Target(request.team_id, message_id=found.message.id)
    done = await queue_cancel(service.store, target, CANCELLED, service.actor(request), service.clock)
    if done.recipients:
        return json_response(shapes.changed(found, done.recipients))
    if done.in_flight:
        return _IN_FLIGHT
    # It may have been delivered meanwhile, so what was read before is not what keeps it from being cancelled.
    return _nothing_waits("cancelled", await _find(service, request) or found)


async def retry(service: Service, request: Request) -> Response | Refusal:
    """POST /emails/{id}/retry: what waits is tried now"""
    found = await _find(service, request)
    if found is None:
        return _EMAIL_NOT_FOUND
    if all(row.next_attempt_at is None for row in found.recipients):
        return _nothing_waits("tried again", found)
    changed = await queue_retry(
        service.store, Target(request.team_id, message_id=found.message.id), service.actor(request)
    )
    return json_response(shapes.changed(found, changed))


def _nothing_waits(done: str, found: Email) -> Refusal:
    return invalid(f"This email cannot be {done}: nothing of it waits any more, its status is {found.message.status}.")


async def not_built(service: Service, request: Request) -> Response | Refusal:
    """A path of the contract that this version does not serve: named, so that nobody looks for a typing error."""
    return Refusal("not_found", f"{request.method} {request.path} is not supported yet.", 404)


async def _find(service: Service, request: Request) -> Email | None:
    name = request.path_args[0]
    if len(name) > 998:
        return None
    return await service.store.read(lambda connection: queries.find_email(connection, request.team_id, name))


_LABELLED = re.compile(r"metadata\[(.{1,64})\]")


def filter_of(team_id: int, query: Mapping[str, str]) -> EmailFilter:
    """The filter that a query string asks for; an unknown member is ignored, a wrong value is refused by name."""
    status = query.get("status") or None
    if status is not None and status not in set(Status):
        raise Refused(invalid(f"The status field must be one of {', '.join(Status)}.", "status"))
    door = query.get("door") or None
    if door is not None and door not in set(Door):
        raise Refused(invalid("The door field must be http or smtp.", "door"))
    message_id = query.get("message_id") or None
    if message_id is not None and not message_id.startswith("<"):
        message_id = f"<{message_id}>"
    tag = query.get("tag") or None
    name, colon, value = (tag or "").partition(":")
    until = _day(query, "end_date")
    labels = [(found[1], value) for key, value in query.items() if (found := _LABELLED.fullmatch(key))]
    return EmailFilter(
        team_id,
        search=query.get("search") or query.get("recipient") or query.get("to") or None,
        status=status,
        domain_id=query.get("domain_id") or None,
        since=_day(query, "start_date"),
        until=None if until is None else until + DAY_MS,
        tags=((name, value if colon else None),) if tag else (),
        metadata=tuple(labels),
        stream=query.get("stream") or None,
        door=door,
        message_id=message_id,
        q=query.get("q") or None,
    )


def _day(query: Mapping[str, str], name: str) -> Instant | None:
    text = query.get(name)
    if not text:
        return None
    try:
        return day_start(text)
    except ValueError:
        raise Refused(invalid(f"The {name.replace('_', ' ')} field must be a date such as 2026-03-11.", name)) from None
