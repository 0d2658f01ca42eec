"""`sendkit audit`: who changed what."""

from __future__ import annotations

import json
from typing import Any

import click

from sendkit_server.cli.lines import AS_JSON, TEAM, acted, table


@click.command()
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, newest first.")
@TEAM
@AS_JSON
def audit(limit: int, team: str, as_json: bool) -> None:
    """Who changed what: every change by a key, a person, or this command."""
    table(acted("audit.list", {"team": team, "limit": limit}), as_json, _line, "Nothing has been changed yet.")


def _line(change: dict[str, Any]) -> str:
    detail = json.dumps(change["detail"], ensure_ascii=False) if change["detail"] else ""
    return (
        f"{change['created_at']}  {change['actor']:<30}  {change['action']:<20} {change['target']}  {detail}".rstrip()
    )
