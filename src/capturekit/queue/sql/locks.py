"""Locks by name, for what no single row stands for. Only Postgres needs them.

SQLite has one writer at a time. On Postgres two transactions that settle the turns of one key
would each not see what the other does. A lock lasts until the transaction ends; under READ
COMMITTED whoever gets it next sees all that was done under it.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final
from zlib import crc32

from sqlalchemy import Connection

from capturekit.queue.sql.statement import Statement

BUCKETS: Final = 256
"""Names share this many locks: a transaction of many keys must not use up the server's. Two
names that share one wait for each other now and then, and nothing else happens."""

_LOCK: Final = Statement(
    # In one order everywhere, so that two transactions cannot wait for each other.
    """
    SELECT pg_advisory_xact_lock(:kind, bucket)
    FROM (SELECT unnest(CAST(:buckets AS integer[])) AS bucket ORDER BY 1) AS wanted
    """
)


class LockKind(IntEnum):
    """What is locked; a transaction that needs several takes them in this order.

    The numbers are the first halves of Postgres's, chosen so that others' locks in the same
    database are unlikely to be these.
    """

    TABLES = 0x43504B50
    """The making of the tables: Postgres lets two find none, and both make them."""
    ROOM = 0x43504B51
    """The last room below ``max_waiting``."""
    UNIQUE = 0x43504B52
    TURNS = 0x43504B53
    PRUNE = 0x43504B54


def lock_names(connection: Connection, kind: LockKind, names: Iterable[str]) -> None:
    """Hold the locks of these names until the transaction ends."""
    if connection.dialect.name == "sqlite":
        return
    buckets = {crc32(name.encode(errors="surrogatepass")) % BUCKETS for name in names}
    if buckets:
        _LOCK.rows(connection, kind=int(kind), buckets=sorted(buckets))
