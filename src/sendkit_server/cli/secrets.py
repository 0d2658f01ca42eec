"""`sendkit secrets`: the key that seals what is secret in the database."""

from __future__ import annotations

import asyncio
import os

import click

from sendkit_server.app import now_ms
from sendkit_server.cli.logs import configure_logging
from sendkit_server.config import ConfigError, Settings, load
from sendkit_server.manage import rotation
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.installation import prepare_data_dir
from sendkit_server.manage.keys import ManageError
from sendkit_server.store.errors import StoreError
from sendkit_server.store.seal import SealBroken
from sendkit_server.store.store import Store


@click.group()
def secrets() -> None:
    """The secret key."""


@secrets.command("rotate")
def rotate() -> None:
    """Make a new secret key and seal everything under it. Nothing may run on the database meanwhile.

    Bounces of mail that was sent before are still known for 30 days. A backup from before opens only with the old key,
    which is in it.
    """
    try:
        settings = load(os.environ)
        configure_logging(settings.log_format, "warning")
        prepare_data_dir(settings.data_dir)
        store = rotation.open_installation(
            settings.data_dir, settings.secret_key, "sendkit secrets rotate", settings.database_url
        )
    except (ConfigError, ManageError, StoreError) as error:
        raise click.ClickException(str(error)) from None
    try:
        asyncio.run(_rotate(settings, store))
    except (ManageError, StoreError, SealBroken) as error:
        raise click.ClickException(str(error)) from None


async def _rotate(settings: Settings, store: Store) -> None:
    by = Actor("cli", now_ms(), os.urandom)
    store.start_managing()
    try:
        if settings.secret_key is None:
            count = await rotation.rotate_kept(store, settings.data_dir, by)
            click.echo(f"Done: {count} sealed values, and the new key is in {settings.data_dir / 'secret-key'}.")
            return
        new = rotation.new_key()
        # Before the commit: were it lost now, nothing would be.
        click.echo(new)
        count = await rotation.rotate(store, new, by)
        click.echo(
            f"Done: {count} sealed values. Set SENDKIT_SECRET_KEY (from {settings.sources['secret_key']}) to the key above "
            "on every node before the next start.",
            err=True,
        )
    finally:
        store.close()
