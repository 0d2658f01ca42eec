"""Migrations: one numbered revision a file under `versions/`, run by Alembic.

HEAD is the newest revision. A start whose database stands there does not even import Alembic.
"""

HEAD = "0006"
