"""Decoding in a child process that is killed when a picture asks too much of it.

For pictures from strangers: what breaks a decoder breaks a process that holds nothing. A child
has limits on CPU, memory and time, answers in JSON (never pickle), and hands pixels over in
shared memory. Linux only. Its cost is in ``docs/explanation/safe-decoding.md``.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from queue import Empty, LifoQueue
from typing import Final, Self, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter

from capturekit.errors import (
    ConfigError,
    DamagedImage,
    ImageError,
    NotAnImage,
    TooComplex,
    TooManyBytes,
    TooManyPixels,
    UnsupportedFormat,
)
from capturekit.picture import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_PIXELS,
    OnDamage,
    Picture,
    PictureInfo,
    Pixels,
    check_on_damage,
)
from capturekit.picture.child_main import MESSAGE_BYTES, READY, write_all

MAX_CPU_S: Final = 2.0
"""CPU time for one picture, in the child. A 5 Mpx JPEG takes 0.05 s, 25 Mpx up to 0.8 s."""
MAX_MEMORY_BYTES: Final = 512 * 2**20
"""For all of a child: interpreter and libraries, pixels, and what decoders need besides."""
MAX_WALL_S: Final = 30.0
"""Ends a decoder that waits for something. Long: a busy machine is not the picture's fault."""

_START_S: Final = 60.0
"""A child starts in 0.4 s; a machine under load takes many times as long."""
_LEAST_MEMORY_BYTES: Final = 128 * 2**20
"""Interpreter and libraries alone take about 80 MiB."""
_KEPT_BYTES: Final = 32 * 2**20
"""Shared memory that stays with a child for its next picture; a 10 Mpx one in colour."""
_ATTEMPTS: Final = 2
"""Children a picture is given to, when somebody else kills them."""
_DIED: Final = "the decoder died of the picture"
_LIMIT_SIGNALS = {signal.SIGPROF, signal.SIGXCPU, signal.SIGALRM, signal.SIGXFSZ}
_CRASH_SIGNALS = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP,
    signal.SIGSYS,
}  # fmt: skip
# The path is the parent's, so the child finds the same modules however the parent was started;
# the environment is not, as it may hold secrets.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from capturekit.picture.child_main import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:]))"
)
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_LEAN = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Memory for a picture stays with the child for the next one: its pages cost 2 ms at 5 Mpx.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(48 * 2**20),
}


def decode_in_child(
    data: bytes,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_damage: OnDamage = "refuse",
    colour: bool = True,
) -> Picture:
    """As ``DecodingChildren.decode``, with children shared by this whole process.

    They start when first asked for, and end with this process.
    """
    return _shared().decode(
        data, max_bytes=max_bytes, max_pixels=max_pixels, on_damage=on_damage, colour=colour
    )


def verify_in_child(
    data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES, max_pixels: int = DEFAULT_MAX_PIXELS
) -> PictureInfo:
    """As ``DecodingChildren.verify``, with children shared by this whole process."""
    return _shared().verify(data, max_bytes=max_bytes, max_pixels=max_pixels)


