"""Every route × every permission, and every route × what belongs to another team: made from the table of routes itself.

A new route needs a permission, or a place in PUBLIC; one that names an object needs a maker of such an object in FOREIGN, and
a row in BODIES when it looks at its body before it looks for the object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from api_world import BY, NAMES, Api

from sendkit_server.api.routes import ROUTES, Route
from sendkit_server.manage import domains
from sendkit_server.model.permissions import ALL
from sendkit_server.model.roles import Role

PUBLIC = {"/health", "/ready", "/metrics", "/openapi.json", "/docs", "/.well-known/acme-challenge/{token}"}

Maker = Callable[[Api, int, str], Awaitable[list[str]]]
"""Api, another team's number, a full key of it → the names by which the object could be asked for."""


async def an_email(api: Api, team: int, key: str) -> list[str]:
    sent = {"from": "a@secret.test", "to": "ann@there.test", "subject": "Hello", "text": "x"}
    made = await api.call("POST", "/emails", sent, key=key)
    read = await api.call("GET", f"/emails/{made.json['id']}", key=key)
    return [made.json["id"], quote(read.json["message_id"], safe="")]


async def a_domain(api: Api, team: int, key: str) -> list[str]:
    made = await domains.add_domain(api.store, team, "secret.test", NAMES, trust=True, by=BY)
    return [made.row.id, "secret.test"]


async def a_sender(api: Api, team: int, key: str) -> list[str]:
    given = {"name": "secret.test", "username": "ann", "domain_id": "secret.test"}
    return [(await api.call("POST", "/senders", given, key=key)).json["id"]]


async def a_suppression(api: Api, team: int, key: str) -> list[str]:
    made = await api.call("POST", "/suppressions", {"email": "ann@secret.test"}, key=key)
    return [made.json["id"], "ann%40secret.test"]


async def a_key(api: Api, team: int, key: str) -> list[str]:
    made = await api.call("POST", "/api-keys", {"name": "secret.test", "permission": "send"}, key=key)
    return [made.json["id"]]


async def a_log(api: Api, team: int, key: str) -> list[str]:
    await api.call("GET", "/domains/nope.secret.test", key=key)
    await api.refusals.flush()
    return [row["id"] for row in (await api.call("GET", "/logs", key=key)).json["data"]][:1]


async def a_member(api: Api, team: int, key: str) -> list[str]:
    return [await api.make_member("bob@secret.test", Role.MEMBER, team), "bob%40secret.test"]


async def an_invitation(api: Api, team: int, key: str) -> list[str]:
    made = await api.call("POST", "/team/invitations", {"email": "eve@secret.test", "role": "viewer"}, key=key)
    return [made.json["id"]]


# In the order in which they are made: a mail needs its domain.
FOREIGN: dict[str, Maker] = {
    "/domains/{id}": a_domain,
    "/emails/{id}": an_email,
    "/senders/{id}": a_sender,
    "/suppressions/{id}": a_suppression,
    "/api-keys/{id}": a_key,
    "/logs/{id}": a_log,
    "/team/members/{id}": a_member,
    "/team/invitations/{id}": an_invitation,
}
BODIES: dict[str, object] = {
    "PATCH /api-keys/{id}": {"name": "mine now"},
    "PUT /senders/{id}": {"name": "mine now"},
    "PATCH /senders/{id}": {"name": "mine now"},
    "PUT /domains/{id}": {"tls": "enforced"},
    "PUT /team/members/{id}": {"role": "viewer"},
    "PATCH /team/members/{id}": {"role": "viewer"},
    "PATCH /domains/{id}": {"tls": "enforced"},
}


def kind(route: Route) -> str:
    """The object's own path, of a route that names one: `/emails/{id}` of `/emails/{id}/cancel`."""
    return route.path.partition("}")[0] + "}"


def asked(route: Route, name: str = "nope") -> str:
    before, _, rest = route.path.partition("{")
    return before + (name if rest else "") + rest.partition("}")[2]


BUILT = [route for route in ROUTES if route.built]


def test_every_route_needs_a_permission_or_is_known_to_be_public() -> None:
    assert {route.path for route in ROUTES if route.permission is None} == PUBLIC
    assert {route.permission for route in ROUTES} - {None} <= ALL


