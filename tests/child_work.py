"""Functions that tests run in child processes, where a test file cannot be imported."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from pydantic import JsonValue

from capturekit.errors import Permanent, RateLimited, TooManyPixels
from capturekit.executors import progress, should_stop
from capturekit.executors.child_main import ANSWER_HEAD


def echo(*args: JsonValue) -> JsonValue:
    return list(args)


def length(content: bytes) -> int:
    return len(content)


def pid() -> int:
    return os.getpid()


def started(path: str) -> None:
    """Leave a word for the test that it began, whole or not at all."""
    draft = Path(f"{path}.draft")
    draft.write_text(str(os.getpid()))
    draft.rename(path)


def burn(path: str) -> None:
    started(path)
    while True:
        pass


def burn_as_asked(payload: dict[str, JsonValue]) -> None:
    burn(str(payload["path"]))


def burn_in_c(path: str) -> None:
    """Python's own signal handlers do not run, and the GIL is held."""
    started(path)
    sum(range(10**15))


def burn_with_a_process(path: str) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    Path(f"{path}.sleeper").write_text(str(sleeper.pid))
    burn(path)


def crash_with_a_process(path: str) -> None:
    started(f"{path}.parent")
    sleeper = subprocess.Popen(["sleep", "60"])
    Path(path).write_text(str(sleeper.pid))
    os.kill(os.getpid(), signal.SIGSEGV)


def until_told(path: str) -> str:
    started(path)
    while not should_stop():
        time.sleep(0.001)
    Path(f"{path}.told").touch()
    return "too late"


def leave() -> None:
    os._exit(7)


def leave_politely() -> None:
    sys.exit("no more")


def segfault() -> None:
    ctypes.string_at(0)


def segfault_as_asked(_payload: dict[str, JsonValue]) -> None:
    segfault()


def hold(megabytes: int) -> int:
    HELD.append(bytearray(os.urandom(2**20)) * megabytes)
    return os.getpid()


HELD: list[bytearray] = []


def huge(size: int) -> str:
    return "x" * size


def no_json() -> object:
    return object()


def not_a_number() -> float:
    return float("nan")


def fail(error: Exception, step: str | None = None) -> None:
    if step is not None:
        error.step = step  # type: ignore[attr-defined]  # as the pipeline's errors have it
    raise error


def fail_with_a_limit(retry_after_s: float) -> None:
    raise RateLimited("slow down", retry_after_s)


def refuse_its_size() -> None:
    raise TooManyPixels(5000, 5000, 10)


class OddError(Exception):
    """One that no other process may know."""


class Unbuildable:
    """Pickles, and cannot be built again."""

    def __reduce__(self) -> tuple[object, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise Permanent("not here")


def oddly(message: str) -> None:
    raise OddError(message)


def halves() -> str:
    for fraction in (0.0, 0.5):
        progress(fraction)
        time.sleep(0.15)
    return "whole"


def chatter(times: int) -> int:
    for _ in range(times):
        progress(0.5)
    return times


def overdo() -> None:
    progress(1.5)


def speak(text: str) -> None:
    sys.stdout.write(f"{text} by Python\n")
    os.write(1, f"{text} by the system\n".encode())


def hijack(message: str, size: int | None) -> None:
    """Say something to the parent behind our code's back, as one who took over would."""
    parent = _socket_of_the_parent()
    data = message.encode()
    parent.sendall(ANSWER_HEAD.pack(len(data) if size is None else size) + data)
    time.sleep(60)


def hang_up(message: str) -> None:
    del message
    _socket_of_the_parent().shutdown(socket.SHUT_RDWR)
    time.sleep(60)


def _socket_of_the_parent() -> socket.socket:
    for file in Path("/proc/self/fd").iterdir():
        if file.is_socket() and str(file.readlink()).startswith("socket:"):
            return socket.socket(fileno=os.dup(int(file.name)))
    raise LookupError
