"""A watched folder, looked at by hand: what is taken, when, and what becomes of the files."""

import io
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from capturekit.errors import StorageError
from capturekit.intake.folder import Done, WatchedFolder
from capturekit.kit import CaptureKit, Upload
from capturekit.settings import Settings
from capturekit.store import Capture
from tests.made_pictures import picture

pytestmark = pytest.mark.anyio

CODE = "4006381333931"
MAX_BYTES = 2**20
LONG_S = 100.0
"""More than every wait of the folder."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[CaptureKit]:
    settings = Settings.model_validate({"data_dir": tmp_path / "data", "concurrency": 0})
    async with CaptureKit(settings) as kit:
        await kit.store.devices.add("shelf")
        yield kit


@pytest.fixture(autouse=True)
def everything_is_closed() -> Iterator[None]:
    before = len([*Path("/proc/self/fd").iterdir()])
    yield
    assert len([*Path("/proc/self/fd").iterdir()]) <= before


def watched(
    kit: CaptureKit,
    folder: Path,
    clock: Clock,
    *,
    device: str | None = "shelf",
    done: Done = Done.MOVE,
) -> WatchedFolder:
    return WatchedFolder(
        folder, kit.receive, device=device, done=done, max_bytes=MAX_BYTES, clock=clock
    )


async def settle(watched: WatchedFolder, clock: Clock, wait_s: float = LONG_S) -> None:
    """Two looks with so much time between them."""
    await watched.look()
    clock.now += wait_s
    await watched.look()


async def captures(kit: CaptureKit) -> list[Capture]:
    return list((await kit.store.captures.list()).rows)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_a_picture_that_stands_still_is_stored_and_moved(
    kit: CaptureKit, folder: Path, clock: Clock
) -> None:
    (folder / "one.jpg").write_bytes(picture(CODE))
    await settle(watched(kit, folder, clock), clock, wait_s=2.0)
    (capture,) = await captures(kit)
    assert (capture.device_id, capture.metadata) == ("shelf", {"file": "one.jpg"})
    assert files(folder) == {"done/one.jpg"}


async def test_a_file_that_grows_is_left_alone_until_it_is_whole(
    kit: CaptureKit, folder: Path, clock: Clock
) -> None:
    whole, eye = picture(CODE), watched(kit, folder, clock)
    for part in range(1, 5):
        (folder / "one.jpg").write_bytes(whole[: len(whole) * part // 4])
        await eye.look()
        clock.now += 1.5
        await eye.look()
        clock.now += 0.4
    assert await captures(kit) == []
    clock.now += 0.2
    await eye.look()
    (capture,) = await captures(kit)
    assert capture.size_bytes == len(whole)


async def test_an_upload_that_stalls_half_way_is_waited_for(
    kit: CaptureKit, folder: Path, clock: Clock
) -> None:
    whole, eye = picture(CODE), watched(kit, folder, clock)
    (folder / "one.jpg").write_bytes(whole[: len(whole) // 2])
    await settle(eye, clock, wait_s=20.0)
    assert files(folder) == {"one.jpg"}
    (folder / "one.jpg").write_bytes(whole)
    await settle(eye, clock, wait_s=2.0)
    assert len(await captures(kit)) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "NotAnImage: the file is empty"),
        (b"<html>Camera login</html>", "NotAnImage"),
        (picture(CODE)[:3000], "DamagedImage"),
        (bytes(MAX_BYTES + 1), "TooManyBytes: the picture has more than 1,048,576 bytes"),
    ],
)
async def test_what_is_no_picture_is_rejected_with_its_reason(
    kit: CaptureKit, folder: Path, clock: Clock, content: bytes, reason: str
) -> None:
    (folder / "bad.jpg").write_bytes(content)
    eye = watched(kit, folder, clock)
    await settle(eye, clock)
    assert files(folder) == {"rejected/bad.jpg", "rejected/bad.jpg.txt"}
    assert reason in (folder / "rejected/bad.jpg.txt").read_text()
    await settle(eye, clock)
    assert await captures(kit) == []


@pytest.mark.parametrize("done", Done)
async def test_a_killed_watcher_stores_nothing_twice(
    kit: CaptureKit, folder: Path, clock: Clock, done: Done
) -> None:
    class KilledError(BaseException):
        pass

    async def killed_after_keeping(upload: Upload) -> tuple[Capture, bool]:
        await kit.receive(upload)
        raise KilledError

    (folder / "one.jpg").write_bytes(picture(CODE))
    doomed = WatchedFolder(
        folder, killed_after_keeping, device="shelf", max_bytes=MAX_BYTES, clock=clock
    )
    with pytest.raises(KilledError):
        await settle(doomed, clock)
    assert files(folder) == {"one.jpg"}
    for _ in range(2):
        await settle(watched(kit, folder, clock, done=done), clock)
    assert len(await captures(kit)) == 1
    left = {Done.MOVE: {"done/one.jpg"}, Done.DELETE: set(), Done.KEEP: {"one.jpg"}}
    assert files(folder) == left[done]


async def test_another_picture_under_the_same_name_is_stored_and_overwrites_none(
    kit: CaptureKit, folder: Path, clock: Clock
) -> None:
    eye = watched(kit, folder, clock)
    for count in (1, 2):
        (folder / "latest.jpg").write_bytes(picture(*[CODE] * count))
        await settle(eye, clock)
    assert len(await captures(kit)) == 2
    assert files(folder) == {"done/latest.jpg", "done/latest-1.jpg"}


async def test_a_kept_file_is_read_again_only_when_it_changes(
    kit: CaptureKit, folder: Path, clock: Clock
) -> None:
    received = []

    async def receive(upload: Upload) -> tuple[Capture, bool]:
        received.append(len(upload.content))
        return await kit.receive(upload)

    eye = WatchedFolder(
        folder, receive, device="shelf", done=Done.KEEP, max_bytes=MAX_BYTES, clock=clock
    )
    for count in (1, 1, 2):
        (folder / "latest.jpg").write_bytes(picture(*[CODE] * count))
        os.utime(folder / "latest.jpg", ns=(10**18, 10**18 + count))
        await settle(eye, clock)
        await settle(eye, clock)
    assert received == [len(picture(CODE)), len(picture(CODE, CODE))]


async def test_no_link_is_followed_and_no_pipe_is_waited_for(
    kit: CaptureKit, folder: Path, clock: Clock, tmp_path: Path
) -> None:
    outside = tmp_path / "private"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(picture(CODE))
    (folder / "file.jpg").symlink_to(outside / "secret.jpg")
    (folder / "folder").symlink_to(outside)
    os.mkfifo(folder / "pipe.jpg")
    await settle(watched(kit, folder, clock), clock)
    assert await captures(kit) == []


async def test_pictures_are_not_moved_out_through_a_planted_link(
    kit: CaptureKit, folder: Path, clock: Clock, tmp_path: Path
) -> None:
    outside = tmp_path / "private"
    outside.mkdir()
    (folder / "done").symlink_to(outside)
    (folder / "one.jpg").write_bytes(picture(CODE))
    eye = watched(kit, folder, clock)
    await settle(eye, clock)
    await settle(eye, clock)
    assert files(outside) == set()
    assert len(await captures(kit)) == 1


async def test_a_folder_that_becomes_a_link_is_not_read(
    kit: CaptureKit, folder: Path, clock: Clock, tmp_path: Path
) -> None:
    outside = tmp_path / "private"
    outside.mkdir()
    for place in (folder / "first.jpg", folder / "sub/secret.jpg", outside / "secret.jpg"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(picture(CODE))
    os.utime(folder / "first.jpg", (1_770_000_000, 1_770_000_000))

    async def swap(upload: Upload) -> tuple[Capture, bool]:
        (folder / "sub").rename(tmp_path / "gone")
        (folder / "sub").symlink_to(outside)
        return await kit.receive(upload)

    eye = WatchedFolder(folder, swap, device="shelf", max_bytes=MAX_BYTES, clock=clock)
    await settle(eye, clock)
    assert [capture.metadata["file"] for capture in await captures(kit)] == ["first.jpg"]
    assert files(outside) == {"secret.jpg"}


async def test_subfolders_may_be_named_after_devices(
    kit: CaptureKit, folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await kit.store.devices.add("door")
    for name in ("shelf/2026/11/a.jpg", "door/a.jpg", "unknown/a.jpg", "a.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(CODE))
    eye = watched(kit, folder, clock, device=None)
    await settle(eye, clock)
    assert {capture.device_id for capture in await captures(kit)} == {"shelf", "door"}
    left = {"unknown/a.jpg", "a.jpg"}
    assert files(folder) == {"done/shelf/2026/11/a.jpg", "done/door/a.jpg"} | left
    await settle(eye, clock)
    assert sum("no device with id 'unknown'" in line for line in caplog.messages) == 1
    await kit.store.devices.add("unknown")
    await settle(eye, clock)
    assert "done/unknown/a.jpg" in files(folder)


async def test_what_programs_still_write_under_another_name_is_not_looked_at(
    kit: CaptureKit, folder: Path, clock: Clock
) -> None:
    for name in (".one.jpg.x8Qz", "one.jpg.part", "ONE.JPG.TMP"):
        (folder / name).write_bytes(picture(CODE))
    await settle(watched(kit, folder, clock), clock)
    assert await captures(kit) == []


async def test_while_nothing_can_be_kept_files_stay(folder: Path, clock: Clock) -> None:
    async def full(_: Upload) -> tuple[Capture, bool]:
        raise StorageError("no space left")

    (folder / "one.jpg").write_bytes(picture(CODE))
    eye = WatchedFolder(folder, full, device="shelf", max_bytes=MAX_BYTES, clock=clock)
    await eye.look()
    clock.now += LONG_S
    with pytest.raises(StorageError):
        await eye.look()
    assert files(folder) == {"one.jpg"}


async def test_a_revoked_device_loses_no_file(kit: CaptureKit, folder: Path, clock: Clock) -> None:
    (folder / "one.jpg").write_bytes(picture(CODE))
    await kit.store.devices.revoke("shelf")
    eye = watched(kit, folder, clock)
    await settle(eye, clock)
    assert files(folder) == {"one.jpg"}
    await kit.store.devices.rotate("shelf")
    await settle(eye, clock)
    assert files(folder) == {"done/one.jpg"}


async def test_names_that_are_no_text_are_taken(
    kit: CaptureKit, folder: Path, clock: Clock
) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (folder / name).write_bytes(picture(CODE))
    await settle(watched(kit, folder, clock), clock)
    (capture,) = await captures(kit)
    assert capture.metadata == {"file": "caf\ufffd.jpg"}
    assert (folder / "done" / name).exists()


async def test_the_time_is_that_of_the_camera_else_that_of_the_file(
    kit: CaptureKit, folder: Path, clock: Clock
) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2026:03:01 12:00:00", 0x9011: "+02:00", 0x9291: "25"})
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(CODE))).save(file, "JPEG", exif=exif)
    (folder / "camera.jpg").write_bytes(file.getvalue())
    (folder / "file.jpg").write_bytes(picture(CODE))
    (folder / "never-set.jpg").write_bytes(picture(CODE, CODE))
    os.utime(folder / "file.jpg", (1_770_000_000, 1_770_000_000))
    os.utime(folder / "never-set.jpg", (10, 10))
    await settle(watched(kit, folder, clock), clock)
    by_file = {capture.metadata["file"]: capture for capture in await captures(kit)}
    taken = datetime(2026, 3, 1, 10, 0, 0, 250_000, UTC)
    assert by_file["camera.jpg"].captured_at == taken.timestamp()
    assert by_file["file.jpg"].captured_at == 1_770_000_000
    assert by_file["never-set.jpg"].captured_at == by_file["never-set.jpg"].received_at
