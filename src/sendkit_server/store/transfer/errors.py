"""What can go wrong when an installation is carried. Both are StoreErrors, so the command words them in one line."""

from __future__ import annotations

from sendkit_server.store.errors import StoreError


class TransferRefused(StoreError):
    """It cannot be done as asked; nothing was changed. The message says what was found and what to do."""


class ArchiveDamaged(StoreError):
    """The file is no backup, or not whole any more; nothing was restored."""
