"""Where in a picture may codes be? A cheap look, so that the dear reading is done only there.

Bars have edges across one direction, matrix codes edges across all. Both are dense, and that
alone is asked of each cell of the picture: print and patterns pass, plain ground does not.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.frame import Point
from capturekit.picture import Pixels

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; the last two are outside."""
Corners: TypeAlias = tuple[Point, Point, Point, Point]
Mask: TypeAlias = NDArray[np.uint8]
"""(rows, columns) of cells, 1 where the answer is yes."""
Floats: TypeAlias = NDArray[np.float32]

# `python tests/benchmarks/bench_codes.py --regions` prints what other values lose and cost.
LEAST_EDGES: Final = 12.0
"""Mean squared gradient of a cell with something in it, in squared grey levels a pixel."""
ABOVE_NOISE: Final = 3.0
"""Times the gradient of the plainest twentieth of the cells."""
OF_STRONGEST: Final = 0.02
"""A cell this near to the strongest counts in any case: a full shelf has no plain cells."""
BARS_FROM: Final = 0.4
"""Share of the gradient that points one way, from which a cell may be bars."""
PATTERN_UP_TO: Final = 0.75
"""The same share, up to which it may be part of a matrix code; large modules look like bars."""
SLANTED_FROM: Final = 12
"""Degrees off a row or column; zxing reads most bars that are nearer."""
MOST_PARTS: Final = 12
"""More boxes than this are read as one: each costs a call."""


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """What a picture looks like, cell by cell."""

    shape: tuple[int, int]
    """Height and width of the picture."""
    cell_px: int
    upright: Mask
    """Bars that stand; reading goes along rows."""
    lying: Mask
    """Bars that lie on their side."""
    pattern: Mask
    """Edges in all directions."""
    _pointing: tuple[Floats, Floats]
    """How much more gradient there is along rows than along columns, and twice their product."""

    @property
    def busy(self) -> Mask:
        """Cells with anything in them."""
        return np.asarray(self.upright | self.lying | self.pattern, np.uint8)

    @property
    def degrees(self) -> Floats:
        """The direction across the edges of each cell, 0 to 180; 0 is along a row, 90 down."""
        doubled = cv2.phase(*self._pointing, angleInDegrees=True)
        return np.asarray(doubled / 2, np.float32)

    @property
    def slanted(self) -> Mask:
        """Bars too far from rows and columns to be read as they are."""
        off = np.abs((self.degrees + 45) % 90 - 45)
        return np.asarray((self.upright | self.lying) & (off >= SLANTED_FROM), np.uint8)

    def uncovered(self, mask: Mask, outlines: Iterable[Corners], rim: int = 1) -> Mask:
        """The mask without the cells of what has been read, and ``rim`` cells around it."""
        covered = np.zeros_like(mask)
        corners = np.array([*outlines], np.float64).reshape(-1, 4, 2)
        middles = corners.mean(axis=1, keepdims=True)
        cells = (middles + 1.1 * (corners - middles)) / self.cell_px - 0.5
        for outline in np.rint(cells).astype(np.int32):
            cv2.fillConvexPoly(covered, outline, 1)
        covered = np.asarray(cv2.dilate(covered, _THREE, iterations=rim), np.uint8)
        return np.asarray(mask & (covered == 0), np.uint8)

    def bounds(self, mask: Mask) -> list[Box]:
        """The one box around all cells of the mask; none when it is empty."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return []
        return [self._box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)]

    def parts(self, mask: Mask) -> list[Box]:
        """Boxes around what hangs together; the bounds where that is hardly more to read."""
        near = cv2.dilate(mask, _THREE)
        found = cv2.connectedComponentsWithStats(near, connectivity=8)[2][1:].tolist()
        boxes = [self._box(x, y, x + w, y + h) for x, y, w, h, _ in found if min(w, h) >= 4]
        bounds = self.bounds(mask)
        if len(boxes) > MOST_PARTS or sum(map(area, boxes)) > 0.6 * sum(map(area, bounds)):
            return bounds
        return boxes

    def picture(self) -> Pixels:
        """The three masks as grey levels, a pixel a cell, for a trace."""
        return np.asarray(255 * self.upright // 3 + 255 * self.lying // 3 + 85 * self.pattern)

    def _box(self, left: int, top: int, right: int, bottom: int) -> Box:
        """In pixels, with room for quiet zones."""
        height, width = self.shape
        cell = self.cell_px
        return (
            max(0, (left - 3) * cell),
            max(0, (top - 3) * cell),
            min(width, (right + 3) * cell),
            min(height, (bottom + 3) * cell),
        )


def area(box: Box) -> int:
    """Pixels in the box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def opened(mask: Mask, side: int) -> Mask:
    """The mask without what is narrower than ``side`` cells, such as lines of small print."""
    square = np.ones((side, side), np.uint8)
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, square), np.uint8)


