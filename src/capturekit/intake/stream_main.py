"""What runs in the process of a ``StreamCamera``: reads a stream, and hands over what it is asked.

The first line on standard input is the address, which no list of processes shows; each later one
asks for a frame. An answer is a length of 8 bytes and a JPEG. Frames between are read and thrown
away, so that the one that is told is of now. The end of standard input ends it.
"""

import os
import struct
import sys
import threading
from typing import BinaryIO

import cv2

TROUBLE = 1
"""Exit code when the stream cannot be opened, or ends."""


def main(quality: int, open_ms: int, read_ms: int, memory_bytes: int) -> None:
    """Serve the frames of one stream. ``quality`` is that of the JPEGs, 1 to 100."""
    _limit(memory_bytes)
    url = sys.stdin.buffer.readline().decode().rstrip("\n")
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
    # FFmpeg alone: others take addresses for patterns of file names.
    stream = cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)
    is_wanted = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, is_wanted), daemon=True).start()
    # The first frame waits for its question; from then on none waits.
    is_wanted.wait()
    while stream.grab():
        if is_wanted.is_set():
            is_wanted.clear()
            is_read, pixels = stream.retrieve()
            if not is_read:
                break
            _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
            sys.stdout.buffer.write(struct.pack(">Q", len(jpeg)) + jpeg.tobytes())
            sys.stdout.buffer.flush()
    os._exit(TROUBLE)


def _listen(questions: BinaryIO, is_wanted: threading.Event) -> None:
    while questions.readline():
        is_wanted.set()
    # Whoever asked is gone, also by a kill.
    os._exit(0)


def _limit(memory_bytes: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
