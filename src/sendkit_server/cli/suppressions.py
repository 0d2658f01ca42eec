"""`sendkit suppressions`: the addresses that a team does not send to."""

from __future__ import annotations

import json

import click

from sendkit_server.cli.lines import AS_JSON, TEAM, acted, printable, table, told


@click.group()
def suppressions() -> None:
    """Addresses that are not sent to: list, show, add, remove."""


@suppressions.command("list")
@click.option("--reason", type=click.Choice(["bounce", "complaint", "manual"]), help="Only these.")
@click.option("--search", help="Only addresses that contain this.")
@click.option("--page", type=click.IntRange(1), default=1, show_default=True, help="A hundred a page, newest first.")
@TEAM
@AS_JSON
def list_(reason: str | None, search: str | None, page: int, team: str, as_json: bool) -> None:
    """List them, newest first."""
    result = acted("suppressions.list", {"reason": reason, "search": search, "page": page, "team": team})
    table(
        result,
        as_json,
        lambda one: f"{one['created_at']}  {one['reason']:<9}  {one['email']}",
        "Nothing is suppressed." if page == 1 else "There are no more.",
    )


@suppressions.command("show")
@click.argument("address")
@TEAM
@AS_JSON
def show(address: str, team: str, as_json: bool) -> None:
    """Show one by ADDRESS or id, with its evidence."""
    result = acted("suppressions.show", {"name": address, "team": team})
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in {**result, **(result["evidence"] or {})}.items():
        if name != "evidence" and value is not None:
            click.echo(printable(f"{name:<12} {value}"))


@suppressions.command("add")
@click.argument("address")
@TEAM
@AS_JSON
def add(address: str, team: str, as_json: bool) -> None:
    """Send nothing to ADDRESS any more."""
    result = acted("suppressions.add", {"address": address, "team": team})
    told(
        result,
        as_json,
        f"{result['email']} is suppressed{'' if result['is_new'] else ' already'} ({result['reason']}).",
    )


@suppressions.command("remove")
@click.argument("address")
@TEAM
@AS_JSON
def remove(address: str, team: str, as_json: bool) -> None:
    """Send to ADDRESS (or id) again, at once."""
    told(acted("suppressions.remove", {"name": address, "team": team}), as_json, f"{address} can be sent to again.")
