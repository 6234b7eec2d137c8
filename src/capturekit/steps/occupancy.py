"""How full is each zone? Told without a model, by a picture of the empty shelf.

Edges that the empty shelf does not have are goods. Edges of the logarithm of light stay as
they are when the light changes; a plain difference of pixels does not.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from capturekit.errors import ConfigError, ImageError
from capturekit.frame import Frame, Observation
from capturekit.picture import Pixels
from capturekit.pipeline import Chainable, ModelFile
from capturekit.steps.markers import Markers, Points, Registration, place
from capturekit.steps.zones import PlacedZone, Zone, Zones

LOOK_AT: Final = "gray_800"
LOOK_AT_PX: Final = 800
"""Longer side of the pictures compared; also of a 640 x 480 camera's, which has no more."""
ZONE_PX: Final = 128
"""Longer side of a zone, flattened."""
DARK: Final = 16.0
"""Grey levels added before the logarithm, so that noise in the dark makes no edges."""
EDGE: Final = 0.02
"""Least slope of log light, a pixel, that is an edge. From 0.015 to 0.025 the count of goods
changes by 1 point (tests/benchmarks/bench_occupancy.py), and at 0.05 plain cartons vanish."""
NOISES: Final = 3.0
"""Times the slope that the flattest quarter of a zone has: less is noise."""
SLACK_PX: Final = 2
"""How far an edge of the empty shelf may lie from where it was."""
STRONGER: Final = 1.5
"""An edge counts when it is so many times as strong as the empty shelf's there."""
LEAST_EDGES: Final = 0.05
"""Share of a line that edges must cover for it to be taken up. A shadow's rim stays under it."""
FACING: Final = 0.9
"""Gaps between edges narrower than this share of one piece are the piece's plain front."""
TYPICAL_EDGES: Final = 0.008
"""Share of edges at which a zone is as likely taken as empty. In 800 made zones 99 % of the empty
ones had under 0.003, and 99 % of the others over 0.018; bench_occupancy.py shows what comes
of it."""
STEEPNESS: Final = 3.0
"""The odds grow with this power of the share of edges."""
SUREST: Final = 0.99
"""No error in 800 zones proves no more: with one in 270, that is still seen once in 20."""
FILL_OFF: Final = 0.06
"""Standard deviation of ``fill``; twice what made shelves had, as real ones are less tidy."""
IN_PICTURE: Final = 0.95
"""Share of a zone that must lie in both pictures."""

