"""The team of a key: its name, its people, and who is invited. What a key may do about people ends below owners."""

from __future__ import annotations

from sendkit_server.api import payload
from sendkit_server.api.http import Request, Response, json_response, listed, page
from sendkit_server.api.service import Service
from sendkit_server.manage import invitations, people, teams
from sendkit_server.model.instant import api_time
from sendkit_server.model.refusal import Refusal, Refused, invalid, required
from sendkit_server.model.roles import KEY_MANAGER, Manager, Role

_ROLES = [role for role in Role if KEY_MANAGER.may_manage(role)]
_NO_MEMBER = Refusal("not_found", "Member not found.", 404)
_NO_INVITATION = Refusal("not_found", "Invitation not found.", 404)


async def read(service: Service, request: Request) -> Response | Refusal:
    """GET /team"""
    return json_response({"object": "team", **await teams.show_team(service.store, request.team_id)})


async def rename(service: Service, request: Request) -> Response | Refusal:
    """PUT or PATCH /team"""
    name = payload.string(payload.members(request.headers, request.body), "name")
    if name is None:
        return required("name")
    _manager(request)
    await teams.rename_team(service.store, request.team_id, name, service.actor(request))
    return await read(service, request)


async def list_members(service: Service, request: Request) -> Response | Refusal:
    """GET /team/members: in the order in which they came"""
    query = request.query()
    current, per_page = page(query)
    rows, total = await people.members(service.store, request.team_id, (current - 1) * per_page, per_page)
    data = [{"object": "member", **people.worded(row)} for row in rows]
    return json_response(listed(f"{service.public_url}/team/members", query, data, total, False))


async def read_member(service: Service, request: Request) -> Response | Refusal:
    """GET /team/members/{id}: by id or address"""
    found = await people.member(service.store, request.team_id, request.path_args[0])
    return _NO_MEMBER if found is None else json_response({"object": "member", **people.worded(found)})


async def set_role(service: Service, request: Request) -> Response | Refusal:
    """PUT or PATCH /team/members/{id}"""
    role, manager = _role(payload.members(request.headers, request.body)), _manager(request)
    who, actor = request.path_args[0], service.actor(request)
    await people.set_role(service.store, request.team_id, who, role, actor, manager)
    return await read_member(service, request)


async def remove_member(service: Service, request: Request) -> Response | Refusal:
    """DELETE /team/members/{id}"""
    who, actor = request.path_args[0], service.actor(request)
    removed = await people.remove(service.store, request.team_id, who, actor, _manager(request))
    return _NO_MEMBER if removed is None else json_response({"object": "member", "id": removed, "deleted": True})


async def list_invitations(service: Service, request: Request) -> Response | Refusal:
    """GET /team/invitations: the open ones, newest first"""
    query = request.query()
    current, per_page = page(query)
    rows, total = await invitations.invitations(
        service.store, request.team_id, service.clock(), (current - 1) * per_page, per_page
    )
    data = [{"object": "invitation", **invitations.worded(row)} for row in rows]
    return json_response(listed(f"{service.public_url}/team/invitations", query, data, total, False))


async def read_invitation(service: Service, request: Request) -> Response | Refusal:
    """GET /team/invitations/{id}"""
    found = await invitations.invitation(service.store, request.team_id, request.path_args[0], service.clock())
    return _NO_INVITATION if found is None else json_response({"object": "invitation", **invitations.worded(found)})


async def invite(service: Service, request: Request) -> Response | Refusal:
    """POST /team/invitations: 201, the only answer that has the link"""
    given = payload.members(request.headers, request.body)
    email, role, manager = payload.address("email", given.get("email")), _role(given), _manager(request)
    link = await people.invite(service.store, request.team_id, email, role, service.actor(request), manager)
    made = {
        "object": "invitation",
        "id": link.id,
        "email": people.email_of(email),
        "role": role,
        "created_at": api_time(link.created_at),
        "expires_at": api_time(link.expires_at),
        "link": service.public_url + link.path,
    }
    return json_response(made, 201)


async def withdraw(service: Service, request: Request) -> Response | Refusal:
    """DELETE /team/invitations/{id}"""
    invitation_id, actor = request.path_args[0], service.actor(request)
    if not await invitations.withdraw(service.store, request.team_id, invitation_id, actor, _manager(request)):
        return _NO_INVITATION
    return json_response({"object": "invitation", "id": invitation_id, "deleted": True})


def _manager(request: Request) -> Manager:
    assert request.key is not None
    return people.key_manager(request.key)


def _role(given: payload.Members) -> Role:
    text = payload.string(given, "role")
    if not text:
        raise Refused(required("role"))
    if text not in _ROLES:
        raise Refused(invalid(f"The role field must be one of {', '.join(_ROLES)}.", "role"))
    return Role(text)
