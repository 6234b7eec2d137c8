"""Which bar codes and QR codes are in the picture? Stock is counted from the answer.

So every code must be found, however it is turned, and each exactly once.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
import zxingcpp
from pydantic import JsonValue

from capturekit.frame import Frame, Observation, Point
from capturekit.picture import Pixels
from capturekit.pipeline import Chainable
from capturekit.steps.stacks import Polygon, labels

RETAIL = ("EAN13", "EAN8", "UPCA", "UPCE", "Code128", "QRCode")
"""What stands on goods and boxes. All of zxing's formats cost four times as much."""

MATRIX = frozenset({"QRCode", "MicroQRCode", "DataMatrix", "Aztec", "PDF417", "MaxiCode"})
"""Formats that are not lines: each read is one label."""

SAME_PLACE_PX = 2
"""How far the middle of a read may lie outside another and still be the same code: a bar code
found by a single scan line has no height. Two labels are never that near."""


@dataclass(frozen=True, slots=True)
class Code:
    """One code, read."""

    format: str
    """Without spaces or hyphens: ``EAN13``, ``QRCode``, ``Code128``."""
    text: str
    """For EAN and UPC the GTIN-13: a UPC-A has a leading 0, a UPC-E is written out."""
    polygon: Polygon
    """Its corners in pixels of the upright picture, in order around it."""
    attempt: str
    """The attempt that read it."""

    def as_json(self) -> dict[str, JsonValue]:
        """As one entry of ``codes``."""
        return {
            "format": self.format,
            "text": self.text,
            "polygon": [[x, y] for x, y in self.polygon],
            "attempt": self.attempt,
        }


@dataclass(frozen=True, slots=True)
class Codes:
    """All codes of a picture, from the top down. Two equal codes are two codes."""

    json_key: ClassVar[str] = "codes"

    found: tuple[Code, ...]

    def __iter__(self) -> Iterator[Code]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def as_json(self) -> JsonValue:
        """The list under ``codes``."""
        return [code.as_json() for code in self.found]


@dataclass(frozen=True, slots=True)
class ReadCodes(Chainable):
    """Finds ``Codes``, and observes each: quantity 1, confidence 1.

    All attempts run, and what is read twice in one place counts once:

    - ``default`` reads codes upright, turned by quarters, small, large and inverted: 10 ms
      at 1600 x 1200. Bar codes are read when tilted by up to 20 degrees if their narrowest
      bars have 3 px, by 10 at 2 px; QR codes at any angle.
    - ``fast`` reads only what stands upright or on its head, dark on light: 4 ms.

    zxing takes equal bar codes straight above each other, with less than half their length
    between them, for one; ``stacks`` tells them apart again when at least 3 % of their length
    is between them.
    """

    name: ClassVar[str] = "codes"
    version: ClassVar[int] = 2

    formats: tuple[str, ...] = RETAIL
    attempts: tuple[str, ...] = ("default",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", tuple(self.formats))
        object.__setattr__(self, "attempts", tuple(self.attempts))
        _formats(self.formats)
        unknown = set(self.attempts) - set(_ATTEMPTS)
        if unknown or not self.attempts:
            raise ValueError(f"attempts {self.attempts} are not among {sorted(_ATTEMPTS)}")

    def __call__(self, frame: Frame) -> Frame:
        """Reads ``frame.gray``."""
        wanted = _formats(self.formats)
        read = [
            _code(barcode, attempt)
            for attempt in self.attempts
            for barcode in _ATTEMPTS[attempt](frame.gray, wanted)
        ]
        single = (one for code in read if code.text for one in _labels(frame.gray, code))
        found = _one_a_place(single)
        seen = (self._observation(code) for code in found)
        return frame.having(Codes(tuple(found))).observing(*seen)

    def _observation(self, code: Code) -> Observation:
        return Observation(
            analyser=self.name, code=code.text, quantity=1, confidence=1.0, box=code.polygon
        )


def _formats(names: Iterable[str]) -> zxingcpp.BarcodeFormats:
    text = ",".join(names)
    if not text:
        raise ValueError("name at least one format, such as EAN13")
    try:
        return zxingcpp.barcode_formats_from_str(text)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{text!r} names a format that is not known: {error}") from error


def _read_all_ways(gray: Pixels, formats: zxingcpp.BarcodeFormats) -> Iterable[zxingcpp.Barcode]:
    return zxingcpp.read_barcodes(gray, formats=formats)


def _read_upright(gray: Pixels, formats: zxingcpp.BarcodeFormats) -> Iterable[zxingcpp.Barcode]:
    return zxingcpp.read_barcodes(
        gray, formats=formats, try_rotate=False, try_downscale=False, try_invert=False
    )


_ATTEMPTS: dict[str, Callable[[Pixels, zxingcpp.BarcodeFormats], Iterable[zxingcpp.Barcode]]] = {
    "default": _read_all_ways,
    "fast": _read_upright,
}


def _code(barcode: zxingcpp.Barcode, attempt: str) -> Code:
    corners = barcode.position
    polygon = (
        _point(corners.top_left),
        _point(corners.top_right),
        _point(corners.bottom_right),
        _point(corners.bottom_left),
    )
    return Code(barcode.format.name, barcode.text, polygon, attempt)


def _labels(gray: Pixels, code: Code) -> list[Code]:
    if code.format in MATRIX:
        return [code]
    return [replace(code, polygon=polygon) for polygon in labels(gray, code.polygon)]


def _point(point: zxingcpp.Point) -> Point:
    return (float(point.x), float(point.y))


def _one_a_place(codes: Iterable[Code]) -> list[Code]:
    """Of reads that lie on each other the largest, from the top down.

    One place holds one code: two attempts may both read it, and zxing reads some tilted
    Code 128 twice, once wrongly and with the right check digit. More scan lines agree on
    the larger read; in all such cases seen it was the right one.
    """
    kept: list[Code] = []
    for code in sorted(codes, key=_area, reverse=True):
        if not any(_lies_on(code, other) for other in kept):
            kept.append(code)
    return sorted(kept, key=lambda code: min((y, x) for x, y in code.polygon))


def _area(code: Code) -> float:
    return cv2.contourArea(np.array(code.polygon, np.float32))


def _lies_on(code: Code, other: Code) -> bool:
    x, y = np.mean(code.polygon, axis=0)
    outline = np.array(other.polygon, np.float32)
    return cv2.pointPolygonTest(outline, (float(x), float(y)), measureDist=True) >= -SAME_PLACE_PX
