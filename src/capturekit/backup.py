"""Backup and restore: every row and every picture, on SQLite and Postgres, in one format.

A backup is a folder: ``manifest.json``, which is written last; the rows it names, a file a
table; and ``blobs``, which later backups into the same folder add to. Rows are of one moment,
and pictures are copied after them, while nothing is deleted.
"""

import gzip
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from pydantic import BaseModel, ConfigDict, ValidationError

from capturekit.blobs import Blobs, FileBlobs, open_blobs
from capturekit.database import Connection, Database
from capturekit.datafolder import make_folder
from capturekit.errors import ConfigError, StorageCorrupt, StorageError, StorageFull, Unknown
from capturekit.queue.sql import metadata as queue_metadata
from capturekit.settings import Settings
from capturekit.store import BlobRecords, migrations, snapshot
from capturekit.store.belonging import require_own
from capturekit.store.schema import metadata as store_metadata

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
BLOBS: Final = "blobs"
HOLD_S: Final = 600.0
"""How long deletions wait for a backup that was killed."""

RENEW_S: Final = 60.0
ALL_S: Final = 6 * 3600.0
"""How long the snapshot of a server's database may take."""


class File(BaseModel):
    """Lines of the backup: how many, and the SHA-256 of their text."""

    model_config = ConfigDict(frozen=True)

    lines: int
    sha256: str


class Manifest(BaseModel):
    """What a whole backup has."""

    model_config = ConfigDict(frozen=True)

    format: int
    revision: str
    """Of the database's schema."""
    made_at: float
    snapshot: str
    """The folder with the rows."""
    files: dict[str, File]
    """By the name of the table, and ``blobs``: the names of the pictures."""
    missing: tuple[str, ...]
    """Pictures that were missing or corrupt already when the backup was made."""
    blob_bytes_copied: int
    digest: str = ""
    """SHA-256 of all the other fields, as JSON."""

    def sealed(self) -> "Manifest":
        """The same with its digest."""
        fields = self.model_dump(mode="json", exclude={"digest"})
        told = json.dumps(fields, sort_keys=True).encode()
        return self.model_copy(update={"digest": hashlib.sha256(told).hexdigest()})


async def back_up(
    settings: Settings, folder: Path, *, clock: Callable[[], float] = time.time
) -> Manifest:
    """Make or renew the backup in ``folder``; servers and workers may go on meanwhile.

    Interrupted at any point, an earlier backup in the folder is still whole. Raises a
    StorageError, DatabaseTooOld or ConfigError.
    """
    await anyio.to_thread.run_sync(make_folder, folder)
    source, target = open_blobs(settings.blobs), FileBlobs(folder / BLOBS)
    name = f"rows-{secrets.token_hex(8)}"
    async with Database(settings.database, is_checkpointing=False, answer_s=ALL_S) as database:
        await migrations.require_head(database)
        await require_own(database, source)
        async with _holding(BlobRecords(database, clock), clock):
            made_at = clock()
            files = await database.read(partial(_write_rows, folder=folder / name))
            missing, copied = await _copy(source, target, _names(folder / name))
    manifest = Manifest(
        format=FORMAT,
        revision=migrations.head(),
        made_at=made_at,
        snapshot=name,
        files=files,
        missing=tuple(missing),
        blob_bytes_copied=copied,
    ).sealed()
    await anyio.to_thread.run_sync(_finish, folder, manifest)
    return manifest


async def restore(settings: Settings, folder: Path, *, is_verified: bool = False) -> Manifest:
    """Fill an empty database and an empty store of blobs with what the backup has.

    Rows come in one transaction after all else. ``is_verified`` reads all of it again then.
    Raises ConfigError where there is something already or the backup is of another version, and
    StorageCorrupt for a damaged backup, with the name of the file.
    """
    manifest = await anyio.to_thread.run_sync(read_manifest, folder)
    rows = folder / manifest.snapshot
    await anyio.to_thread.run_sync(_check_files, rows, manifest)
    await anyio.to_thread.run_sync(make_folder, settings.data_dir)
    source, target = FileBlobs(folder / BLOBS), open_blobs(settings.blobs)
    async with Database(settings.database, is_checkpointing=False, answer_s=ALL_S) as database:
        await _require_empty(database, target)
        missing, _ = await _copy(source, target, _names(rows))
        if lost := sorted(set(missing) - set(manifest.missing)):
            path = folder / BLOBS / lost[0][:2] / lost[0][2:]
            raise StorageCorrupt(f"the backup is damaged: {path} is missing or corrupt")
        tables = snapshot.tables(store_metadata, queue_metadata)

        def fill(connection: Connection) -> None:
            snapshot.fill(connection, tables, lambda name: _lines(_path(rows, name)))

        await database.write(fill)
        await require_own(database, target)
        if is_verified:
            await _verify(database, target, manifest, rows)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """What the backup says it has. Raises ConfigError, or StorageCorrupt if it was changed."""
    path = folder / MANIFEST
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no whole backup in {folder}: it has no {MANIFEST}") from error
    except ValueError as error:
        raise StorageCorrupt(f"the backup is damaged: {path} cannot be read") from error
    if isinstance(told, dict) and told.get("format") != FORMAT:
        raise ConfigError(
            f"the backup has format {told.get('format')}, this capturekit knows {FORMAT}: "
            "restore it with the capturekit that made it, or a newer one"
        )
    try:
        manifest = Manifest.model_validate(told)
    except ValidationError as error:
        raise StorageCorrupt(f"the backup is damaged: {path} lacks what it must say") from error
    if manifest.sealed() != manifest:
        raise StorageCorrupt(f"the backup is damaged: {path} was changed")
    if manifest.revision != migrations.head():
        raise ConfigError(
            f"the backup is of revision {manifest.revision}, this capturekit restores "
            f"{migrations.head()}: restore it with the capturekit that made it, then upgrade"
        )
    return manifest


