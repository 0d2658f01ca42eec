"""`sendkit certificates`: what our own listeners show, until when, and what became of the last orders."""

from __future__ import annotations

import json
from typing import Any

import click

from sendkit_server.cli.lines import AS_JSON, acted, printable, table


@click.group(invoke_without_command=True)
@AS_JSON
@click.pass_context
def certificates(context: click.Context, as_json: bool) -> None:
    """The certificates of this server: names, issuer, end, next order, and why the last one failed."""
    if context.invoked_subcommand is None:
        empty = "There are no certificates yet: the first start makes one, or orders it with SENDKIT_ACME_EMAIL."
        table(acted("certificates.list", {}), as_json, _line, empty)


@certificates.command("renew")
@click.argument("name", required=False)
@AS_JSON
def renew(name: str | None, as_json: bool) -> None:
    """Order the certificate of NAME, or all, now, even if the last order has just failed. Authorities count: Let's Encrypt
    issues five a week for the same name."""
    result = acted("certificates.renew", {"name": name})
    if as_json:
        click.echo(json.dumps(result))
        return
    for one in result["names"]:
        click.echo(printable(f"{one} is ordered by the running server, or at its next start."))
    click.echo("`sendkit certificates` tells what comes of it.")


def _line(row: dict[str, Any]) -> str:
    """One line, and what went wrong on a second would be lost in a pipe: it stands behind."""
    parts = [f"{row['name']}  {row['source']}  {row['status']}"]
    if row["issuer"] is not None:
        parts.append(f"by {row['issuer']}")
        parts.append(f"until {row['expires_at']}")
    if row["next_order_at"] is not None:
        parts.append(f"next order {row['next_order_at']}")
    if row["error"] is not None:
        parts.append(f"failed at {row['failed_at']}: {row['error']}")
    return "  ".join(parts)
