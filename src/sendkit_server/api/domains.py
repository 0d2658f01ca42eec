"""Domains: add, read, list, change, verify, rotate the key of, delete."""

from __future__ import annotations

from sendkit_server.api import payload, shapes
from sendkit_server.api.dialect import DEFAULT_REGION, Dialect, page_size
from sendkit_server.api.http import Request, Response, json_response, listed_part, window
from sendkit_server.api.service import Service
from sendkit_server.manage import domains, verification
from sendkit_server.manage.domain_wishes import DomainWish
from sendkit_server.manage.domains import Domain
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.refusal import Refusal, Refused, invalid, required, too_long

MAX_NAME_CHARACTERS = 255
MAX_REGION_CHARACTERS = 32
_NOT_FOUND = Refusal("not_found", "Domain not found.", 404)
_TAKEN = invalid("The name has already been taken.", "name")


async def list_(service: Service, request: Request) -> Response | Refusal:
    """GET /domains"""
    query = request.query()
    shown = window(query, page_size(request.dialect))
    found, part = await domains.list_domains(service.store, request.team_id, service.dns_names, shown)
    data = [shapes.domain(one, request.dialect) for one in found]
    return json_response(listed_part(f"{service.public_url}/domains", query, shown, part, data))


async def read(service: Service, request: Request) -> Response | Refusal:
    """GET /domains/{id}: by id or name"""
    return _answer(
        request, await domains.show_domain(service.store, request.team_id, request.path_args[0], service.dns_names)
    )


async def add(service: Service, request: Request) -> Response | Refusal:
    """POST /domains: 201, with the records to publish"""
    given = payload.members(request.headers, request.body)
    name, region = payload.string(given, "name"), payload.string(given, "region")
    if name is None:
        return required("name")
    if len(name) > MAX_NAME_CHARACTERS:
        return too_long("name", MAX_NAME_CHARACTERS)
    if region is None:
        if request.dialect is not Dialect.RESEND:
            return required("region")
        region = DEFAULT_REGION
    if len(region) > MAX_REGION_CHARACTERS or not region.isprintable():
        return too_long("region", MAX_REGION_CHARACTERS)
    wish = _wish(given)
    if await domains.show_domain(service.store, request.team_id, name, service.dns_names) is not None:
        return _TAKEN
    try:
        added = await domains.add_domain(
            service.store,
            request.team_id,
            name,
            service.dns_names,
            trust=False,
            wish=wish,
            region=region,
            by=service.actor(request),
        )
    except ManageError as error:
        if error.field is not None:
            raise
        raise Refused(invalid(f"The name field must be a domain name: {error}.", "name")) from None
    return json_response(shapes.domain(added, request.dialect), 201)


async def change(service: Service, request: Request) -> Response | Refusal:
    """PUT or PATCH /domains/{id}: what is not named stays as it is"""
    given = payload.members(request.headers, request.body)
    name, actor = request.path_args[0], service.actor(request)
    return _answer(
        request,
        await domains.change_domain(service.store, request.team_id, name, _wish(given), service.dns_names, actor),
    )


async def delete(service: Service, request: Request) -> Response | Refusal:
    """DELETE /domains/{id}"""
    found = await domains.delete_domain(service.store, request.team_id, request.path_args[0], service.actor(request))
    return _NOT_FOUND if found is None else json_response({"object": "domain", "id": found, "deleted": True})


async def verify(service: Service, request: Request) -> Response | Refusal:
    """POST /domains/{id}/verify: asks DNS now, and answers the domain as it is then, with what is wrong with each record"""
    around = service.around
    done = await verification.verify(
        service.store, request.team_id, request.path_args[0], around.names, around.resolver(), service.clock()
    )
    return _NOT_FOUND if done is None else json_response(shapes.domain(done.domain, request.dialect, done.checks))


async def rotate(service: Service, request: Request) -> Response | Refusal:
    """POST /domains/{id}/rotate: a new DKIM key, which signs once its record is seen in DNS"""
    actor = service.actor(request)
    return _answer(
        request,
        await domains.new_dkim_key(service.store, request.team_id, request.path_args[0], service.dns_names, actor),
    )


def _answer(request: Request, found: Domain | None) -> Response | Refusal:
    return _NOT_FOUND if found is None else json_response(shapes.domain(found, request.dialect))


def _wish(given: payload.Members) -> DomainWish:
    capabilities = dict(payload.pairs(given, "capabilities"))
    for name, only in (("sending", "enabled"), ("receiving", "disabled")):
        if capabilities.get(name, only) != only:
            raise Refused(invalid(f"The capabilities.{name} field can only be {only} here.", f"capabilities.{name}"))
    return DomainWish(
        tls=payload.string(given, "tls"),
        open_tracking=payload.boolean(given, "open_tracking"),
        click_tracking=payload.boolean(given, "click_tracking"),
        return_path=payload.string(given, "custom_return_path"),
        tracking=payload.string(given, "tracking_subdomain"),
    )
