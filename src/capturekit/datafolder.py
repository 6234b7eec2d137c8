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
    """Held by the one server of a data folder. A context manager; raises DataDirInUse."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise DataDirInUse(
                f"the data folder {self._path.parent} is in use by another server"
                f"{f' (process {holder})' if holder else ''}; stop it or name another folder"
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
