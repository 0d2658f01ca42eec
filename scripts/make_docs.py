"""Writes the pages of docs/ that are generated from code. A test fails when one is out of date."""

from __future__ import annotations

from pathlib import Path

from sendkit_server.config import PREFIX, SETTINGS

DOCS = Path(__file__).parent.parent / "docs"


def settings_page() -> str:
    """Every setting with its default and meaning."""
    lines = [
        "# Settings",
        "",
        "<!-- Generated from src/sendkit_server/config/table.py by scripts/make_docs.py. -->",
        "",
        "From the environment, else from `sendkit.toml` (keys without `SENDKIT_`, in lower case), else the default. `sendkit config` prints what is in",
        "force and where it comes from. A `*_BIND` takes a comma list, IPv6 as `[::]:port`, or `none`; durations are `90s`, `5m`, `1h`, `2d`.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for setting in SETTINGS:
        default = setting.default if isinstance(setting.default, str) else "found at start"
        lines.append(
            f"| `{PREFIX}{setting.name.upper()}` | `{default}` | {setting.meaning.replace('|', chr(92) + '|')} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    (DOCS / "settings.md").write_text(settings_page())
