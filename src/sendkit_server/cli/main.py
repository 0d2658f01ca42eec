"""The command and its subcommands. Errors that a user can mend are one line on stderr and exit status 1 or 2."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import threading
from typing import Any

import click

from sendkit_server.cli.archive import CARRYING
from sendkit_server.cli.audit import audit
from sendkit_server.cli.banner import banner
from sendkit_server.cli.certificates import certificates
from sendkit_server.cli.doctor import doctor
from sendkit_server.cli.domains import domains
from sendkit_server.cli.inbound import inbound
from sendkit_server.cli.lines import AS_JSON, TEAM, acted, table
from sendkit_server.cli.logs import configure_logging
from sendkit_server.cli.people import teams, users
from sendkit_server.cli.queue import queue
from sendkit_server.cli.refusals import logs
from sendkit_server.cli.reports import reports
from sendkit_server.cli.routes import routes
from sendkit_server.cli.secrets import secrets
from sendkit_server.cli.suppressions import suppressions
from sendkit_server.cli.tls import tls
from sendkit_server.config import PREFIX, SETTINGS, ConfigError, Settings, is_secret, load, parse_duration_ms

MANY_FILES = 65_536


def main() -> None:
    """Entry point of the `sendkit` script."""
    cli.main(prog_name="sendkit")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sendkit-server", prog_name="sendkit")
def cli() -> None:
    """Sendkit server: transactional mail by HTTP and SMTP, delivered by itself."""


for _command in CARRYING:
    cli.add_command(_command)
cli.add_command(doctor)
cli.add_command(domains)
cli.add_command(audit)
cli.add_command(certificates)
cli.add_command(inbound)
cli.add_command(logs)
cli.add_command(queue)
cli.add_command(routes)
cli.add_command(reports)
cli.add_command(secrets)
cli.add_command(suppressions)
cli.add_command(tls)
cli.add_command(teams)
cli.add_command(users)


def _settings(overrides: dict[str, str] | None = None) -> Settings:
    try:
        return load(os.environ, overrides)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


@cli.command()
@click.option(
    "--dev", is_flag=True, help="A test key, a plain SMTP listener and an inbox page; nothing leaves with that key."
)
@click.option("--roles", help="What this process does: http, smtp, inbound, deliver (comma list).")
def serve(dev: bool, roles: str | None) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    # Imported here: `sendkit keys create` need not load the whole server.
    import uvloop

    from sendkit_server import app
    from sendkit_server.manage.keys import ManageError
    from sendkit_server.net.listen import PortTaken
    from sendkit_server.net.tls_server import CertificateError
    from sendkit_server.store.errors import StoreError

    settings = _settings({"roles": roles} if roles else None)
    configure_logging(settings.log_format, settings.log_level)

    def started(running: app.App) -> None:
        click.echo(banner(running))
        sys.stdout.flush()

    _allow_many_files()
    _collect_rarely()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.serve(settings, dev=dev, started=started))
    except (ConfigError, ManageError, PortTaken, StoreError, CertificateError) as error:
        raise click.ClickException(str(error)) from None
    _leave_hanging_threads()


def _leave_hanging_threads() -> None:
    """All is done; a thread that waits for a database or an authority which hangs would keep the process all the same."""
    readers = [thread for thread in threading.enumerate() if thread.name.startswith(("store-reader", "acme"))]
    for thread in readers:
        thread.join(timeout=0.5)
    if any(thread.is_alive() for thread in readers):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _allow_many_files() -> None:
    """A connection is a file: the usual soft limit of 1,024 would refuse clients long before the machine is busy."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _collect_rarely() -> None:
    """What is loaded by now stays; a mail makes no cycles, so looking for them every 700 objects is mostly in vain."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@cli.command()
def config() -> None:
    """Print every setting, its value and where it comes from."""
    settings = _settings()
    for setting in SETTINGS:
        text = settings.texts[setting.name]
        shown = "(set)" if is_secret(setting.name) and settings.sources[setting.name] != "default" else text
        click.echo(f"{PREFIX}{setting.name.upper()}={shown}  # {settings.sources[setting.name]}: {setting.meaning}")


@cli.group()
def keys() -> None:
    """API keys: create, rotate, list, revoke."""


@keys.command("create")
@click.option("--name", required=True, help="How you find it again.")
@click.option(
    "--permission", default="full", show_default=True, help="full, send, read, or a comma list (emails:send,…)."
)
@click.option("--domain", "domains", multiple=True, help="A domain that it may send from; repeat it for more.")
@click.option("--sender", "senders", multiple=True, help="A From address that it may use, or *@example.com.")
@click.option("--to", "recipient_domains", multiple=True, help="A domain that it may send to.")
@click.option("--network", "networks", multiple=True, help="Where it may be used from, such as 192.0.2.0/24.")
@click.option("--daily-limit", type=click.IntRange(1), help="Recipients a UTC day.")
@click.option("--rewrite-from", is_flag=True, help="A From that it may not use becomes its --sender.")
@click.option("--shadow", is_flag=True, help="Everything is done and reported, nothing is delivered.")
@click.option("--expires-in", help="90d, 24h, 30m: then it ends.")
@click.option("--test", is_flag=True, help="A test key: everything works, nothing leaves.")
@TEAM
@AS_JSON
def create_key(expires_in: str | None, as_json: bool, **arguments: Any) -> None:
    """Make a key and print it, once."""
    result = acted("keys.create", {**arguments, "expires_in_ms": _milliseconds(expires_in)})
    _new_key(result, as_json)


@keys.command("rotate")
@click.argument("key_id")
@click.option("--overlap", default="24h", show_default=True, help="How long the old key still works; 0s: not at all.")
@TEAM
@AS_JSON
def rotate_key(key_id: str, overlap: str, team: str, as_json: bool) -> None:
    """Make a new key with the same rights and print it; the old one ends after the overlap."""
    result = acted("keys.rotate", {"id": key_id, "overlap_ms": _milliseconds(overlap), "team": team})
    _new_key(result, as_json)


@keys.command("list")
@TEAM
@AS_JSON
def list_keys(team: str, as_json: bool) -> None:
    """List the keys; never their secrets."""
    result = acted("keys.list", {"team": team})
    table(
        result,
        as_json,
        lambda key: (
            f"{key['id']}  {key['prefix']}…  {key['permission']:<7} {key['last_used_at'] or 'never used':<20} {key['name']}"
            + _bounds(key)
        ),
        "There are no keys; make one with `sendkit keys create --name NAME`.",
    )


@keys.command("revoke")
@click.argument("key_id")
@TEAM
def revoke_key(key_id: str, team: str) -> None:
    """Revoke a key at once, on every open connection."""
    acted("keys.revoke", {"id": key_id, "team": team})
    click.echo(f"{key_id} is revoked.")


def _new_key(made: dict[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(made) if as_json else made["token"])
    for warning in made["warnings"]:
        click.echo(f"{warning['message']} {warning['fix']}", err=True)


def _bounds(key: dict[str, Any]) -> str:
    """What restricts a key, in short."""
    found = ["expired"] if key["status"] == "expired" else []
    found += [f"ends {key['expires_at']}"] if key["expires_at"] and not found else []
    found += [f"from {', '.join(key['senders'])}"] if key["senders"] else []
    found += [f"to {', '.join(key['recipient_domains'])}"] if key["recipient_domains"] else []
    found += [f"in {', '.join(key['networks'])}"] if key["networks"] else []
    found += [f"{key['daily_limit']} a day"] if key["daily_limit"] else []
    found += [word for word in ("rewrite_from", "shadow") if key[word]]
    return f"  ({'; '.join(found)})" if found else ""


def _milliseconds(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        raise click.ClickException(f"{text!r}: {error}") from None


@cli.command()
@click.option("--clear", is_flag=True, help="Empty it.")
@TEAM
@AS_JSON
def inbox(clear: bool, team: str, as_json: bool) -> None:
    """List the captured mails."""
    if clear:
        result = acted("inbox.clear", {"team": team})
        click.echo(json.dumps(result) if as_json else f"Removed {result['removed']} mails.")
        return
    table(
        acted("inbox.list", {"team": team}),
        as_json,
        lambda mail: f"{mail['created_at']}  {mail['id']}  {', '.join(mail['to'])}  {mail['subject']}",
        "The inbox is empty.",
    )


@cli.command("nodes")
@click.option("--all", "show_all", is_flag=True, help="Also those that have ended.")
@AS_JSON
def list_nodes(show_all: bool, as_json: bool) -> None:
    """The processes that share this database: which live, and what each has in hand."""
    result = acted("nodes.list", {})
    if not show_all:
        result["data"] = [node for node in result["data"] if node["state"] != "ended"]
    table(
        result,
        as_json,
        lambda node: (
            f"{node['id']:>6}  {node['state']:<5}  {node['hostname']}:{node['pid']}  {','.join(node['roles'])}"
            f"  since {node['started_at']}  heartbeat {node['last_heartbeat_at']}  recipients {node['recipients']}"
        ),
        "No server runs.",
    )
