"""A SQLite file: one writer thread, a few readers.

All writes of a process go through one thread, which commits what is waiting together (group
commit): at 64 clients 6 to 26 times the durable inserts of one commit each, and never a lock
conflict inside the process.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final, Generic, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.pool import ConnectionPoolEntry

from capturekit.database.trouble import is_trouble, translated
from capturekit.errors import StorageError

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 10.0
"""How long a write waits for another process's transaction before StorageBusy."""

MAX_GROUP: Final = 128
"""Most writes committed together; bounds what one failing commit takes with it."""

GATHERING: Final = 0.5
"""Part of the time that the last commit took, for which the next waits to be joined by more."""

CHECKPOINT_PAGES: Final = 4000
"""Pages of the write-ahead log, 16 MB, after which they are moved to the main file."""

READERS: Final = 4

MODE: Final = 0o640
"""Of a file that is made: others on the machine are kept out."""

LARGE_ROWS: Final = 10_000
"""Rows from which a table is described to the planner when a server starts. Of a smaller one it
would believe that it stays small, and plan to read all of it when it has grown."""

ANALYSED_ROWS: Final = 1000
"""Rows of each index that are looked at for that, which takes about a millisecond."""


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


class _Gathering:
    """How long a group waits for more before it is committed.

    Those who were just told are likely to come again, a moment after others whose writes waited
    meanwhile; without a pause the two would take turns, with a sync for each.
    """

    def __init__(self) -> None:
        self._expected = 0
        self._until = 0.0

    def committed(self, expected: int, took_s: float) -> None:
        """A group was committed just now; the next may be of so many."""
        self._expected = expected
        self._until = time.monotonic() + GATHERING * took_s

    def wait_s(self, size: int) -> float | None:
        """Seconds that a group of this size waits for one more; None as long as it takes."""
        if size == 0:
            return None
        left_s = self._until - time.monotonic()
        return left_s if size < self._expected and left_s > 0 else 0.0


class SqliteDatabase:
    """What ``Database`` does, on a file."""

    def __init__(self, url: URL, *, is_checkpointing: bool) -> None:
        self._url = url
        self._is_checkpointing = is_checkpointing
        self._writes: queue.SimpleQueue[_Write[object] | None] = queue.SimpleQueue()
        self._readers = anyio.CapacityLimiter(READERS)
        self._is_synced = True
        self._is_last = False

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

    async def size_bytes(self) -> int:
        """As ``Database.size_bytes``."""
        path = Path(self._url.database or "")
        files = (path, path.with_name(path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def _open(self) -> None:
        # Secrets of webhooks are in it. SQLite gives the log beside it the same mode.
        with contextlib.suppress(OSError):
            Path(self._url.database or "").touch(MODE, exist_ok=True)
        self._writer = self._engine(is_writer=True)
        self._reader = self._engine(is_writer=False)
        with translated(self._writer.dialect):
            self._connection = self._writer.connect()
            self._look()
        if self._is_checkpointing:
            # On a full disk questions take longer; that is no reason to answer none.
            with contextlib.suppress(StorageError), translated(self._writer.dialect):
                self._tell_planner()
        self._thread = threading.Thread(target=self._write_loop, name="capturekit-writer")
        self._thread.start()

    def _look(self) -> None:
        """See that it is a database; it is only opened for real when it is read."""
        try:
            with self._connection.begin():
                self._connection.execute(text("SELECT 1 FROM sqlite_master"))
        except BaseException:
            self._connection.close()
            raise

    def _tell_planner(self) -> None:
        """Describe large tables, and those that they refer to, before a reader makes its plans.

        Without it a stock list of the past takes 890 ms instead of 2 at 100,000 rows.
        """
        schema = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite!_%'"
        with self._connection.begin():
            cursor = self._connection.connection.cursor()
            cursor.execute(f"PRAGMA analysis_limit = {ANALYSED_ROWS}")
            described: set[str] = set()
            for (name,) in cursor.execute(schema + " ESCAPE '!'").fetchall():
                beyond = f'SELECT 1 FROM "{name}" LIMIT 1 OFFSET {LARGE_ROWS}'  # noqa: S608
                if cursor.execute(beyond).fetchone():
                    refers = cursor.execute(f'PRAGMA foreign_key_list("{name}")').fetchall()
                    described |= {name, *(str(row[2]) for row in refers)}
            for name in sorted(described):
                cursor.execute(f'ANALYZE "{name}"')
            cursor.close()

    def _close(self) -> None:
        self._thread.join()
        self._connection.close()
        self._reader.dispose()
        self._writer.dispose()

    def _engine(self, *, is_writer: bool) -> Engine:
        engine = create_engine(
            self._url,
            pool_size=1 if is_writer else READERS,
            max_overflow=0,
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        )
        checkpoint_pages = CHECKPOINT_PAGES if is_writer and self._is_checkpointing else 0

        @event.listens_for(engine, "connect")
        def configure(dbapi: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
            # Transactions are begun by the listener below: the driver would begin them
            # late and deferred, and a read that turns into a write then fails when busy.
            dbapi.isolation_level = None
            cursor = dbapi.cursor()
            if is_writer:
                _use_log(cursor)
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # By the driver: to SQLAlchemy each of these would cost as much as a small job.
            cursor = connection.connection.cursor()
            if is_writer:
                level = "FULL" if self._is_synced else "NORMAL"
                cursor.execute(f"PRAGMA synchronous = {level}")
            cursor.execute("BEGIN IMMEDIATE" if is_writer else "BEGIN")
            cursor.close()

        return engine

    def _write_loop(self) -> None:
        gathering = _Gathering()
        while group := self._gather(gathering):
            began = time.monotonic()
            self._commit(group)
            gathering.committed(len(group) + self._writes.qsize(), time.monotonic() - began)
            _tell(group)

    def _gather(self, gathering: _Gathering) -> list[_Write[object]]:
        """Synced writes to commit together; none when the database is closed."""
        group: list[_Write[object]] = []
        while not self._is_last and len(group) < MAX_GROUP:
            wait_s = gathering.wait_s(len(group))
            try:
                first = self._writes.get(timeout=wait_s)
            except queue.Empty:
                break
            # Those that need no sync are done in a moment, and do not wait for the others.
            unsynced: list[_Write[object]] = []
            for write in self._waiting(first, MAX_GROUP - len(group)):
                (group if write.is_synced else unsynced).append(write)
            if unsynced:
                self._commit(unsynced)
                _tell(unsynced)
        return group

    def _waiting(self, first: _Write[object] | None, limit: int) -> Iterator[_Write[object]]:
        """Up to ``limit`` writes that wait, ``first`` among them, without the cancelled."""
        write = first
        for number in count(1):
            if write is None:
                self._is_last = True
                return
            if not write.future.cancelled():
                yield write
            if number == limit or self._writes.empty():
                return
            write = self._writes.get()

    def _commit(self, group: list[_Write[object]]) -> None:
        self._is_synced = group[0].is_synced
        try:
            with translated(self._writer.dialect), self._connection.begin():
                self._run_group(self._connection, group)
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


def _use_log(cursor: DBAPICursor) -> None:
    """Turn the write-ahead log on, which stays on for this file.

    SQLite refuses at once, whatever its timeout, where another process makes the first
    transaction of a new file or turns the log on: a server and its worker that begin together.
    """
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > give_up_at:
                raise
        time.sleep(0.005)
