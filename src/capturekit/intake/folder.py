"""A folder in which others put pictures: each becomes a capture once, then goes out of the way.

It is looked at again and again and not watched by inotify, which does not tell of what another
machine writes to a share. Nothing below the folder is reached through a symbolic link.
"""

import hashlib
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self, TypeAlias

import anyio
import anyio.to_thread

from capturekit.errors import (
    CaptureKitError,
    ImageError,
    NotAuthorized,
    QueueFull,
    StorageError,
    TooManyBytes,
    Unknown,
)
from capturekit.kit import Upload
from capturekit.picture.exif import taken_at
from capturekit.queue.base import RetryPolicy
from capturekit.store import Capture
from capturekit.times import iso

logger = logging.getLogger("capturekit.intake")

LOOK_S: Final = 1.0
"""Seconds between looks into the folder."""

SETTLE_S: Final = 2.0
"""A file counts as complete when its size and its time stand still for so long."""

PATIENCE_S: Final = 30.0
"""A file that is no whole picture may still be on its way; after so long it is rejected."""

RETRY_S: Final = 30.0
"""Seconds between tries with a file that cannot be read, or whose device is not known."""

DONE: Final = "done"
REJECTED: Final = "rejected"

ANY_DEVICE: Final = "*"
"""In the settings: subfolders are named after devices."""

EARLIEST: Final = 946684800.0
"""2000-01-01 UTC. A time before it is of a clock that was never set."""

_UNFINISHED: Final = (".part", ".partial", ".tmp", ".temp", ".filepart", ".crdownload", ".upload")
"""Ends of names that programs give to what they still write; names with a dot first are theirs."""

_PAUSES: Final = RetryPolicy(base_s=2.0, cap_s=60.0)

Receive: TypeAlias = Callable[[Upload], Awaitable[tuple[Capture, bool]]]
"""What ``CaptureKit.receive`` is."""


class Done(StrEnum):
    """What becomes of a file whose picture was stored."""

    MOVE = "move"
    """It goes to the folder ``done`` inside the watched one."""
    DELETE = "delete"
    KEEP = "keep"
    """It stays; after a restart it is read again, and known."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """What changes when somebody writes to a file, or puts another in its place."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _File:
    """A file at one look; its path is given by the names below the folder."""

    names: tuple[str, ...]
    identity: _Identity

    @property
    def path(self) -> str:
        """For people: what is no text in the name shows as U+FFFD."""
        return os.fsencode("/".join(self.names)).decode(errors="replace")


@dataclass(slots=True)
class _Seen:
    """What is remembered of a file from look to look."""

    identity: _Identity
    since: float
    """When it was first seen as it is."""
    try_at: float
    is_finished: bool = False
    """Nothing is left to do with it, and it stays where it is."""
    is_told: bool = False
    """Its trouble was logged."""


class _ChangedError(Exception):
    """The file is not the one that was looked at."""


