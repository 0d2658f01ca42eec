"""The docs say what is: generated pages are current, links lead somewhere, commands and settings exist."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from sendkit_server.cli.main import cli
from sendkit_server.config import BY_NAME, NOT_BUILT

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "src/sendkit_server/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_page_of_settings_is_current() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "make_docs.py"))["settings_page"]()
    assert (ROOT / "docs" / "settings.md").read_text() == made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"SENDKIT_([A-Z0-9_]+[A-Z0-9])", page.read_text()):
        assert name.lower() in BY_NAME or name.lower() in NOT_BUILT or name in ("CONFIG", "BASE_URL", "API_KEY"), name


def test_every_command_that_is_named_exists() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(
        re.findall(
            r"(?<![\w/.])sendkit ((?:keys|domains|suppressions|queue|certificates) [a-z]+|serve|tls|routes|audit|doctor|reports|inbound|inbox|queue|config|nodes|backup|restore|export|migrate)\b",
            text,
        )
    )
    assert {"serve", "keys create", "domains add"} <= named
    for words in sorted(named):
        # Within this process: a new one for each command would take a second.
        assert CliRunner().invoke(cli, [*words.split(), "--help"]).exit_code == 0, words


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert (
            set(re.findall(r"`?make ([a-z-]+)`?", page.read_text())) & {"run", "test", "check", "bench", "test-long"}
            <= targets
        )


def test_nothing_points_outside_the_repository() -> None:
    for path in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split():
        file = ROOT / path
        if file.suffix in (".md", ".py", ".toml", ".sh", ".mjs") and file != Path(__file__) and file.exists():
            assert "../shared" not in file.read_text(), path
