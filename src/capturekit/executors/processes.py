"""An executor of child processes, each of which can be killed while it works.

Not ``anyio.to_process``: that unpickles what a child answers, so whoever takes over a child has
the parent too; it throws away what a function prints and has no word for progress; it never
replaces a child for its age or memory; and a cancelled call kills the child alone, not what the
child has started. Not ``capturekit.picture.child`` either, whose children may do nothing but
decode, under limits that a pipeline could not live with. Linux only.
"""

import json
import math
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self

import anyio
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter
from pydantic_core import from_json

from capturekit.errors import RateLimited, Retryable
from capturekit.executors.base import OnProgress
from capturekit.executors.child_main import (
    ANSWER_HEAD,
    MAX_ANSWER_BYTES,
    MAX_TRACE,
    MEANINGS,
    REQUEST_HEAD,
    NotSendable,
    Script,
)
from capturekit.worker import MAX_MESSAGE

MAX_WAIT_S: Final = 86_400.0
"""The longest that a child can have its job put off by RateLimited."""

_LOOK_S: Final = 0.005
"""Between two looks at whether a killed process is gone, which takes about one of them."""
_HANG_UP_S: Final = 1.0
"""How long one that closed its end may take to be gone."""
_SIGNALS: Final = {number.value: number.name for number in signal.Signals}
_CHUNK: Final = 256 * 2**10
_PAGE: Final = resource.getpagesize()
# The path is the parent's, so the child finds the same modules however the parent was started.
_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "ends = map(int, sys.argv[2:]); del sys.argv[1:]; "
    "from capturekit.executors.child_main import main; main(*ends)"
)


class ChildDied(Retryable):
    """The process that ran a function ended without an answer, or talked nonsense."""

    def __init__(self, why: str, *, exit_code: int | None, signal: str | None) -> None:
        super().__init__(f"the process that ran it {why}")
        self.exit_code = exit_code
        """None when it was a signal."""
        self.signal = signal
        """Such as ``SIGSEGV``; None when it exited."""


class ChildError(Exception):
    """What a function raised in a child process.

    Its class has the name of what was raised, and is a ``Permanent``, ``RateLimited`` and so on
    if that was one.
    """

    step: str | None = None
    """The step of a pipeline that failed."""