async def _require_empty(database: Database, blobs: Blobs) -> None:
    if await migrations.revision(database) is not None:
        raise ConfigError("there is a database already: restore into a new data folder or database")
    if await blobs.owner() is not None:
        raise ConfigError("there are pictures of a database already: restore into an empty place")


@asynccontextmanager
async def _holding(records: BlobRecords, clock: Callable[[], float]) -> AsyncIterator[None]:
    """No blob is deleted in this block, nor for long after it was killed."""

    async def renew() -> None:
        while True:
            await anyio.sleep(RENEW_S)
            await records.hold(clock() + HOLD_S)

    await records.hold(clock() + HOLD_S)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(renew)
            yield
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await records.hold(None)


def _write_rows(connection: Connection, folder: Path) -> dict[str, File]:
    try:
        folder.mkdir()
        files = {
            table.name: _write(_path(folder, table.name), snapshot.rows(connection, table))
            for table in snapshot.tables(store_metadata, queue_metadata)
        }
        names = (f"{name}\n".encode() for name in snapshot.wanted_blobs(connection))
        return files | {BLOBS: _write(_path(folder, BLOBS), names)}
    except OSError as error:
        raise StorageFull(f"{folder} cannot be written: {error.strerror}") from error


def _write(path: Path, lines: Iterable[bytes]) -> File:
    digest, count = hashlib.sha256(), 0
    with path.open("xb") as raw:
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file:
            for line in lines:
                file.write(line)
                digest.update(line)
                count += 1
        raw.flush()
        os.fsync(raw.fileno())
    return File(lines=count, sha256=digest.hexdigest())


async def _copy(source: Blobs, target: Blobs, names: Iterator[str]) -> tuple[list[str], int]:
    """Copy what ``target`` lacks; returns what ``source`` lacks too, and the bytes copied."""
    missing, copied = [], 0
    stored = aiter(target.stored())
    have = await anext(stored, None)
    for name in names:
        while have is not None and have.sha256 < name:
            have = await anext(stored, None)
        if have is not None and have.sha256 == name:
            continue
        try:
            content = await source.get(name)
        except (Unknown, StorageCorrupt):
            missing.append(name)
            continue
        await target.put(content)
        copied += len(content)
    return missing, copied


def _finish(folder: Path, manifest: Manifest) -> None:
    """Let the new manifest take the place of the old at once, and remove the old rows."""
    try:
        temporary = folder / f".{MANIFEST}.{secrets.token_hex(8)}.part"
        with temporary.open("x") as file:
            file.write(manifest.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        _sync(folder / manifest.snapshot)
        _sync(folder)
        temporary.replace(folder / MANIFEST)
        _sync(folder)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
    for old in folder.glob("rows-*"):
        if old.name != manifest.snapshot:
            shutil.rmtree(old, ignore_errors=True)
    for old in folder.glob(f".{MANIFEST}.*.part"):
        old.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl.gz"


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        yield from file


def _names(folder: Path) -> Iterator[str]:
    for line in _lines(_path(folder, BLOBS)):
        yield line.decode().strip()


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Raise StorageCorrupt for the first file that is not what was written."""
    expected = {table.name for table in snapshot.tables(store_metadata, queue_metadata)} | {BLOBS}
    for name in sorted(expected):
        path = _path(folder, name)
        try:
            is_whole = manifest.files.get(name) == _digest(_lines(path))
        except (OSError, EOFError, ValueError) as error:
            raise StorageCorrupt(f"the backup is damaged: {path}: {error}") from error
        if not is_whole:
            raise StorageCorrupt(f"the backup is damaged: {path} is not what was written")


def _digest(lines: Iterable[bytes]) -> File:
    digest, count = hashlib.sha256(), 0
    for line in lines:
        digest.update(line)
        count += 1
    return File(lines=count, sha256=digest.hexdigest())


async def _verify(database: Database, blobs: Blobs, manifest: Manifest, rows: Path) -> None:
    """Raise StorageCorrupt unless the database and the blobs hold what the backup has."""

    def look(connection: Connection) -> list[str]:
        return [
            table.name
            for table in snapshot.tables(store_metadata, queue_metadata)
            if _digest(snapshot.rows(connection, table)) != manifest.files[table.name]
        ]

    if different := await database.read(look):
        raise StorageCorrupt(f"restored, but not as in the backup: {', '.join(different)}")
    for name in _names(rows):
        if name not in manifest.missing:
            await blobs.get(name)
