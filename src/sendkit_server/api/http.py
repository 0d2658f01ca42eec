"""Requests and responses of the HTTP door, on plain ASGI: what is the same whatever is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlencode

import msgspec

from sendkit_server.api.dialect import Dialect, dialect_of
from sendkit_server.model.mail import ApiKey
from sendkit_server.model.refusal import Refusal, Refused, invalid
from sendkit_server.store.queries.pages import Part, Window

MAX_BODY_BYTES = 60_000_000
BODY_GRACE_S = 30.0
BODY_MIN_BYTES_PER_S = 16_384
LINGER_S = 5.0
MAX_QUERY_CHARACTERS = 8_192

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_json = msgspec.json.Encoder()

TOO_LARGE = Refusal(
    "validation_error", f"The request body is too large: the limit is {MAX_BODY_BYTES} bytes.", 413, 552, "5.3.4"
)
TOO_SLOW = Refusal("validation_error", "The request body came too slowly.", 408)


class ClientGone(Exception):
    """The client closed the connection before its request was whole; there is nobody to answer."""


class Response(msgspec.Struct, frozen=True):
    """An answer: status, body bytes, content type and further headers."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Request(msgspec.Struct):
    """One request. path_args: what stood in the route's braces.  key: None on routes without a permission."""

    method: str
    path: str
    query_string: str
    headers: Mapping[bytes, bytes]
    path_args: tuple[str, ...] = ()
    key: ApiKey | None = None
    body: bytes = b""
    client: str = ""

    @property
    def dialect(self) -> Dialect:
        """In which of the two the client speaks."""
        return dialect_of(self.headers, bearer(self.headers))

    @property
    def team_id(self) -> int:
        """The team whose key it is."""
        assert self.key is not None
        return self.key.team_id

    def query(self) -> dict[str, str]:
        """The query's members; of a repeated one the last. Refused when it is no valid text."""
        if len(self.query_string) > MAX_QUERY_CHARACTERS:
            raise Refused(invalid("The query string is too long."))
        try:
            pairs = parse_qsl(self.query_string, keep_blank_values=True, errors="strict", max_num_fields=100)
        except ValueError:
            raise Refused(invalid("The query string is not valid UTF-8, or has more than 100 members.")) from None
        for name, value in pairs:
            if "\0" in name or "\0" in value:
                raise Refused(invalid("The query string must not contain NUL."))
        return dict(pairs)


def json_response(value: object, status: int = 200) -> Response:
    """Any value as JSON."""
    return Response(status, _json.encode(value))


def refusal_response(refusal: Refusal, doc_url: str) -> Response:
    """A refusal in the contract's shape: name, message, both spellings of the status, and our own members."""
    body: dict[str, object] = {
        "name": refusal.name,
        "message": refusal.message,
        "statusCode": refusal.http_status,
        "status_code": refusal.http_status,
        "retryable": refusal.retryable,
        "doc_url": f"{doc_url}#{refusal.name}",
    }
    if refusal.field is not None:
        body["field"] = refusal.field
    body.update(refusal.extra)
    headers: list[tuple[bytes, bytes]] = list(refusal.headers)
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(refusal.retry_after_s).encode()))
    if refusal.allow is not None:
        headers.append((b"allow", refusal.allow.encode()))
    if refusal.http_status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Response(refusal.http_status, _json.encode(body), headers=tuple(headers))


async def send_response(
    scope: Scope, send: Send, response: Response, *, head: bool = False, unread: Receive | None = None
) -> None:
    """Writes a response. head: the answer to HEAD, without the body.

    unread: where a body that was not read whole comes from. What still comes must not be taken for the next request:
    the connection ends with the response, but not with bytes unread, for that sends a reset that can overtake it.
    """
    reply = scope.get("sendkit.reply")
    if reply is not None and not head and unread is None and not scope["sendkit.cycle"].flow.write_paused:
        reply(scope["sendkit.cycle"], response)
        return
    headers = [(b"content-type", response.content_type), (b"content-length", str(len(response.body)).encode())]
    headers += response.headers
    if unread is not None:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    body = b"" if head else response.body
    if unread is not None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await _read_away(unread)
        body = b""
    await send({"type": "http.response.body", "body": body})


async def _read_away(receive: Receive) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            more = True
            while more:
                event = await receive()
                more = event["type"] != "http.disconnect" and event.get("more_body", False)


