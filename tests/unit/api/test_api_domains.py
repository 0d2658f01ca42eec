"""Domains by the API: added, changed, verified, their keys rotated, removed; and one team's is not another's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from api_world import MAIL, NAMES, NOW, Api, running_api
from sinks import DnsServer
from sqlalchemy import insert, select

from sendkit_server.api.schema import DomainShape
from sendkit_server.compose.signing import Signers
from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.store import schema


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer({}) as running:
        yield running


@pytest.fixture
async def api(tmp_path: Path, database_url: str | None, dns: DnsServer) -> AsyncIterator[Api]:
    async with running_api(tmp_path, database_url) as running:
        running.door._service.around = Surroundings(NAMES, dns_servers=(dns.address,))
        yield running


NEW = {"name": "Shop.Example.test", "region": "eu-west-1"}


def publish(dns: DnsServer, domain: dict[str, object]) -> None:
    """What the domain's records say, in DNS."""
    for record in domain["dns_records"]:  # type: ignore[attr-defined]
        name, value = record["name"], record["value"]
        if record["record_type"] == "MX":
            dns.zone.setdefault(name, {})["MX"] = [f"{record['priority']} {value}."]  # type: ignore[index]
        elif record["record_type"] != "CNAME":
            pieces = " ".join(f'"{value[at : at + 200]}"' for at in range(0, len(value), 200))
            dns.zone.setdefault(name, {})["TXT"] = [pieces]  # type: ignore[index]


async def test_a_domain_is_added_with_the_records_to_publish_and_sends_once_it_is_verified(
    api: Api, dns: DnsServer
) -> None:
    made = await api.call("POST", "/domains", NEW)
    assert made.status == 201
    domain = made.json
    assert (domain["name"], domain["region"], domain["status"], domain["tls"], domain["sending_enabled"]) == (
        "shop.example.test", "eu-west-1", "pending", "opportunistic", False,
    )  # fmt: skip
    assert [record["record_type"] for record in domain["dns_records"]] == ["DKIM", "SPF", "MX", "DMARC"]
    mail = {**MAIL, "from": "a@shop.example.test"}
    assert (await api.call("POST", "/emails", mail)).json["message"] == "The from address domain is not verified."
    publish(dns, domain)
    verified = (await api.call("POST", f"/domains/{domain['id']}/verify")).json
    assert (verified["status"], verified["sending_enabled"]) == ("verified", True), verified["dns_records"]
    assert {record["status"] for record in verified["dns_records"]} == {"verified"}
    assert (await api.call("POST", "/emails", mail)).status == 200


async def test_verify_says_of_each_record_what_is_wrong_with_it(api: Api, dns: DnsServer) -> None:
    domain = (await api.call("POST", "/domains", NEW)).json
    publish(dns, domain)
    dns.zone["send.shop.example.test"] = {"TXT": ['"v=spf1 ip4:192.0.2.9 -all"']}
    answer = await api.call("POST", f"/domains/{domain['id']}/verify")
    msgspec.json.decode(answer.body, type=DomainShape)
    reasons = {record["record_type"]: record["reason"] for record in answer.json["dns_records"]}
    assert reasons["DKIM"] is reasons["DMARC"] is None
    assert (
        "published is v=spf1 ip4:192.0.2.9 -all" in reasons["SPF"]
        and reasons["MX"] == "send.shop.example.test has no MX"
    )
    assert [record["reason"] for record in answer.json["records"]] == [None, reasons["SPF"], reasons["MX"]]
    read = (await api.call("GET", f"/domains/{domain['id']}")).json
    assert all("reason" not in record for record in read["dns_records"] + read["records"])


