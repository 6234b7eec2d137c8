"""Equal bar codes straight above each other, which the reader takes for one tall code.

Labels repeat the same bars with something else in between. So every line of pixels across the
read is compared with the bars: where lines do not show them for a while, one label ends.
"""

import math
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.frame import Point
from capturekit.picture import Pixels

Polygon = tuple[Point, Point, Point, Point]

SHOWS_BARS: Final = 0.5
"""Correlation with the bars from which a line shows them. Lines of one label had 0.8 and more
in made pictures down to JPEG quality 30; blank lines and digits stay under 0.4."""
LEAST_GAP: Final = 0.03
"""Of a code's length. Less is a crease or a scratch; printed labels have more white between.
Edges of bars blur into it: sharp labels are told apart from 3.5 % on, blurred ones from 4 %."""
LEAST_GAP_PX: Final = 3
LEAST_LABEL: Final = 0.08
"""Of a code's length. Bars that are lower than this are hardly printed, or are half a label."""
ALIKE: Final = 0.6
"""Lowest label by highest. Equal labels are equally high; the halves of one that glare cuts
in two rarely are."""
IN_LINE: Final = 0.25
"""Of a code's length. Reads of one tilted label lie less far aside from each other."""
LONGEST_PX: Final = 96
"""Of the read as it is compared. At 256 it took twice as long and ``bench_stacks.py`` counted the
same; at 64, gaps of 4 to 7 % were overlooked in one picture more of a hundred."""


def labels(gray: Pixels, polygon: Polygon) -> list[Polygon]:
    """The outline of each label in the outline of one read, top down; itself when it is one.

    ``polygon`` is top left, top right, bottom right, bottom left as the code is read. Costs
    about 0.05 ms.
    """
    length, height = _size(polygon)
    if min(length, height) < 2 * LEAST_GAP_PX or height < (2 * LEAST_LABEL + LEAST_GAP) * length:
        return [polygon]
    shown = _shows_bars(_lines(gray, polygon, length, height))
    if shown.all():
        return [polygon]
    runs = _runs(shown, max(LEAST_GAP_PX, round(LEAST_GAP * length)))
    runs = [(start, end) for start, end in runs if end - start >= LEAST_LABEL * length]
    heights = [end - start for start, end in runs]
    if len(runs) < 2 or not _are_alike(heights):
        return [polygon]
    return [_part(polygon, start / height, end / height) for start, end in runs]


def joined(polygons: list[Polygon]) -> list[Polygon]:
    """Reads of one text, each that begins where another ends put together with it.

    The reader parts a tilted stack where it has gone too far aside, in the middle of a label.
    """
    whole: list[Polygon] = []
    for polygon in sorted(polygons, key=lambda corners: corners[0][1] + corners[1][1]):
        for at, above in enumerate(whole):
            near = LEAST_GAP * math.dist(above[0], above[1]) + LEAST_GAP_PX
            if max(math.dist(above[3], polygon[0]), math.dist(above[2], polygon[1])) < near:
                whole[at] = (above[0], above[1], polygon[2], polygon[3])
                break
        else:
            whole.append(polygon)
    return whole


def spanned(one: Polygon, other: Polygon) -> Polygon | None:
    """From the top of the upper read to the bottom of the lower; None if they are not in line."""
    upper, lower = sorted((one, other), key=lambda corners: corners[0][1] + corners[1][1])
    length = max(math.dist(upper[0], upper[1]), 1.0)
    x, y = lower[0][0] - upper[3][0], lower[0][1] - upper[3][1]
    aside = x * (upper[1][0] - upper[0][0]) + y * (upper[1][1] - upper[0][1])
    if abs(aside) > IN_LINE * length**2 or math.hypot(x, y) > length:
        return None
    return (upper[0], upper[1], lower[2], lower[3])


def _size(polygon: Polygon) -> tuple[int, int]:
    """Length and height of the read as it is compared, in pixels."""
    length, height = math.dist(polygon[0], polygon[1]), math.dist(polygon[0], polygon[3])
    scale = min(1.0, LONGEST_PX / max(length, 1.0))
    return round(length * scale), round(height * scale)


def _lines(gray: Pixels, polygon: Polygon, length: int, height: int) -> NDArray[np.float32]:
    """The read turned upright, one row a line of pixels."""
    corners = np.array(polygon, np.float32)
    upright = np.array([(0, 0), (length, 0), (length, height), (0, height)], np.float32)
    turn = cv2.getPerspectiveTransform(corners, upright)
    turned = cv2.warpPerspective(gray, turn, (length, height), flags=cv2.INTER_AREA)
    return cv2.blur(turned, (3, 1)).astype(np.float32)


def _shows_bars(lines: NDArray[np.float32]) -> NDArray[np.bool_]:
    level = lines - cv2.reduce(lines, 1, cv2.REDUCE_AVG)
    strength = np.sqrt(np.einsum("rc,rc->r", level, level))
    # Bars are the strongest lines there are; their mean washes noise and digits out.
    ordered = np.sort(strength)
    strong = strength >= 0.6 * ordered[len(ordered) * 9 // 10]
    bars = strong.astype(np.float32) @ level
    kept = np.count_nonzero(strong)
    least = 0.25 * float(ordered[-(kept + 1) // 2])
    likeness = SHOWS_BARS * math.sqrt(bars @ bars) * strength
    return np.asarray((level @ bars >= likeness) & (strength >= least), np.bool_)


def _runs(shown: NDArray[np.bool_], least_gap: int) -> list[tuple[int, int]]:
    """Where bars begin and end, shorter interruptions than ``least_gap`` overlooked."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], shown, [False])).astype(np.int8)))
    runs: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2):
        if runs and start - runs[-1][1] < least_gap:
            runs[-1] = (runs[-1][0], int(end))
        else:
            runs.append((int(start), int(end)))
    return runs


def _are_alike(heights: list[int]) -> bool:
    """Whether these are labels; of three or more, a read may begin or end within one."""
    inner = heights[1:-1] if len(heights) > 2 else heights
    second, highest = sorted(heights)[-2:]
    return min(*inner, second) >= ALIKE * highest


def _part(polygon: Polygon, start: float, end: float) -> Polygon:
    top_left, top_right, bottom_right, bottom_left = polygon
    return (
        _between(top_left, bottom_left, start),
        _between(top_right, bottom_right, start),
        _between(top_right, bottom_right, end),
        _between(top_left, bottom_left, end),
    )


def _between(one: Point, other: Point, share: float) -> Point:
    return (one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1]))