async def read_body(scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """The whole body. Refused: over the limit (before it is read whole), or too slow."""
    cycle = scope.get("sendkit.cycle")
    if cycle is not None and not cycle.more_body:
        # It came with its head, as most do: asking for it event by event, under a deadline, takes 20 µs.
        body, cycle.body = bytes(cycle.body), bytearray()
        if len(body) > MAX_BODY_BYTES:
            raise Refused(TOO_LARGE)
        return body
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise Refused(TOO_LARGE)
    chunks: list[bytes] = []
    size = 0
    try:
        # The deadline grows with what has come: a big body over a slow line is welcome, a trickle is not.
        async with asyncio.timeout(BODY_GRACE_S) as deadline:
            started = asyncio.get_running_loop().time()
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientGone
                chunk = event.get("body", b"")
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise Refused(TOO_LARGE)
                chunks.append(chunk)
                if not event.get("more_body"):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
                deadline.reschedule(started + BODY_GRACE_S + size / BODY_MIN_BYTES_PER_S)
    except TimeoutError:
        raise Refused(TOO_SLOW) from None


def path_segments(raw_path: str) -> list[str]:
    """The path's segments, decoded once; repeated slashes count as one, one at the end as none."""
    return [unquote(segment) for segment in raw_path.split("/") if segment]


def bearer(headers: Mapping[bytes, bytes]) -> str | None:
    """The key in `Authorization: Bearer …`, scheme in any case; None when there is none."""
    value = headers.get(b"authorization")
    if value is None:
        return None
    scheme, _, secret = value.decode("latin-1").strip().partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None


def page(query: Mapping[str, str]) -> tuple[int, int]:
    """`page` from 1 and `per_page` 1–100, default 1 and 25."""
    for name in ("limit", "after", "before"):
        if name in query:
            raise Refused(invalid(f"'{name}' is not supported yet; use page and per_page", name))
    return _whole(query, "page", 1, 1_000_000), _whole(query, "per_page", 25, 100)


def window(query: Mapping[str, str], default: int) -> Window:
    """Which part of a list: by `page` and `per_page`, or, when any of them is there, by `limit`, `after` and `before` (ids)."""
    if not any(name in query for name in ("limit", "after", "before")):
        current, per_page = _whole(query, "page", 1, 1_000_000), _whole(query, "per_page", default, 100)
        return Window(per_page, (current - 1) * per_page)
    after, before = query.get("after") or None, query.get("before") or None
    if after is not None and before is not None:
        raise Refused(invalid("The after and before fields cannot be used together.", "before"))
    return Window(_whole(query, "limit", default, 100), after=after, before=before)


def listed_part(
    base: str, query: Mapping[str, str], shown: Window, part: Part, data: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """As listed(), for lists that are also read by ids. shown: what was asked for.  data: the rows as they are shown."""
    if not any(name in query for name in ("limit", "after", "before")):
        numbered = {**query, "per_page": str(shown.limit)}
        return listed(base, numbered, data, part.total, False)
    others = {name: value for name, value in query.items() if name not in ("after", "before", "page")}

    def link(**cursor: str) -> str:
        return f"{base}?{urlencode({**others, **cursor})}"

    newer = part.more if shown.before is not None else shown.after is not None
    older = part.more if shown.before is None else True
    return {
        "object": "list",
        "has_more": part.more,
        "data": data,
        "links": {
            "first": link(),
            "last": None,
            "prev": link(before=str(data[0]["id"])) if data and newer else None,
            "next": link(after=str(data[-1]["id"])) if data and older else None,
        },
        "meta": {
            "current_page": None,
            "from": None,
            "last_page": None,
            "per_page": shown.limit,
            "to": None,
            "total": part.total,
            "path": base,
        },
    }


def _whole(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise Refused(invalid(f"The {name.replace('_', ' ')} field must be a whole number from 1 to {most}.", name))
    return int(text)


def listed(
    base: str, query: Mapping[str, str], data: Sequence[object], total: int, lower_bound: bool
) -> dict[str, object]:
    """A list in the contract's envelope. base: its absolute URL without a query.  lower_bound: total was not counted out."""
    current, per_page = page(query)
    last = max(1, -(-total // per_page))
    first_number = (current - 1) * per_page + 1
    has_more = current < last or (lower_bound and len(data) == per_page)
    others = {name: value for name, value in query.items() if name != "page"}

    def link(number: int) -> str:
        return f"{base}?{urlencode({**others, 'page': number})}"

    return {
        "object": "list",
        "has_more": has_more,
        "data": data,
        "links": {
            "first": link(1),
            "last": link(last),
            "prev": link(current - 1) if current > 1 else None,
            "next": link(current + 1) if has_more else None,
        },
        "meta": {
            "current_page": current,
            "from": first_number if data else None,
            "last_page": last,
            "per_page": per_page,
            "to": first_number + len(data) - 1 if data else None,
            "total": total,
            "path": base,
        },
    }
