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
CLEAR_SHARE: Final = 0.7
"""Share from which bars are clear. Of 643 made bar codes that zxing reads, tilted, blurred and
noisy ones among them, 99.5 % have a cell with more."""
CLEAR_EDGES: Final = 40.0
"""Mean squared gradient of clear bars and of matrix codes; of those read no cell had under 58."""
CLEAR_ABOVE_NOISE: Final = 6.0
CLEAR_OF_STRONGEST: Final = 0.03
"""A third of what the weakest read codes had, for a shelf that is half in the shade."""
KNOT_SHARE: Final = 0.2
"""Share of the gradient around a cell that may point one way in the middle of a QR code. All
131 made ones that zxing reads but not at half the size had a cell under 0.13."""
LOW_KNOT_SHARE: Final = 0.5
"""The same for Data Matrix and Aztec codes, which may be two cells wide."""
CLEAR_CELLS: Final = 2
LEAST_CELLS: Final = 4
"""Cells in what hangs together, and clear ones among them, from which it is looked at as bars."""
CALL_PX: Final = 15_000
"""Pixels that are read in the time that one more call costs."""


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
    clear: Mask
    """Cells with edges as clear and as parallel as bars that can be read have somewhere."""
    _edges: Floats
    """Mean squared gradient, less most of the noise."""
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
        for outline in outlines:
            self._cover(covered, outline)
        if rim:
            covered = np.asarray(cv2.dilate(covered, _THREE, iterations=rim), np.uint8)
        # Both are 0 or 1.
        return np.asarray(mask > covered, np.uint8)

    def _cover(self, covered: Mask, outline: Corners) -> None:
        (a, b), (c, d), (e, f), (g, h) = outline
        x, y = 0.025 * (a + c + e + g), 0.025 * (b + d + f + h)
        cells = [
            (round((1.1 * u - x) / self.cell_px - 0.5), round((1.1 * v - y) / self.cell_px - 0.5))
            for u, v in outline
        ]
        cv2.fillConvexPoly(covered, np.array(cells, np.int32), 1)

    def bounds(self, mask: Mask) -> list[Box]:
        """The one box around all cells of the mask; none when it is empty."""
        left, top, wide, high = cv2.boundingRect(mask)
        return [self._box(left, top, wide, high, 0, room=1)] if wide else []

    def parts(self, mask: Mask) -> list[Box]:
        """Boxes around what hangs together; the bounds where that is hardly more to read."""
        near = cv2.dilate(mask, _THREE)
        found = cv2.connectedComponentsWithStats(near, ltype=cv2.CV_16U)[2][1:].tolist()
        return _packed([self._box(*part, room=1) for part in found if min(part[2:4]) >= 4])

    def stripes(self, mask: Mask, *, lie: bool) -> list[Box]:
        """Boxes around bars: what hangs together, is near to clear bars, and is not too small.

        Words and edges are not near to any, so labels are read without what is around them.
        """
        long, wide = (_ACROSS.T, _ROOM.T) if lie else (_ACROSS, _ROOM)
        clear = np.asarray(self.clear & mask, np.uint8)
        if cv2.countNonZero(clear) < CLEAR_CELLS:
            return []
        near = np.asarray(mask & _grown(clear, long), np.uint8)
        count, named, found, _ = cv2.connectedComponentsWithStats(
            cv2.dilate(near, wide), ltype=cv2.CV_16U
        )
        cells = np.bincount(named[near > 0], minlength=count) >= LEAST_CELLS
        kept = np.flatnonzero(
            cells & (np.bincount(named[clear > 0], minlength=count) >= CLEAR_CELLS)
        )
        return _packed([self._box(*part, room=0) for part in found[kept].tolist()])

    def knots(self, mask: Mask, *, low: bool) -> Mask:
        """The mask near places where edges, all together, point nowhere.

        As those of matrix codes do, but not those of words. A ``low`` code may be no higher than
        a cell or have only two full borders, and must not be mistaken for what is beside it.
        """
        share = LOW_KNOT_SHARE if low else KNOT_SHARE
        one, other = (cv2.blur(part, (3, 3)) for part in self._pointing)
        evenly = cv2.magnitude(one, other) < share * cv2.blur(self._edges, (3, 3))
        if low:
            evenly |= cv2.magnitude(*self._pointing) < share * self._edges
        least = max(CLEAR_EDGES, CLEAR_OF_STRONGEST * float(self._edges.max()))
        seeds = np.asarray(mask & evenly & (self._edges > least), np.uint8)
        return np.asarray(mask & _grown(seeds, _FIVE), np.uint8)

    def likely(self, *, low: bool) -> Mask:
        """Where bars in any direction or matrix codes may be: near clear ones and knots."""
        bars = self.upright | self.lying
        near = bars & _grown(self.clear, _FIVE)
        return np.asarray(near | self.knots(self.busy if low else self.pattern, low=low), np.uint8)

    def picture(self) -> Pixels:
        """The three masks as grey levels, a pixel a cell, for a trace."""
        return np.asarray(85 * (self.upright + self.lying + self.pattern), np.uint8)

    def _box(self, left: int, top: int, wide: int, high: int, _: int, *, room: int) -> Box:
        """In pixels, with cells of room around for quiet zones."""
        height, width = self.shape
        cell = self.cell_px
        return (
            max(0, (left - room) * cell),
            max(0, (top - room) * cell),
            min(width, (left + wide + room) * cell),
            min(height, (top + high + room) * cell),
        )


