"""Which bar codes and QR codes are in the picture? Stock is counted from the answer.

So every code must be found, however it is turned, and each exactly once. What zxing tries on
the whole picture is tried here where something looks like a code: see ``ReadCodes``.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, TypeAlias, get_args

import cv2
import numpy as np
import zxingcpp
from pydantic import JsonValue

from capturekit.frame import Frame, Observation, Outline, Point
from capturekit.pipeline import Chainable
from capturekit.steps.clearer import (
    ATTEMPTS,
    BESIDE_OTHERS,
    SMALL_PX,
    WHERE_NOTHING_ELSE,
    places,
    slanted,
)
from capturekit.steps.gs1 import Gs1, parse, parse_link
from capturekit.steps.gtin import is_gtin, normal_form
from capturekit.steps.regions import Box, Mask, around, look, opened
from capturekit.steps.scan import (
    MATRIX,
    Formats,
    View,
    cut,
    enlarged,
    formats,
    inverted,
    mirrored,
    read,
    thinned,
    thirded,
)
from capturekit.steps.stacks import Polygon, joined, labels, spanned

Effort: TypeAlias = Literal["fast", "default", "thorough"]

RETAIL = ("EAN13", "EAN8", "UPCA", "UPCE", "Code128", "QRCode")
"""What stands on goods and boxes. All of zxing's formats cost four times as much."""

SAME_PLACE_PX = 2
"""How far the middle of a read may lie outside another and still be the same code: a bar code
found by a single scan line has no height. Two labels are never that near."""

HALVED_FROM_PX: Final = 1000
"""Longer side from which a picture is also read at half its size. In smaller ones codes are
seldom larger than zxing likes."""

ALL_LINES_BELOW: Final = 900
"""Rows of a picture, from which bars are not looked for in each: zxing itself skips from 1024."""

THIN: Final = 0.04
"""Height of a bar code by its length, under which it was read on single lines. Of zxing's reads
that are right 7 % are lower, of those that are wrong 48 % (``bench_codes.py --thin 60``)."""

MAX_LOT: Final = 20
"""Characters of a lot's name in GS1 data."""

_DOUBTED: Final = frozenset({"clahe", "sharpened"})
_RETAIL_NUMBERS: Final = frozenset({"EAN13", "EAN8", "UPCA", "UPCE", "ISBN", "ITF", "ITF14"})


@dataclass(frozen=True, slots=True)
class Code:
    """One code, read."""

    format: str
    """Without spaces or hyphens: ``EAN13``, ``QRCode``, ``Code128``. A UPC-A is an ``EAN13``:
    its bars are those of one that begins with 0."""
    text: str
    """For EAN and UPC the GTIN-13: a UPC-A has a leading 0, a UPC-E is written out. GS1 data
    has its identifiers in brackets."""
    polygon: Polygon
    """Its corners in pixels of the upright picture, in order around it."""
    attempt: str
    """The attempt that read it: ``fast``, ``default``, or one of the ``thorough`` ones:
    ``inverted``, ``lines``, ``slanted``, a name in ``clearer.ATTEMPTS``, ``whole``."""
    gtin: str | None = None
    """Of EAN, UPC, ITF-14 and GS1 data, in the one form that names stock; see
    ``gtin.normal_form``. None when there is none, or its check digit is wrong."""
    gs1: Gs1 | None = None
    """What GS1 data says, from a GS1 code or a GS1 Digital Link."""

    def as_json(self) -> dict[str, JsonValue]:
        """As one entry of ``codes``; ``gtin`` and ``gs1`` are there when the code has them."""
        entry: dict[str, JsonValue] = {
            "format": self.format,
            "text": self.text,
            "polygon": [[x, y] for x, y in self.polygon],
            "attempt": self.attempt,
        }
        if self.gtin is not None:
            entry["gtin"] = self.gtin
        if self.gs1 is not None:
            entry["gs1"] = self.gs1.as_json()
        return entry

    def observed(self, analyser: str) -> Observation:
        """One label is one unit of its GTIN, else of its text.

        A GS1 label that says what is inside, and how many, is that many of those; when it says
        both the product and its contents, the product is counted. Its lot, and the day it
        expires on or is best before, are those of what is counted.
        """
        name, quantity = self.gtin or self.text, 1
        if self.gs1 and not self.gtin and self.gs1.content_gtin and self.gs1.count is not None:
            name, quantity = self.gs1.content_gtin, self.gs1.count
        return Observation(
            analyser=analyser,
            code=name,
            quantity=quantity,
            confidence=1.0,
            box=self.polygon,
            lot=_lot(self.gs1),
            expires_on=(self.gs1.expiry or self.gs1.best_before) if self.gs1 else None,
        )


