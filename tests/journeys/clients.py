"""Programs that are not ours, run against the server: found or named as missing, and what they said."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PEERS = ROOT / "tests" / "peers"
NODE_MODULES = ROOT / ".cache" / "node" / "node_modules"
PHPMAILER = "/usr/share/php/libphp-phpmailer/autoload.php"
RUN_S = 60.0


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    status: int
    out: str
    err: str


def needs(program: str) -> str:
    """A program's path. Where it is not installed the test fails in CI, and is named as not run elsewhere."""
    path = shutil.which(program) or (program if Path(program).exists() else None)
    if path is None:
        missing(program)
    return str(path)


def needs_node_package(name: str) -> None:
    """As needs(), for a package that scripts/peers.sh installs."""
    needs("node")
    if not (NODE_MODULES / name).exists():
        missing(f"the Node package {name}")


def missing(what: str) -> None:
    """Ends the test."""
    message = f"not run: {what} is not installed (sh scripts/peers.sh installs it)"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


async def run(
    *command: str | Path, environment: Mapping[str, str] | None = None, stdin: str = "", folder: Path = ROOT
) -> Ran:
    """Runs a program to its end. Settings and proxies of this process's environment do not reach it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SENDKIT_") and "proxy" not in name.lower()
    }
    process = await asyncio.create_subprocess_exec(
        *command, env={**kept, **(environment or {})}, cwd=folder,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), RUN_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def node(script: str, *arguments: str, environment: Mapping[str, str] | None = None, stdin: str = "") -> Ran:
    """Runs a script of tests/peers/node, or an example, where it finds the Node packages."""
    for name in ("mailauth", "nodemailer"):
        needs_node_package(name)
    source = next(folder / script for folder in (PEERS / "node", EXAMPLES) if (folder / script).exists())
    # Node looks for packages beside the script, whatever the working directory: the script gets a copy beside them.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "node_modules").symlink_to(NODE_MODULES)
        copy = Path(folder) / script
        copy.write_bytes(source.read_bytes())
        return await run("node", copy, *arguments, environment=environment, stdin=stdin)
