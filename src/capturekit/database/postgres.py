"""A Postgres server: a few connections, each used by one thread at a time.

Transactions are READ COMMITTED: what must be seen together is locked by name or row, which
costs less than running work again because SERIALIZABLE feared a conflict. Reads are
REPEATABLE READ, so that several statements see one moment. Work that met a deadlock is run
again; so is work whose connection broke before the commit, once, on a new one: after a restart
of the server nobody notices more than a pause.
"""

import asyncio
import contextlib
import math
import os
import random
import socket
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from capturekit.database.trouble import driver_error, is_trouble, sqlstate, translated
from capturekit.errors import MissingExtra, StorageUnavailable

T = TypeVar("T")

WRITERS: Final = 8
"""Connections of a process that write, and threads."""

READERS: Final = 4

CONNECT_TIMEOUT_S: Final = 5
"""How long a server may take to accept a connection."""

LOCK_TIMEOUT_S: Final = 10.0
"""How long a write waits for another transaction before StorageBusy."""

STATEMENT_TIMEOUT_S: Final = 30.0
"""How long a statement may take before the server ends it, as StorageBusy."""

ANSWER_TIMEOUT_S: Final = 40.0
"""How long a whole transaction may take before its connection is cut, for a server that is
frozen or behind a broken network and ends nothing itself."""

MAX_TRIES: Final = 6
"""How often work is run that meets deadlocks, before StorageBusy."""

PAUSE_S: Final = 0.02
"""Mean pause before work is run again, times the tries so far."""


class _Call:
    """One transaction under way, which the event loop may cut off."""

    def __init__(self, answer_s: float) -> None:
        self.answer_s = answer_s
        self.is_cut = False
        self.is_committing = False
        # psycopg's connection, which is known to us only through SQLAlchemy.
        self.driver: Any = None

    def cut(self) -> None:
        self.is_cut = True
        # Without a connection, or one that its thread closed just now, there is nothing to cut.
        with (
            contextlib.suppress(Exception),
            socket.socket(fileno=os.dup(self.driver.fileno())) as s,
        ):
            s.shutdown(socket.SHUT_RDWR)


class PostgresDatabase:
    """What ``Database`` does, on a server."""

    def __init__(self, url: URL, answer_s: float = ANSWER_TIMEOUT_S) -> None:
        self._answer_s = answer_s
        try:
            self._writer = _engine(url, is_writer=True)
            self._reader = _engine(url, is_writer=False)
        except ModuleNotFoundError as error:
            raise MissingExtra("a database on Postgres", "postgres") from error
        self._dialect = self._writer.dialect
        self._writers = anyio.CapacityLimiter(WRITERS)
        self._readers = anyio.CapacityLimiter(READERS)
        self._threads = anyio.CapacityLimiter(math.inf)

    async def open(self) -> None:
        """See that the server is there."""
        await self.read(lambda connection: connection.execute(text("SELECT 1")))

    async def close(self) -> None:
        """Close the connections."""
        await anyio.to_thread.run_sync(self._dispose)

    async def write(self, work: Callable[[Connection], T], *, is_synced: bool) -> T:  # noqa: ARG002
        """As ``Database.write``; all is synced, for workers may live on when the server falls."""
        return await self._in_thread(self._writer, self._writers, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """As ``Database.read``."""
        return await self._in_thread(self._reader, self._readers, work)

    async def size_bytes(self) -> int:
        """As ``Database.size_bytes``."""
        query = text("SELECT pg_database_size(current_database())")
        return await self.read(lambda connection: int(connection.scalars(query).one()))

    async def _in_thread(
        self, engine: Engine, limiter: anyio.CapacityLimiter, work: Callable[[Connection], T]
    ) -> T:
        call = _Call(self._answer_s)

        def run() -> T:
            with translated(self._dialect):
                return self._run(engine, work, call)

        async with limiter:
            timer = asyncio.get_running_loop().call_later(call.answer_s, call.cut)
            try:
                return await anyio.to_thread.run_sync(run, limiter=self._threads)
            finally:
                timer.cancel()

    def _run(self, engine: Engine, work: Callable[[Connection], T], call: _Call) -> T:
        tries = 1
        while True:
            # Without a server this raises at once; then there is nothing to try again.
            with engine.connect() as connection:
                try:
                    return _transaction(connection, work, call)
                except Exception as error:
                    if not is_trouble(self._dialect, error):
                        raise
                    is_lost = _is_lost(call, error)
                    if is_lost:
                        # Those that wait in the pool are of the same server.
                        connection.invalidate()
                        engine.dispose()
                    _require_another_try(call, error, tries, is_lost=is_lost)
            time.sleep(random.uniform(0, 2 * PAUSE_S * tries))  # noqa: S311  # only a pause
            tries += 1

    def _dispose(self) -> None:
        self._writer.dispose()
        self._reader.dispose()


def _transaction(connection: Connection, work: Callable[[Connection], T], call: _Call) -> T:
    call.is_committing = False
    transaction = connection.begin()
    call.driver = connection.connection.driver_connection
    answer = work(connection)
    call.is_committing = True
    transaction.commit()
    return answer


def _is_lost(call: _Call, error: Exception) -> bool:
    """Whether the connection is of no use any more."""
    is_ending = sqlstate(error).startswith(("08", "57P"))
    return is_ending or call.driver is None or bool(call.driver.closed)


def _require_another_try(call: _Call, error: Exception, tries: int, *, is_lost: bool) -> None:
    """Raise unless nothing was done and it may work now."""
    if call.is_cut:
        message = f"the database did not answer within {call.answer_s:g} s"
        raise StorageUnavailable(message) from error
    if is_lost and call.is_committing:
        message = f"the connection broke while it committed: {driver_error(error)}"
        raise StorageUnavailable(message) from error
    is_conflict = sqlstate(error).startswith("40")
    if not (is_lost or is_conflict) or tries >= MAX_TRIES:
        raise error


def _engine(url: URL, *, is_writer: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=WRITERS if is_writer else READERS,
        max_overflow=0,
        isolation_level="READ COMMITTED" if is_writer else "REPEATABLE READ",
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "capturekit"}
        | dict(url.query),
        # It would ask each server for a type that we do not use.
        use_native_hstore=False,
    )

    @event.listens_for(engine, "connect")
    def configure(dbapi: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        cursor = dbapi.cursor()
        # By SET and not as options of the connection, which poolers in between refuse.
        cursor.execute(f"SET statement_timeout = {round(STATEMENT_TIMEOUT_S * 1000)}")
        cursor.execute(f"SET lock_timeout = {round(LOCK_TIMEOUT_S * 1000)}")
        # A plan that was made while a table was empty scans it, and would be kept when it is full.
        cursor.execute("SET plan_cache_mode = force_custom_plan")
        cursor.close()
        dbapi.commit()
        dbapi.read_only = not is_writer

    return engine