def _lot(said: Gs1 | None) -> str | None:
    """The lot, if it is one: labels are printed by strangers."""
    is_one = said and said.lot and said.lot.isprintable() and len(said.lot) <= MAX_LOT
    return said.lot if said and is_one else None


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

    def outlines(self) -> Iterable[Outline]:
        """Each code with its text beside it."""
        return [Outline(code.polygon, code.text, "code") for code in self.found]


@dataclass(frozen=True, slots=True)
class ReadCodes(Chainable):
    """Finds ``Codes``, and observes each.

    A cheap look (``regions``) says where bars stand, where they lie, and where there may be
    matrix codes. Then attempts follow each other; each looks only where none before it read:

    - ``fast`` reads bars along rows, mirrored ones along columns, label by label where they
      stand apart, and matrix codes in half the picture, dark on light and light on dark.
    - ``default`` adds small matrix codes, dark on light, and, when nothing was read at all,
      large or noisy codes in a third of the picture. Light on dark, modules need 4 px.
    - ``thorough`` reads every line of bars that are left, turns slanted ones upright, and adds
      what ``clearer.ATTEMPTS`` makes of the places that are left. When nothing was read at all,
      zxing then sees all of them at once in all ways it has; else small codes light on dark are
      read too if other matrix codes than QR are wanted.

    Bar codes are read when tilted by up to 20 degrees if their narrowest bars have 3 px, by 10
    at 2 px, and by ``thorough`` at any angle; QR codes always are. What is read twice in one
    place counts once. ``python tests/benchmarks/bench_codes.py`` prints rates and costs beside
    zxing's own.

    zxing takes equal bar codes straight above each other, with less than half their length
    between them, for one; ``stacks`` tells them apart again when at least 4 % of the length of
    their bars is between them. At 3 % every second stack still counts as one label.
    """

    name: ClassVar[str] = "codes"
    version: ClassVar[int] = 5
    needs: ClassVar[tuple[str | type, ...]] = ("gray", "gray_half")
    gives: ClassVar[tuple[type, ...]] = (Codes,)

    formats: tuple[str, ...] = RETAIL
    """zxing's names, such as ``EAN13``, ``Code39``, ``ITF``, ``DataMatrix``, ``Aztec``."""
    effort: Effort = "default"
    """The last kind of attempt that is made."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", tuple(self.formats))
        formats(self.formats)
        if self.effort not in get_args(Effort):
            raise ValueError(f"effort {self.effort!r} is not among {get_args(Effort)}")

    def __call__(self, frame: Frame) -> Frame:
        """Reads ``frame.gray``."""
        search = _Search(frame, formats(self.formats))
        search.fast()
        if self.effort != "fast":
            search.default()
        if self.effort == "thorough":
            search.thorough()
        found = _one_a_place(search.found)
        return frame.having(Codes(tuple(found))).observing(
            *(code.observed(self.name) for code in found)
        )


class _Search:
    """The attempts on one picture, and what they have read so far."""

    def __init__(self, frame: Frame, wanted: Formats) -> None:
        self.found: list[Code] = []
        self._frame, self._gray, self._wanted = frame, frame.gray, wanted
        height, width = frame.gray.shape
        # Of a picture one pixel high, half the size is none.
        self._scale = 2 if max(height, width) >= HALVED_FROM_PX and min(height, width) > 1 else 1
        half = frame.gray_half if self._scale > 1 else None
        self._regions = regions = look(frame.gray, half)
        self._matrix = regions.pattern if wanted.only_qr else regions.busy
        frame.show("regions", regions.picture())

    def fast(self) -> None:
        self._read_stripes()
        for box in self._regions.bounds(self._left(self._matrix, 3)):
            self._read_matrix("fast", self._halved(box), inverts=True)

    def default(self) -> None:
        # Where zxing looks for a Data Matrix depends on the cut: a low one may need a close one.
        if self._scale > 1 or not self._wanted.only_qr:
            for view in self._small_views():
                self._read_matrix("default", view, inverts=False)
        if not self.found:
            for box in self._regions.bounds(self._matrix):
                self._read_matrix("default", self._smaller(box), inverts=True)
        if self._wanted.bars is not None and not self.found:
            for box in around(self._stripes(lie=False) + self._stripes(lie=True)):
                self._read("default", self._smaller(box), self._wanted.bars, turns=True)

    def thorough(self) -> None:
        nothing = not self.found
        if self._scale > 1 and not (nothing or self._wanted.only_qr):
            for view in self._small_views():
                self._read_matrix("inverted", inverted(view), inverts=False)
        self._read_all_lines()
        self._read_slanted(1.0 if nothing else BESIDE_OTHERS)
        alone = min(1.0, max(WHERE_NOTHING_ELSE, SMALL_PX / self._gray.size))
        share = alone if nothing else BESIDE_OTHERS
        for name, attempt in ATTEMPTS.items():
            if nothing and self.found:
                return
            left = self._left(self._likely(), 3)
            for view in places(self._gray, self._regions, left, share * attempt.most):
                self._read(name, attempt.make(view), self._wanted.all, turns=True)
        if not self.found:
            self._read_all_ways()

    def _read_stripes(self) -> None:
        if self._wanted.bars is None:
            return
        height, width = self._gray.shape
        for box in self._stripes(lie=False):
            rows = cut(self._gray, box)
            self._read("fast", thinned(rows, _step(height)), self._wanted.bars)
        for box in self._stripes(lie=True):
            columns = mirrored(cut(self._gray, box))
            self._read("fast", thinned(columns, _step(width)), self._wanted.bars)

    def _stripes(self, *, lie: bool) -> list[Box]:
        mask = self._regions.lying if lie else self._regions.upright
        if self.found:
            mask = self._regions.uncovered(mask, (code.polygon for code in self.found))
        return self._regions.stripes(mask, lie=lie)

    def _small_views(self) -> list[View]:
        return [cut(self._gray, box) for box in self._regions.parts(self._small_left())]

    def _read_all_lines(self) -> None:
        """Every line of the bars that are left, for those that few lines show."""
        if self._wanted.bars is None or max(map(_step, self._gray.shape)) == 1:
            return
        for box in self._stripes(lie=False):
            self._read("lines", cut(self._gray, box), self._wanted.bars)
        for box in self._stripes(lie=True):
            self._read("lines", mirrored(cut(self._gray, box)), self._wanted.bars)

    def _read_slanted(self, share: float) -> None:
        if self._wanted.bars is None:
            return
        left = self._left(self._regions.slanted, 2)
        for view in slanted(self._gray, self._regions, left, share):
            self._read("slanted", view, self._wanted.bars)

    def _read_all_ways(self) -> None:
        """What zxing does by itself, wherever a code may be."""
        for box in self._regions.bounds(self._likely()):
            view = cut(self._gray, box)
            self._read("whole", view, self._wanted.all, turns=True, inverts=True, shrinks=True)

    def _likely(self) -> Mask:
        return self._regions.likely(low=not self._wanted.only_qr)

    def _left(self, mask: Mask, side: int) -> Mask:
        left = self._regions.uncovered(mask, (code.polygon for code in self.found))
        return opened(left, side)

    def _small_left(self) -> Mask:
        """Where a matrix code may be that is as low as a cell, or close to what was read.

        Cells are larger where the scale is 2, and a rim would hide a low code between others.
        """
        rim = 1 if self._wanted.only_qr or self._scale == 1 else 0
        mask = self._regions.knots(self._matrix, low=not self._wanted.only_qr)
        return self._regions.uncovered(mask, (code.polygon for code in self.found), rim)

    def _smaller(self, box: Box) -> View:
        view = self._halved(box)
        return enlarged(view, 2 / 3) if self._scale == 2 else thirded(view)

    def _halved(self, box: Box) -> View:
        gray = self._frame.gray_half if self._scale == 2 else self._gray
        return cut(gray, box, self._scale)

    def _read_matrix(self, attempt: str, view: View, *, inverts: bool) -> None:
        if self._wanted.matrix is not None:
            turns = not self._wanted.only_qr
            self._read(attempt, view, self._wanted.matrix, turns=turns, inverts=inverts)

    def _read(
        self,
        attempt: str,
        view: View,
        wanted: zxingcpp.BarcodeFormats,
        *,
        turns: bool = False,
        inverts: bool = False,
        shrinks: bool = False,
    ) -> None:
        ways = {"turns": turns, "inverts": inverts, "shrinks": shrinks}
        seen: dict[tuple[str, str], list[Code]] = {}
        for barcode, polygon in read(view, wanted, **ways):
            code = _code(barcode, polygon, attempt)
            if _is_likely(code) and (attempt == "fast" or not self._is_seen(code)):
                seen.setdefault((code.format, code.text), []).append(code)
        for codes in seen.values():
            self.found.extend(self._labels(codes))

    def _is_seen(self, code: Code) -> bool:
        """Whether these are more lines of a label that was read: no gap is between."""
        return code.format not in MATRIX and any(
            len(labels(self._gray, between)) == 1
            for other in self.found
            if other.text == code.text and (between := spanned(other.polygon, code.polygon))
        )

    def _labels(self, codes: list[Code]) -> list[Code]:
        """Each label of stacks that were read as one. Rows of one code are no labels."""
        code = codes[0]
        if code.format in MATRIX or "Stk" in code.format:
            return codes
        reads = joined([code.polygon for code in codes])
        each = [polygon for read in reads for polygon in labels(self._gray, read)]
        if each == [code.polygon]:
            return codes
        return [replace(code, polygon=polygon) for polygon in each]


def _step(lines: int) -> int:
    """One of how many lines is read: in small pictures each, in larger ones every other.

    On made shelves of 1600 x 1200 each line cost a tenth more and read 2 % more of the codes,
    every third one at 2592 x 1944 a tenth less and read 4 % fewer.
    """
    return 1 if lines < ALL_LINES_BELOW else max(2, round(lines / 1000))


def _code(barcode: zxingcpp.Barcode, polygon: Polygon, attempt: str) -> Code:
    said = _gs1(barcode)
    number = said.gtin if said else None
    name, text = barcode.format.name, barcode.text
    if name in _RETAIL_NUMBERS and is_gtin(text):
        number = normal_form(text)
    return Code(name, text, polygon, attempt, number, said)


def _gs1(barcode: zxingcpp.Barcode) -> Gs1 | None:
    """Of a code that says it carries GS1 data (]C1, ]d2, ]Q3, ]e0), or of a Digital Link."""
    if barcode.content_type == zxingcpp.ContentType.GS1:
        return parse(barcode.bytes.decode("latin-1"))
    return parse_link(barcode.text)


def _is_likely(code: Code) -> bool:
    """Whether a read can be believed as far as its format and place tell.

    Two of five digits in an ITF are like other bars: one of 14 digits has a check digit, and
    shorter ones than 8 are often parts of others. Of reads on one or two lines of pixels, half
    of the UPC-E and EAN-8 in made pictures were wrong, and of those that needed another
    attempt: their check digits let one of ten pass.
    """
    if code.format in {"ITF", "ITF14"}:
        return len(code.text) >= 8 and (len(code.text) != 14 or code.gtin is not None)
    is_easily_wrong = code.format in {"UPCE", "EAN8"} or code.attempt in _DOUBTED
    return code.format in MATRIX or not is_easily_wrong or not _is_thin(code)


def _is_thin(code: Code) -> bool:
    """Whether bars were read on so few lines that others of the same label may disagree."""
    first, second, _, fourth = code.polygon
    return math.dist(first, fourth) < THIN * math.dist(first, second)


def _one_a_place(codes: Iterable[Code]) -> list[Code]:
    """Of reads that lie on each other the largest, from the top down.

    One place holds one code: two attempts may both read it, and zxing reads some tilted
    Code 128 twice, once wrongly and with the right check digit. More scan lines agree on
    the larger read; in all such cases seen it was the right one.
    """
    kept: list[_Placed] = []
    for code in sorted(codes, key=_area, reverse=True):
        x, y = _middle(code.polygon)
        if not any(placed.holds(x, y) or placed.has_line(code, x, y) for placed in kept):
            kept.append(_Placed(code))
    found = [placed.code for placed in kept]
    return sorted(found, key=_top)


def _top(code: Code) -> tuple[float, float]:
    """Its highest corner, y first."""
    (a, b), (c, d), (e, f), (g, h) = code.polygon
    return min((b, a), (d, c), (f, e), (h, g))


class _Placed:
    """A read that is kept, and where it lies."""

    def __init__(self, code: Code) -> None:
        self.code = code
        xs, ys = zip(*code.polygon, strict=True)
        self._left, self._right = min(xs) - SAME_PLACE_PX, max(xs) + SAME_PLACE_PX
        self._top, self._bottom = min(ys) - SAME_PLACE_PX, max(ys) + SAME_PLACE_PX

    def holds(self, x: float, y: float) -> bool:
        """Whether the point is inside, or nearly."""
        if not (self._left <= x <= self._right and self._top <= y <= self._bottom):
            return False
        outline = np.array(self.code.polygon, np.float32)
        return cv2.pointPolygonTest(outline, (x, y), measureDist=True) >= -SAME_PLACE_PX

    def has_line(self, code: Code, x: float, y: float) -> bool:
        """Whether a read of few lines is one more line of this label, read beside it."""
        if code.text != self.code.text or not _is_thin(code):
            return False
        first, second = self.code.polygon[:2]
        return math.dist((x, y), _middle(self.code.polygon)) < math.dist(first, second) / 2


def _area(code: Code) -> float:
    (a, b), (c, d), (e, f), (g, h) = code.polygon
    return abs((e - a) * (h - d) - (g - c) * (f - b)) / 2


def _middle(polygon: Polygon) -> Point:
    (a, b), (c, d), (e, f), (g, h) = polygon
    return ((a + c + e + g) / 4, (b + d + f + h) / 4)