Direction: TypeAlias = Literal["across", "up", "area"]
Lines: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fill:
    """How full one zone is."""

    location: str
    occupied: bool | None
    """None when it is not known."""
    fill: float | None
    """0 to 1, as ``MeasureOccupancy.along`` says; None when it is not known."""
    confidence: float
    """That ``occupied`` is right; 0 when it is not known."""
    quantity: int | None = None
    """Of the zone's item; None when it has none, or it is not known."""
    quantity_confidence: float = 0.0
    """That ``quantity`` is right, which says less the more fit in."""
    reason: str | None = None
    """Why it is not known."""

    def as_json(self) -> dict[str, JsonValue]:
        """One entry of ``occupancy``."""
        return {
            "location": self.location,
            "occupied": self.occupied,
            "fill": None if self.fill is None else round(self.fill, 3),
            "confidence": round(self.confidence, 3),
            "quantity": self.quantity,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full each zone is, in the order of ``Zones``."""

    json_key: ClassVar[str] = "occupancy"

    fills: tuple[Fill, ...]

    def __iter__(self) -> Iterator[Fill]:
        return iter(self.fills)

    def as_json(self) -> JsonValue:
        """The list under ``occupancy``."""
        return [fill.as_json() for fill in self.fills]


@dataclass(frozen=True, slots=True)
class MeasureOccupancy(Chainable):
    """Finds ``Occupancy`` of the ``Zones``, and observes it for zones that have an item.

    Such a zone is observed with ``fill`` times its capacity, rounded, at a confidence that
    falls the more pieces fit in; an empty one with 0. A zone that is not known is not
    observed, nor one in which something was observed before: codes count better.

    It needs light and a shelf that does not change by itself: a new poster or price rail
    is taken for goods, and goods that look like the wall are not seen.
    """

    name: ClassVar[str] = "occupancy"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str | type, ...]] = (LOOK_AT, Zones)
    wants: ClassVar[tuple[str | type, ...]] = ()
    gives: ClassVar[tuple[type, ...]] = (Occupancy,)
    typical_ms: ClassVar[float] = 5.0

    empty: ModelFile
    """A picture of the shelf with nothing in the zones, from the same camera; in it, as many
    markers as can be must be seen."""
    along: Direction = "across"
    """What is full: the width, for pieces side by side, the height, for what is heaped or
    stacked, or the area."""

    def __post_init__(self) -> None:
        if self.along not in ("across", "up", "area"):
            raise ValueError(f"along is {self.along!r}; it must be across, up or area")

    def __call__(self, frame: Frame) -> Frame:
        """Costs 5 ms for eight zones, and a decoding of ``empty`` once.

        Raises ConfigError when ``empty`` does not decode or does not show its markers.
        """
        zones = frame.find(Zones)
        base = _empty(self.empty, zones.markers)
        fills = tuple(self._measured(frame, zones, zone, base) for zone in zones)
        seen = (self._observation(zone, fill) for zone, fill in zip(zones, fills, strict=True))
        taken = {one.location for one in frame.observations}
        new = (one for one in seen if one is not None and one.location not in taken)
        return frame.having(Occupancy(fills)).observing(*new)

    def _measured(self, frame: Frame, zones: Zones, placed: PlacedZone, base: "_Empty") -> Fill:
        zone = placed.zone
        reason = placed.reason
        there = None if reason else _Flat.of(frame, zones.registration, zone)
        before = None if reason else base.flat(zone)
        if there is None or before is None:
            return Fill(zone.location, None, None, 0.0, reason=reason or "outside the picture")
        goods = _new_edges(there, before)
        frame.show(f"occupancy {zone.location}", goods * np.uint8(255))
        return _fill(zone, goods, self.along)

    def _observation(self, placed: PlacedZone, fill: Fill) -> Observation | None:
        if fill.quantity is None or placed.polygon is None:
            return None
        return Observation(
            analyser=self.name,
            item=placed.zone.item,
            quantity=fill.quantity,
            confidence=round(fill.quantity_confidence, 3),
            box=placed.polygon,
            location=fill.location,
        )


@dataclass(frozen=True, slots=True)
class _Empty:
    """The empty shelf, found in its picture."""

    frame: Frame
    at: Registration

    def flat(self, zone: Zone) -> "_Flat | None":
        return _Flat.of(self.frame, self.at, zone)


@functools.lru_cache(maxsize=16)
def _empty(file: ModelFile, markers: Markers | None) -> _Empty:
    try:
        frame = Frame.open(file.path.read_bytes(), colour=False)
    except ImageError as error:
        raise ConfigError(f"{file.path}, the empty shelf: {error}") from error
    at = place(frame, markers)
    if not at.is_known:
        raise ConfigError(f"{file.path}, the empty shelf: {at.reason}")
    frame.picture(LOOK_AT)
    frame.forget("gray", "gray_half")
    return _Empty(frame, at)


@dataclass(frozen=True, slots=True)
class _Flat:
    """One zone of one picture, flattened."""

    slopes: Lines
    """Of the logarithm of light, a pixel."""
    inside: NDArray[np.bool_]
    """Which pixels belong to the zone; it fills its rectangle or not."""

    @classmethod
    def of(cls, frame: Frame, at: Registration, zone: Zone) -> "_Flat | None":
        """None when the zone is not in the picture."""
        gray = frame.picture(LOOK_AT)
        scale = gray.shape[1] / frame.width
        corners = np.array(zone.polygon)
        low, high = corners.min(axis=0), corners.max(axis=0)
        around = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
        seen = (at.to_picture(around) + 0.5) * scale - 0.5
        if not _share_inside(seen, gray) >= IN_PICTURE:
            return None
        size = _flat_size(seen)
        square = np.array([(0, 0), (size[0], 0), size, (0, size[1])], np.float32)
        square -= 0.5
        flatten = cv2.getPerspectiveTransform(seen.astype(np.float32), square)
        flat = cv2.warpPerspective(gray, flatten, size, borderMode=cv2.BORDER_REPLICATE)
        shape = (corners - low) / (high - low) * size - 0.5
        return cls(_slopes(np.asarray(flat, np.uint8)), _filled(shape, size))


def _share_inside(seen: Points, gray: Pixels) -> float:
    if not np.isfinite(seen).all():
        return 0.0
    height, width = gray.shape
    picture = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32) - 0.5
    outline = seen.astype(np.float32)
    common, _ = cv2.intersectConvexConvex(outline, picture)
    return float(common) / max(float(abs(cv2.contourArea(outline))), 1e-9)


def _flat_size(seen: Points) -> tuple[int, int]:
    """Width and height in pixels, in the proportions that the zone has in the picture."""
    sides = np.linalg.norm(seen - np.roll(seen, -1, axis=0), axis=1)
    width, height = sides[0] + sides[2], sides[1] + sides[3]
    scale = ZONE_PX / max(width, height)
    return (max(8, round(width * scale)), max(8, round(height * scale)))


def _filled(corners: Points, size: tuple[int, int]) -> NDArray[np.bool_]:
    inside = np.zeros(size[::-1], np.uint8)
    cv2.fillPoly(inside, [np.round(corners).astype(np.int32)], (1,))
    return inside.astype(np.bool_)


def _slopes(flat: Pixels) -> Lines:
    light = np.log(flat.astype(np.float32) + DARK)
    smooth = cv2.GaussianBlur(light, (0, 0), 1.0)
    across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8)
    return np.asarray(cv2.magnitude(across, cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)))


def _new_edges(there: _Flat, before: _Flat) -> Pixels:
    """Where there are edges now that the empty shelf does not have; (H, W), 0 or 1."""
    height, width = there.slopes.shape
    old = before.slopes
    if old.shape != there.slopes.shape:
        old = np.asarray(cv2.resize(old, (width, height)), np.float32)
    side = 2 * SLACK_PX + 1
    near = cv2.dilate(old, np.ones((side, side), np.uint8))
    least = max(EDGE, NOISES * float(np.percentile(there.slopes, 25)))
    new = (there.slopes - STRONGER * near > least) & there.inside
    return np.asarray(new, np.uint8)


def _fill(zone: Zone, goods: Pixels, along: Direction) -> Fill:
    likely = _sigmoid(STEEPNESS * math.log(max(float(goods.mean()), 1e-6) / TYPICAL_EDGES))
    occupied = likely >= 0.5
    share = _share(goods.T if along == "up" else goods, zone.capacity, along) if occupied else 0.0
    sure = min(max(likely, 1 - likely), SUREST)
    if zone.item is None:
        return Fill(zone.location, occupied, share, sure)
    quantity = max(1, round(share * zone.capacity)) if occupied else 0
    fits = _fits(quantity, share, zone.capacity) if occupied else 1.0
    return Fill(zone.location, occupied, share, sure, quantity, sure * fits)


def _share(goods: Pixels, capacity: int, along: Direction) -> float:
    """Share of the columns that goods take up, or of the area."""
    width = goods.shape[1]
    gap = max(3, round(FACING * width / max(2, capacity)))
    framed = cv2.copyMakeBorder(goods, gap, gap, gap, gap, cv2.BORDER_CONSTANT, value=(0,))
    closed = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, np.ones((5, gap), np.uint8))
    solid = np.asarray(closed[gap:-gap, gap:-gap], np.uint8)
    if along == "area":
        return float(solid.mean())
    return float((solid.mean(axis=0) >= LEAST_EDGES).mean())


def _fits(quantity: int, share: float, capacity: int) -> float:
    """Probability that this is the number, if ``share`` is off as by FILL_OFF."""
    off = NormalDist(share * capacity, FILL_OFF * capacity)
    below = 0.0 if quantity <= 1 else off.cdf(quantity - 0.5)
    above = 1.0 if quantity >= capacity else off.cdf(quantity + 0.5)
    return above - below


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
