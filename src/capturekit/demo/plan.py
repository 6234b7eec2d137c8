"""What each camera will do and when: a plain list, made before the run from the seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final

FASTEST_INTERVAL_S: Final = 0.8
INTERVAL_A_CAMERA_S: Final = 0.2
"""A fleet stays under five pictures a second, which two cores render and process in time."""


class Mishap(Enum):
    """What befalls a picture on its way, as it does in the field."""

    NONE = "none"
    TWICE = "twice"
    """Sent again, because the camera never heard the answer."""
    LATE = "late"
    """Sent after the next picture."""
    TRUNCATED = "truncated"
    """A copy cut in the middle follows, with a later time."""
    NOT_AN_IMAGE = "not_an_image"
    """Something that is no picture follows, with a later time."""


_DECK: Final = (
    *(Mishap.NONE, Mishap.NONE, Mishap.TWICE),
    *(Mishap.LATE, Mishap.TRUNCATED, Mishap.NOT_AN_IMAGE),
)
"""Dealt shuffled and without return, so that a short run has mishaps too."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture to take, in seconds after the start."""

    at_s: float
    mishap: Mishap


def plan(random: Random, seconds: float, cameras: int) -> tuple[Shot, ...]:
    """The shots of one of ``cameras`` cameras in a run of so many seconds; never none.

    The first and the last have no mishap, so every shelf has a beginning and a settled end.
    """
    interval_s = max(FASTEST_INTERVAL_S, INTERVAL_A_CAMERA_S * cameras)
    times = [random.uniform(0, interval_s / 2)]
    while times[-1] < seconds:
        times.append(times[-1] + interval_s * random.uniform(0.6, 1.4))
    taken = times[:-1] or [0.0]
    mishaps = [mishap for mishap, _ in zip(_deal(random), taken, strict=False)]
    mishaps[0] = mishaps[-1] = Mishap.NONE
    return tuple(map(Shot, taken, mishaps))


def _deal(random: Random) -> Iterator[Mishap]:
    while True:
        yield from random.sample(_DECK, len(_DECK))
