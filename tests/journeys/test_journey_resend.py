"""Resend's own clients, unchanged but for where they are pointed: domains, keys, and the errors that they know."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import resend
from clients import needs_node_package, node
from resend.exceptions import InvalidApiKeyError, MissingRequiredFieldsError, ResendError
from server import Server


@pytest.fixture
def client(server: Server, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python client, which is a module."""
    monkeypatch.setattr(resend, "api_key", key)
    monkeypatch.setattr(resend, "api_url", server.url)


async def test_the_python_client_runs_domains_and_keys(client: None) -> None:
    def work() -> None:
        made = resend.Domains.create({"name": "shop.test", "custom_return_path": "bounces", "open_tracking": True})
        assert made["status"] == "not_started" and made["region"] == "us-east-1"
        assert {(one["record"], one["type"], one["name"]) for one in made["records"]} == {
            ("DKIM", "TXT", "sendkit._domainkey"), ("SPF", "TXT", "bounces"), ("SPF", "MX", "bounces"),
        }  # fmt: skip
        got = resend.Domains.get(made["id"])
        assert got["object"] == "domain" and got["created_at"].endswith("+00")
        assert resend.Domains.update({"id": made["id"], "tls": "enforced"})["id"] == made["id"]
        assert resend.Domains.verify(made["id"])["object"] == "domain"
        names = [one["name"] for one in resend.Domains.list()["data"]]
        assert names == ["shop.test", "sender.test"]
        newest = resend.Domains.list({"limit": 1})
        assert newest["has_more"] and newest["data"][0]["name"] == "shop.test"
        older = resend.Domains.list({"limit": 1, "after": newest["data"][0]["id"]})
        assert [one["name"] for one in older["data"]] == ["sender.test"] and not older["has_more"]
        newer = resend.Domains.list({"limit": 1, "before": older["data"][0]["id"]})
        assert newer["data"] == newest["data"]
        made_key = resend.ApiKeys.create({"name": "all of it"})
        assert made_key["token"].startswith("sk_live_")
        assert [one["name"] for one in resend.ApiKeys.list()["data"]] == ["all of it", "tests"]
        assert resend.ApiKeys.update({"id": made_key["id"], "name": "some"})["id"] == made_key["id"]
        resend.ApiKeys.remove(made_key["id"])
        assert len(resend.ApiKeys.list()["data"]) == 1
        assert resend.Domains.remove(made["id"])["deleted"]

    await asyncio.to_thread(work)


async def test_the_python_client_raises_what_its_users_catch(client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(call: Any, *arguments: Any) -> ResendError:
        with pytest.raises(ResendError) as caught:
            call(*arguments)
        return caught.value

    def work() -> None:
        missing = refused(resend.Domains.create, {})
        assert isinstance(missing, MissingRequiredFieldsError) and "`name`" in missing.message
        foreign = {"from": "a@nowhere.test", "to": "ann@there.test", "subject": "x", "text": "x"}
        assert (refused(resend.Emails.send, foreign).code, refused(resend.Domains.get, "dom_nope").code) == (403, 404)
        both = refused(resend.Domains.list, {"after": "dom_a", "before": "dom_b"})
        assert both.code == 422
        assert refused(resend.Domains.list, {"limit": 101}).code == 422
        monkeypatch.setattr(resend, "api_key", "re_nobody")
        assert isinstance(refused(resend.Domains.list), InvalidApiKeyError)

    await asyncio.to_thread(work)


async def test_the_node_client_runs_domains_and_keys(server: Server, key: str) -> None:
    needs_node_package("resend")
    ran = await node("resend.mjs", environment={"RESEND_API_KEY": key, "RESEND_BASE_URL": server.url})
    assert ran.status == 0, ran.err
    said: dict[str, Any] = json.loads(ran.out)
    failed = {name for name, answer in said.items() if answer["error"] is not None}
    assert failed == {"gone", "noName", "wrongKey", "foreign"}, said
    created = said["created"]["data"]
    # What people type into the zone of shop.co.uk, whose registrable name is no two labels.
    assert [record["name"] for record in created["records"]] == [
        "sendkit._domainkey.mail",
        "bounces.mail",
        "bounces.mail",
    ]
    assert {record["status"] for record in created["records"]} == {"not_started"}
    assert said["got"]["data"]["capabilities"] == {"sending": "enabled", "receiving": "disabled"}
    assert (said["listed"]["data"]["has_more"], said["next"]["data"]["data"][0]["name"]) == (True, "mail.shop.co.uk")
    assert said["updated"]["data"]["object"] == "domain"
    assert said["removed"]["data"]["deleted"] and said["keyRemoved"]["error"] is None
    assert said["renamed"]["data"]["object"] == "api_key"
    for call, status, name in (
        ("gone", 404, "not_found"), ("noName", 422, "missing_required_field"),
        ("wrongKey", 403, "invalid_api_key"), ("foreign", 403, "validation_error"),
    ):  # fmt: skip
        error = said[call]["error"]
        assert (error["statusCode"], error["name"]) == (status, name), error


async def test_a_client_of_the_first_dialect_hears_none_of_the_second(server: Server, key: str) -> None:
    missing = await server.call("POST", "/domains", key, {})
    assert (missing.status, missing.json["name"]) == (422, "validation_error")
    assert (await server.call("GET", "/domains", "sk_live_nobody")).status == 401
    domain = (await server.call("GET", "/domains/sender.test", key)).json
    assert domain["status"] == "pending" and domain["region"] == "local"
    assert len(domain["created_at"]) == len("2026-11-24 12:00:00")
