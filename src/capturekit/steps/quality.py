"""Is the picture worth looking at? Light, detail and focus, a verdict, and what to do about it.

A verdict other than good makes a run blind: what it did not see may still be there. So each
verdict has its limit where the pictures of ``tests/benchmarks/bench_quality.py`` stop being of
use, which prints a line for each kind of fault, with the share of bar codes still read.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from capturekit.frame import Frame
from capturekit.picture import Pixels
from capturekit.pipeline import Chainable

LONG_SIDE: Final = 640
"""Pixels to which pictures are scaled first, so that cameras compare."""
FOCUS_FROM: Final = 0.6
"""See ``Quality.focus``. On 1600 px a blur of 3 px is below it, or a motion of 10 px while the
shutter was open, whatever the light and the noise. Of codes with modules of 2 to 4 px half are
lost at 10 px of motion, and most at a blur of 2 px and 0.65; but sharp pictures of smooth things
come down to 0.63."""
DARK_BELOW: Final = 25.0
"""Mean luma, 0 to 255. Of the codes 8 in 10 are read at 27, half at 18, and none at 9."""
BRIGHT_ABOVE: Final = 225.0
"""Mean luma. From here on the white of the paper spreads over the picture; codes outlast it."""
EDGE_FROM: Final = 16
"""Grey levels within 9 px of 640. Paper that differs by less from its print is not read.
Sensor noise of 30 levels on 1600 px stays below; of 40, no longer."""
LEAST_EDGES: Final = 0.003
"""Share of the picture near edges. A label 25 px wide on a bare wall, of 640, has more."""
COVERED_FROM: Final = 0.6
"""Share of the picture. A finger over half a lens still leaves a picture of the other half."""
DIM_BELOW: Final = 60.0
"""Mean luma. A bare wall in room light is above; what lies on a lens shades itself."""
BLACK_BELOW: Final = 24
"""Luma of what lies on the lens and lets no light through."""
RED_FROM: Final = 1.8
"""Red by green and red by blue, of light that came through a finger: 2.4 and more. Wood and
cardboard stay under 1.6."""


class Verdict(StrEnum):
    """The one word; the first that fits, in this order."""

    TOO_DARK = "too_dark"
    """Also a lens covered so well that no light comes in: no picture can tell."""
    LENS_COVERED = "lens_covered"
    TOO_BRIGHT = "too_bright"
    BLANK = "blank"
    """Nothing with an edge: a bare wall, or thick fog on the lens."""
    BLURRED = "blurred"
    GOOD = "good"


class Advice(StrEnum):
    """What a device, or whoever is near it, can do."""

    ADD_LIGHT = "add_light"
    """Or expose longer."""
    UNCOVER_LENS = "clean_or_uncover_lens"
    REDUCE_LIGHT = "reduce_light"
    """Or expose shorter."""
    RETAKE = "retake"
    """Hold still, focus, and take it again; when that does not help, clean the lens."""
    NONE = "none"


_ADVICE: Final = {
    Verdict.TOO_DARK: Advice.ADD_LIGHT,
    Verdict.LENS_COVERED: Advice.UNCOVER_LENS,
    Verdict.TOO_BRIGHT: Advice.REDUCE_LIGHT,
    Verdict.BLANK: Advice.UNCOVER_LENS,
    Verdict.BLURRED: Advice.RETAKE,
    Verdict.GOOD: Advice.NONE,
}


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured, on luma scaled to 640 px."""

    json_key: ClassVar[str] = "quality"

    sharpness: float
    """Squared grey levels; see ``sharpness``. Falls with light and contrast, too."""
    focus: float
    """How steep edges are, 0 to 1: the largest step over 3 px by that over 9 px, where there
    are edges; across or down, whichever is worse. Not moved by light, contrast or noise; 0.7 when
    sharp, 0 without edges."""
    edges: float
    """Share of the picture near edges, 0 to 1."""
    brightness: float
    """Mean luma, 0 to 255."""
    contrast: float
    """Standard deviation of luma."""
    clipped: float
    """Share of pixels at 0-2 or 253-255, 0 to 1."""
    covered: float
    """Share of the picture that looks like something on the lens, 0 to 1."""
    verdict: Verdict

    @property
    def advice(self) -> Advice:
        """What helps against the verdict."""
        return _ADVICE[self.verdict]

    def as_json(self) -> JsonValue:
        """The object under ``quality``."""
        return {
            "sharpness": round(self.sharpness, 2),
            "focus": round(self.focus, 3),
            "edges": round(self.edges, 4),
            "brightness": round(self.brightness, 2),
            "contrast": round(self.contrast, 2),
            "clipped": round(self.clipped, 4),
            "covered": round(self.covered, 3),
            "verdict": self.verdict.value,
            "advice": self.advice.value,
        }