class WatchedFolder:
    """Hands what is put into a folder to ``receive``.

    Args:
        folder: Its subfolders are looked through as well, but not ``done`` and ``rejected``.
        receive: Keeps an upload: ``kit.receive``.
        device: Whose pictures they are; None when each subfolder is named after a device.
        done: What becomes of a file whose picture was stored.
        max_bytes: A larger file is rejected unread.
        settle_s: How long a file must stand still.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        folder: Path,
        receive: Receive,
        *,
        device: str | None,
        done: Done = Done.MOVE,
        max_bytes: int,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._receive = receive
        self._device = device
        self._done = done
        self._max_bytes = max_bytes
        self._settle_s = settle_s
        self._clock = clock
        self._seen: dict[tuple[str, ...], _Seen] = {}

    async def run(self) -> None:
        """Look until it is cancelled, whatever goes wrong."""
        failures = 0
        while True:
            wait_s = LOOK_S
            try:
                await self.look()
                failures = 0
            except (OSError, StorageError, QueueFull) as error:
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                logger.log(level, "%s is looked at again later: %s", self._folder, error)
            except Exception:
                failures += 1
                logger.exception("%s is looked at again later", self._folder)
            if failures:
                wait_s += _PAUSES.delay_s(failures)
            await anyio.sleep(wait_s)

    async def look(self) -> None:
        """Look once, oldest file first, and take what has stood still since an earlier look.

        Raises OSError when the folder cannot be read, StorageError or QueueFull when nothing can
        be kept now; files then stay where they are.
        """
        files = await anyio.to_thread.run_sync(self._list)
        now = self._clock()
        known, self._seen = self._seen, {}
        for file in files:
            seen = known.get(file.names)
            if seen is None or seen.identity != file.identity:
                seen = _Seen(file.identity, now, now + self._settle_s)
            self._seen[file.names] = seen
        for file in files:
            seen = self._seen[file.names]
            if not seen.is_finished and self._clock() >= seen.try_at:
                await self._take(file, seen)

    async def _take(self, file: _File, seen: _Seen) -> None:
        device = self._device_of(file)
        if device is None:
            self._put_off(file, seen, "put it into a subfolder that is named after its device")
            return
        try:
            content = await anyio.to_thread.run_sync(self._read, file)
            await self._receive(_upload(file, content, device))
        except _ChangedError:
            del self._seen[file.names]
        except ImageError as error:
            await self._doubt(file, seen, error)
        except (Unknown, NotAuthorized, OSError) as error:
            self._put_off(file, seen, str(error))
        except (StorageError, QueueFull):
            raise
        except CaptureKitError as error:
            await self._put_away(file, seen, REJECTED, reason=error)
        else:
            await self._put_away(file, seen, DONE)

    def _device_of(self, file: _File) -> str | None:
        if self._device is not None:
            return self._device
        return file.names[0] if len(file.names) > 1 else None

    async def _doubt(self, file: _File, seen: _Seen, error: ImageError) -> None:
        """Reject the file, unless more of it may come."""
        patient_until = seen.since + max(PATIENCE_S, self._settle_s)
        if self._clock() < patient_until and not isinstance(error, TooManyBytes):
            seen.try_at = patient_until
            return
        await self._put_away(file, seen, REJECTED, reason=error)

    def _put_off(self, file: _File, seen: _Seen, why: str) -> None:
        seen.try_at = self._clock() + RETRY_S
        level = logging.DEBUG if seen.is_told else logging.WARNING
        logger.log(level, "%s/%s waits: %s", self._folder, file.path, why)
        seen.is_told = True

    async def _put_away(
        self, file: _File, seen: _Seen, place: str, reason: CaptureKitError | None = None
    ) -> None:
        """Get it out of the way; where that cannot be, leave it and never take it again."""
        if reason is not None:
            logger.warning("%s/%s is rejected: %s", self._folder, file.path, reason)
        seen.is_finished = True
        try:
            if place == REJECTED or self._done is Done.MOVE:
                await anyio.to_thread.run_sync(self._move, file, place, reason)
            elif self._done is Done.DELETE:
                await anyio.to_thread.run_sync(self._delete, file)
        except (_ChangedError, FileNotFoundError):
            self._seen.pop(file.names, None)
        except OSError as error:
            logger.warning("%s/%s stays where it is: %s", self._folder, file.path, error.strerror)

    # What follows blocks, and runs in threads.

    def _list(self) -> list[_File]:
        """The files that may be pictures, oldest first."""
        found: list[_File | None] = []
        with _opened(self._folder) as top:
            for root, folders, names, folder in os.fwalk(".", dir_fd=top):
                above = Path(root).parts
                skipped = (DONE, REJECTED) if not above else ()
                folders[:] = [name for name in folders if name[0] != "." and name not in skipped]
                found += [_file(folder, above, name) for name in names]
        files = [file for file in found if file is not None]
        return sorted(files, key=lambda file: (file.identity.modified_ns, file.names))

    def _read(self, file: _File) -> bytes:
        """Its bytes; raises TooManyBytes, OSError, or _ChangedError when it is not the same."""
        with self._above(file) as folder:
            # A pipe put in its place would else be waited for.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(file.names[-1], flags, dir_fd=folder), "rb") as opened:  # noqa: PTH123
                _require_same(file, os.fstat(opened.fileno()))
                if file.identity.size_bytes > self._max_bytes:
                    raise TooManyBytes(self._max_bytes)
                content = opened.read(self._max_bytes + 1)
                _require_same(file, os.fstat(opened.fileno()))
        return content

    def _move(self, file: _File, place: str, reason: CaptureKitError | None) -> None:
        with self._above(file) as folder, self._made(place, *file.names[:-1]) as target:
            name = _free_name(target, file.names[-1])
            if reason is not None:
                # Why is told first: a picture is never there without its reason.
                _write_reason(target, f"{name}.txt", reason)
            _require_same(file, os.stat(file.names[-1], dir_fd=folder, follow_symlinks=False))
            os.rename(file.names[-1], name, src_dir_fd=folder, dst_dir_fd=target)

    def _delete(self, file: _File) -> None:
        with self._above(file) as folder:
            _require_same(file, os.stat(file.names[-1], dir_fd=folder, follow_symlinks=False))
            os.unlink(file.names[-1], dir_fd=folder)

    @contextmanager
    def _above(self, file: _File) -> Iterator[int]:
        """The open folder that the file is in, reached through no link."""
        with ExitStack() as stack:
            folder = stack.enter_context(_opened(self._folder))
            for name in file.names[:-1]:
                folder = stack.enter_context(_opened(name, folder))
            yield folder

    @contextmanager
    def _made(self, *names: str) -> Iterator[int]:
        """An open folder below the watched one, made if it is missing."""
        with ExitStack() as stack:
            folder = stack.enter_context(_opened(self._folder))
            for name in names:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=folder)
                folder = stack.enter_context(_opened(name, folder))
            yield folder


@contextmanager
def _opened(path: Path | str, above: int | None = None) -> Iterator[int]:
    """An open folder. The watched one itself may be a link, none below it."""
    no_link = os.O_NOFOLLOW if above is not None else 0
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | no_link, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _file(folder: int, above: tuple[str, ...], name: str) -> _File | None:
    """What is there under that name, if it is a file that nobody is writing to."""
    if name[0] == "." or name.lower().endswith(_UNFINISHED):
        return None
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _File((*above, name), _Identity.of(found))


def _require_same(file: _File, found: os.stat_result) -> None:
    if _Identity.of(found) != file.identity:
        raise _ChangedError


def _free_name(folder: int, name: str) -> str:
    """The name, or with a number in it where that is taken: nothing is overwritten."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  # a name, of any bytes
    candidate, number = name, 1
    while True:
        try:
            os.stat(candidate, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return candidate
        candidate, number = f"{stem}-{number}{suffix}", number + 1


def _write_reason(folder: int, name: str, reason: CaptureKitError) -> None:
    text = f"{iso(time.time())} {type(reason).__name__}: {reason}\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(name, flags, 0o644, dir_fd=folder), "wb") as file:  # noqa: PTH123
            file.write(text.encode(errors="replace"))
    except OSError as error:
        logger.warning("why a file was rejected is not written: %s", error.strerror)


def _upload(file: _File, content: bytes, device: str) -> Upload:
    """The same file with the same bytes is the same upload, also after a restart."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = b"/".join(os.fsencode(name) for name in file.names)
    at = taken_at(content) or file.identity.modified_ns / 1e9
    return Upload(
        content=content,
        device_id=device,
        key=f"file-{hashlib.sha256(path + b'/' + sha256.encode()).hexdigest()}",
        captured_at=at if at >= EARLIEST else None,
        metadata={"file": file.path},
        via="folder",
    )
