"""Runs an action where the store is: in the running server over its control port, else here with the store's lock."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from sendkit_server.app import now_ms
from sendkit_server.cli.logs import configure_logging
from sendkit_server.config import Settings, routing_of
from sendkit_server.deliver.plan import Plans
from sendkit_server.deliver.way_view import described
from sendkit_server.manage import commands
from sendkit_server.manage.context import Context
from sendkit_server.manage.doctor import Doctor
from sendkit_server.manage.installation import prepare_data_dir
from sendkit_server.manage.keys import ManageError
from sendkit_server.manage.rotation import open_installation
from sendkit_server.standing import certificates_wanted, surroundings
from sendkit_server.store.errors import StoreError, StoreLocked
from sendkit_server.store.store import Store

CONTROL_TIMEOUT_S = 30.0


class ActionFailed(Exception):
    """The action was not done; the message says why."""


def act(settings: Settings, action: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Runs one action and returns its result. ActionFailed otherwise."""
    configure_logging(settings.log_format, "warning")
    answered = _in_server(settings.data_dir, action, arguments)
    if answered is not None:
        return answered
    try:
        prepare_data_dir(settings.data_dir)
        store = open_installation(settings.data_dir, settings.secret_key, f"sendkit {action}", settings.database_url)
    except StoreLocked as error:
        # A server that is just starting holds the lock, but does not answer yet.
        answered = _in_server(settings.data_dir, action, arguments)
        if answered is None:
            raise ActionFailed(str(error)) from None
        return answered
    except (ManageError, StoreError) as error:
        raise ActionFailed(str(error)) from None
    try:
        return asyncio.run(_here(settings, store, action, arguments))
    except (ManageError, StoreError) as error:
        raise ActionFailed(str(error)) from None


async def _here(settings: Settings, store: Store, action: str, arguments: dict[str, Any]) -> dict[str, Any]:
    store.start_managing()
    try:
        routing = routing_of(settings)
        context = Context(
            store,
            Doctor(store, surroundings(settings, routing.routes, serving=False), now_ms),
            now_ms,
            os.urandom,
            lambda: described(Plans(routing).ways, None, now_ms()),
            public_url=_public_url(settings),
            certificates=certificates_wanted(settings),
        )
        return await commands.run(context, action, arguments)
    finally:
        store.close()


def _public_url(settings: Settings) -> str:
    """Where a server that starts with these settings will be."""
    is_default = settings.sources["public_url"] == "default" and settings.http_bind
    return f"http://{settings.http_bind[0]}" if is_default else settings.public_url


def _in_server(data_dir: Path, action: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The running server's answer; None when none runs."""
    try:
        control = json.loads((data_dir / "control").read_text())
    except (OSError, ValueError):
        return None
    request = urllib.request.Request(
        f"http://127.0.0.1:{control['port']}/",
        json.dumps({"action": action, "arguments": arguments}).encode(),
        {"Authorization": f"Bearer {control['token']}", "Content-Type": "application/json"},
    )
    # A proxy of the environment has no business between a command and its own server.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=CONTROL_TIMEOUT_S) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        if error.code == 401:
            # The port of a server that was killed, taken by another program since.
            return None
        raise ActionFailed(json.load(error)["error"]) from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError):
        return None
