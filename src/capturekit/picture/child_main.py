"""What runs inside a decoding child: read a request, decode, answer; until the parent is gone.

Started by ``capturekit.picture.child`` and by nobody else. A request and an answer are one JSON
message each; the picture comes, and its pixels go, in files in memory beside them.
"""

import json
import os
import resource
import signal
import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from capturekit.errors import ImageError, TooComplex, TooManyPixels
from capturekit.picture import Pixels, decode, verify

MESSAGE_BYTES = 8192
"""Longest message either way."""
MAX_TEXT = 1000
"""Characters of an error's message that are passed on."""
MAX_KEPT_BYTES = 64 * 2**20
"""A child that holds more than this after a picture ends, and the next is a new one: Pillow does
not give back all of what it had when memory ran out."""
READY = b"ready"
_PATIENCE_S = 1.0
"""How much later than the parent the child itself gives up: only if that died meanwhile."""
_SIGNALS = (signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU, signal.SIGTERM)

Answer = dict[str, object]


def main(end: int, shared: int, cpu_s: float, wall_s: float, memory_bytes: float) -> None:
    """Serve the parent at the other end of this socket, under these limits.

    Pixels are left in the shared file.
    """
    with socket.socket(fileno=end) as parent:
        _be_quiet()
        limit_memory = limited(int(memory_bytes))
        parent.send(READY)
        while True:
            message, files, _, _ = socket.recv_fds(parent, MESSAGE_BYTES, 1)
            if not message:
                return
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            signal.setitimer(signal.ITIMER_REAL, wall_s + _PATIENCE_S)
            request = json.loads(message)
            limit_memory(3 * request["max_pixels"])
            answer(parent, request, files[0], shared)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if _status("VmData") > limit_memory.at_start + MAX_KEPT_BYTES:
                return


def _be_quiet() -> None:
    """Nothing printed by a decoder goes anywhere; signals end this process, as is usual."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    cv2.setNumThreads(1)


class limited:  # noqa: N801 - used as a function that remembers where it started
    """Take away what decoding does not need; then call it before each picture.

    Linux counts private writable memory against RLIMIT_DATA, not the shared pages of pixels
    to hand over; so room for those is kept free of the whole.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.at_start = _status("VmData")
        self._free = memory_bytes - _status("VmRSS") + self.at_start
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        resource.setrlimit(resource.RLIMIT_DATA, (self._free, self._free))

    def __call__(self, pixel_bytes: int) -> None:
        """Leave room for so many bytes of pixels, at most a quarter."""
        soft = self._free - min(pixel_bytes, self._free // 4)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, self._free))


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def answer(parent: socket.socket, request: Mapping[str, Any], file: int, shared: int) -> None:
    """Do what is asked for the picture in this file, and send what came of it.

    Any: what the parent wrote, in ``capturekit.picture.child``.
    """
    try:
        data = os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)
    pixels, said = _done(data, request)
    if pixels is not None:
        # Pages that were written before are three times as cheap to write again.
        os.lseek(shared, 0, os.SEEK_SET)
        write_all(shared, np.ascontiguousarray(pixels).data.cast("B"))
    parent.send(json.dumps(said).encode())


def _done(data: bytes, request: Mapping[str, Any]) -> tuple[Pixels | None, Answer]:
    limits = {name: request[name] for name in ("max_bytes", "max_pixels")}
    try:
        if request["want"] == "verify":
            return None, {"info": asdict(verify(data, **limits))}
        picture = decode(data, on_damage=request["on_damage"], colour=request["colour"], **limits)
        return picture.pixels, {
            "info": asdict(picture.info),
            "channels": 1 if picture.pixels.ndim == 2 else 3,
            "has_colour": picture.read_colour is not None,
        }
    except ImageError as error:
        return None, _refusal(error)
    except MemoryError:
        return None, _refusal(TooComplex("the picture takes more memory than it may"))


def _refusal(error: ImageError) -> Answer:
    size = (
        (error.width, error.height, error.max_pixels) if isinstance(error, TooManyPixels) else None
    )
    return {"reason": error.reason, "text": str(error)[:MAX_TEXT], "size": size}


def write_all(file: int, data: memoryview) -> None:
    """Write all of it, which one call does not promise."""
    while data:
        data = data[os.write(file, data) :]
