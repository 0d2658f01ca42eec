"""`sendkit queue`: what waits, and the operator's hand on it."""

from __future__ import annotations

import sys

import click

from sendkit_server.cli.lines import AS_JSON, TEAM, acted, table, told


@click.group(invoke_without_command=True)
@TEAM
@AS_JSON
@click.pass_context
def queue(context: click.Context, team: str, as_json: bool) -> None:
    """What waits, by destination, and why; hold, release, retry, drop."""
    if context.invoked_subcommand is not None:
        return
    table(
        acted("queue.list", {"team": team}),
        as_json,
        lambda lane: (
            f"{lane['site']}  {'HELD  ' if lane['held'] else ''}waiting {lane['waiting']}  in delivery {lane['in_flight']}"
            f"  oldest {lane['oldest'] or '-'}  next try {lane['next_attempt_at'] or '-'}"
            f"  {lane['waits_for'] or lane['last_answer'] or ''}"
        ),
        "Nothing waits.",
    )


@queue.command()
@click.argument("site")
@TEAM
@AS_JSON
def hold(site: str, team: str, as_json: bool) -> None:
    """Stop delivery to SITE, for every team, until it is released; mail is still accepted."""
    result = acted("queue.hold", {"site": site, "team": team})
    told(result, as_json, f"{result['site']} is held; {_of(result['recipients'])} of team {team} wait there.")


@queue.command()
@click.argument("site")
@TEAM
@AS_JSON
def release(site: str, team: str, as_json: bool) -> None:
    """Let delivery to SITE go on."""
    result = acted("queue.release", {"site": site, "team": team})
    told(result, as_json, f"{result['site']} is released; {_of(result['recipients'])} of team {team} wait there.")


@queue.command()
@click.argument("target", required=False, metavar="[SITE | msg_…]")
@TEAM
@AS_JSON
def retry(target: str | None, team: str, as_json: bool) -> None:
    """Try now what waits: everything, one SITE's, or one message."""
    result = acted("queue.retry", {"target": target, "team": team})
    told(result, as_json, f"{_of(result['recipients'])} due now.")


@queue.command()
@click.argument("target", metavar="SITE | msg_…")
@click.option("--yes", is_flag=True, help="Do not ask.")
@TEAM
@AS_JSON
def drop(target: str, yes: bool, team: str, as_json: bool) -> None:
    """Cancel what waits for one SITE, or one message. It cannot be undone."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.ClickException("this cannot be undone; say --yes")
        click.confirm(f"Cancel all mail of team {team} that waits for {target}?", abort=True)
    result = acted("queue.drop", {"target": target, "team": team})
    left = f"; {_of(result['in_flight'])} being delivered and not stopped" if result["in_flight"] else ""
    told(result, as_json, f"{_of(result['recipients'])} cancelled{left}.")


def _of(count: int) -> str:
    return f"{count} recipient" if count == 1 else f"{count} recipients"
