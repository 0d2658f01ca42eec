"""The Node SDK as its users get it: packed, installed from the tarball into a fresh project, imported both ways, type-checked."""

from __future__ import annotations

import email
import json
import shutil
from email import policy
from pathlib import Path
from typing import Any

import pytest
from clients import EXAMPLES, NODE_MODULES, PEERS, ROOT, needs, needs_node_package, run
from server import Server, until
from sinks import SmtpSink


@pytest.fixture
async def project(tmp_path: Path) -> Path:
    """A project that has the SDK installed from its packed tarball, without a registry."""
    npm = needs("npm")
    source, fresh = tmp_path / "sdk", tmp_path / "project"
    shutil.copytree(ROOT / "sdks" / "node", source, ignore=shutil.ignore_patterns("dist", "node_modules", "*.tgz"))
    packed = await run(npm, "pack", "--silent", "--pack-destination", tmp_path, folder=source)
    assert packed.status == 0, packed.err
    fresh.mkdir()
    (fresh / "package.json").write_text('{"private": true}')
    tarball = tmp_path / packed.out.split()[-1]
    installed = await run(npm, "install", "--offline", "--no-audit", "--no-fund", "--silent", tarball, folder=fresh)
    assert installed.status == 0, installed.err
    for script in (*(PEERS / "node").glob("sdk-*"), EXAMPLES / "node-sdk.mjs"):
        shutil.copy(script, fresh)
    return fresh


async def test_the_packed_sdk_sends_as_module_and_as_commonjs_and_never_throws(
    project: Path, server: Server, key: str, sink: SmtpSink
) -> None:
    files = sorted(str(file.relative_to(project)) for file in project.glob("node_modules/@sendkitdev/sdk/**/*.*"))
    assert [name.rpartition("/")[2] for name in files] == [
        "README.md", "index.cjs", "index.d.cts", "index.d.mts", "index.mjs", "package.json",
    ]  # fmt: skip
    environment = {"SENDKIT_API_KEY": key, "SENDKIT_BASE_URL": server.url, "KEY": key}
    ran = await run("node", "sdk-journey.mjs", environment=environment, folder=project)
    assert ran.status == 0, ran.err
    said: dict[str, Any] = json.loads(ran.out)
    assert said["same"]
    assert said["sent"]["error"] is None
    assert said["got"]["data"]["id"] == said["sent"]["data"]["id"]
    for call, expected in {
        "noTo": (422, "validation_error", "The to field is required."),
        "nothing": (422, "validation_error", "The from field is required."),
        "wrongKey": (401, "invalid_api_key", "The API key is invalid."),
        "html": (502, "application_error", "The answer was no JSON object (HTTP 502)."),
        "bare": (200, "application_error", "The answer was no JSON object (HTTP 200)."),
    }.items():
        error = said[call]["error"]
        assert said[call]["data"] is None
        assert (error["statusCode"], error["name"], error["message"]) == expected
    assert said["closed"]["error"]["message"].startswith("No answer from http://127.0.0.1:1: ")
    assert said["circular"]["error"]["message"].startswith("The email cannot be written as JSON: ")
    assert said["noKey"].startswith("Missing API key.")
    ran = await run("node", "sdk-journey.cjs", environment=environment, folder=project)
    assert ran.status == 0, ran.err
    said = json.loads(ran.out)
    assert said["same"] and said["error"] is None and said["id"].startswith("msg_")
    ran = await run(
        "node", "node-sdk.mjs", folder=project,
        environment={**environment, "MAIL_FROM": "hello@sender.test", "MAIL_TO": "ann@there.test"},
    )  # fmt: skip
    assert ran.out.startswith("msg_"), ran.err
    await until(lambda: len(sink.mails) == 3)
    (first,) = (mail for mail in sink.mails if b"by SDK" in mail.raw)
    message = email.message_from_bytes(first.raw, policy=policy.default)
    assert (message["Subject"], message["Reply-To"]) == ("Hi ✓", "desk@sender.test")
    (attached,) = message.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("a.bin", "application/x-test")
    assert attached.get_content() == bytes([0, 255, 10])


async def test_the_sdks_default_base_is_the_local_server(project: Path) -> None:
    script = (
        "const {Sendkit} = require('@sendkitdev/sdk');"
        "const fetch = async (url) => { console.log(url); return new Response('{}'); };"
        "new Sendkit('k', {fetch}).emails.send({});"
    )
    ran = await run("node", "-e", script, folder=project)
    assert ran.out == "http://127.0.0.1:8080/emails\n"


@pytest.mark.parametrize("kind", ["esm", "commonjs", "bundler"])
async def test_the_sdks_types_serve_strict_typescript(project: Path, kind: str) -> None:
    needs_node_package("typescript")
    name = {"esm": "use.mts", "commonjs": "use.cts", "bundler": "use.ts"}[kind]
    (project / "sdk-types.ts").rename(project / name)
    options = ["--module", "esnext", "--moduleResolution", "bundler"] if kind == "bundler" else ["--module", "nodenext"]
    tsc = NODE_MODULES / "typescript" / "bin" / "tsc"
    checked = await run(
        "node", tsc, "--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", *options, name, folder=project
    )
    assert (checked.status, checked.out) == (0, "")
