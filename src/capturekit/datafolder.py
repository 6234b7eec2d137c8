"""The folder that one server, its workers and every command share.

Its lock says who the server is: several processes may use the database and the blobs at
the same time, but only one serves. The kernel drops the lock when the process dies, however
it dies.
"""

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from capturekit.errors import ConfigError, DataDirInUse, StorageFull, StorageReadOnly

LOCK_NAME = "server.lock"


def make_folder(path: Path) -> None:
    """Make the folder and prove that it can be written.

    Raises StorageReadOnly, StorageFull, or ConfigError when it is no folder.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-probe-{os.getpid()}"
        probe.write_bytes(b"probe")
        probe.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"the data folder {path} is a file; name a folder") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space left for the data folder {path}") from error
        raise StorageReadOnly(
            f"the data folder {path} cannot be written ({error.strerror}); "
            "make it writable or name another with --data or CAPTUREKIT_DATA_DIR"
        ) from error


class ServerLock:
    """Held by the one server of a thing. A context manager; raises DataDirInUse.

    A data folder has one, and a database file another: two servers of two folders on one file
    would each expire the other's leases and move its write-ahead log.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """The lock of a data folder."""
        return cls(folder / LOCK_NAME, f"the data folder {folder}")

    @classmethod
    def of_database(cls, file: Path) -> Self:
        """The lock of a SQLite file, whatever link it is opened by. Makes its folder."""
        file = file.resolve()
        make_folder(file.parent)
        return cls(file.with_name(f"{file.name}.{LOCK_NAME}"), f"the database {file}")

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise DataDirInUse(
                f"{self._what} is in use by another server"
                f"{f' (process {holder})' if holder else ''}; stop it or name another"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
