"""What can go wrong with the store, as the rooms above see it.

StoreError
├── StoreUnavailable   nothing was stored: no connection, no space, an I/O error. The caller may try again later
│   ├── StoreFull      … because the disk or the database is full
│   └── OutcomeUnknown the connection was lost on COMMIT, and whether it is stored could not be looked up in time
├── WrongSecret        the secret key is not the one that the database was made with
├── StoreLocked        another process works on this data directory
└── SchemaTooNew       the database was written by a newer version of this program
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of every error of the store."""


class StoreUnavailable(StoreError):
    """The transaction did not commit; nothing of it is there."""


class StoreFull(StoreUnavailable):
    """No space left for the transaction."""


class OutcomeUnknown(StoreUnavailable):
    """Nobody can tell yet whether the transaction committed: trying again may do it twice."""


class StoreLocked(StoreError):
    """Another process holds this data directory."""


class WrongSecret(StoreError):
    """Nothing sealed would open with this secret key."""


class SchemaTooNew(StoreError):
    """The database's revision is unknown to this program."""
