"""Frames of streams: MJPEG over HTTP and RTSP from real servers on loopback, and a video file."""

import asyncio
import io
import logging
import sys
import time
from pathlib import Path

import anyio
import cv2
import numpy as np
import pytest
from PIL import Image

from capturekit.errors import ConfigError
from capturekit.intake.camera import CameraFailed
from capturekit.intake.stream import StreamCamera
from tests.camera_server import Asked, camera_server
from tests.rtsp_server import rtsp_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

MAX_BYTES = 2**20
LEVELS = (20, 80, 140, 200)
PATIENT_S = 60.0


def frame(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 240), (level, level, level)).save(file, "JPEG", quality=90)
    return file.getvalue()


def level_of(jpeg: bytes) -> int:
    """Which of the levels this frame is of."""
    mean = float(np.mean(np.asarray(Image.open(io.BytesIO(jpeg)))))
    return min(LEVELS, key=lambda level: abs(level - mean))


def stream_camera(url: str, every_s: float = 60.0, open_s: float = PATIENT_S) -> StreamCamera:
    return StreamCamera(url, max_bytes=MAX_BYTES, every_s=every_s, open_s=open_s, frame_s=PATIENT_S)


async def mjpeg(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Each level for a second, 20 frames a second, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")
    began = time.monotonic()
    while True:
        jpeg = frame(LEVELS[int(time.monotonic() - began) % len(LEVELS)])
        head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        writer.write(head.encode() + jpeg + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def hanging(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Begins like a stream, then nothing."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")
    await writer.drain()
    await anyio.sleep_forever()


def children() -> set[str]:
    """Processes of ours, living or dead."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set((task / "children").read_text().split())
    return found


@pytest.mark.parametrize("every_s", [60.0, 1.0])
async def test_frames_of_an_endless_stream_are_jpegs(every_s: float) -> None:
    before = children()
    async with camera_server(mjpeg) as server:
        camera = stream_camera(f"stream+{server.url('/stream')}", every_s)
        for _ in range(2):
            assert (await camera.shoot()).content.startswith(b"\xff\xd8")
        # Kept open, or asked anew.
        assert len({asked.path for asked in server.asked}) == 1
        assert (len(children() - before) == 1) == (every_s < 10)
        await camera.aclose()
    assert children() == before


@pytest.mark.parametrize("every_s", [60.0, 1.0])
async def test_frames_of_an_rtsp_stream_are_of_now(every_s: float) -> None:
    shown = [LEVELS[1]]
    async with rtsp_server(lambda: frame(shown[-1])) as url:
        camera = stream_camera(url, every_s)
        assert level_of((await camera.shoot()).content) == LEVELS[1]
        shown.append(LEVELS[3])
        await asyncio.sleep(1)
        assert level_of((await camera.shoot()).content) == LEVELS[3]
        await camera.aclose()


async def test_the_newest_frame_comes_not_one_that_waited() -> None:
    shown: list[int] = []

    async def serve(_: Asked, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"
        writer.write(head)
        while True:
            jpeg = frame(shown[-1])
            part = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            writer.write(part.encode() + jpeg + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    shown.append(LEVELS[0])
    async with camera_server(serve) as server:
        camera = stream_camera(f"stream+{server.url('/stream')}", every_s=1.0)
        assert level_of((await camera.shoot()).content) == LEVELS[0]
        # A hundred frames of the old kind go by unasked, then the scene changes.
        await asyncio.sleep(2)
        shown.append(LEVELS[3])
        await asyncio.sleep(1)
        assert level_of((await camera.shoot()).content) == LEVELS[3]
        await camera.aclose()


async def test_a_stream_that_hangs_holds_up_nobody() -> None:
    before = children()
    async with camera_server(hanging) as server:
        camera = stream_camera(f"stream+{server.url('/stream')}", open_s=2.0)
        began = time.monotonic()
        with pytest.raises(CameraFailed, match="no frame within 2 s"):
            await camera.shoot()
        assert time.monotonic() - began < 20
    assert children() == before


async def test_an_open_stream_that_ends_is_opened_again() -> None:
    async def two_frames(_: Asked, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"
        jpeg = frame(LEVELS[1])
        part = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        writer.write(head + (part.encode() + jpeg + b"\r\n") * 20 + b"--b--\r\n")

    async with camera_server(two_frames) as server:
        camera = stream_camera(f"stream+{server.url('/stream')}", every_s=1.0)
        outcomes = []
        for _ in range(4):
            try:
                outcomes.append(level_of((await camera.shoot()).content))
            except CameraFailed:
                outcomes.append(0)
        assert LEVELS[1] in outcomes[:1]
        assert outcomes.count(LEVELS[1]) >= 2
        await camera.aclose()


async def test_a_video_file_gives_a_frame(tmp_path: Path) -> None:
    file = tmp_path / "video.avi"
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    for _ in range(10):
        video.write(np.full((240, 320, 3), LEVELS[2], np.uint8))
    video.release()
    assert level_of((await stream_camera(f"stream+{file.as_uri()}").shoot()).content) == LEVELS[2]


@pytest.mark.parametrize("path", ["/missing", "/proc/self/mem"])
async def test_what_is_no_stream_is_one_error(path: str) -> None:
    with pytest.raises(CameraFailed, match="cannot be opened"):
        await stream_camera(f"stream+file://{path}").shoot()


def read_of(process: str, what: str) -> str:
    return Path(f"/proc/{process}/{what}").read_text()


async def test_the_password_is_in_no_list_of_processes_and_no_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with camera_server(mjpeg) as server:
        url = server.url("/stream?pwd=secret", "me:secret@")
        camera = stream_camera(f"stream+{url}", every_s=1.0)
        before = children()
        await camera.shoot()
        (child,) = children() - before
        shown = "".join(read_of(child, what) for what in ("cmdline", "environ"))
        await camera.aclose()
    shown += camera.name + camera.host + caplog.text + "".join(capfd.readouterr())
    assert "secret" not in shown


async def test_the_reader_ends_when_its_parent_is_killed() -> None:
    program = (
        "import anyio, sys; from capturekit.intake.stream import StreamCamera\n"
        "async def main():\n"
        "    camera = StreamCamera(sys.argv[1], max_bytes=2**20, every_s=1.0, open_s=60.0)\n"
        "    await camera.shoot()\n"
        "    print(camera._process.pid, flush=True)\n"
        "    await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    async with camera_server(mjpeg) as server:
        command = [sys.executable, "-c", program]
        parent = await asyncio.create_subprocess_exec(
            *command, f"stream+{server.url('/stream')}", stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        reader = int(await parent.stdout.readline())
        parent.kill()
        await parent.wait()
        assert await anyio.to_thread.run_sync(ends, reader)


def ends(process: int) -> bool:
    """Whether it does, within a while; one that nobody waits for stays as a zombie."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if "State:\tZ" in Path(f"/proc/{process}/status").read_text():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("url", ["stream+ftp://host/", "rtsp//host", "gopher://x", "rtsp://a\nb"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match="begins with none of"):
        stream_camera(url)