class ProcessExecutor:
    """Calls functions in up to ``size`` child processes, started when first needed.

    With None there are as many as functions run at once, which a worker's concurrency bounds.

    A call that is cancelled kills its process and whatever that started. The function is told by
    its name, so it belongs at the top of a module or of the script (which then needs the usual
    ``if __name__ == "__main__"``); its arguments are pickled, its answer is JSON of at most
    8 MiB. What it prints goes to the standard error of this process.

    A process is replaced when it ran ``max_jobs`` functions, when it holds more than
    ``max_memory_bytes`` after one, and when it died, which is a ``ChildDied``. It has the
    environment of this process, and ends with it, however that ends.
    """

    def __init__(
        self,
        size: int | None = None,
        *,
        max_jobs: int | None = None,
        max_memory_bytes: int | None = None,
    ) -> None:
        for name, value in (("size", size), ("max_jobs", max_jobs)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give at least 1")
        self._slots = anyio.CapacityLimiter(math.inf if size is None else size)
        self._max_jobs = max_jobs
        self._max_memory_bytes = max_memory_bytes
        # The last one used is the first one taken, so no more are started than work at a time.
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        for child in self._busy:
            # Whoever waits for it learns of it, and buries it.
            child.kill()
        while self._idle:
            await self._idle.pop().end()

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that are there now."""
        return tuple(child.pid for child in (*self._idle, *self._busy))

    async def run(
        self,
        function: Callable[..., JsonValue],
        *args: object,
        on_progress: OnProgress | None = None,
    ) -> JsonValue:
        """As ``Executor.run``; waits for a free process.

        Raises ChildDied, NotSendable, and RuntimeError outside of the executor's ``async with``.
        """
        request = _pickled(function, args)
        async with self._slots:
            said = await self._asked(request, on_progress)
        if isinstance(said, _Failure):
            raise said.error()
        return said.result

    async def _asked(self, request: bytes, on_progress: OnProgress | None) -> "_Result | _Failure":
        child = await self._taken()
        self._busy.add(child)
        is_reusable = False
        try:
            said = await child.ask(request, on_progress)
            is_reusable = self._is_open and not self._is_spent(child)
        finally:
            self._busy.discard(child)
            if is_reusable:
                self._idle.append(child)
            else:
                await child.end()
        return said

    async def _taken(self) -> "_Child":
        if not self._is_open:
            raise RuntimeError("this executor is closed: use it within its async with")
        while self._idle:
            child = self._idle.pop()
            if child.is_alive():
                return child
            await child.end()
        return _Child()

    def _is_spent(self, child: "_Child") -> bool:
        if self._max_jobs is not None and child.jobs >= self._max_jobs:
            return True
        return self._max_memory_bytes is not None and child.memory_bytes() > self._max_memory_bytes


def _pickled(function: Callable[..., object], args: tuple[object, ...]) -> bytes:
    """The request. What the script itself defines makes the child load that as well."""
    try:
        work = pickle.dumps((function, args), protocol=5)
    except Exception as error:
        raise NotSendable(f"{function!r} and its arguments do not pickle: {error}") from error
    script = _script(function) if b"__main__" in work else None
    return pickle.dumps((script, work), protocol=5)


def _script(function: Callable[..., object]) -> Script:
    main = sys.modules["__main__"]
    spec: ModuleSpec | None = getattr(main, "__spec__", None)
    if spec is not None:
        return Script(module=spec.name, path=None)
    path: str | None = getattr(main, "__file__", None)
    if path is None:
        raise NotSendable(f"no other process can import {function!r}: put it into a file")
    return Script(module=None, path=path)


class _Said(BaseModel):
    """A child's message. Anything else is not from our code."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Progress(_Said):
    progress: Annotated[float, Field(ge=0, le=1)]


class _Result(_Said):
    result: JsonValue


class _Raised(_Said):
    type: Annotated[str, Field(pattern=r"^[^\W\d]\w*$", max_length=200)]
    message: Annotated[str, Field(max_length=MAX_MESSAGE)]
    step: Annotated[str, Field(max_length=200)] | None
    meaning: str | None
    retry_after_s: float
    trace: Annotated[str, Field(max_length=MAX_TRACE)]


class _Failure(_Said):
    raised: _Raised = Field(alias="error")

    def error(self) -> ChildError:
        """The exception to raise; its notes have the traceback of the child."""
        told = self.raised
        leaf = _named(told.type, told.meaning)
        if issubclass(leaf, RateLimited):
            error: ChildError = leaf(told.message, min(max(told.retry_after_s, 0.0), MAX_WAIT_S))
        else:
            error = leaf(told.message)
        error.step = told.step
        error.add_note(f"In the child process:\n{told.trace}")
        return error


@lru_cache(maxsize=100)
def _named(name: str, meaning: str | None) -> type[ChildError]:
    base = MEANINGS.get(meaning or "")
    return type(name, (ChildError, base) if base else (ChildError,), {"__module__": __name__})


_READ: TypeAdapter[_Progress | _Result | _Failure] = TypeAdapter(_Progress | _Result | _Failure)


class _Child:
    """One process, our end of the socket it serves, and the pipe that it dies with."""

    def __init__(self) -> None:
        self.jobs = 0
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(0)
        watched, self._lifeline = os.pipe()
        try:
            self._process = _start(theirs.fileno(), watched)
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(watched)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it runs. One that does not is not buried by the question."""
        if self._process.returncode is not None:
            return False
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, look) is None
        except ChildProcessError:
            # Somebody else waits for all children of this process.
            return False

    def memory_bytes(self) -> int:
        """Resident; 0 when it is gone."""
        try:
            statm = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii")
        except OSError:
            return 0
        return int(statm.split()[1]) * _PAGE

    async def ask(self, request: bytes, on_progress: OnProgress | None) -> _Result | _Failure:
        """Have it call a function. After any exception the child is of no more use."""
        self.jobs += 1
        try:
            await self._send(REQUEST_HEAD.pack(len(request)))
            await self._send(request)
        except ConnectionError:
            raise await self._death() from None
        while isinstance(said := await self._heard(), _Progress):
            if on_progress is not None:
                await on_progress(said.progress)
        return said

    async def _heard(self) -> _Progress | _Result | _Failure:
        try:
            (size,) = ANSWER_HEAD.unpack(await self._received(ANSWER_HEAD.size))
            message = await self._received(min(size, MAX_ANSWER_BYTES))
            return _READ.validate_python(from_json(message))
        except (ConnectionError, EOFError):
            raise await self._death() from None
        except ValueError as error:
            # Or more than it may say, and so cut.
            raise ChildDied(
                "did not talk as our code does, and was killed", exit_code=None, signal="SIGKILL"
            ) from error

    async def _send(self, message: bytes) -> None:
        rest = memoryview(message)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)

    async def _received(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            try:
                part = self._socket.recv(min(size - len(received), _CHUNK))
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
                continue
            if not part:
                raise EOFError
            received += part
        return bytes(received)

    async def _death(self) -> ChildDied:
        """Why it ended. One that only hung up is killed."""
        with anyio.move_on_after(_HANG_UP_S):
            await self._dead()
        await self.end()
        code = self._process.returncode
        if code >= 0:
            return ChildDied(f"exited with code {code}", exit_code=code, signal=None)
        name = _SIGNALS.get(-code, str(-code))
        return ChildDied(f"was killed by {name}", exit_code=None, signal=name)

    async def _dead(self) -> None:
        while self.is_alive():  # noqa: ASYNC110  # the system has no event for it
            await anyio.sleep(_LOOK_S)

    def kill(self) -> None:
        """Kill it and all it started, unless it is buried already."""
        if self._process.returncode is None:
            # Its number, and so that of its group, is not given to others until then.
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it, bury it, and give back all that it held. Never cut short."""
        self.kill()
        with anyio.CancelScope(shield=True):
            await self._dead()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        self._socket.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _start(end: int, lifeline: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-u", "-c", _BOOT, json.dumps(sys.path), str(end), str(lifeline)],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=(end, lifeline),
        # Killed as a group with all it starts; and an interrupt from the keyboard is not for it.
        process_group=0,
    )
