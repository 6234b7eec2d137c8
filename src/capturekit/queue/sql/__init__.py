"""A durable queue in a database: SQLite or Postgres, the application's own or another.

A job can be submitted in the transaction that stores what it is about, so there is never
a capture without its job. Any number of processes may share the database.
"""

from capturekit.queue.sql.queue import MAX_PER_WRITE, SqlQueue
from capturekit.queue.sql.tables import metadata

__all__ = ["MAX_PER_WRITE", "SqlQueue", "metadata"]
