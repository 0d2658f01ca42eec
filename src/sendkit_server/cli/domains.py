"""`sendkit domains`: the domains that mail is sent from, and what their owners publish."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from sendkit_server.cli.lines import AS_JSON, TEAM, acted, printable, table


@click.group()
def domains() -> None:
    """Domains that mail is sent from."""


@domains.command("add")
@click.argument("name")
@click.option("--trust", is_flag=True, help="Vouch for the domain: no DNS needed to send from it.")
@TEAM
@AS_JSON
def add_domain(name: str, trust: bool, team: str, as_json: bool) -> None:
    """Add a domain and print the DNS records to publish."""
    result = acted("domains.add", {"name": name, "trust": trust, "team": team})
    if as_json:
        click.echo(json.dumps(result))
        return
    state = "trusted: you can send from it now" if result["trusted"] else result["status"]
    click.echo(f"{result['name']} is added ({state}). Publish these records:\n")
    _records(result)


@domains.command("set")
@click.argument("name")
@click.option(
    "--tls",
    type=click.Choice(["opportunistic", "enforced"]),
    help="enforced: its mail leaves only over TLS, to hosts that prove their names; else it waits.",
)
@click.option("--return-path", metavar="LABEL", help="Where bounces come to, below the domain; `send` at first.")
@click.option("--tracking", metavar="LABEL", help="The host of tracking links, below the domain; '' takes it away.")
@click.option("--track-opens/--no-track-opens", "open_tracking", default=None, help="Kept; not obeyed yet.")
@click.option("--track-clicks/--no-track-clicks", "click_tracking", default=None, help="Kept; not obeyed yet.")
@TEAM
@AS_JSON
def set_domain(name: str, team: str, as_json: bool, **wished: str | bool | None) -> None:
    """Change how a domain's mail leaves, and what its records are."""
    if all(value is None for value in wished.values()):
        raise click.UsageError("say what to change; see --help")
    result = acted("domains.set", {"name": name, "team": team, **wished})
    if as_json:
        click.echo(json.dumps(result))
        return
    now = {
        "tls": f"TLS is {result['tls']}",
        "return_path": f"bounces come to {result['return_path']}",
        "tracking": f"tracking links lead to {result['tracking_host'] or 'the public URL'}",
        "open_tracking": f"opens are {'' if result['open_tracking'] else 'not '}to be tracked",
        "click_tracking": f"clicks are {'' if result['click_tracking'] else 'not '}to be tracked",
    }
    click.echo(f"{result['name']}: {', '.join(now[each] for each, value in wished.items() if value is not None)}.")
    if wished["return_path"] or wished["tracking"]:
        click.echo("Publish these records:\n")
        _records(result)


@domains.command("dns")
@click.argument("name")
@TEAM
@AS_JSON
def domain_dns(name: str, team: str, as_json: bool) -> None:
    """Print a domain's DNS records, one zone line each."""
    result = acted("domains.show", {"name": name, "team": team})
    if as_json:
        click.echo(json.dumps(result["records"]))
    else:
        _records(result)
        if result["report_lines"]:
            click.echo("; to get receivers' reports, publish also (or add the rua= to the DMARC record that you have):")
            for line in result["report_lines"]:
                click.echo(f"; {line}")


@domains.command("verify")
@click.argument("name")
@TEAM
@AS_JSON
def verify_domain(name: str, team: str, as_json: bool) -> None:
    """Look in DNS whether a domain's records are right; exit status 0 when it is verified."""
    result = acted("domains.verify", {"name": name, "team": team})
    if as_json:
        click.echo(json.dumps(result))
    else:
        _checks(result)
    sys.exit(0 if result["status"] == "verified" else 1)


@domains.command("rotate")
@click.argument("name")
@TEAM
@AS_JSON
def rotate_key(name: str, team: str, as_json: bool) -> None:
    """Make a new DKIM key; it signs once its record is published and verified, and the old one is retired."""
    result = acted("domains.rotate", {"name": name, "team": team})
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"Publish the new key's record, then `sendkit domains verify {result['name']}`:\n")
    _records(result)


@domains.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@TEAM
@AS_JSON
def remove_domain(name: str, yes: bool, team: str, as_json: bool) -> None:
    """Remove a domain with its keys; nothing can be sent from it any more."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.ClickException("this cannot be undone; say --yes")
        click.confirm(f"Remove {name} of team {team}?", abort=True)
    result = acted("domains.remove", {"name": name, "team": team})
    click.echo(json.dumps(result) if as_json else f"{name} is removed.")


@domains.command("list")
@TEAM
@AS_JSON
def list_domains(team: str, as_json: bool) -> None:
    """List the domains."""
    result = acted("domains.list", {"team": team})
    table(
        result,
        as_json,
        lambda domain: f"{domain['id']}  {'trusted' if domain['trusted'] else domain['status']:<9} {domain['name']}",
        "There are no domains; add one with `sendkit domains add example.com`.",
    )


def _records(domain: dict[str, Any]) -> None:
    for record in domain["records"]:
        click.echo(record["zone_line"])
    target = next(record["value"] for record in domain["records"] if record["type"] == "MX")
    if "." not in target:
        click.echo(
            f"The MX record names {target!r}, which nobody can find: set SENDKIT_HOSTNAME to this server's name in DNS.",
            err=True,
        )


def _checks(domain: dict[str, Any]) -> None:
    for check in domain["checks"]:
        advice = "" if check["required"] else "  (advice: not needed to be verified)"
        click.echo(printable(f"{check['verdict']:<11}  {check['record_type']:<5}  {check['found']}{advice}"))
    to_publish = [check["zone_line"] for check in domain["checks"] if check["verdict"] in ("missing", "wrong")]
    if to_publish:
        click.echo("\nPublish:\n" + "\n".join(to_publish))
    if any(check["verdict"] == "unavailable" for check in domain["checks"]):
        click.echo("\nWhat is unavailable could not be asked, and keeps the status that it had.")
    trusted = ", and trusted: you can send from it all the same" if domain["trusted"] else ""
    state = domain["status"] if domain["status"] == "verified" else f"{domain['status']}{trusted}"
    click.echo(f"\n{domain['name']} is {state}.{' ' + domain['reason'] if domain['reason'] else ''}")
