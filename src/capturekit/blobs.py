"""Stored bytes, addressed by their content.

A blob's address is the SHA-256 of its bytes, so the same picture is kept once and every
read checks what it reads.
"""

import contextlib
import errno
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import anyio.to_thread

from capturekit.errors import (
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
    Unknown,
)

UNFINISHED: Final = ".part"
"""Suffix of a file that is still being written."""


@dataclass(frozen=True, slots=True)
class BlobUsage:
    """How much is stored."""

    count: int
    size_bytes: int


class Blobs(Protocol):
    """Keeps bytes under the SHA-256 of their content. Trouble is a ``StorageError``."""

    async def put(self, content: bytes) -> str:
        """Keep the bytes and return their SHA-256 in hex, once they are durable."""
        ...

    async def get(self, sha256: str) -> bytes:
        """The bytes; raises Unknown, or StorageCorrupt when they changed on the disk."""
        ...

    async def delete(self, sha256: str) -> None:
        """Forget the bytes; it is no error when they are gone."""
        ...

    async def usage(self) -> BlobUsage:
        """Count and bytes of what is stored. Costs a walk over all of it."""
        ...


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

    async def usage(self) -> BlobUsage:
        """See Blobs."""
        return await anyio.to_thread.run_sync(self._usage)

    async def remove_unfinished(self) -> None:
        """Remove what puts left behind that were killed; only while nobody else puts."""
        await anyio.to_thread.run_sync(self._remove_unfinished)

    async def check_writable(self) -> None:
        """Write and remove a small file; raises as ``put``."""
        await anyio.to_thread.run_sync(self._check_writable)

    def _remove_unfinished(self) -> None:
        try:
            for path in self._root.glob(f"??/*{UNFINISHED}"):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(error, self._root) from error

    def _check_writable(self) -> None:
        probe = self._root / f"{secrets.token_hex(8)}{UNFINISHED}"
        try:
            self._make_folder(self._root)
            probe.write_bytes(bytes(4096))
        except OSError as error:
            raise _storage_error(error, self._root) from error
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ValueError(f"{sha256!r} is not a SHA-256 in lower-case hex")
        return self._root / sha256[:2] / sha256[2:]

    def _put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(sha256)
        try:
            self._make_folder(path.parent)
            if not _holds(path, sha256):
                _write_durably(path, content)
            # Also for a blob that is there: another put may not have come this far.
            _sync_folder(path.parent)
        except OSError as error:
            raise _storage_error(error, path) from error
        return sha256

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _sync_folder(folder.parent)

    def _get(self, sha256: str) -> bytes:
        path = self._path(sha256)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise Unknown("blob", sha256) from error
        except OSError as error:
            raise _storage_error(error, path) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StorageCorrupt(f"{path} does not hold what was written to it")
        return content

    def _delete(self, sha256: str) -> None:
        path = self._path(sha256)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(error, path) from error

    def _usage(self) -> BlobUsage:
        count = size_bytes = 0
        for path in self._root.glob("??/*"):
            if path.suffix == UNFINISHED:
                continue
            try:
                size_bytes += path.stat().st_size
            except FileNotFoundError:
                continue
            count += 1
        return BlobUsage(count, size_bytes)


def _holds(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except FileNotFoundError:
        return False


def _write_durably(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name[:16]}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(error: OSError, path: Path) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"no space left for {path}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageReadOnly(f"{path} cannot be written or read: {error.strerror}")
    return StorageError(f"{path}: {error.strerror or error}")
