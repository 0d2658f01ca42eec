"""`sendkit routes`: the ways that mail can take, and how they are."""

from __future__ import annotations

from typing import Any

import click

from sendkit_server.cli.lines import AS_JSON, acted, table


@click.command()
@AS_JSON
def routes(as_json: bool) -> None:
    """The routes in use with their source addresses: up or down, and what a new address has sent today."""
    table(acted("routes.list", {}), as_json, _line, "No route is configured.")


def _line(way: dict[str, Any]) -> str:
    words = [way["route"], f"to {way['to']}"]
    if way["addresses"]:
        words.append(f"from {', '.join(way['addresses'])}")
    if way["ehlo"]:
        words.append(f"as {way['ehlo']}")
    words.append("up" if way["status"] == "up" else f"DOWN since {way['down_since']}: {way['reason']}")
    if warm_up := way["warm_up"]:
        sent = ", ".join(f"{name} {count}" for name, count in sorted(warm_up["sent_today"].items())) or "nothing"
        words.append(
            f"warm-up day {warm_up['day']} of {warm_up['days']}: {warm_up['cap']} a receiver; sent today: {sent}"
        )
    return "  ".join(words)
