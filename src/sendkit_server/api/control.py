"""The control port: how `sendkit` commands reach a running server. Loopback only, behind a token in `<data>/control`.

The file is readable by its owner alone (0600), so whoever may read the database may use the port, and nobody else.
"""

from __future__ import annotations

import hmac
import json

import structlog

from sendkit_server.api.http import Receive, Scope, Send, bearer, json_response, read_body, send_response
from sendkit_server.manage import commands
from sendkit_server.manage.context import Context
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.refusal import Refused
from sendkit_server.store.errors import StoreError

log = structlog.get_logger("control")


class ControlDoor:
    """One ASGI application: `POST /` with `{"action": …, "arguments": {…}}`."""

    def __init__(self, context: Context, token: str) -> None:
        self._context = context
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """200 with the result, 400 with `{"error": …}`, 401 for a wrong token."""
        headers = dict(scope["headers"])
        given = bearer(headers) or ""
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            await send_response(scope, send, json_response({"error": "wrong token"}, 401), unread=receive)
            return
        try:
            wanted = json.loads(await read_body(scope, headers, receive))
            result = await commands.run(self._context, wanted["action"], wanted["arguments"])
            response = json_response(result)
        except (ManageError, StoreError, Refused, ValueError, KeyError) as error:
            response = json_response({"error": str(error)}, 400)
        except Exception:
            log.exception("control.fault")
            response = json_response({"error": "something went wrong; the server's log tells what"}, 500)
        await send_response(scope, send, response)