@pytest.mark.parametrize(
    ("members", "field", "words"),
    [
        ({"name": None}, "name", "The name field is required."),
        ({"region": None}, "region", "The region field is required."),
        ({"name": "not a domain"}, "name", "must be a domain name"),
        ({"name": "x" * 256}, "name", "must not be greater than 255 characters"),
        ({"name": "sender.test"}, "name", "The name has already been taken."),
        ({"tls": "sometimes"}, "tls", "opportunistic, enforced"),
        ({"custom_return_path": "a.b"}, "custom_return_path", "one label"),
        ({"custom_return_path": "-a"}, "custom_return_path", "one label"),
        ({"custom_return_path": "x" * 64}, "custom_return_path", "at most 63"),
        ({"tracking_subdomain": "a b"}, "tracking_subdomain", "below shop.example.test"),
        ({"tracking_subdomain": "send"}, "tracking_subdomain", "both the return path and the host"),
        ({"tracking_subdomain": "a", "custom_return_path": "a"}, "tracking_subdomain", "both the return path"),
        ({"click_tracking": "yes"}, "click_tracking", "true or false"),
    ],
)
async def test_what_is_wrong_with_a_new_domain_is_said(
    api: Api, members: dict[str, object], field: str, words: str
) -> None:
    answer = await api.call("POST", "/domains", {**NEW, **members})
    assert (answer.status, answer.json["field"]) == (422, field)
    assert words in answer.json["message"]


async def test_a_domain_is_changed_and_removed_by_id_or_name(api: Api) -> None:
    domain = (await api.call("POST", "/domains", {**NEW, "open_tracking": False})).json
    assert (await api.call("PUT", f"/domains/{domain['id']}", {"tls": "enforced"})).json["tls"] == "enforced"
    assert (await api.call("PATCH", "/domains/shop.example.test", {})).json["tls"] == "enforced"
    gone = await api.call("DELETE", "/domains/shop.example.test")
    assert gone.json == {"object": "domain", "id": domain["id"], "deleted": True}
    for method, path, body in (
        ("GET", "", None), ("PUT", "", {"tls": "enforced"}), ("DELETE", "", None), ("POST", "/verify", {}), ("POST", "/rotate", {}),
    ):  # fmt: skip
        assert (await api.call(method, f"/domains/{domain['id']}{path}", body)).status == 404
    assert (await api.call("POST", "/domains", NEW)).status == 201, "it can be added again"


async def test_return_path_and_tracking_host_are_the_owner_s_to_choose(api: Api, dns: DnsServer) -> None:
    own = {"custom_return_path": "Bounces", "tracking_subdomain": "links", "open_tracking": True}
    domain = (await api.call("POST", "/domains", {**NEW, **own})).json
    assert (domain["custom_return_path"], domain["tracking_subdomain"]) == ("bounces", "links")
    assert domain["open_tracking"] and domain["warnings"][0]["name"] == "tracking_not_built"
    names = {record["record_type"]: record["name"] for record in domain["dns_records"]}
    assert names["SPF"] == names["MX"] == "bounces.shop.example.test"
    assert names["CNAME"] == "links.shop.example.test"
    publish(dns, domain)
    path = f"/domains/{domain['id']}"
    verified = (await api.call("POST", f"{path}/verify")).json
    assert verified["status"] == "verified", "DMARC and the tracking host are advice"
    assert {each["record_type"]: each["status"] for each in verified["dns_records"]}["CNAME"] == "pending"
    signers = Signers(api.store, ["rsa-sha256"])
    await signers.keys(1, "shop.example.test")
    assert signers.return_path(1, "shop.example.test") == "bounces.shop.example.test"
    # Another one: the domain goes on sending, with the installation's own return path until the new records are there.
    changed = (await api.call("PATCH", path, {"custom_return_path": "b2", "tracking_subdomain": ""})).json
    assert (changed["status"], changed["sending_enabled"], changed["tracking_subdomain"]) == ("verified", True, None)
    assert "CNAME" not in {record["record_type"] for record in changed["dns_records"]}
    signers = Signers(api.store, ["rsa-sha256"])
    await signers.keys(1, "shop.example.test")
    assert signers.return_path(1, "shop.example.test") is None
    again = (await api.call("POST", f"{path}/verify")).json
    assert again["status"] == "verified", "its key is still proved"
    publish(dns, again)
    await api.call("POST", f"{path}/verify")
    signers = Signers(api.store, ["rsa-sha256"])
    await signers.keys(1, "shop.example.test")
    assert signers.return_path(1, "shop.example.test") == "b2.shop.example.test"


