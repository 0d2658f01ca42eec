"""Real databases to run against: a PostgreSQL server that obeys the test, and PgBouncer in front of it."""

from databases.pgbouncer import PgBouncer
from databases.postgres import PostgresServer, dump

__all__ = ["PgBouncer", "PostgresServer", "dump"]
