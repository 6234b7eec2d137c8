"""A SQLite file: one writer thread, a few readers.

All writes of a process go through one thread, which commits what is waiting together (group
commit): at 64 clients 6 to 26 times the durable inserts of one commit each, and never a lock
conflict inside the process.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from capturekit.database.trouble import is_trouble, translated

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 10.0
"""How long a write waits for another process's transaction before StorageBusy."""

MAX_GROUP: Final = 128
"""Most writes committed together; bounds what one failing commit takes with it."""

READERS: Final = 4


class _Write(Generic[T]):
    """Work, and the future of who waits for it. Made in the event loop's thread."""

    def __init__(self, work: Callable[[Connection], T], *, is_synced: bool) -> None:
        self.work = work
        self.is_synced = is_synced
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()
        self.error: Exception | None = None

    def run(self, connection: Connection) -> None:
        self.error = None
        self.result = self.work(connection)

    def settle(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class SqliteDatabase:
    """What ``Database`` does, on a file."""

    def __init__(self, url: URL, *, is_checkpointing: bool) -> None:
        self._url = url
        self._is_checkpointing = is_checkpointing
        self._writes: queue.SimpleQueue[_Write[object] | None] = queue.SimpleQueue()
        self._readers = anyio.CapacityLimiter(READERS)
        self._is_synced = True

    async def open(self) -> None:
        """Start the writer."""
        await anyio.to_thread.run_sync(self._open)

    async def close(self) -> None:
        """Write what was given in, and end the writer."""
        self._writes.put(None)
        await anyio.to_thread.run_sync(self._close)

    async def write(self, work: Callable[[Connection], T], *, is_synced: bool) -> T:
        """As ``Database.write``."""
        write = _Write(work, is_synced=is_synced)
        self._writes.put(write)  # type: ignore[arg-type]  # the queue does not care for T
        return await write.future

    async def read(self, work: Callable[[Connection], T]) -> T:
        """As ``Database.read``."""

        def run() -> T:
            with translated(self._reader.dialect), self._reader.connect() as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run, limiter=self._readers)

    def _open(self) -> None:
        self._writer = self._engine(is_writer=True)
        self._reader = self._engine(is_writer=False)
        with translated(self._writer.dialect), self._writer.connect() as connection:
            connection.execute(text("SELECT 1 FROM sqlite_master"))
        self._thread = threading.Thread(target=self._write_loop, name="capturekit-writer")
        self._thread.start()

    def _close(self) -> None:
        self._thread.join()
        self._reader.dispose()
        self._writer.dispose()

    def _engine(self, *, is_writer: bool) -> Engine:
        engine = create_engine(
            self._url,
            pool_size=1 if is_writer else READERS,
            max_overflow=0,
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        )
        checkpoint_pages = 1000 if is_writer and self._is_checkpointing else 0

        @event.listens_for(engine, "connect")
        def configure(dbapi: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
            # Transactions are begun by the listener below: the driver would begin them
            # late and deferred, and a read that turns into a write then fails when busy.
            dbapi.isolation_level = None
            cursor = dbapi.cursor()
            if is_writer:
                cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            if is_writer:
                level = "FULL" if self._is_synced else "NORMAL"
                connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

        return engine

    def _write_loop(self) -> None:
        is_last = False
        while not is_last:
            first = self._writes.get()
            group: list[_Write[object]] = []
            while first is not None:
                if not first.future.cancelled():
                    group.append(first)
                if len(group) == MAX_GROUP or self._writes.empty():
                    break
                first = self._writes.get()
            is_last = first is None
            # Those that need no sync are done in a moment, and do not wait for the others.
            for is_synced in (False, True):
                if part := [write for write in group if write.is_synced is is_synced]:
                    self._commit(part)
                    _tell(part)

    def _commit(self, group: list[_Write[object]]) -> None:
        self._is_synced = group[0].is_synced
        try:
            with translated(self._writer.dialect), self._writer.begin() as connection:
                self._run_group(connection, group)
        except Exception as error:  # noqa: BLE001  # it is the waiting callers' error
            if len(group) == 1:
                group[0].error = error
            else:
                for write in group:
                    self._commit([write])

    def _run_group(self, connection: Connection, group: list[_Write[object]]) -> None:
        if len(group) == 1:
            group[0].run(connection)
            return
        # By the driver: SQLAlchemy's savepoints cost as much as the work of a small job.
        cursor = connection.connection.cursor()
        for write in group:
            cursor.execute("SAVEPOINT work")
            try:
                write.run(connection)
            except Exception as error:
                if is_trouble(connection.dialect, error):
                    # A full disk ends the whole transaction inside SQLite, savepoints and all.
                    raise
                write.error = error
                cursor.execute("ROLLBACK TO work")
            cursor.execute("RELEASE work")


def _tell(group: Sequence[_Write[object]]) -> None:
    """Wake each event loop once, however many wait in it."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Write[object]]] = {}
    for write in group:
        by_loop.setdefault(write.loop, []).append(write)
    for loop, writes in by_loop.items():
        # A loop that was closed meanwhile has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, writes)


def _settle(writes: Sequence[_Write[object]]) -> None:
    for write in writes:
        write.settle()
