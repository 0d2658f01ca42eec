"""The `sendkit` command."""

from sendkit_server.cli.main import main

__all__ = ["main"]
