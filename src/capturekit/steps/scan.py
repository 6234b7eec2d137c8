"""Reading codes in parts of a picture with zxing-cpp, and putting them back in their place.

A ``View`` is a part of the picture, turned, shrunk or made clearer. zxing's own ways to try
harder do the same with the whole picture, which is most of its cost.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import cv2
import numpy as np
import zxingcpp

from capturekit.frame import Point
from capturekit.picture import Pixels
from capturekit.steps.regions import Box, Corners

Map: TypeAlias = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f: (x, y) of a view is (ax + by + c, dx + ey + f) of the picture.

Plain numbers: on six of them an array costs ten times as much, and holds Python's lock."""


@dataclass(frozen=True, slots=True)
class View:
    """Pixels to read, and where they are in the picture."""

    pixels: Pixels
    to_picture: Map

    def corners(self, position: zxingcpp.Position) -> Corners:
        """What zxing says is here, in pixels of the picture."""
        return (
            self._point(position.top_left),
            self._point(position.top_right),
            self._point(position.bottom_right),
            self._point(position.bottom_left),
        )

    def _point(self, point: zxingcpp.Point) -> Point:
        a, b, c, d, e, f = self.to_picture
        x, y = point.x, point.y
        return (a * x + b * y + c, d * x + e * y + f)


def cut(gray: Pixels, box: Box, scale: int = 1) -> View:
    """The box, given in pixels of a picture of ``scale`` times the size of ``gray``."""
    left, top, right, bottom = (side // scale for side in box)
    to_picture = (float(scale), 0.0, float(left * scale), 0.0, float(scale), float(top * scale))
    return View(gray[top:bottom, left:right], to_picture)


def enlarged(view: View, factor: float) -> View:
    """The view with more pixels, interpolated, or with fewer, averaged."""
    # By less than two, bilinear weights cover every pixel, at a fifth of the cost.
    way = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_LINEAR if factor > 0.5 else cv2.INTER_AREA
    height, width = view.pixels.shape
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    pixels = cv2.resize(view.pixels, size, interpolation=way)
    a, b, c, d, e, f = view.to_picture
    wide, high = width / size[0], height / size[1]
    return View(np.asarray(pixels, np.uint8), (a * wide, b * high, c, d * wide, e * high, f))


def thirded(view: View) -> View:
    """The view with a third of the pixels each way, averaged.

    Costs a fifth of ``enlarged``, which weighs each pixel. Up to two pixels at the right and at
    the bottom are left out.
    """
    height, width = view.pixels.shape
    if min(height, width) < 3:
        return enlarged(view, 1 / 3)
    means = cv2.blur(view.pixels, (3, 3))[1 : height // 3 * 3 : 3, 1 : width // 3 * 3 : 3]
    a, b, c, d, e, f = view.to_picture
    to_picture = (3 * a, 3 * b, c, 3 * d, 3 * e, f)
    return View(np.ascontiguousarray(means, np.uint8), to_picture)


def thinned(view: View, step: int) -> View:
    """The view with one of ``step`` rows: fewer lines to read, each as sharp."""
    a, b, c, d, e, f = view.to_picture
    return View(view.pixels[::step], (a, b * step, c, d, e * step, f))


def inverted(view: View) -> View:
    """The view with light for dark."""
    return View(np.asarray(cv2.bitwise_not(view.pixels), np.uint8), view.to_picture)


def mirrored(view: View) -> View:
    """The view mirrored at its diagonal: columns are then read as rows."""
    a, b, c, d, e, f = view.to_picture
    return View(np.asarray(cv2.transpose(view.pixels), np.uint8), (b, a, c, e, d, f))


def turned(view: View, degrees: float) -> View:
    """The view turned so that what ran in this direction runs along rows."""
    height, width = view.pixels.shape
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    wide = int(width * abs(cos) + height * abs(sin)) + 1
    high = int(width * abs(sin) + height * abs(cos)) + 1
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    turn[:, 2] += (wide - width) / 2, (high - height) / 2
    pixels = cv2.warpAffine(
        view.pixels, turn, (wide, high), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    (p, q, r), (s, t, u) = cv2.invertAffineTransform(turn).tolist()
    a, b, c, d, e, f = view.to_picture
    first = (a * p + b * s, a * q + b * t, a * r + b * u + c)
    second = (d * p + e * s, d * q + e * t, d * r + e * u + f)
    return View(np.asarray(pixels, np.uint8), first + second)


MATRIX: Final = frozenset({
    "QRCode", "QRCodeModel1", "QRCodeModel2", "MicroQRCode", "RMQRCode", "DataMatrix", "Aztec",
    "AztecCode", "AztecRune", "MaxiCode", "PDF417", "CompactPDF417", "MicroPDF417",
})  # fmt: skip
"""Formats that are not one row of bars."""


@dataclass(frozen=True, slots=True)
class Formats:
    """What to look for, parted by what it looks like."""

    all: zxingcpp.BarcodeFormats
    bars: zxingcpp.BarcodeFormats | None
    matrix: zxingcpp.BarcodeFormats | None
    only_qr: bool
    """Whether no matrix format but QR is wanted. zxing finds that in any turn at once, it has
    edges in all directions, and it is never as low as a rectangular Data Matrix."""


def formats(names: Iterable[str]) -> Formats:
    """The formats of these names; a ValueError for one that zxing does not know."""
    return _parted(tuple(names))


@functools.lru_cache(maxsize=64)
def _parted(wanted: tuple[str, ...]) -> Formats:
    both = [name for name in wanted if name.startswith("All")]
    matrix = [name for name in wanted if name in MATRIX] + both
    bars = [name for name in wanted if name not in MATRIX]
    return Formats(
        all=_known([*wanted]),
        bars=_known(bars) if bars else None,
        matrix=_known(matrix) if matrix else None,
        only_qr=matrix in ([], ["QRCode"]),
    )


def _known(names: list[str]) -> zxingcpp.BarcodeFormats:
    text = ",".join(names)
    if not text:
        raise ValueError("name at least one format, such as EAN13")
    try:
        return zxingcpp.barcode_formats_from_str(text)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{text!r} names a format that is not known: {error}") from error


def read(
    view: View,
    wanted: zxingcpp.BarcodeFormats,
    *,
    turns: bool = False,
    inverts: bool = False,
    shrinks: bool = False,
) -> list[tuple[zxingcpp.Barcode, Corners]]:
    """Codes in the view, and where they are in the picture.

    As it is: those that stand or hang, dark on light, neither large nor noisy. Each further way
    costs about as much again.
    """
    found = zxingcpp.read_barcodes(
        view.pixels, formats=wanted, try_rotate=turns, try_downscale=shrinks, try_invert=inverts
    )
    return [(code, view.corners(code.position)) for code in found if code.text]
