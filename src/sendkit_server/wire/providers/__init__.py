"""Mail services with an HTTP API, as routes: what they are to be sent, and what their answers mean. Sans-IO.

Each provider is a value whose members are those of its table in `sendkit.toml`.
"""

from typing import TypeAlias

from sendkit_server.wire.providers.exchange import Answer, ApiRequest, CannotCarry, Meaning
from sendkit_server.wire.providers.postmark import Postmark
from sendkit_server.wire.providers.resend import Resend
from sendkit_server.wire.providers.sendgrid import SendGrid
from sendkit_server.wire.providers.ses import Ses

Provider: TypeAlias = Postmark | Resend | SendGrid | Ses

PROVIDERS: dict[str, type[Provider]] = {
    "postmark": Postmark,
    "resend": Resend,
    "sendgrid": SendGrid,
    "ses": Ses,
}

__all__ = ["PROVIDERS", "Answer", "ApiRequest", "CannotCarry", "Meaning", "Provider"]