def look(gray: Pixels, half: Pixels | None = None) -> Regions:
    """Where codes may be. ``half`` is the same at half its size, and does at half the cost.

    Costs 0.4 ms at 1600 x 1200 with ``half``: it takes half of its rows.
    """
    height, width = gray.shape
    cell = 16 if max(height, width) < 2000 else 24
    if min(height, width) < 2 * cell:
        return _everywhere((height, width), max(1, min(height, width) // 2))
    xx, yy, xy = _tensor(gray, cell) if half is None else _tensor(half, cell // 2)
    edges = xx + yy
    sample = edges[::2, ::2].ravel()
    noise = float(np.partition(sample, sample.size // 20)[sample.size // 20])
    least = max(LEAST_EDGES, min(ABOVE_NOISE * noise, OF_STRONGEST * float(edges.max())))
    pointing = (xx - yy, 2 * xy)
    share = cv2.magnitude(*pointing) / np.maximum(edges - 0.9 * noise, 1)
    busy = edges > least
    bars = busy & (share > BARS_FROM)
    return Regions(
        shape=(height, width),
        cell_px=cell,
        upright=opened((bars & (xx >= yy)).astype(np.uint8), 2),
        lying=opened((bars & (xx < yy)).astype(np.uint8), 2),
        pattern=(busy & (share < PATTERN_UP_TO)).astype(np.uint8),
        _pointing=pointing,
    )


def _everywhere(shape: tuple[int, int], cell: int) -> Regions:
    yes = np.ones((-(-shape[0] // cell), -(-shape[1] // cell)), np.uint8)
    nowhere = np.zeros(yes.shape, np.float32)
    return Regions(shape, cell, yes, yes, yes, (nowhere, nowhere))


def _tensor(gray: Pixels, cell: int) -> tuple[Floats, Floats, Floats]:
    """Mean squares and product of the gradient along rows and columns, by cell (Förstner, 1987).

    Each cell takes part of its neighbours', as the modules of a code may be as large as a cell.
    """
    rows, columns = gray.shape[0] // cell, gray.shape[1] // cell
    # Each row of cells is looked at in other heights, or modules of its height would hide.
    step = cell // 2
    heights = np.arange(2 * rows) * step + np.arange(2 * rows) * 2 % (step - 1)
    above, below = gray[heights, : columns * cell], gray[heights + 1, : columns * cell]
    sums = np.asarray(cv2.add(above, below, dtype=cv2.CV_16S), np.int16)
    steps = np.asarray(cv2.subtract(below, above, dtype=cv2.CV_16S), np.int16)
    across, down = np.zeros_like(sums), np.zeros_like(sums)
    cv2.subtract(sums[:, 1:], sums[:, :-1], dst=across[:, 1:])
    cv2.add(steps[:, 1:], steps[:, :-1], dst=down[:, 1:])

    def mean(one: NDArray[np.int16], other: NDArray[np.int16]) -> Floats:
        # A quarter: both are sums of two differences.
        product = cv2.multiply(one, other, scale=0.25, dtype=cv2.CV_32F)
        small = cv2.resize(product, (columns, rows), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.blur(small, (3, 3)), np.float32)

    return mean(across, across), mean(down, down), mean(across, down)


_THREE: Final = np.ones((3, 3), np.uint8)
