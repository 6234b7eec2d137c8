"""What runs inside a child of a ``ProcessExecutor``: call a function, answer, and again.

Started by ``capturekit.executors.processes`` and by nobody else. A request is pickled, since the
parent is trusted; what is said back is JSON, since whoever took over this process is not.
"""

import fcntl
import os
import pickle
import resource
import runpy
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Final, NamedTuple

from pydantic import JsonValue, TypeAdapter

from capturekit.errors import (
    DamagedImage,
    ImageError,
    NotAnImage,
    Permanent,
    RateLimited,
    Retryable,
    StorageBusy,
    StorageFull,
    StorageReadOnly,
    TooComplex,
    UnsupportedFormat,
)
from capturekit.executors.inside import Line, called
from capturekit.worker import MAX_MESSAGE, as_json

REQUEST_HEAD: Final = struct.Struct(">Q")
"""Bytes of the request that follows."""
ANSWER_HEAD: Final = struct.Struct(">I")
"""Bytes of the message that follows."""
MAX_ANSWER_BYTES: Final = 8 * 2**20
"""Longest message of a child. A run of a busy shelf with its thumbnail has some 50 kB."""
MAX_TRACE: Final = 8000
"""Characters kept of a traceback, from its end."""
MEANINGS: Final[dict[str, type[Exception]]] = {
    meaning.__name__: meaning
    for meaning in (
        *(NotAnImage, UnsupportedFormat, TooComplex, DamagedImage, ImageError),
        *(Permanent, RateLimited, Retryable),
        *(StorageBusy, StorageFull, StorageReadOnly),
    )
}
"""Errors that a worker knows what to do about."""

_QUIET_S: Final = 0.1
"""At least so long between two words on progress."""
_DUMPED: Final[TypeAdapter[JsonValue]] = TypeAdapter(JsonValue)


class NotSendable(Permanent, TypeError):
    """A function or its arguments cannot be pickled, or not be built in another process."""


class Script(NamedTuple):
    """The parent's ``__main__``: a module that was run by name, or a file."""

    module: str | None
    path: str | None


def main(end: int, lifeline: int) -> None:
    """Serve the parent at the other end of this socket until it is gone."""
    _end_with(lifeline)
    # A child that crashes is no news to anyone who reads dumps.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=end) as parent:
        while True:
            (size,) = REQUEST_HEAD.unpack(_received(parent, REQUEST_HEAD.size))
            answer = _answer(_received(parent, size), _Progress(parent))
            with suppress(OSError, ValueError):
                # The function may have closed it.
                sys.stdout.flush()
            _send(parent, answer)


def _end_with(lifeline: int) -> None:
    """Have the kernel kill this process and all it started when the pipe's other end closes.

    Also while it computes without a thought for Python's signals, as a loop in C does.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        # The parent was gone before.
        os._exit(1)


def _received(parent: socket.socket, size: int) -> bytearray:
    received = bytearray(size)
    rest = memoryview(received)
    while rest:
        count = parent.recv_into(rest)
        if not count:
            os._exit(0)
        rest = rest[count:]
    return received


def _send(parent: socket.socket, message: bytes) -> None:
    parent.sendall(ANSWER_HEAD.pack(len(message)) + message)


class _Progress:
    """Passes on what a function tells, but not more often than anyone can read."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._last = -_QUIET_S

    def __call__(self, fraction: float) -> None:
        now = time.monotonic()
        if now >= self._last + _QUIET_S:
            self._last = now
            _send(self._parent, _DUMPED.dump_json({"progress": fraction}))


def _answer(request: bytearray, progress: Callable[[float], None]) -> bytes:
    try:
        function, args = _unpacked(request)
        result = as_json(called(Line(progress, _never), function, args))
        answer = _DUMPED.dump_json({"result": result})
        if len(answer) > MAX_ANSWER_BYTES:
            raise Permanent(  # noqa: TRY301  # told as any other
                f"the answer has {len(answer):,} bytes; a child may give {MAX_ANSWER_BYTES:,}"
            )
        return answer
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a function may raise anything
        return _DUMPED.dump_json({"error": _told(error)})


def _unpacked(request: bytearray) -> tuple[Callable[..., object], tuple[object, ...]]:
    # Pickled by the parent, who is trusted.
    try:
        script, work = pickle.loads(request)  # noqa: S301
        if script is not None:
            _load(script)
        function, args = pickle.loads(work)  # noqa: S301
    except Exception as error:
        raise NotSendable(
            f"a child process cannot import or build what it was sent: {error}"
        ) from error
    return function, args


def _load(script: Script) -> None:
    """Have ``__main__`` be what it is in the parent, as ``multiprocessing`` does."""
    name = "__mp_main__"
    # Under this name multiprocessing, when it is imported, enters what __main__ was before.
    if sys.modules["__main__"].__name__ == name:
        return
    if script.module is not None:
        content = runpy.run_module(script.module, run_name=name, alter_sys=True)
    else:
        content = runpy.run_path(script.path or "", run_name=name)
    main = ModuleType(name)
    main.__dict__.update(content)
    sys.modules["__main__"] = sys.modules[name] = main


def _never() -> bool:
    return False


def _told(error: BaseException) -> dict[str, JsonValue]:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    meaning = next((name for name, each in MEANINGS.items() if isinstance(error, each)), None)
    step = getattr(error, "step", None)
    # JSON has no word for infinity.
    wait_s = min(error.retry_after_s, 1e9) if isinstance(error, RateLimited) else 0.0
    trace = "".join(traceback.format_exception(error))[-MAX_TRACE:]
    return {
        "type": type(error).__name__,
        "message": _text(str(error))[:MAX_MESSAGE],
        "step": step if isinstance(step, str) else None,
        "meaning": meaning,
        "retry_after_s": wait_s,
        "trace": _text(trace),
    }


def _text(text: str) -> str:
    # Half a character, as in the name of a badly encoded file, has no place in JSON.
    return text.encode(errors="replace").decode()
