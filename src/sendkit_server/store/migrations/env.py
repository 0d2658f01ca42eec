"""Alembic's entry: runs the revisions on the connection that migrate.py hands over."""

from alembic import context

from sendkit_server.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True)
# The transaction is migrate.py's: with its lock, and around all revisions at once.
context.run_migrations()
