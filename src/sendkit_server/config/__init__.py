"""Every setting: its name, default, meaning and form, read from the environment, then `sendkit.toml`, then the default.

The environment's name is `SENDKIT_` and the name in capitals; the file's key is the name. An unknown key in the file,
or a value of the wrong form, refuses the start and says which. Parts get what they need handed in; nothing but app and
cli imports this module.
"""

from sendkit_server.config.derived import acme_binding_of, acme_challenge_of, limits_of, routing_of
from sendkit_server.config.forms import (
    Address,
    parse_binds,
    parse_database_url,
    parse_delays_ms,
    parse_duration_ms,
    parse_size,
)
from sendkit_server.config.loading import load
from sendkit_server.config.settings import ConfigError, Settings
from sendkit_server.config.table import BY_NAME, NOT_BUILT, PREFIX, SETTINGS, is_secret

__all__ = [
    "BY_NAME",
    "NOT_BUILT",
    "PREFIX",
    "SETTINGS",
    "Address",
    "ConfigError",
    "Settings",
    "acme_binding_of",
    "acme_challenge_of",
    "is_secret",
    "limits_of",
    "load",
    "parse_binds",
    "parse_database_url",
    "parse_delays_ms",
    "parse_duration_ms",
    "parse_size",
    "routing_of",
]
