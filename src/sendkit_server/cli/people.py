"""`sendkit teams` and `sendkit users`."""

from __future__ import annotations

import sys
from typing import Any

import click

from sendkit_server.cli.lines import AS_JSON, TEAM, acted, table, told
from sendkit_server.model.roles import Role

ROLE = click.Choice([role.value for role in Role])


@click.group()
def teams() -> None:
    """Teams: each has its own keys, domains, mail and people."""


@teams.command("create")
@click.argument("name")
@AS_JSON
def create_team(name: str, as_json: bool) -> None:
    """Make a team; other commands act for it with --team NAME."""
    made = acted("teams.create", {"name": name})
    told(made, as_json, f"Team {made['name']} is made.")


@teams.command("rename")
@click.argument("team")
@click.argument("name")
@AS_JSON
def rename_team(team: str, name: str, as_json: bool) -> None:
    """Call TEAM by another NAME. `default` goes on to mean the first team."""
    told(acted("teams.rename", {"team": team, "name": name}), as_json, f"Team {team} is {name} now.")


@teams.command("list")
@AS_JSON
def list_teams(as_json: bool) -> None:
    """List the teams."""
    table(acted("teams.list", {}), as_json, _team, "There are no teams.")


@teams.command("pause")
@click.argument("team")
@click.option("--reason", default="", help="What the team is told.")
@AS_JSON
def pause_team(team: str, reason: str, as_json: bool) -> None:
    """Accept nothing more of TEAM, on every door at once; what waits is still sent."""
    told(acted("teams.pause", {"team": team, "reason": reason}), as_json, f"Team {team} is paused.")


@teams.command("resume")
@click.argument("team")
@AS_JSON
def resume_team(team: str, as_json: bool) -> None:
    """Let TEAM send again."""
    told(acted("teams.resume", {"team": team}), as_json, f"Team {team} can send again.")


def _team(team: dict[str, Any]) -> str:
    people = "1 person" if team["people"] == 1 else f"{team['people']} people"
    paused = f"  PAUSED since {team['paused_at']}: {team['paused_reason']}" if team["paused_at"] else ""
    return f"{team['name']}  {people}{paused}"


@click.group()
def users() -> None:
    """People who sign in at /ui."""


@users.command("create")
@click.argument("email")
@click.option("--role", type=ROLE, default=Role.MEMBER.value, show_default=True, help="What they may do in the team.")
@click.option(
    "--password-stdin", is_flag=True, help="Make the account now, with the password read from standard input."
)
@TEAM
@AS_JSON
def create_user(email: str, role: str, password_stdin: bool, team: str, as_json: bool) -> None:
    """Print a link by which EMAIL joins the team: with a new account, or the one that there is."""
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else None
    made = acted("users.create", {"email": email, "role": role, "password": password, "team": team})
    if made["link"] is None:
        told(made, as_json, f"{made['email']} can sign in, as {role} of team {team}.")
    else:
        _link(made, as_json, f"Send this to {made['email']}; it works once, until {made['link']['expires_at']} UTC:")


@users.command("reset")
@click.argument("email")
@AS_JSON
def reset_user(email: str, as_json: bool) -> None:
    """Print a link by which EMAIL sets a new password; the old one works until then."""
    made = acted("users.reset", {"email": email})
    _link(made, as_json, f"Send this to {made['email']}; it works once, until {made['link']['expires_at']} UTC:")


@users.command("list")
@TEAM
@AS_JSON
def list_users(team: str, as_json: bool) -> None:
    """List the people of a team."""
    table(
        acted("users.list", {"team": team}),
        as_json,
        lambda user: (
            f"{user['id']}  {user['role']:<6}  {user['last_seen_at'] or 'never seen':<19}  {user['email']}  {user['name']}"
        ),
        "Nobody yet; make a link with `sendkit users create EMAIL --role owner`.",
    )


@users.command("role")
@click.argument("email")
@click.argument("role", type=ROLE)
@TEAM
@AS_JSON
def set_role(email: str, role: str, team: str, as_json: bool) -> None:
    """Change what EMAIL may do in the team, at once."""
    told(
        acted("users.role", {"email": email, "role": role, "team": team}), as_json, f"{email} is {role} of team {team}."
    )


@users.command("remove")
@click.argument("email")
@TEAM
@AS_JSON
def remove_user(email: str, team: str, as_json: bool) -> None:
    """Take EMAIL out of the team, at once; the account goes with the last team."""
    told(
        acted("users.remove", {"email": email, "team": team}),
        as_json,
        f"{email} does not belong to team {team} any more.",
    )


def _link(made: dict[str, Any], as_json: bool, line: str) -> None:
    if not as_json:
        click.echo(line, err=True)
    told(made, as_json, made["link"]["url"])
