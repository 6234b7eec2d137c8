"""What a function may say and ask while an executor runs it."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from capturekit.queue.base import checked_progress


@dataclass(frozen=True, slots=True)
class Line:
    """To whoever waits for the function."""

    progress: Callable[[float], None]
    should_stop: Callable[[], bool]


_LINE: ContextVar[Line | None] = ContextVar("line", default=None)


def progress(fraction: float) -> None:
    """Show how far the work is, 0 to 1. Without effect outside an executor.

    Call it in the thread that the function was called in. Raises ValueError outside 0 to 1.
    """
    checked_progress(fraction)
    if line := _LINE.get():
        line.progress(fraction)


def should_stop() -> bool:
    """True when nobody waits for the answer any more: raise or return soon.

    Only ever true in a thread; a child process is killed instead.
    """
    line = _LINE.get()
    return line is not None and line.should_stop()


def called(line: Line, function: Callable[..., object], args: tuple[object, ...]) -> object:
    """What the function returns; while it runs, ``progress`` and ``should_stop`` use the line."""
    token = _LINE.set(line)
    try:
        return function(*args)
    finally:
        _LINE.reset(token)
