"""Which queue a URL names."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from capturekit.errors import ConfigError, MissingExtra
from capturekit.queue.base import QueueBackend
from capturekit.queue.memory import MAX_JOBS, MemoryQueue

REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "valkey", "valkeys")
"""What the scheme of a Redis server's URL begins with; ``+sentinel`` or ``+cluster`` may follow."""

SQL_SCHEMES: Final = ("sqlite", "postgresql", "postgres")
"""What the scheme of a database's URL begins with; a driver may follow, as ``+psycopg``."""

FORMS: Final = (
    "memory://, redis://HOST:PORT/DB (or rediss, unix, valkey), "
    "postgresql://USER@HOST/NAME, sqlite:////PATH.db"
)


def is_redis(url: str) -> bool:
    """Whether the URL names a Redis or Valkey server."""
    return _scheme(url) in REDIS_SCHEMES


def is_sql(url: str) -> bool:
    """Whether the URL names a database."""
    return _scheme(url) in SQL_SCHEMES


@asynccontextmanager
async def open_queue(
    url: str,
    *,
    clock: Callable[[], float] = time.time,
    max_waiting: int | None = None,
) -> AsyncIterator[QueueBackend]:
    """The queue that a URL names, open until the block is left.

    A database gets the queue's tables if they are missing. ``max_waiting`` bounds the jobs
    that wait; in memory it is MAX_JOBS by default. Raises ConfigError for a URL that names no
    queue, without repeating what may hold a password, and MissingExtra.
    """
    if _scheme(url) == "memory":
        async with MemoryQueue(clock=clock, max_waiting=max_waiting or MAX_JOBS) as memory:
            yield memory
    elif is_redis(url):
        try:
            from capturekit.queue.redis import RedisQueue
        except ImportError as error:
            raise MissingExtra("a queue in Redis", "redis") from error
        async with RedisQueue(url, max_waiting=max_waiting) as redis:
            yield redis
    elif is_sql(url):
        try:
            from capturekit.database import Database
            from capturekit.queue.sql import SqlQueue
        except ImportError as error:
            raise MissingExtra("a queue in a database", "server") from error
        async with (
            Database(url) as database,
            SqlQueue(database, clock=clock, max_waiting=max_waiting) as sql,
        ):
            await sql.create_tables()
            yield sql
    else:
        raise ConfigError(f"a queue is named by {FORMS}, and not by what was given")


def _scheme(url: str) -> str:
    return url.partition(":")[0].partition("+")[0].lower()