class DecodingChildren:
    """A few child processes that decode, one picture each at a time, for any thread.

    They start when needed, and one that died is replaced. Use it as a context manager, or
    close it. After a fork the new process gets children of its own.
    """

    def __init__(
        self,
        size: int | None = None,
        *,
        cpu_s: float = MAX_CPU_S,
        memory_bytes: int = MAX_MEMORY_BYTES,
        wall_s: float = MAX_WALL_S,
    ) -> None:
        """At most ``size`` children, one a CPU when None, with these limits for each."""
        if size is not None and size < 1:
            raise ValueError(f"size is {size}; at least one child is needed")
        self._size = size or len(os.sched_getaffinity(0))
        self._limits = _Limits(cpu_s, wall_s, memory_bytes)
        self._begin()
        _ALL.add(self)

    def decode(
        self,
        data: bytes,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        on_damage: OnDamage = "refuse",
        colour: bool = True,
    ) -> Picture:
        """As ``capturekit.picture.decode``; waits for a free child.

        Raises TooComplex when a limit was hit, DamagedImage when the decoder died of the
        picture, ConfigError when no child can be started, RuntimeError after ``close``.
        """
        check_on_damage(on_damage)
        request = Request("decode", max_bytes, max_pixels, on_damage, colour)
        info, pixels, has_colour = self._ask(request, data)
        if pixels is None:
            raise DamagedImage(_DIED)

        def read_colour() -> Pixels:
            again = self.decode(
                data, max_bytes=max_bytes, max_pixels=max_pixels, on_damage=on_damage
            )
            return again.pixels

        return Picture(info, pixels, read_colour if has_colour else None)

    def verify(
        self,
        data: bytes,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> PictureInfo:
        """As ``capturekit.picture.verify``; raises what ``decode`` raises."""
        return self._ask(Request("verify", max_bytes, max_pixels), data)[0]

    def close(self) -> None:
        """Kill the children; a call that is under way is a RuntimeError as well."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        self._running: set[_Child | None] = set()
        # The last one used is the first one taken, so no more start than work at a time.
        self._slots: LifoQueue[_Child | None] = LifoQueue()
        for _ in range(self._size):
            self._slots.put(None)
        self._end = weakref.finalize(self, _end_all, self._running, self._slots)

    def _ask(self, request: "Request", data: bytes) -> "_Answer":
        if len(data) > request.max_bytes:
            raise TooManyBytes(request.max_bytes)
        child = self._slots.get()
        try:
            for _ in range(_ATTEMPTS):
                with suppress(_KilledByOthersError):
                    if child is not None and not child.is_alive():
                        self._running.discard(child)
                        child.kill()
                        child = None
                    child = child or self._started()
                    return child.ask(request, data)
            raise TooComplex(f"the decoder was killed {_ATTEMPTS} times, likely for its memory")
        finally:
            self._slots.put(child)

    def _started(self) -> "_Child":
        if not self._end.alive:
            raise RuntimeError("these decoding children were closed")
        child = _Child(self._limits)
        self._running.add(child)
        return child

    def forget(self) -> None:
        """In a forked process, where this is called by itself: the children are not its own."""
        self._end.detach()
        for child in self._running:
            if child is not None:
                child.forget()
        self._begin()


@dataclass(frozen=True, slots=True)
class _Limits:
    cpu_s: float
    wall_s: float
    memory_bytes: int

    def __post_init__(self) -> None:
        if self.cpu_s <= 0 or self.wall_s <= 0:
            raise ValueError("cpu_s and wall_s are more than 0 seconds")
        if self.memory_bytes < _LEAST_MEMORY_BYTES:
            raise ValueError(f"memory_bytes is at least {_LEAST_MEMORY_BYTES:,}")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a child for one picture."""

    want: str
    max_bytes: int
    max_pixels: int
    on_damage: OnDamage = "refuse"
    colour: bool = True


class _Decoded(BaseModel):
    """A child's answer when the picture is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    info: PictureInfo
    channels: int = 0
    """Of the pixels beside the answer; 0 when there are none."""
    has_colour: bool = False


class _Refused(BaseModel):
    """A child's answer when the picture is not taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    reason: str
    text: str
    size: tuple[int, int, int] | None = None
    """Width, height and the most pixels, of a TooManyPixels."""

    def error(self) -> ImageError:
        if self.size is not None:
            return TooManyPixels(*self.size)
        return _LEAVES.get(self.reason, DamagedImage)(self.text)


_READ_ANSWER: TypeAdapter[_Decoded | _Refused] = TypeAdapter(_Decoded | _Refused)
_Answer: TypeAlias = tuple[PictureInfo, Pixels | None, bool]
"""What the picture is, its pixels if asked for, and whether it has colour besides."""
_LEAVES: dict[str, type[ImageError]] = {
    leaf.reason: leaf for leaf in (NotAnImage, UnsupportedFormat, TooComplex, DamagedImage)
}


class _KilledByOthersError(Exception):
    """The child died, and not of the picture as far as one can tell."""


class _Child:
    """One process, and our end of the socket that it serves."""

    def __init__(self, limits: _Limits) -> None:
        self._limits = limits
        # Messages keep their bounds on this kind of socket, and its end is seen at once.
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Read, never mapped: cutting a mapped file ends its reader.
        self._pixels = os.memfd_create("pixels", os.MFD_CLOEXEC)
        with theirs:
            self._process = _start(theirs.fileno(), self._pixels, limits)
        self._socket.settimeout(_START_S)
        self._await_start()
        self._socket.settimeout(limits.wall_s)

    def _await_start(self) -> None:
        with suppress(TimeoutError):
            if self._received() == READY:
                return
        self.kill()
        if self._process.returncode != 1:
            raise _KilledByOthersError
        raise ConfigError(
            "the process that decodes pictures does not start; it said why on standard error"
        )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Request, data: bytes) -> _Answer:
        """Have this picture decoded; raises an ImageError or _KilledByOthersError."""
        try:
            message = self._exchanged(request, data)
        except BaseException:
            # A late answer would be taken for the next picture's.
            self.kill()
            raise
        if not message:
            self.kill()
            raise self._cause_of_death()
        try:
            return understood(message, self._pixels, request)
        except ValueError as error:
            # It does not talk as our code does: something took it over.
            self.kill()
            raise DamagedImage(_DIED) from error

    def end(self) -> None:
        """End the process; whoever waits for its answer learns of it."""
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        self._close()
        self.end()

    def _close(self) -> None:
        self._socket.close()
        if self._pixels >= 0:
            os.close(self._pixels)
            self._pixels = -1

    def forget(self) -> None:
        """Let go without ending it: another process's child."""
        self._close()
        self._process.returncode = 0

    def _exchanged(self, request: Request, data: bytes) -> bytes:
        file = os.memfd_create("picture", os.MFD_CLOEXEC)
        try:
            write_all(file, memoryview(data))
            socket.send_fds(self._socket, [json.dumps(asdict(request)).encode()], [file])
        except (BrokenPipeError, ConnectionResetError):
            return b""
        finally:
            os.close(file)
        try:
            return self._received()
        except TimeoutError as error:
            raise TooComplex(
                f"the picture was not decoded within {self._limits.wall_s:g} s"
            ) from error

    def _received(self) -> bytes:
        try:
            return self._socket.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            return b""

    def _cause_of_death(self) -> Exception:
        number = -self._process.wait()
        if number in _LIMIT_SIGNALS:
            return TooComplex(f"the picture takes more than {self._limits.cpu_s:g} s of CPU")
        if number in _CRASH_SIGNALS:
            return DamagedImage(f"{_DIED}: {signal.Signals(number).name}")
        return _KilledByOthersError()


