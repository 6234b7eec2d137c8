"""Run by Alembic for every upgrade, on the connection that the caller put in the config.

The caller's transaction is used and not committed: an upgrade takes hold whole or not at all.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
