"""`sendkit logs`: refused and failed requests and sessions."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from sendkit_server.cli.lines import AS_JSON, TEAM, acted, printable
from sendkit_server.model.ids import id_floor, instant_of

LOOK_S = 1.0
LATE_MS = 5_000
MOST_AT_ONCE = 1_000


@click.command("logs")
@click.option("--follow", "-f", is_flag=True, help="Go on as more come, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(0, 1_000), default=50, show_default=True, help="How many of the past.")
@click.option("--door", type=click.Choice(["http", "smtp", "inbound"]), help="Only of this door.")
@click.option("--address", help="Only from this IP address.")
@click.option("--q", help="Only with these words in request, reply or transcript.")
@TEAM
@AS_JSON
def logs(follow: bool, limit: int, as_json: bool, **chosen: str | None) -> None:
    """Requests and SMTP sessions of the last 7 days that were refused or failed, oldest first, and why.

    Shows the team's, and those whose key nobody knows.
    """
    found = acted("logs.list", {**chosen, "limit": max(limit, MOST_AT_ONCE) if follow else limit})["data"]
    _print(found[:limit], as_json)
    if not found and not follow and not as_json:
        click.echo("Nothing was refused.")
    try:
        while follow:
            time.sleep(LOOK_S)
            # Again what may have been written late: rows come from several nodes, each a second after they were made.
            after = id_floor("log", instant_of(found[0]["id"]) - LATE_MS) if found else ""
            seen = {row["id"] for row in found}
            found = acted("logs.list", {**chosen, "limit": MOST_AT_ONCE, "after": after})["data"]
            _print([row for row in found if row["id"] not in seen], as_json)
    except KeyboardInterrupt:
        return


def _print(found: list[dict[str, Any]], as_json: bool) -> None:
    for row in reversed(found):
        if as_json:
            click.echo(json.dumps(row))
            continue
        who = f"{row['key_prefix']}…" if row["key_prefix"] else "no key"
        click.echo(
            printable(
                f"{row['created_at']}  {row['door'] or '-'}  {row['address']}  {who}  {row['step']}  →  {row['reply']}"
            )
        )
        for side, text in row["transcript"] or ():
            click.echo(printable(f"    {side:1} {text}"))
