"""Every route, declared once: verb, path, permission, handler. Routing, permission checks, 405 and the OpenAPI description
all come from this table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from sendkit_server.api import (
    about,
    acme,
    api_keys,
    audit,
    domains,
    emails,
    health,
    logs,
    schema,
    senders,
    suppressions,
    team,
)
from sendkit_server.api.http import Request, Response
from sendkit_server.api.service import Service
from sendkit_server.model.refusal import Refusal

Handler = Callable[[Service, Request], Awaitable[Response | Refusal]]


class Route(msgspec.Struct, frozen=True):
    """permission: None means no key is needed.  path: `{id}` stands for one segment.  built: False answers 404 by name.

    request, reply: the shapes of the bodies; reply None: no JSON.  statuses: of success.
    """

    method: str
    path: str
    permission: str | None
    handler: Handler
    summary: str
    reply: type | None = None
    request: type | None = None
    built: bool = True
    statuses: tuple[int, ...] = (200,)


def _later(method: str, path: str, permission: str) -> Route:
    return Route(method, path, permission, emails.not_built, "Not supported yet", built=False)


ROUTES: tuple[Route, ...] = (
    Route("POST", "/emails", "emails:send", emails.send, "Send an email", schema.SendReply, schema.SendEmail),
    Route("GET", "/emails", "emails:read", emails.list_, "List emails, newest first", schema.EmailList),
    Route("GET", "/emails/{id}", "emails:read", emails.read, "Read an email by id or Message-ID", schema.EmailShape),
    Route(
        "GET",
        "/emails/{id}/attempts",
        "emails:read",
        emails.attempts,
        "Every delivery attempt with its transcript",
        schema.AttemptList,
    ),
    Route("POST", "/emails/{id}/cancel", "emails:write", emails.cancel, "Do not send what waits", schema.ChangedEmail),
    Route("POST", "/emails/{id}/retry", "emails:write", emails.retry, "Try now what waits", schema.ChangedEmail),
    Route("GET", "/queue", "queue:read", emails.queue, "What waits, by destination, and why", schema.LaneList),
    Route("GET", "/domains", "domains:read", domains.list_, "List domains", schema.DomainList),
    Route(
        "GET", "/domains/{id}", "domains:read", domains.read, "Read a domain with its DNS records", schema.DomainShape
    ),
    Route(
        "POST",
        "/domains/{id}/verify",
        "domains:write",
        domains.verify,
        "Look in DNS now whether the domain's records are right",
        schema.DomainShape,
    ),
    Route(
        "POST",
        "/domains",
        "domains:write",
        domains.add,
        "Add a domain; the reply has the records to publish",
        schema.DomainShape,
        schema.AddDomain,
        statuses=(201,),
    ),
    Route(
        "PUT",
        "/domains/{id}",
        "domains:write",
        domains.change,
        "Change a domain",
        schema.DomainShape,
        schema.ChangeDomain,
    ),
    Route(
        "PATCH",
        "/domains/{id}",
        "domains:write",
        domains.change,
        "Change a domain",
        schema.DomainShape,
        schema.ChangeDomain,
    ),
    Route(
        "DELETE", "/domains/{id}", "domains:write", domains.delete, "Delete a domain with its keys", schema.DeletedShape
    ),
    Route(
        "POST",
        "/domains/{id}/rotate",
        "domains:write",
        domains.rotate,
        "Make a new DKIM key; it signs once its record is seen in DNS",
        schema.DomainShape,
    ),
    Route("GET", "/senders", "senders:read", senders.list_, "List senders, newest first", schema.SenderList),
    Route(
        "POST",
        "/senders",
        "senders:write",
        senders.create,
        "Make a sender: a name and an address at a verified domain",
        schema.SenderShape,
        schema.CreateSender,
        statuses=(201,),
    ),
    Route("GET", "/senders/{id}", "senders:read", senders.read, "Read a sender", schema.SenderShape),
    *(
        Route(
            verb,
            "/senders/{id}",
            "senders:write",
            senders.change,
            "Change a sender",
            schema.SenderShape,
            schema.ChangeSender,
        )
        for verb in ("PUT", "PATCH")
    ),
    Route("DELETE", "/senders/{id}", "senders:write", senders.delete, "Delete a sender", schema.DeletedShape),
    Route(
        "GET",
        "/suppressions",
        "suppressions:read",
        suppressions.list_,
        "List suppressed addresses",
        schema.SuppressionList,
    ),
    Route(
        "POST",
        "/suppressions",
        "suppressions:write",
        suppressions.add,
        "Suppress an address",
        schema.SuppressionShape,
        schema.Suppress,
        statuses=(201, 200),
    ),
    Route(
        "POST",
        "/suppressions/batch/add",
        "suppressions:write",
        suppressions.add_batch,
        "Suppress up to 100 addresses",
        schema.NamedList,
        schema.SuppressMany,
        statuses=(201,),
    ),
    Route(
        "POST",
        "/suppressions/batch/remove",
        "suppressions:write",
        suppressions.remove_batch,
        "Take up to 100 addresses off the list",
        schema.RemovedList,
        schema.ReleaseMany,
    ),
    Route(
        "GET",
        "/suppressions/{id}",
        "suppressions:read",
        suppressions.read,
        "Read a suppression by id or address",
        schema.SuppressionShape,
    ),
    Route(
        "DELETE",
        "/suppressions/{id}",
        "suppressions:write",
        suppressions.remove,
        "Take an address off the list, by id or address",
        schema.RemovedShape,
    ),
    Route("GET", "/api-keys", "keys:read", api_keys.list_, "List API keys, never their secrets", schema.KeyList),
    Route(
        "POST",
        "/api-keys",
        "keys:write",
        api_keys.create,
        "Make an API key; only this reply has its secret",
        schema.NewKeyShape,
        schema.CreateKey,
        statuses=(201,),
    ),
    Route("GET", "/api-keys/{id}", "keys:read", api_keys.read, "Read an API key", schema.KeyShape),
    Route(
        "PATCH",
        "/api-keys/{id}",
        "keys:write",
        api_keys.rename,
        "Rename an API key",
        schema.RenamedKeyShape,
        schema.RenameKey,
    ),
    Route("DELETE", "/api-keys/{id}", "keys:write", api_keys.revoke, "Revoke an API key at once", schema.DeletedShape),
    Route(
        "POST",
        "/api-keys/{id}/rotate",
        "keys:write",
        api_keys.rotate,
        "Make a new key with the same rights; the old one ends after the overlap",
        schema.NewKeyShape,
        schema.RotateKey,
        statuses=(201,),
    ),
    Route("GET", "/team", "team:read", team.read, "The key's team", schema.TeamShape),
    Route("PUT", "/team", "team:write", team.rename, "Rename the team", schema.TeamShape, schema.RenameTeam),
    Route("PATCH", "/team", "team:write", team.rename, "Rename the team", schema.TeamShape, schema.RenameTeam),
    Route("GET", "/team/members", "team:read", team.list_members, "List the team's people", schema.MemberList),
    Route(
        "GET",
        "/team/members/{id}",
        "team:read",
        team.read_member,
        "Read a person of the team by id or address",
        schema.MemberShape,
    ),
    Route(
        "PUT",
        "/team/members/{id}",
        "team:write",
        team.set_role,
        "Change a person's role; not an owner's",
        schema.MemberShape,
        schema.SetRole,
    ),
    Route(
        "PATCH",
        "/team/members/{id}",
        "team:write",
        team.set_role,
        "Change a person's role; not an owner's",
        schema.MemberShape,
        schema.SetRole,
    ),
    Route(
        "DELETE",
        "/team/members/{id}",
        "team:write",
        team.remove_member,
        "Take a person out of the team; not an owner",
        schema.RemovedShape,
    ),
    Route(
        "GET",
        "/team/invitations",
        "team:read",
        team.list_invitations,
        "List open invitations, never their links",
        schema.InvitationList,
    ),
    Route(
        "POST",
        "/team/invitations",
        "team:write",
        team.invite,
        "Invite a person; only this reply has the link, which works once",
        schema.NewInvitationShape,
        schema.Invite,
        statuses=(201,),
    ),
    Route(
        "GET",
        "/team/invitations/{id}",
        "team:read",
        team.read_invitation,
        "Read an open invitation",
        schema.InvitationShape,
    ),
    Route(
        "DELETE",
        "/team/invitations/{id}",
        "team:write",
        team.withdraw,
        "Withdraw an invitation: its link works no more",
        schema.RemovedShape,
    ),
    Route("GET", "/audit", "team:read", audit.list_, "Who changed what, newest first", schema.AuditList),
    Route(
        "GET", "/logs", "logs:read", logs.list_, "Refused and failed requests and sessions of 7 days", schema.LogList
    ),
    Route("GET", "/logs/{id}", "logs:read", logs.read, "Read a refused request or session", schema.LogShape),
    Route("GET", "/health", None, health.health, "The process lives", schema.HealthShape),
    Route("GET", "/ready", None, health.ready, "The process can serve", schema.ReadyShape),
    Route("GET", "/metrics", None, health.metrics, "Prometheus metrics"),
    Route("GET", "/openapi.json", None, about.openapi, "This description", dict),
    Route("GET", "/docs", None, about.docs, "A page about the API"),
    Route(
        "GET",
        "/.well-known/acme-challenge/{token}",
        None,
        acme.challenge,
        "What a certificate authority asks for, while an order is open",
    ),
    _later("POST", "/emails/bulk", "emails:send"),
    _later("POST", "/emails/batch", "emails:send"),
    _later("POST", "/emails/mime", "emails:send"),
    _later("POST", "/emails/validate", "emails:send"),
    _later("GET", "/emails/metrics", "analytics:read"),
    _later("GET", "/emails/receiving", "emails:read"),
    _later("PATCH", "/emails/{id}", "emails:write"),
    _later("GET", "/emails/{id}/content", "emails:content"),
    _later("DELETE", "/emails/{id}/content", "emails:write"),
    _later("GET", "/emails/{id}/analytics", "analytics:read"),
    _later("GET", "/templates", "templates:read"),
    _later("POST", "/templates", "templates:write"),
    _later("GET", "/contacts", "contacts:read"),
    _later("POST", "/contacts", "contacts:write"),
    _later("GET", "/webhooks", "webhooks:read"),
    _later("POST", "/webhooks", "webhooks:write"),
    _later("GET", "/events", "events:read"),
    _later("GET", "/analytics", "analytics:read"),
    _later("GET", "/usage", "analytics:read"),
    _later("GET", "/inbox", "inbox:read"),
    _later("DELETE", "/inbox", "inbox:write"),
)


class Match(msgspec.Struct, frozen=True):
    """Where a request goes. route None: the path is known, but not with this verb; allowed tells which are."""

    route: Route | None
    arguments: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()


class Router:
    """Finds a path's routes: by the literal path first, then by the pattern."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        self._literal: dict[tuple[str, ...], dict[str, Route]] = {}
        self._patterns: list[tuple[tuple[str, ...], dict[str, Route]]] = []
        grouped: dict[str, dict[str, Route]] = {}
        for route in routes:
            grouped.setdefault(route.path, {})[route.method] = route
        for path, verbs in grouped.items():
            segments = tuple(path.strip("/").split("/"))
            if "{" in path:
                self._patterns.append((segments, verbs))
            else:
                self._literal[segments] = verbs

    def find(self, method: str, segments: list[str]) -> Match | None:
        """None for a path that nobody serves. HEAD goes where GET goes."""
        verbs, arguments = self._verbs(segments)
        if verbs is None:
            return None
        route = verbs.get("GET" if method == "HEAD" else method)
        if route is not None:
            return Match(route, arguments)
        allowed = sorted(verb for verb, route in verbs.items() if route.built)
        return Match(None, allowed=tuple([*allowed, "HEAD"] if "GET" in allowed else allowed))

    def _verbs(self, segments: list[str]) -> tuple[dict[str, Route] | None, tuple[str, ...]]:
        literal = self._literal.get(tuple(segments))
        if literal is not None:
            return literal, ()
        for pattern, verbs in self._patterns:
            if len(pattern) == len(segments) and all(
                one.startswith("{") or one == other for one, other in zip(pattern, segments, strict=True)
            ):
                arguments = [other for one, other in zip(pattern, segments, strict=True) if one.startswith("{")]
                return verbs, tuple(arguments)
        return None, ()
