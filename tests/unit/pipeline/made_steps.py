"""Steps for tests about pipelines, at the top of a module so that processes can find them."""

import os
import time
from dataclasses import dataclass
from typing import ClassVar

from capturekit.errors import Permanent
from capturekit.frame import Frame, Observation, Outline
from capturekit.pipeline import Chainable


@dataclass(frozen=True, slots=True)
class Size:
    """What ``MeasureSize`` finds."""

    json_key: ClassVar[str] = "size"

    width: int
    kinds: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {"width": self.width, "kinds": list(self.kinds), "is_wide": self.width > 100}

    def outlines(self) -> tuple[Outline, ...]:
        square = ((10.0, 10.0), (60.0, 10.0), (60.0, 60.0), (10.0, 60.0))
        return (Outline(square, "<size> & co", "size"),)


@dataclass(frozen=True, slots=True)
class Doubled:
    """What ``DoubleSize`` finds."""

    width: int


@dataclass(frozen=True, slots=True)
class MeasureSize(Chainable):
    name: ClassVar[str] = "size"
    version: ClassVar[int] = 3
    needs: ClassVar[tuple[str, ...]] = ("gray_half",)
    gives: ClassVar[tuple[type, ...]] = (Size,)
    typical_ms: ClassVar[float] = 1.5

    kinds: tuple[str, ...] = ("a",)
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 0:
            raise ValueError(f"factor is {self.factor}; it must not be negative")

    def __call__(self, frame: Frame) -> Frame:
        half = frame.gray_half
        frame.show("half", half)
        seen = Observation(analyser=self.name, item="thing", confidence=1, box=((1, 1), (5, 5)))
        return frame.having(Size(half.shape[1] * 2, self.kinds)).observing(seen)


@dataclass(frozen=True, slots=True)
class DoubleSize(Chainable):
    name: ClassVar[str] = "double"
    needs: ClassVar[tuple[type, ...]] = (Size,)
    gives: ClassVar[tuple[type, ...]] = (Doubled,)

    def __call__(self, frame: Frame) -> Frame:
        return frame.having(Doubled(frame.find(Size).width * 2))


def read_colour(frame: Frame) -> Frame:
    return frame.having(float(frame.bgr.mean()))


def fail(frame: Frame) -> Frame:
    raise ZeroDivisionError(f"no step for {frame.width} px")


def give_up(frame: Frame) -> Frame:
    raise Permanent(f"never for {frame.width} px")


def kill_its_process_when_small(frame: Frame) -> Frame:
    if frame.width < 100:
        os._exit(3)
    return frame.having(os.getpid())


def is_wide(frame: Frame) -> bool:
    return frame.width > 100


def is_narrow(frame: Frame) -> bool:
    return not is_wide(frame)


def burn(frame: Frame) -> Frame:
    """A tenth of a second of a thread's time."""
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass
    return frame.having("burned")


class Private:
    """A finding that does not pickle."""

    def __init__(self) -> None:
        self.made_in = lambda: None


def find_private(frame: Frame) -> Frame:
    return frame.having(Private())


@dataclass(frozen=True, slots=True)
class Odd:
    """A finding whose ``as_json`` gives no JSON."""

    json_key: str
    value: object

    def as_json(self) -> object:
        return self.value


@dataclass(frozen=True)
class FindOdd(Chainable):
    key: str = "odd"

    def __call__(self, frame: Frame) -> Frame:
        return frame.having(Odd(self.key, {frame.width} if self.key == "odd" else 1))


@dataclass(frozen=True)
class CannotBeSent(Chainable):
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("no number",)

    def __call__(self, frame: Frame) -> Frame:
        return frame
