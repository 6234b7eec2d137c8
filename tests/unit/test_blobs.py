"""Blobs on the disk: durable before they are told, checked when they are read."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from capturekit.blobs import FileBlobs
from capturekit.errors import StorageCorrupt, StorageError, Unknown

pytestmark = pytest.mark.anyio

CONTENT = b"picture " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path)


async def test_a_blob_is_found_by_its_hash(blobs: FileBlobs) -> None:
    assert await blobs.put(CONTENT) == SHA256
    assert await blobs.get(SHA256) == CONTENT


async def test_the_same_bytes_are_kept_once(blobs: FileBlobs) -> None:
    await blobs.put(CONTENT)
    await blobs.put(CONTENT)
    usage = await blobs.usage()
    assert (usage.count, usage.size_bytes) == (1, len(CONTENT))


async def test_changed_bytes_are_noticed_and_healed_by_the_next_put(
    blobs: FileBlobs, tmp_path: Path
) -> None:
    await blobs.put(CONTENT)
    (tmp_path / SHA256[:2] / SHA256[2:]).write_bytes(b"x" + CONTENT[1:])
    with pytest.raises(StorageCorrupt):
        await blobs.get(SHA256)
    await blobs.put(CONTENT)
    assert await blobs.get(SHA256) == CONTENT


async def test_file_then_name_then_folder_are_made_durable_in_this_order(
    blobs: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def watched(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            calls.append(name)
            return real(*arguments, **named)

        return call

    # Watched, not replaced: the system calls are made.
    monkeypatch.setattr(os, "fsync", watched("fsync", os.fsync))
    monkeypatch.setattr(Path, "rename", watched("rename", Path.rename))
    monkeypatch.setattr(Path, "mkdir", watched("mkdir", Path.mkdir))
    await blobs.put(CONTENT)
    assert calls == ["mkdir", "fsync", "fsync", "rename", "fsync"]


async def test_what_a_killed_put_left_is_not_counted_and_can_be_removed(
    blobs: FileBlobs, tmp_path: Path
) -> None:
    await blobs.put(CONTENT)
    left = tmp_path / SHA256[:2] / ".left.part"
    left.write_bytes(b"half")
    assert (await blobs.usage()).count == 1
    await blobs.remove_unfinished(older_than_s=60)
    assert left.exists()
    os.utime(left, (0, 0))
    await blobs.remove_unfinished(older_than_s=60)
    assert not left.exists()
    left.write_bytes(b"half")
    await blobs.remove_unfinished()
    assert not left.exists()
    assert await blobs.get(SHA256) == CONTENT


async def test_an_unknown_blob_and_a_deleted_one_are_unknown(blobs: FileBlobs) -> None:
    await blobs.put(CONTENT)
    for _ in range(2):
        await blobs.delete(SHA256)
    with pytest.raises(Unknown):
        await blobs.get(SHA256)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", SHA256.upper(), SHA256[:-1]])
async def test_only_a_hash_is_an_address(blobs: FileBlobs, name: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        await blobs.get(name)


async def test_a_folder_that_cannot_be_is_told_as_ours() -> None:
    with pytest.raises(StorageError):
        await FileBlobs(Path("/proc/capturekit")).put(CONTENT)
