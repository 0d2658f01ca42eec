"""What the commands that ask the server have in common: whose team, JSON or lines, and errors as one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import click

from sendkit_server.cli.actions import ActionFailed, act
from sendkit_server.config import ConfigError, load

TEAM = click.option("--team", default="default", show_default=True, help="The team to act for.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def acted(action: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Runs an action and returns its result; what a user can mend ends the command with one line."""
    try:
        return act(load(os.environ), action, arguments)
    except (ActionFailed, ConfigError) as error:
        raise click.ClickException(str(error)) from None


def table(result: dict[str, Any], as_json: bool, line: Callable[[dict[str, Any]], str], empty: str) -> None:
    """Prints a list, a line a row. empty: what is said instead of nothing."""
    if as_json:
        click.echo(json.dumps(result["data"]))
    elif not result["data"]:
        click.echo(empty)
    for row in [] if as_json else result["data"]:
        click.echo(printable(line(row)))


def told(result: dict[str, Any], as_json: bool, line: str) -> None:
    """Prints what was done."""
    click.echo(json.dumps(result) if as_json else printable(line))


def printable(text: str) -> str:
    """Remote text on a terminal: no escape sequences."""
    return "".join(character if character.isprintable() else "�" for character in text)
