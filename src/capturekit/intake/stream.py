"""A frame of a video stream: RTSP, MJPEG over HTTP, or whatever else OpenCV's FFmpeg opens.

The stream is read in a process of its own. A stream that hangs inside FFmpeg hangs that one, which
is killed when its time is over; one that breaks a decoder breaks nothing else.
"""

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from capturekit.errors import ConfigError
from capturekit.intake.camera import CameraFailed, Shot

STREAM_PREFIX: Final = "stream+"
"""Before an address that would else be taken for that of a snapshot."""

SCHEMES: Final = ("rtsp", "rtsps", "http", "https", "file")

OPEN_S: Final = 20.0
"""For a process to start, the stream to open and its first frame."""

FRAME_S: Final = 10.0
"""For a frame of a stream that is open."""

KEEP_OPEN_S: Final = 10.0
"""A stream that is asked more often stays open; reading on costs more than opening it anew."""

QUALITY: Final = 90
"""Of the JPEGs."""

MAX_MEMORY_BYTES: Final = 1024 * 2**20
"""Of the process that reads."""

_KEPT: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from capturekit.intake.stream_main import main; main(*map(int, sys.argv[2:]))"
)


class StreamCamera:
    """Takes single frames out of a stream.

    Raises ConfigError for an address that is none. With ``every_s`` under 10 the stream stays
    open between two frames, and those between are read and thrown away.
    """

    def __init__(
        self,
        url: str,
        *,
        max_bytes: int,
        every_s: float,
        quality: int = QUALITY,
        open_s: float = OPEN_S,
        frame_s: float = FRAME_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url.removeprefix(STREAM_PREFIX)
        self._parts = urlsplit(self._url)
        if self._parts.scheme not in SCHEMES or not self._url.isprintable():
            raise ConfigError(f"the stream's address begins with none of {', '.join(SCHEMES)}")
        self._max_bytes = max_bytes
        self._stays_open = every_s < KEEP_OPEN_S
        self._quality = quality
        self._open_s, self._frame_s = open_s, frame_s
        self._clock = clock
        self._process: Process | None = None

    @property
    def name(self) -> str:
        """Scheme, host and path."""
        return f"{self._parts.scheme}://{self.host}{self._parts.path}"

    @property
    def host(self) -> str:
        """Host and port."""
        return self._parts.netloc.rpartition("@")[2]

    async def aclose(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.aclose()

    async def shoot(self) -> Shot:
        """The next frame of the stream. Raises CameraFailed."""
        is_whole = False
        limit_s = self._open_s if self._process is None else self._frame_s
        try:
            with anyio.fail_after(limit_s):
                shot = await self._frame()
            is_whole = True
        except TimeoutError as error:
            raise CameraFailed(f"no frame within {limit_s:g} s") from error
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise CameraFailed("the stream cannot be opened, or it ended") from error
        finally:
            if not (is_whole and self._stays_open):
                await self.aclose()
        return shot

    async def _frame(self) -> Shot:
        if self._process is None:
            self._process = await self._started()
            await _input(self._process).send(f"{self._url}\n".encode())
        await _input(self._process).send(b"\n")
        answers = _Answers(_output(self._process))
        (size,) = struct.unpack(">Q", await answers.read(8))
        taken_at = self._clock()
        if size > self._max_bytes:
            raise CameraFailed(f"the frame has more than {self._max_bytes:,} bytes as a JPEG")
        return Shot(await answers.read(size), taken_at)

    async def _started(self) -> Process:
        numbers = (
            self._quality,
            int(1000 * self._open_s),
            int(1000 * self._frame_s),
            MAX_MEMORY_BYTES,
        )
        return await anyio.open_process(
            [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path), *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # FFmpeg writes addresses there, with their passwords.
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            # An interrupt from the keyboard is for the parent.
            start_new_session=True,
        )


class _Answers:
    """Reads so many bytes, no less."""

    def __init__(self, stream: ByteReceiveStream) -> None:
        self._stream = stream

    async def read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            found += await self._stream.receive(min(size - len(found), 2**16))
        return bytes(found)


def _input(process: Process) -> ByteSendStream:
    assert process.stdin is not None  # noqa: S101  # it is piped
    return process.stdin


def _output(process: Process) -> ByteReceiveStream:
    assert process.stdout is not None  # noqa: S101  # it is piped
    return process.stdout