@dataclass(frozen=True, slots=True)
class JudgeQuality(Chainable):
    """Finds ``Quality``. The verdict changes nothing: a poor picture is still read."""

    name: ClassVar[str] = "quality"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str | type, ...]] = (f"gray_{LONG_SIDE}",)
    wants: ClassVar[tuple[str | type, ...]] = ("bgr",)
    gives: ClassVar[tuple[type, ...]] = (Quality,)

    focus_from: float = FOCUS_FROM
    dark_below: float = DARK_BELOW
    bright_above: float = BRIGHT_ABOVE
    covered_from: float = COVERED_FROM

    def __call__(self, frame: Frame) -> Frame:
        """Costs about 1 ms from 1600 x 1200. Looks at colour only where most of it is smooth."""
        luma = frame.gray_within(LONG_SIDE)
        mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(luma))
        is_edge, focus = _edges(luma)
        edges = _share(is_edge)
        covered = _covered_share(frame, luma, is_edge, self.covered_from)
        quality = Quality(
            sharpness=sharpness(frame),
            focus=focus,
            edges=edges,
            brightness=mean,
            contrast=deviation,
            clipped=_clipped_share(luma),
            covered=covered,
            verdict=self._verdict(mean, focus, covered),
        )
        return frame.having(quality)

    def _verdict(self, brightness: float, focus: float, covered: float) -> Verdict:
        if brightness < self.dark_below:
            return Verdict.TOO_DARK
        if covered >= self.covered_from or (not focus and brightness < DIM_BELOW):
            return Verdict.LENS_COVERED
        if brightness > self.bright_above:
            return Verdict.TOO_BRIGHT
        if not focus:
            return Verdict.BLANK
        return Verdict.GOOD if focus >= self.focus_from else Verdict.BLURRED


def sharpness(frame: Frame) -> float:
    """How sharp the picture is, in squared grey levels; under about 100 looks blurred.

    Variance of the Laplacian of luma (Pech-Pacheco et al., ICPR 2000), after scaling
    the long side to 640 px so that cameras compare. Noise raises it, and darkness lowers it:
    the verdict goes by ``Quality.focus``.
    """
    edges = cv2.Laplacian(frame.gray_within(LONG_SIDE), cv2.CV_16S)
    # Their mean is 0, so the variance is the mean square, which costs a twentieth.
    return float(cv2.norm(edges, cv2.NORM_L2SQR)) / edges.size


def _edges(luma: Pixels) -> tuple[NDArray[np.bool_], float]:
    """Where there are edges, at every fourth pixel each way, and the worse of the two focuses."""
    smooth = cv2.blur(luma, (3, 3))
    # Motion blurs one way only. Lines do not mix, so every fourth is enough.
    across, focus_across = _edges_along(np.ascontiguousarray(smooth[::4]))
    columns = cv2.transpose(np.ascontiguousarray(smooth[:, ::4]))
    down, focus_down = _edges_along(np.asarray(columns, np.uint8))
    focuses = [focus for focus in (focus_across, focus_down) if focus]
    return across | down.T, min(focuses, default=0.0)


def _edges_along(lines: Pixels) -> tuple[NDArray[np.bool_], float]:
    """Where there are edges at every fourth pixel of the rows; their focus, 0 if they are few."""
    narrow = cv2.dilate(cv2.morphologyEx(lines, cv2.MORPH_GRADIENT, _ROW_3), _ROW_7)
    wide = cv2.morphologyEx(lines, cv2.MORPH_GRADIENT, _ROW_9)
    near, far = (np.ascontiguousarray(steps[:, ::4], np.uint8) for steps in (narrow, wide))
    is_edge = np.asarray(far >= EDGE_FROM)
    count = np.count_nonzero(is_edge)
    if count < LEAST_EDGES * is_edge.size:
        return is_edge, 0.0
    # The stronger ones only: shading has no focus, and a step of it is low.
    is_strong = far >= _sum(far, is_edge) / count
    return is_edge, _sum(near, is_strong) / _sum(far, is_strong)


_ROW_3, _ROW_7, _ROW_9 = (np.ones((1, length), np.uint8) for length in (3, 7, 9))


def _sum(levels: Pixels, where: NDArray[np.bool_]) -> float:
    # A tenth of the time of cv2.mean with a mask.
    return cv2.norm(levels, cv2.NORM_L1, where.view(np.uint8))


def _covered_share(
    frame: Frame, luma: Pixels, is_edge: NDArray[np.bool_], covered_from: float
) -> float:
    """Share without edges, as far as it is black or glows red."""
    parts = cv2.resize(is_edge.astype(np.float32), (20, 15), interpolation=cv2.INTER_AREA)
    smooth = _share(np.asarray(parts < 0.25))
    if smooth < covered_from:
        return 0.0
    black = _share(luma[::8, ::8] < BLACK_BELOW)
    blue, green, red = frame.bgr[::16, ::16].astype(np.float32).transpose(2, 0, 1)
    glow = (red > RED_FROM * green) & (red > RED_FROM * blue) & (red >= BLACK_BELOW)
    return min(smooth, max(black, _share(glow)))


def _share(where: NDArray[np.bool_]) -> float:
    return np.count_nonzero(where) / where.size


def _clipped_share(luma: Pixels) -> float:
    inside = cv2.countNonZero(cv2.inRange(luma, np.array(3), np.array(252)))
    return 1 - inside / luma.size
