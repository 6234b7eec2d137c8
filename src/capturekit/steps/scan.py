"""Reading codes in parts of a picture with zxing-cpp, and putting them back in their place.

A ``View`` is a part of the picture, turned, shrunk or made clearer. zxing's own ways to try
harder do the same with the whole picture, which is most of its cost.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import cv2
import numpy as np
import zxingcpp
from numpy.typing import NDArray

from capturekit.frame import Point
from capturekit.picture import Pixels
from capturekit.steps.regions import Box, Corners

Map: TypeAlias = NDArray[np.float64]
"""2 x 3: multiplies (x, y, 1) of a view into the x and y of the picture."""


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
        (a, b, c), (d, e, f) = self.to_picture.tolist()
        return (a * point.x + b * point.y + c, d * point.x + e * point.y + f)


def cut(gray: Pixels, box: Box, scale: int = 1) -> View:
    """The box, given in pixels of a picture of ``scale`` times the size of ``gray``."""
    left, top, right, bottom = (side // scale for side in box)
    to_picture = np.array([[float(scale), 0, left * scale], [0, scale, top * scale]])
    return View(gray[top:bottom, left:right], to_picture)


def enlarged(view: View, factor: float) -> View:
    """The view with more pixels, interpolated, or with fewer, averaged."""
    # By less than two, bilinear weights cover every pixel, at a fifth of the cost.
    way = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_LINEAR if factor > 0.5 else cv2.INTER_AREA
    height, width = view.pixels.shape
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    pixels = cv2.resize(view.pixels, size, interpolation=way)
    to_picture = view.to_picture.copy()
    to_picture[:, :2] *= (width / size[0], height / size[1])
    return View(np.asarray(pixels, np.uint8), to_picture)


def thinned(view: View, step: int) -> View:
    """The view with one of ``step`` rows: fewer lines to read, each as sharp."""
    to_picture = view.to_picture.copy()
    to_picture[:, 1] *= step
    return View(view.pixels[::step], to_picture)


def inverted(view: View) -> View:
    """The view with light for dark."""
    return View(np.asarray(cv2.bitwise_not(view.pixels), np.uint8), view.to_picture)


def mirrored(view: View) -> View:
    """The view mirrored at its diagonal: columns are then read as rows."""
    to_picture = view.to_picture[:, [1, 0, 2]]
    return View(np.asarray(cv2.transpose(view.pixels), np.uint8), to_picture)


def turned(view: View, degrees: float) -> View:
    """The view turned so that what ran in this direction runs along rows."""
    height, width = view.pixels.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    cos, sin = abs(turn[0, 0]), abs(turn[0, 1])
    size = int(width * cos + height * sin) + 1, int(width * sin + height * cos) + 1
    turn[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    pixels = cv2.warpAffine(
        view.pixels, turn, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    back = np.vstack((cv2.invertAffineTransform(turn), (0, 0, 1)))
    return View(np.asarray(pixels, np.uint8), np.asarray(view.to_picture @ back, np.float64))


def _moved(x: int, y: int) -> Map:
    return np.array([[1.0, 0, x], [0, 1, y]])


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
    wanted = [*names]
    both = [name for name in wanted if name.startswith("All")]
    matrix = [name for name in wanted if name in MATRIX] + both
    bars = [name for name in wanted if name not in MATRIX]
    return Formats(
        all=_known(wanted),
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
