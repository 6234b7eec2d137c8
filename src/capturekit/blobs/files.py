"""Blobs as files. obstore's LocalStore renames and never syncs, so it is not used here."""

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import anyio.to_thread

from capturekit.blobs.base import BlobUsage, StoredBlob, count, is_address, require_address
from capturekit.errors import (
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
    Unknown,
)

UNFINISHED: Final = ".part"
"""Suffix of a file that is still being written."""

OWNER: Final = "owner"
"""The file that says to which database the folder belongs."""


class FileBlobs:
    """Blobs as files below ``root``, in 256 folders named by the first byte.

    ``put`` writes a temporary file, syncs it, renames it and syncs the folder: after it
    returns, a power cut does not take the blob. At 200 KB a put costs about two disk syncs.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, content: bytes) -> str:
        """See Blobs. Raises StorageFull, StorageReadOnly or StorageError."""
        return await anyio.to_thread.run_sync(self._put, content)

    async def get(self, sha256: str) -> bytes:
        """See Blobs."""
        return await anyio.to_thread.run_sync(self._get, sha256)

    async def delete(self, sha256: str) -> None:
        """See Blobs."""
        await anyio.to_thread.run_sync(self._delete, sha256)

    async def stored(self) -> AsyncIterator[StoredBlob]:
        """See Blobs. Holds the names of one of the 256 folders at a time."""
        for folder in await anyio.to_thread.run_sync(self._folders):
            for blob in await anyio.to_thread.run_sync(self._list, folder):
                yield blob

    async def usage(self) -> BlobUsage:
        """See Blobs."""
        return await count(self)

    async def owner(self) -> str | None:
        """See Blobs."""
        return await anyio.to_thread.run_sync(self._owner)

    async def claim(self, owner: str) -> str:
        """See Blobs."""
        return await anyio.to_thread.run_sync(self._claim, owner)

    async def remove_unfinished(self, *, older_than_s: float = 0.0) -> None:
        """See Blobs."""
        await anyio.to_thread.run_sync(self._remove_unfinished, older_than_s)

    async def check_writable(self) -> None:
        """See Blobs."""
        await anyio.to_thread.run_sync(self._check_writable)

    def _remove_unfinished(self, older_than_s: float) -> None:
        before = time.time() - older_than_s
        with _told(self._root):
            for pattern in (f"*{UNFINISHED}", f"??/*{UNFINISHED}"):
                for path in self._root.glob(pattern):
                    with contextlib.suppress(FileNotFoundError):
                        if not older_than_s or path.stat().st_mtime < before:
                            path.unlink()

    def _check_writable(self) -> None:
        probe = self._root / f"{secrets.token_hex(8)}{UNFINISHED}"
        try:
            with _told(self._root):
                self._make_folder(self._root)
                probe.write_bytes(bytes(4096))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        require_address(sha256)
        return self._root / sha256[:2] / sha256[2:]

    def _put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(sha256)
        with _told(path):
            self._make_folder(path.parent)
            if not _renewed(path, sha256):
                _write_durably(path, content)
            # Also for a blob that is there: another put may not have come this far.
            _sync_folder(path.parent)
        return sha256

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _sync_folder(folder.parent)

    def _get(self, sha256: str) -> bytes:
        path = self._path(sha256)
        with _told(path):
            try:
                content = path.read_bytes()
            except FileNotFoundError as error:
                raise Unknown("blob", sha256) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StorageCorrupt(f"{path} does not hold what was written to it")
        return content

    def _delete(self, sha256: str) -> None:
        path = self._path(sha256)
        with _told(path):
            path.unlink(missing_ok=True)

    def _folders(self) -> list[Path]:
        with _told(self._root):
            return sorted(path for path in self._root.glob("??") if path.is_dir())

    def _list(self, folder: Path) -> list[StoredBlob]:
        found = []
        with _told(folder), os.scandir(folder) as entries:
            for entry in entries:
                sha256 = folder.name + entry.name
                if is_address(sha256):
                    # One that was deleted since is in the listing or not, as it comes.
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        found.append(StoredBlob(sha256, status.st_size, status.st_mtime))
        return sorted(found, key=lambda blob: blob.sha256)

    def _owner(self) -> str | None:
        path = self._root / OWNER
        with _told(path):
            try:
                return path.read_text().strip()
            except FileNotFoundError:
                return None

    def _claim(self, owner: str) -> str:
        path = self._root / OWNER
        temporary = self._root / f".{OWNER}.{secrets.token_hex(8)}{UNFINISHED}"
        with _told(path):
            self._make_folder(self._root)
            try:
                _write_synced(temporary, f"{owner}\n".encode())
                # Of several that try at once, one makes the link.
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(temporary)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(self._root)
            return path.read_text().strip()


def _renewed(path: Path, sha256: str) -> bool:
    """Whether the blob is there and whole; then it counts as put just now."""
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _write_durably(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name[:16]}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        _write_synced(temporary, content)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system refuses in this block leaves it as ours."""
    try:
        yield
    except OSError as error:
        raise _storage_error(error, path) from error


def _storage_error(error: OSError, path: Path) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(f"no space left for {path}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageReadOnly(f"{path} cannot be written or read: {error.strerror}")
    return StorageError(f"{path}: {error.strerror or error}")
