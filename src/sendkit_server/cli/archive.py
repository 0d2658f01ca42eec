"""The commands that carry a whole installation: backup, restore, export, migrate."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sendkit_server.cli.logs import configure_logging
from sendkit_server.config import ConfigError, Settings, load, parse_database_url
from sendkit_server.manage.installation import prepare_data_dir
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.instant import from_text, to_datetime
from sendkit_server.store.errors import StoreError
from sendkit_server.store.files import read_text
from sendkit_server.store.store import VERSION
from sendkit_server.store.transfer import archive, export
from sendkit_server.store.transfer.backup import back_up
from sendkit_server.store.transfer.restore import restore
from sendkit_server.store.transfer.tables import Tally

NICENESS = 10
LINE_EVERY_S = 10.0  # of progress, where there is no terminal


@click.command("backup")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def backup_command(file: Path | None) -> None:
    """Write everything, with the secret key, to one FILE, while the server runs."""
    with _worded():
        settings = _settings(without_database=False)
        key = settings.secret_key or read_text(settings.data_dir / "secret-key")
        if key is None:
            raise click.ClickException(
                f"there is no secret key in {settings.data_dir}, and SENDKIT_SECRET_KEY is not set: a backup without it "
                "could not be used. Is SENDKIT_DATA_DIR right?"
            )
        _give_way()
        now = _now()
        to = file or Path(f"sendkit-backup-{to_datetime(now):%Y%m%dT%H%M%SZ}.skb")
        with Shown() as shown:
            footer = back_up(settings.data_dir, settings.database_url, key, to, now, VERSION, shown)
    size = to.stat().st_size
    click.echo(f"{to}: {_holds(footer.tables, footer.waiting)}, {size:,} bytes, {shown.seconds:.1f} s")
    click.echo("It holds the secret key and the bodies of mails: keep it as safe as the data directory.", err=True)


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--cancel-waiting", is_flag=True, help="Do not send what still waited when the backup was made.")
def restore_command(file: Path, cancel_waiting: bool) -> None:
    """Make a new installation from a backup, on SQLite or PostgreSQL."""
    with _worded():
        header = archive.read_header(file)
        configured = _settings(without_database=True).secret_key
        # PostgreSQL needs a secret key to be set; here the backup has it.
        settings = _settings({"secret_key": configured or header.secret_key}, without_database=False)
        prepare_data_dir(settings.data_dir)
        with Shown() as shown:
            contents = restore(
                file, settings.data_dir, settings.database_url, configured, _now(), shown, cancel_waiting=cancel_waiting
            )
    waiting = contents.footer.waiting
    click.echo(f"Restored {_holds(contents.footer.tables, waiting)}, {shown.seconds:.1f} s.")
    if cancel_waiting:
        click.echo("What waited is cancelled.")
    elif waiting:
        click.echo("What waits is sent when the server starts.")
    if configured is None and settings.database_url is not None:
        click.echo(f"Set SENDKIT_SECRET_KEY to what is in {settings.data_dir / 'secret-key'}.")


@click.command("export")
@click.option("--kind", type=click.Choice([*export.KINDS, "all"]), default="emails", show_default=True)
@click.option("--since", help="Only from this time on: 2026-03-01, or 2026-03-01T14:00:00Z.")
@click.option("--bodies", is_flag=True, help="Emails with their content.")
def export_command(kind: str, since: str | None, bodies: bool) -> None:
    """Print what is stored as JSON lines, without secrets, while the server runs."""
    try:
        at = None if since is None else from_text(since)
    except ValueError:
        raise click.BadParameter(f"{since!r} is no ISO 8601 time", param_hint="--since") from None
    kinds = export.KINDS if kind == "all" else (kind,)
    with _worded():
        settings = _settings(without_database=False)
        _give_way()
        try:
            export.export(settings.data_dir, settings.database_url, kinds, at, sys.stdout.buffer.write, bodies=bodies)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # Whoever read has seen enough. Python would flush what is left once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.command("migrate")
@click.option("--to", "url", help="postgresql://user:password@host/name: an empty database.")
@click.option("--undo", is_flag=True, help="Let the SQLite database be served again.")
def migrate_command(url: str | None, undo: bool) -> None:
    """Carry a SQLite installation over to PostgreSQL, with the mail that waits. The server has to be stopped."""
    if (url is None) == (not undo):
        raise click.UsageError("Give either --to or --undo.")
    with _worded():
        _need_driver()
        from sendkit_server.store.transfer import migration

        settings = _settings(without_database=True)
        if undo:
            _undo(migration.undo(settings.data_dir))
            return
        try:
            target = parse_database_url(url or "")
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--to") from None
        key = settings.secret_key or read_text(settings.data_dir / "secret-key")
        if target is None or key is None:
            raise click.ClickException(
                "there is no secret key in the data directory, and SENDKIT_SECRET_KEY is not set"
            )
        with Shown() as shown:
            moved = migration.migrate(settings.data_dir, target, key, _now(), shown)
    click.echo(f"{_holds(moved.tables, moved.waiting)}: the same on both sides, {shown.seconds:.1f} s.")
    kept = "the same as now" if settings.secret_key else f"what is in {settings.data_dir / 'secret-key'}"
    click.echo(f"Now set SENDKIT_DATABASE_URL to that database and SENDKIT_SECRET_KEY to {kept}, and start the server.")


CARRYING = (backup_command, restore_command, export_command, migrate_command)


def _undo(moved_to: str | None) -> None:
    if moved_to is None:
        click.echo("The SQLite database has no mark that it moved; it can be served.")
        return
    click.echo(f"The SQLite database can be served again. What was sent or accepted at {moved_to} since is not in it:")
    click.echo("if a server ran there, mail that waits here may have been sent already, and will be sent once more.")


def _give_way() -> None:
    """Beside a server: accepting mail comes first (with two cores, p99 32 instead of 45 ms meanwhile)."""
    os.nice(NICENESS)


def _need_driver() -> None:
    try:
        import psycopg  # noqa: F401 - whether it is there
    except ImportError:
        raise click.ClickException("the driver is missing: pip install 'sendkit-server[postgres]'") from None


def _settings(overrides: Mapping[str, str] | None = None, *, without_database: bool) -> Settings:
    settings = load(os.environ, {**(overrides or {}), **({"database_url": "none"} if without_database else {})})
    configure_logging(settings.log_format, "warning")
    return settings


def _now() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _worded() -> Iterator[None]:
    """What a user can mend is one line."""
    try:
        yield
    except (ConfigError, ManageError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from None


def _holds(tables: Mapping[str, Tally], waiting: int) -> str:
    rows = sum(tally.rows for tally in tables.values())
    return f"{len(tables)} tables, {rows:,} rows, {tables['message'].rows:,} mails, {waiting:,} waiting recipients"


class Shown:
    """Progress on stderr: a bar on a terminal, else a line at the start of each part and now and then."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = self._said = time.monotonic()
        self._bar: Any = None
        self._what = ""
        self._total = self._done = 0

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self.seconds = time.monotonic() - self._started

    def begin(self, what: str, total: int) -> None:
        """A new part of the work."""
        self._end()
        self._what, self._total, self._done = what, total, 0
        if sys.stderr.isatty():
            self._bar = click.progressbar(length=max(total, 1), label=what, file=sys.stderr)
            self._bar.__enter__()
        else:
            self._say(f"{what} …")

    def step(self, done: int) -> None:
        """So much more of it is done."""
        self._done += done
        if self._bar is not None:
            self._bar.update(done)
        elif time.monotonic() - self._said > LINE_EVERY_S:
            self._say(f"{self._what}: {self._done:,} of {self._total:,}")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        click.echo(line, err=True)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
