"""`sendkit doctor`: what decides whether mail arrives, how it stands, and what to do about it.

Exit status: 0 everything is well or only worth a warning, 1 something is wrong, 2 it could not be looked at.
"""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Any

import click

from sendkit_server.cli.lines import AS_JSON, TEAM, acted, printable

COLOURS = {"ok": "green", "warning": "yellow", "error": "red", "unknown": "cyan"}
WRONG = 1
WIDTH = 110


class NotLookedAt(click.ClickException):
    """Nothing is known: the exit status tells it from something that is wrong."""

    exit_code = 2


@click.command()
@click.argument("domain", required=False)
@TEAM
@AS_JSON
def doctor(domain: str | None, team: str, as_json: bool) -> None:
    """Look at this server and at DOMAIN, or all domains."""
    try:
        result = acted("doctor", {"domain": domain, "team": team})
    except click.ClickException as error:
        raise NotLookedAt(error.message) from None
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print(result)
    sys.exit(WRONG if result["status"] == "error" else 0)


def _print(result: dict[str, Any]) -> None:
    findings: list[dict[str, Any]] = result["findings"]
    domains = dict.fromkeys(finding["domain"] for finding in findings)
    for domain in domains:
        title = domain or ("this server" if result["serving"] else "this server, which is not running")
        click.echo(click.style(title, bold=True))
        for finding in findings:
            if finding["domain"] == domain:
                _print_finding(finding)
        click.echo()
    if result["domains_left"]:
        click.echo(f"{result['domains_left']} more domains were not looked at: name one.")
    counts = {status: sum(finding["status"] == status for finding in findings) for status in COLOURS}
    click.echo(", ".join(f"{count} {status}" for status, count in counts.items() if count))


def _print_finding(finding: dict[str, Any]) -> None:
    status = finding["status"]
    click.echo(f"  {click.style(f'{status:<7}', fg=COLOURS[status])}  {finding['name']:<12} ", nl=False)
    click.echo(_wrapped(finding["found"]))
    if status == "ok":
        return
    if finding["why"]:
        click.echo(" " * 11 + "why".ljust(12) + " " + _wrapped(finding["why"]))
    if finding["fix"]:
        # Never wrapped: it is there to be copied.
        click.echo(" " * 11 + "fix".ljust(12) + " " + printable(finding["fix"]))


def _wrapped(text: str) -> str:
    return textwrap.fill(
        printable(text),
        WIDTH,
        initial_indent=" " * 24,
        subsequent_indent=" " * 24,
        break_on_hyphens=False,
        break_long_words=False,
    ).lstrip()
