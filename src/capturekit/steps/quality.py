"""Is the picture worth looking at? Sharpness, light and contrast, and a verdict in one word."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import cv2
import numpy as np
from pydantic import JsonValue

from capturekit.frame import Frame
from capturekit.picture import Pixels
from capturekit.pipeline import Chainable

LONG_SIDE = 640
"""Pixels to which pictures are scaled first, so that cameras compare."""
SHARP_FROM = 100.0
"""Squared grey levels; the customary limit for this measure (Pech-Pacheco et al., ICPR 2000).
A made shelf of 1600 px (``tests/pictures.py``) falls below it at a blur of 2.7 px; bar codes
with modules of 2 px are lost earlier, near 1,000."""
DARK_BELOW = 25.0
"""Mean luma, 0 to 255. On the same shelf codes are lost between 26 and 17."""
BRIGHT_ABOVE = 225.0
"""Mean luma. On the same shelf from here on the white of the paper spreads over the picture;
codes outlast it."""
BLANK_BELOW = 6.0
"""Standard deviation of luma. A bare wall with sensor noise of 16 grey levels has 3.5."""


class Verdict(StrEnum):
    """The one word; the first that fits, in this order."""

    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    BLANK = "blank"
    BLURRED = "blurred"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured, on luma scaled to 640 px."""

    json_key: ClassVar[str] = "quality"

    sharpness: float
    """Squared grey levels; see ``sharpness``."""
    brightness: float
    """Mean luma, 0 to 255."""
    contrast: float
    """Standard deviation of luma."""
    clipped: float
    """Share of pixels at 0-2 or 253-255, 0 to 1."""
    verdict: Verdict

    def as_json(self) -> JsonValue:
        """The object under ``quality``."""
        return {
            "sharpness": round(self.sharpness, 2),
            "brightness": round(self.brightness, 2),
            "contrast": round(self.contrast, 2),
            "clipped": round(self.clipped, 4),
            "verdict": self.verdict.value,
        }


@dataclass(frozen=True, slots=True)
class JudgeQuality(Chainable):
    """Finds ``Quality``. The verdict changes nothing: a poor picture is still read."""

    name: ClassVar[str] = "quality"
    version: ClassVar[int] = 1

    sharp_from: float = SHARP_FROM
    dark_below: float = DARK_BELOW
    bright_above: float = BRIGHT_ABOVE
    blank_below: float = BLANK_BELOW

    def __call__(self, frame: Frame) -> Frame:
        """Costs about 1 ms from 1600 x 1200."""
        luma = frame.gray_within(LONG_SIDE)
        mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(luma))
        sharp = sharpness(frame)
        verdict = self._verdict(sharp, mean, deviation)
        return frame.having(Quality(sharp, mean, deviation, _clipped_share(luma), verdict))

    def _verdict(self, sharp: float, brightness: float, contrast: float) -> Verdict:
        if brightness < self.dark_below:
            return Verdict.TOO_DARK
        if brightness > self.bright_above:
            return Verdict.TOO_BRIGHT
        if contrast < self.blank_below:
            return Verdict.BLANK
        return Verdict.GOOD if sharp >= self.sharp_from else Verdict.BLURRED


def sharpness(frame: Frame) -> float:
    """How sharp the picture is, in squared grey levels; under about 100 looks blurred.

    Variance of the Laplacian of luma (Pech-Pacheco et al., ICPR 2000), after scaling
    the long side to 640 px so that cameras compare. Noise raises it: denoise first.
    """
    edges = cv2.Laplacian(frame.gray_within(LONG_SIDE), cv2.CV_16S)
    return float(cv2.meanStdDev(edges)[1][0, 0]) ** 2


def _clipped_share(luma: Pixels) -> float:
    inside = cv2.countNonZero(cv2.inRange(luma, np.array(3), np.array(252)))
    return 1 - inside / luma.size