def _start(end: int, pixels: int, limits: _Limits) -> subprocess.Popen[bytes]:
    numbers = (
        str(end),
        str(pixels),
        str(limits.cpu_s),
        str(limits.wall_s),
        str(limits.memory_bytes),
    )
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path), *numbers],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(end, pixels),
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _LEAN,
        # An interrupt from the keyboard is for the parent.
        process_group=0,
    )


def understood(message: bytes, pixels: int, request: Request) -> _Answer:
    """What the child says, checked; ValueError for anything that our code would not say.

    ``pixels`` is the file where it leaves them.
    """
    said = _READ_ANSWER.validate_json(message)
    if isinstance(said, _Refused):
        raise said.error()
    info = said.info
    if info.width * info.height > request.max_pixels or said.channels not in (0, 1, 3):
        raise ValueError("more pixels than were allowed")
    if said.channels == 0:
        return info, None, False
    shape = (info.height, info.width, 3)[: 2 if said.channels == 1 else 3]
    return info, _read(pixels, shape), said.has_colour


def _read(file: int, shape: tuple[int, ...]) -> Pixels:
    pixels = np.empty(shape, np.uint8)
    if os.preadv(file, [pixels.data], 0) != pixels.nbytes:
        raise ValueError("fewer pixels than were told")
    if pixels.nbytes > _KEPT_BYTES:
        os.truncate(file, 0)
    return pixels


def _end_all(running: set[_Child | None], slots: "LifoQueue[_Child | None]") -> None:
    for child in tuple(running):
        if child is not None:
            child.end()
    with suppress(Empty):
        while True:
            idle = slots.get_nowait()
            if idle is not None:
                idle.kill()


_ALL: "weakref.WeakSet[DecodingChildren]" = weakref.WeakSet()


def _forget_all() -> None:
    for children in tuple(_ALL):
        children.forget()


os.register_at_fork(after_in_child=_forget_all)


@cache
def _shared() -> DecodingChildren:
    return DecodingChildren()
