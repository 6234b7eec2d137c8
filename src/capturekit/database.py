"""The connection to the database: one writer thread, a few readers, an async face.

Work is a plain function of a SQLAlchemy connection. All writes of a process go through one
thread, which commits what is waiting together (group commit): at 64 clients 6 to 26 times
the durable inserts of one commit each, and never a lock conflict inside the process.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from capturekit.errors import (
    ConfigError,
    StorageBusy,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
)

__all__ = ["Connection", "Database"]

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 10.0
"""How long a write waits for another process's transaction before StorageBusy."""

MAX_GROUP: Final = 128
"""Most writes committed together; bounds what one failing commit takes with it."""

READERS: Final = 4


class _Write(Generic[T]):
    def __init__(self, work: Callable[[Connection], T]) -> None:
        self.work = work
        self.future: Future[T] = Future()

    def run(self, connection: Connection) -> None:
        self.result = self.work(connection)


class Database:
    """A database that many tasks of this process use at once.

    An async context manager. ``url`` is a SQLAlchemy URL; this version takes SQLite files
    (``sqlite:////path/to/file.db``). Only a database opened with ``is_checkpointing``
    moves the write-ahead log into the main file, because SQLite up to 3.51.2 has a
    reported race between two checkpointing connections: set it for the server alone.
    """

    def __init__(self, url: str, *, is_checkpointing: bool = True) -> None:
        self._url = _sqlite_url(url)
        self._is_checkpointing = is_checkpointing
        self._writes: queue.SimpleQueue[_Write[object] | None] = queue.SimpleQueue()
        self._readers = anyio.CapacityLimiter(READERS)
        self._is_open = False

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self._url.database or "")

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(self._open)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        self._writes.put(None)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction and return its result once that is durable.

        An exception undoes the work alone. ``work`` runs in the writer thread; when a group
        fails it is run again by itself, so it must touch nothing but the connection.
        Raises StorageFull, StorageReadOnly, StorageBusy, StorageCorrupt, StorageError.
        """
        if not self._is_open:
            raise StorageError("the database is closed")
        write = _Write(work)
        self._writes.put(write)  # type: ignore[arg-type]  # the queue does not care for T
        return await asyncio.wrap_future(write.future)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on one consistent snapshot, in a reader thread. Raises as ``write``."""
        if not self._is_open:
            raise StorageError("the database is closed")

        def run() -> T:
            with _translated(), self._reader.connect() as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run, limiter=self._readers)

    def _open(self) -> None:
        self._writer = self._engine(is_writer=True)
        self._reader = self._engine(is_writer=False)
        with _translated(), self._writer.connect() as connection:
            connection.execute(text("SELECT 1 FROM sqlite_master"))
        self._thread = threading.Thread(target=self._write_loop, name="capturekit-writer")
        self._thread.start()
        self._is_open = True

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
            connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

        return engine

    def _write_loop(self) -> None:
        is_last = False
        while not is_last:
            first = self._writes.get()
            group: list[_Write[object]] = []
            while first is not None:
                if first.future.set_running_or_notify_cancel():
                    group.append(first)
                if len(group) == MAX_GROUP or self._writes.empty():
                    break
                first = self._writes.get()
            is_last = first is None
            if group:
                self._commit(group)

    def _commit(self, group: list[_Write[object]]) -> None:
        try:
            with _translated(), self._writer.begin() as connection:
                failed = self._run_group(connection, group)
        except Exception as error:  # noqa: BLE001  # it is the waiting callers' error
            if len(group) == 1:
                group[0].future.set_exception(error)
            else:
                for write in group:
                    self._commit([write])
            return
        for write in group:
            if write in failed:
                write.future.set_exception(failed[write])
            else:
                write.future.set_result(write.result)

    def _run_group(
        self, connection: Connection, group: list[_Write[object]]
    ) -> dict[_Write[object], Exception]:
        if len(group) == 1:
            group[0].run(connection)
            return {}
        failed: dict[_Write[object], Exception] = {}
        for write in group:
            try:
                with connection.begin_nested():
                    write.run(connection)
            except DBAPIError:
                # A full disk ends the whole transaction inside SQLite, savepoints and all.
                raise
            except Exception as error:  # noqa: BLE001  # it is that caller's error
                failed[write] = error
        return failed


def _sqlite_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            f"{url!r} is not a database URL such as sqlite:////path/file.db"
        ) from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise ConfigError(
            f"database {parsed.render_as_string()!r}: this version keeps its data in a SQLite "
            "file; give sqlite:////path/file.db"
        )
    return parsed


_SQLITE_MESSAGES: Final[tuple[tuple[str, type[StorageError]], ...]] = (
    ("disk is full", StorageFull),
    ("readonly", StorageReadOnly),
    ("unable to open", StorageReadOnly),
    ("locked", StorageBusy),
    ("malformed", StorageCorrupt),
    ("not a database", StorageCorrupt),
)


class _translated:  # noqa: N801  # it reads as a verb: `with _translated()`
    """SQLAlchemy's errors leave this block as ours, with the cause kept."""

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, DBAPIError):
            message = str(exc.orig)
            kinds = (kind for part, kind in _SQLITE_MESSAGES if part in message)
            raise next(kinds, StorageError)(f"the database says: {message}") from exc