async def test_a_whole_name_below_the_domain_will_do_for_the_tracking_host_and_a_foreign_one_becomes_one_below(
    api: Api,
) -> None:
    await api.call("POST", "/domains", NEW)
    for given, becomes in (("Go.shop.example.test.", "go"), ("a.b", "a.b"), ("www.other.test", "www.other.test")):
        changed = (await api.call("PUT", "/domains/shop.example.test", {"tracking_subdomain": given})).json
        assert changed["tracking_subdomain"] == becomes
    refused = await api.call(
        "PUT", "/domains/shop.example.test", {"custom_return_path": "send", "tracking_subdomain": "send"}
    )
    assert (refused.status, refused.json["field"]) == (422, "tracking_subdomain")


async def test_an_international_name_is_found_in_every_spelling(api: Api) -> None:
    domain = (await api.call("POST", "/domains", {**NEW, "name": "Bücher.test"})).json
    assert domain["name"] == "xn--bcher-kva.test"
    for name in ("xn--bcher-kva.test", "b%C3%BCcher.test", "B%C3%9CCHER.test"):
        assert (await api.call("GET", f"/domains/{name}")).json["id"] == domain["id"]


async def test_a_new_key_signs_once_dns_shows_it_and_the_old_one_is_retired(api: Api, dns: DnsServer) -> None:
    domain = (await api.call("POST", "/domains", NEW)).json
    publish(dns, domain)
    await api.call("POST", f"/domains/{domain['id']}/verify")
    signers = Signers(api.store, ["rsa-sha256"])
    (old,) = await signers.keys(1, "shop.example.test")
    rotated = (await api.call("POST", f"/domains/{domain['id']}/rotate")).json
    names = [record["name"] for record in rotated["dns_records"] if record["record_type"] == "DKIM"]
    assert names[0] == "sendkit._domainkey.shop.example.test" and len(names) == 2
    assert rotated["status"] == "verified"
    assert [key.selector for key in await signers.keys(1, "shop.example.test")] == [old.selector]
    again = await api.call("POST", f"/domains/{domain['id']}/rotate")
    assert again.status == 422 and "waits to be published" in again.json["message"]
    publish(dns, rotated)
    verified = (await api.call("POST", f"/domains/{domain['id']}/verify")).json
    (new,) = await signers.keys(1, "shop.example.test")
    assert f"{new.selector}._domainkey.shop.example.test" == names[1]
    assert [record["name"] for record in verified["dns_records"] if record["record_type"] == "DKIM"] == [names[1]]
    assert (await api.call("POST", f"/domains/{domain['id']}/verify")).json["status"] == "verified"


async def test_a_domain_that_one_team_has_verified_cannot_be_verified_by_another(api: Api, dns: DnsServer) -> None:
    mine = (await api.call("POST", "/domains", NEW)).json
    publish(dns, mine)
    await api.call("POST", f"/domains/{mine['id']}/verify")
    other = await a_team(api)
    theirs = (await api.call("POST", "/domains", NEW, key=other)).json
    publish(dns, theirs)
    taken = (await api.call("POST", f"/domains/{theirs['id']}/verify", key=other)).json
    assert (taken["status"], taken["sending_enabled"]) == ("failed", False)
    assert taken["reason"] == "Another account of this server has verified the domain."
    refused = await api.call("POST", "/emails", {**MAIL, "from": "a@shop.example.test"}, key=other)
    assert refused.status == 422
    publish(dns, mine)
    assert (await api.call("POST", f"/domains/{mine['id']}/verify")).json["status"] == "verified"
    await api.call("DELETE", f"/domains/{mine['id']}")
    publish(dns, theirs)
    assert (await api.call("POST", f"/domains/{theirs['id']}/verify", key=other)).json["status"] == "verified"


async def a_team(api: Api) -> str:
    await api.store.write(
        lambda connection: connection.execute(insert(schema.team).values(id=7, name="other", created_at=NOW))
    )
    return await api.make_key(team=7)


async def test_changes_are_on_the_audit_log(api: Api) -> None:
    domain = (await api.call("POST", "/domains", NEW)).json
    await api.call("POST", f"/domains/{domain['id']}/rotate")
    await api.call("DELETE", f"/domains/{domain['id']}")
    rows = await api.store.read(
        lambda connection: connection.execute(select(schema.audit).where(schema.audit.c.target == domain["id"])).all()
    )
    assert sorted(row.action for row in rows) == ["domains.add", "domains.delete", "domains.rotate"]
    assert msgspec.json.encode([row.detail for row in rows]).count(b"PRIVATE") == 0
