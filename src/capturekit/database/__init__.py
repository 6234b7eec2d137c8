"""The connection to the database, with an async face: a SQLite file or a Postgres server.

Work is a plain function of a SQLAlchemy connection, run in a thread of the database's.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

import anyio
from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from capturekit.database.postgres import ANSWER_TIMEOUT_S, PostgresDatabase
from capturekit.database.sqlite import SqliteDatabase
from capturekit.errors import ConfigError, StorageCorrupt, StorageError

__all__ = ["Connection", "Database"]

T = TypeVar("T")

FORMS = "sqlite:////path/file.db or postgresql://user@host/name"


class _Kind(Protocol):
    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def write(self, work: Callable[[Connection], T], *, is_synced: bool) -> T: ...

    async def read(self, work: Callable[[Connection], T]) -> T: ...

    async def size_bytes(self) -> int: ...


class Database:
    """A database that many tasks of this process use at once.

    An async context manager. ``url`` names a SQLite file (``sqlite:////path/to/file.db``) or a
    Postgres server (``postgresql://user:password@host/name``, as SQLAlchemy and libpq spell
    it). Of a SQLite file only a database opened with ``is_checkpointing`` moves the write-ahead
    log into the main file, because SQLite up to 3.51.2 has a reported race between two
    checkpointing connections: set it for the server alone.

    A transaction on a server may take ``answer_s``: longer is only for one that reads or writes
    all there is. Raises ConfigError for another URL, and MissingExtra where Postgres's driver is
    missing.
    """

    def __init__(
        self, url: str, *, is_checkpointing: bool = True, answer_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self._url = _parsed(url)
        self._kind: _Kind = (
            SqliteDatabase(self._url, is_checkpointing=is_checkpointing)
            if self._is_file
            else PostgresDatabase(self._url, answer_s)
        )
        self._is_open = False

    @property
    def path(self) -> Path:
        """The SQLite file. Raises ConfigError where there is none."""
        if not self._is_file:
            raise ConfigError("a database on a server is no file")
        return Path(self._url.database or "")

    async def __aenter__(self) -> Self:
        await self._kind.open()
        self._is_open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        with anyio.CancelScope(shield=True):
            await self._kind.close()

    async def write(self, work: Callable[[Connection], T], *, is_synced: bool = True) -> T:
        """Run ``work`` in a transaction and return its result once that is durable.

        An exception undoes the work alone. Work may be run again, after it was undone: when
        others of its group failed, when two transactions stood in each other's way, or when the
        connection broke before the commit. So it must touch nothing but the connection.

        What is not ``is_synced`` survives the process, and a power cut only if something later
        is synced; it saves SQLite the wait for the disk. For what may be as if it never was.

        Raises StorageFull, StorageReadOnly, StorageBusy, StorageCorrupt, StorageUnavailable,
        StorageError.
        """
        self._require_open()
        return await self._kind.write(work, is_synced=is_synced)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on one consistent snapshot, in a reader thread. Raises as ``write``."""
        self._require_open()
        return await self._kind.read(work)

    async def size_bytes(self) -> int:
        """What it takes on the disk, a write-ahead log of SQLite included. Raises as ``read``."""
        self._require_open()
        return await self._kind.size_bytes()

    async def faults(self, *, is_thorough: bool = True) -> list[str]:
        """What SQLite finds wrong with its file, at most 20; a server sees to itself.

        Reads all of it; unless it ``is_thorough``, indexes are not compared with their tables,
        which takes a fraction of the time. A flipped bit inside a value is not seen by either.
        """
        if not self._is_file:
            return []
        pragma = "integrity_check" if is_thorough else "quick_check"

        def look(connection: Connection) -> list[str]:
            told = connection.exec_driver_sql(f"PRAGMA {pragma}(20)").scalars()
            return [str(line) for line in told if line != "ok"]

        try:
            return await self.read(look)
        except StorageCorrupt as error:
            return [str(error)]

    @property
    def _is_file(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def _require_open(self) -> None:
        if not self._is_open:
            raise StorageError("the database is closed")


def _parsed(url: str) -> URL:
    """The URL, if it names a database that we know. Errors do not repeat it: it holds secrets."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Without its cause, which repeats the URL.
        raise ConfigError(f"that is not the URL of a database; give {FORMS}") from None
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return parsed
    raise ConfigError(f"database {parsed.render_as_string()!r} is of no kind we know; give {FORMS}")
