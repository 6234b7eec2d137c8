"""What to do with a place that looks like a code and was not read: the thorough attempts.

Each makes of a view one that zxing may find easier. Which of them, and in which order, was
chosen by what they read in made photographs that ``default`` had left unread:
``python tests/benchmarks/bench_codes.py --choose``.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from capturekit.picture import Pixels
from capturekit.steps.regions import Box, Mask, Regions, area
from capturekit.steps.scan import View, cut, enlarged, turned

BESIDE_OTHERS: Final = 0.03
"""How much less is looked at where something was read already: on a shelf that is some codes
more, in a photograph mostly print beside the code. On made shelves 0.02 read 33 codes more than
default, 0.05 40 more, at a tenth more of the time."""
WHERE_NOTHING_ELSE: Final = 0.35
"""How much is made clearer of a picture in which nothing was read. All of it cost pictures
without codes twice the time, for one code more in a hundred photographs."""
SMALL_PX: Final = 310_000
"""Pixels that are made clearer in any case: of 640 x 480 all, where it read 4 % more."""
LARGE_PX: Final = 700_000
"""Pixels from which a place is not enlarged, and to which it is shrunk before it is turned: a
code in it has large modules."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to make a view clearer."""

    make: Callable[[View], View]
    most: float
    """Share of the picture that it may be tried on: the dearer, the less."""


def places(gray: Pixels, regions: Regions, left: Mask, share: float) -> list[View]:
    """Where to look again: the largest parts that together are no more than a share of it."""
    return [cut(gray, box) for box in _within(regions.parts(left), share * gray.size)]


def slanted(gray: Pixels, regions: Regions, left: Mask, share: float) -> Iterator[View]:
    """Places with bars that neither stand nor lie, turned so that they stand."""
    for box in _within(regions.parts(left), share * gray.size):
        small = enlarged(cut(gray, box), min(1, math.sqrt(LARGE_PX / area(box))))
        yield turned(small, _direction(regions, left, box))


def _within(boxes: list[Box], pixels: float) -> list[Box]:
    """The largest that together have no more pixels."""
    kept: list[Box] = []
    for box in sorted(boxes, key=area, reverse=True):
        if area(box) <= pixels:
            kept.append(box)
            pixels -= area(box)
    return kept


def _direction(regions: Regions, mask: Mask, box: Box) -> float:
    """The mean direction of the cells in the box, in degrees, -90 to 90."""
    left, top, right, bottom = (side // regions.cell_px for side in box)
    inside = mask[top:bottom, left:right] > 0
    doubled = np.radians(2 * regions.degrees[top:bottom, left:right][inside])
    return float(np.degrees(np.arctan2(np.sin(doubled).sum(), np.cos(doubled).sum())) / 2)


def _even_contrast(view: View) -> View:
    """CLAHE: Zuiderveld, Graphics Gems IV, 1994."""
    made = cv2.createCLAHE(clipLimit=3, tileGridSize=(8, 8)).apply(view.pixels)
    return View(np.asarray(made, np.uint8), view.to_picture)


def _enlarged(view: View) -> View:
    return enlarged(view, 2 if view.pixels.size < LARGE_PX else 1)


def _sharpened(view: View) -> View:
    """Enlarged, and its edges made steeper."""
    large = _enlarged(view)
    # A box, not a bell: a third of the time, and the same reads.
    soft = cv2.blur(large.pixels, (9, 9))
    sharp = cv2.addWeighted(large.pixels, 2.5, soft, -1.5, 0)
    return View(np.asarray(sharp, np.uint8), large.to_picture)


def _smoothed(view: View) -> View:
    soft = cv2.GaussianBlur(view.pixels, (0, 0), 1.5)
    return View(np.asarray(soft, np.uint8), view.to_picture)


def _shrunk(view: View) -> View:
    return enlarged(view, 0.5)


def _shrunk_more(view: View) -> View:
    return enlarged(view, 0.3)


CANDIDATES: Final = {
    "shrunk": Attempt(_shrunk, 1),
    "shrunk_more": Attempt(_shrunk_more, 1),
    "clahe": Attempt(_even_contrast, 1),
    "upscaled": Attempt(_enlarged, 1),
    "sharpened": Attempt(_sharpened, 1),
    "smoothed": Attempt(_smoothed, 1),
}
"""All that was tried, by name."""

ATTEMPTS: Final = {name: CANDIDATES[name] for name in ("shrunk", "sharpened", "clahe")}
"""Those that are made, in this order. In made photographs "clahe" read nothing that the others
do not; it is there for light that is not made, at a tenth of the time."""