def area(box: Box) -> int:
    """Pixels in the box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def around(boxes: Iterable[Box]) -> list[Box]:
    """The one box around all of them; none when there are none."""
    sides = [*zip(*boxes, strict=True)]
    return [(min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3]))] if sides else []


def _grown(mask: Mask, by: Mask) -> Mask:
    return np.asarray(cv2.dilate(mask, by), np.uint8)


def _packed(boxes: list[Box]) -> list[Box]:
    """These, or the one around them where that costs no more to read."""
    whole = around(boxes)
    cost = sum(area(box) + CALL_PX for box in boxes)
    return whole if cost >= sum(area(box) + CALL_PX for box in whole) else boxes


def opened(mask: Mask, side: int) -> Mask:
    """The mask without what is narrower than ``side`` cells, such as lines of small print."""
    square = np.ones((side, side), np.uint8)
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, square), np.uint8)


def look(gray: Pixels, half: Pixels | None = None) -> Regions:
    """Where codes may be. ``half`` is the same at half its size, and does at half the cost.

    Costs 0.3 ms at 1600 x 1200 with ``half``: it takes half of its rows.
    """
    height, width = gray.shape
    cell = 16 if max(height, width) < 2000 else 24
    if min(height, width) < 2 * cell:
        return _everywhere((height, width), max(1, min(height, width) // 2))
    xx, yy, xy = _tensor(gray, cell) if half is None else _tensor(half, cell // 2)
    edges = xx + yy
    sample = edges[::2, ::2].ravel()
    noise = float(np.partition(sample, sample.size // 20)[sample.size // 20])
    strongest = float(edges.max())
    least = max(LEAST_EDGES, min(ABOVE_NOISE * noise, OF_STRONGEST * strongest))
    above = min(CLEAR_ABOVE_NOISE * noise, 0.15 * strongest)
    pointing = (xx - yy, 2 * xy)
    cleaned = np.maximum(edges - 0.9 * noise, 1)
    share = cv2.magnitude(*pointing) / cleaned
    busy = edges > least
    bars = busy & (share > BARS_FROM)
    clear = edges > max(CLEAR_EDGES, CLEAR_OF_STRONGEST * strongest, above)
    return Regions(
        shape=(height, width),
        cell_px=cell,
        upright=opened((bars & (xx >= yy)).astype(np.uint8), 2),
        lying=opened((bars & (xx < yy)).astype(np.uint8), 2),
        pattern=(busy & (share < PATTERN_UP_TO)).astype(np.uint8),
        clear=(clear & (share > CLEAR_SHARE)).astype(np.uint8),
        _edges=cleaned,
        _pointing=pointing,
    )


def _everywhere(shape: tuple[int, int], cell: int) -> Regions:
    yes = np.ones((-(-shape[0] // cell), -(-shape[1] // cell)), np.uint8)
    much, nowhere = np.full(yes.shape, 1e6, np.float32), np.zeros(yes.shape, np.float32)
    return Regions(shape, cell, yes, yes, yes, yes, much, (nowhere, nowhere))


def _tensor(gray: Pixels, cell: int) -> tuple[Floats, Floats, Floats]:
    """Mean squares and product of the gradient along rows and columns, by cell (Förstner, 1987).

    Each cell takes part of its neighbours', as the modules of a code may be as large as a cell.
    """
    rows, columns = gray.shape[0] // cell, gray.shape[1] // cell
    # Each row of cells is looked at in other heights, or modules of its height would hide.
    step = cell // 2
    heights = np.arange(2 * rows) * step + np.arange(2 * rows) * 2 % (step - 1)
    inside = gray[:, : columns * cell]
    above, below = inside.take(heights, 0), inside.take(heights + 1, 0)
    sums = np.add(above, below, dtype=np.int16)
    steps = np.subtract(below, above, dtype=np.int16)
    x, y = np.zeros(sums.shape, np.float32), np.zeros(sums.shape, np.float32)
    np.subtract(sums[:, 1:], sums[:, :-1], out=x[:, 1:])
    np.add(steps[:, 1:], steps[:, :-1], out=y[:, 1:])
    # A quarter: both are sums of two differences.
    weights = np.full((cell, 1), 0.25 / (2 * cell), np.float32)

    def mean(one: Floats, other: Floats) -> Floats:
        # A product with a matrix is the fastest way to add up the pixels of a cell.
        added = ((one * other).reshape(-1, cell) @ weights).reshape(rows, 2, columns)
        return np.asarray(cv2.blur(added[:, 0] + added[:, 1], (3, 3)), np.float32)

    return mean(x, x), mean(y, y), mean(x, y)


_THREE: Final = np.ones((3, 3), np.uint8)
_FIVE: Final = np.ones((5, 5), np.uint8)
_ACROSS: Final = np.ones((3, 7), np.uint8)
"""How near to clear bars, in cells, others belong to them: the ends of a code may be blurred."""
_ROOM: Final = np.ones((3, 5), np.uint8)
"""Bars this near to each other hang together, and have as much room for quiet zones."""
