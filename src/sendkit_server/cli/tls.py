"""`sendkit tls`: how mail to others' servers was secured, and which policies bind."""

from __future__ import annotations

import json

import click

from sendkit_server.cli.lines import AS_JSON, acted, printable


@click.command()
@click.argument("domain", required=False)
@click.option("--days", type=int, default=7, show_default=True, help="How many days, today among them.")
@AS_JSON
def tls(domain: str | None, days: int, as_json: bool) -> None:
    """How connections to recipients' servers were secured, by DOMAIN and policy; and the MTA-STS policies that bind."""
    found = acted("tls.show", {"domain": domain, "days": days})
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found["counts"] and not found["policies"]:
        click.echo(f"No connection{f' for {domain}' if domain else ''} in {days} days, and no policy that binds.")
    for row in found["counts"]:
        line = f"{row['domain']}  {row['policy']}  {row['mx_host']}  {row['result']}  {row['sessions']}"
        click.echo(printable(line))
    if found["policies"]:
        click.echo("\nMTA-STS policies:" if found["counts"] else "MTA-STS policies:")
    for policy in found["policies"]:
        line = f"{policy['domain']}  {policy['mode']}  id {policy['id']}  until {policy['expires_at']}"
        click.echo(printable(f"{line}  mx {', '.join(policy['mx']) or '-'}"))