def test_every_route_that_names_an_object_is_tried_with_another_team_s() -> None:
    named = {kind(route) for route in BUILT if "{" in route.path and route.permission is not None}
    missing = named - FOREIGN.keys()
    assert not missing, f"write makers for {missing}, so that the tenancy test covers them"


async def test_every_route_opens_with_its_permission_alone_and_stays_shut_without_it(api: Api) -> None:
    for permission in sorted({route.permission for route in ROUTES if route.permission is not None}):
        alone = await api.make_key(permission)
        without = await api.make_key(",".join(sorted(ALL - {permission})))
        for route in ROUTES:
            what = f"{route.method} {route.path}"
            if route.permission is None:
                continue
            opens = await api.call(route.method, asked(route), {}, key=alone)
            assert opens.status < 500, what
            if route.permission == permission:
                assert opens.status not in (401, 403), what
                shut = await api.call(route.method, asked(route), {}, key=without)
                words = f"This API key needs the permission {permission}."
                assert (shut.status, shut.json["name"], shut.json["message"]) == (401, "restricted_api_key", words), (
                    what
                )
            else:
                assert (opens.status, opens.json["name"]) == (401, "restricted_api_key"), what


async def test_without_a_key_every_route_but_the_public_ones_is_shut(api: Api) -> None:
    for route in ROUTES:
        answer = await api.call(route.method, asked(route), {}, key=None)
        assert (answer.status == 401) == (route.path not in PUBLIC), f"{route.method} {route.path}"


async def test_what_is_another_team_s_cannot_be_seen_found_or_changed_by_any_route(api: Api) -> None:
    other = await api.make_team()
    theirs = await api.make_key(team=other)
    foreign = {path: await make(api, other, theirs) for path, make in FOREIGN.items()}
    for route in BUILT:
        if "{" not in route.path or route.permission is None:
            continue
        for name in foreign[kind(route)]:
            what = f"{route.method} {asked(route, name)}"
            answer = await api.call(route.method, asked(route, name), BODIES.get(f"{route.method} {route.path}", {}))
            assert (answer.status, answer.json["name"]) == (404, "not_found"), what
    for path, names in foreign.items():
        for name in names:
            assert (await api.call("GET", path.replace("{id}", name), key=theirs)).status == 200, (
                f"{path} {name} is gone"
            )
    await api.refusals.flush()
    for route in BUILT:
        if route.method == "GET" and route.permission is not None and "{" not in route.path:
            mine, seen_there = await api.call("GET", route.path), await api.call("GET", route.path, key=theirs)
            assert mine.status == seen_there.status == 200, route.path
            for name in (name for path, names in foreign.items() if path != "/logs/{id}" for name in names):
                # What was asked for in vain just now stands on the own log; nowhere else may a foreign name.
                assert route.path == "/logs" or name.encode() not in mine.body, f"{route.path} shows {name}"
            if f"{route.path}/{{id}}" in foreign:
                assert foreign[f"{route.path}/{{id}}"][0].encode() in seen_there.body, f"{route.path} shows nothing"


async def test_another_team_s_names_in_a_request_are_unknown_names(api: Api) -> None:
    other = await api.make_team()
    await domains.add_domain(api.store, other, "secret.test", NAMES, trust=True, by=BY)
    sent = await api.send(**{"from": "a@secret.test"})
    assert (sent.status, sent.json["message"]) == (422, "The from address domain is not verified.")
    bound = await api.call("POST", "/api-keys", {"name": "k", "permission": "send", "domain_id": "secret.test"})
    assert bound.status == 422 and bound.json["message"].startswith("There is no domain secret.test")
    theirs = await api.make_key(team=other)
    await api.call("POST", "/suppressions", {"email": "ann@there.test"}, key=theirs)
    assert (await api.send(to="ann@there.test")).json["status"] == "queued"
    removed = await api.call("POST", "/suppressions/batch/remove", {"emails": ["ann@there.test"]})
    assert removed.json["data"] == []
    for query in ("search=secret", "tag=x", "to=ann@there.test", "q=secret", "domain_id=dom_1"):
        assert "secret.test" not in str((await api.call("GET", f"/emails?{query}")).json["data"])
