"""Steps that go wrong in every way, for tests that send them to other processes."""

import ctypes
import os
from pathlib import Path

from capturekit.errors import Permanent, RateLimited
from capturekit.frame import Frame

MARK = "CAPTUREKIT_TEST_MARK"
"""Names the file in which ``burn`` says that it began."""


def fail(frame: Frame) -> Frame:
    raise OSError(f"no such camera for {frame.width} px")


def give_up(frame: Frame) -> Frame:
    raise Permanent(f"nothing can be seen at {frame.width} px")


def wait(frame: Frame) -> Frame:
    raise RateLimited(f"too many pictures of {frame.width} px", retry_after_s=3600)


def crash(frame: Frame) -> Frame:
    ctypes.string_at(0)
    return frame


def burn(frame: Frame) -> Frame:
    mark = Path(os.environ[MARK])
    mark.with_suffix(".draft").write_text(str(os.getpid()))
    mark.with_suffix(".draft").rename(mark)
    while True:
        pass
    return frame
