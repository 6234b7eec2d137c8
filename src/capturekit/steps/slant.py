"""Where may bar codes lie slanted? A reader that looks along rows and columns misses those.

``slants`` is the cheap look that says whether the dear one, reading turned copies, can matter.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.frame import Pixels, Point

MAX_SLANTS = 3
"""Directions a picture is read along; labels at more angles than that are few."""

_CELL_PX = 32
_MIN_CELLS = 4
"""Cells of one direction that make it worth a look: an EAN-13 of 2 px covers a dozen."""
_MIN_CONTRAST = 8
"""Root mean square of the gradient, in grey levels a pixel."""
_MIN_COHERENCE = 0.7
"""How much of it points one way: bars have 0.8 and more, text, QR codes and grain under 0.5."""
_BIN_DEGREES = 5
_STRAIGHT_DEGREES = 6
"""Nearer to a row or column than this nothing is slanted: zxing reads it as it is."""
_AROUND_PX = 48


@dataclass(frozen=True, slots=True)
class Slant:
    """A part of the picture with edges across one slanted direction."""

    degrees: float
    """How far to turn it, counterclockwise as one sees it, for bars to stand upright."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom in pixels."""

    def turned(self, gray: Pixels) -> tuple[Pixels, NDArray[np.float64]]:
        """The part turned upright, and the 2 x 3 map from it back to the picture."""
        left, top, right, bottom = self.box
        width, height = right - left, bottom - top
        turn = cv2.getRotationMatrix2D(((left + right) / 2, (top + bottom) / 2), self.degrees, 1)
        cos, sin = abs(turn[0, 0]), abs(turn[0, 1])
        size = int(width * cos + height * sin) + 1, int(width * sin + height * cos) + 1
        turn[0, 2] += (size[0] - left - right) / 2
        turn[1, 2] += (size[1] - top - bottom) / 2
        pixels = cv2.warpAffine(
            gray, turn, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=128
        )
        back = np.asarray(cv2.invertAffineTransform(turn), np.float64)
        return np.asarray(pixels, np.uint8), back


def slants(gray: Pixels, known: Iterable[tuple[Point, ...]]) -> list[Slant]:
    """The slanted directions with most edges, outside the outlines of what is known.

    Takes two rows in sixteen: ``tests/benchmarks/bench_codes.py`` prints the cost.
    """
    angles, weights = _cells(gray)
    covered = np.zeros(weights.shape, np.uint8)
    for outline in known:
        cells = np.array(outline) / _CELL_PX - 0.5
        cv2.fillConvexPoly(covered, np.rint(cells).astype(np.int32), 1)
    weights[covered > 0] = 0
    found: list[Slant] = []
    while len(found) < MAX_SLANTS and (slant := _strongest(gray, angles, weights)):
        found.append(slant)
    return found


def _cells(gray: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each cell the direction of its edges, in degrees, and their weight: 0 if not slanted."""
    height, width = (max(1, side // _CELL_PX) for side in gray.shape)
    above = gray[:-1:16, : width * _CELL_PX].astype(np.float32)
    below = gray[1::16, : width * _CELL_PX].astype(np.float32)[: len(above)]
    sums, differences = above + below, below - above
    dx = (sums[:, 1:] - sums[:, :-1]) / 2
    dy = (differences[:, 1:] + differences[:, :-1]) / 2

    def mean(values: NDArray[Any]) -> NDArray[np.float32]:  # Any: numpy's products of float32
        small = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.float32)

    xx, yy, xy = mean(dx * dx), mean(dy * dy), mean(dx * dy)
    pointing = np.hypot(xx - yy, 2 * xy)
    angles = np.degrees(np.arctan2(2 * xy, xx - yy)) / 2
    straight = np.abs((angles + 45) % 90 - 45) < _STRAIGHT_DEGREES
    slanted = (xx + yy > _MIN_CONTRAST**2) & (pointing > _MIN_COHERENCE * (xx + yy)) & ~straight
    return angles, np.where(slanted, np.sqrt(pointing), 0).astype(np.float32)


def _strongest(
    gray: Pixels, angles: NDArray[np.float32], weights: NDArray[np.float32]
) -> Slant | None:
    """The direction with most weight, which is then taken from ``weights``."""
    turned = angles % 180
    bins = (turned // _BIN_DEGREES).astype(int)
    total = np.bincount(bins.ravel(), weights.ravel(), minlength=180 // _BIN_DEGREES)
    middle = (int(np.argmax(total + np.roll(total, 1) + np.roll(total, -1))) + 0.5) * _BIN_DEGREES
    off = (turned - middle + 90) % 180 - 90
    mine = (np.abs(off) <= 1.5 * _BIN_DEGREES) & (weights > 0)
    if np.count_nonzero(mine) < _MIN_CELLS:
        return None
    degrees = middle + float(np.average(off[mine], weights=weights[mine]))
    weights[mine] = 0
    ys, xs = np.nonzero(mine)
    height, width = gray.shape
    box = (
        max(int(xs.min()) * _CELL_PX - _AROUND_PX, 0),
        max(int(ys.min()) * _CELL_PX - _AROUND_PX, 0),
        min((int(xs.max()) + 1) * _CELL_PX + _AROUND_PX, width),
        min((int(ys.max()) + 1) * _CELL_PX + _AROUND_PX, height),
    )
    return Slant(degrees, box)
