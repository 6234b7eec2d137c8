"""What drivers and SQLAlchemy raise, under our names. Messages are the database's own."""

from types import TracebackType
from typing import Final

from sqlalchemy import Dialect
from sqlalchemy.exc import DBAPIError

from capturekit.errors import (
    StorageBusy,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)

_SQLITE_MESSAGES: Final[tuple[tuple[str, type[StorageError]], ...]] = (
    ("disk is full", StorageFull),
    ("readonly", StorageReadOnly),
    ("unable to open", StorageReadOnly),
    ("locked", StorageBusy),
    ("malformed", StorageCorrupt),
    ("not a database", StorageCorrupt),
)

_SQLSTATES: Final[tuple[tuple[str, type[StorageError]], ...]] = (
    ("53100", StorageFull),
    ("53", StorageUnavailable),
    ("25006", StorageReadOnly),
    # Serialization failures, deadlocks, locks not got in time, statements that took too long.
    ("40", StorageBusy),
    ("55P03", StorageBusy),
    ("57014", StorageBusy),
    ("57", StorageUnavailable),
    ("08", StorageUnavailable),
    # Refused: a wrong password, no such database.
    ("28", StorageUnavailable),
    ("3D", StorageUnavailable),
    ("XX", StorageCorrupt),
)
"""What Postgres's codes begin with, the particular before the general."""


class translated:  # noqa: N801  # it reads as a verb: `with translated(dialect)`
    """Errors of the database leave this block as ours, with the cause kept."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None or not is_trouble(self._dialect, exc):
            return
        cause = driver_error(exc)
        raise _kind(self._dialect, cause)(f"the database says: {cause}") from exc


def is_trouble(dialect: Dialect, error: BaseException) -> bool:
    """Whether this is an error of the database: by SQLAlchemy, or from its driver as it is."""
    return isinstance(error, (DBAPIError, dialect.loaded_dbapi.Error))


def driver_error(error: BaseException) -> BaseException:
    """The driver's error inside of SQLAlchemy's."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error


def sqlstate(error: BaseException) -> str:
    """Postgres's code of the error; empty when the server did not give one."""
    return getattr(driver_error(error), "sqlstate", None) or ""


def _kind(dialect: Dialect, cause: BaseException) -> type[StorageError]:
    if dialect.name == "sqlite":
        message = str(cause)
        return next((kind for part, kind in _SQLITE_MESSAGES if part in message), StorageError)
    code = sqlstate(cause)
    if not code and isinstance(cause, dialect.loaded_dbapi.OperationalError):
        # It comes from the client's side: no server there, or the connection broke.
        return StorageUnavailable
    return next((kind for start, kind in _SQLSTATES if code.startswith(start)), StorageError)
