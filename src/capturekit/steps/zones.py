"""Which part of the picture is which place? Observations get their location from the answer.

Zones are polygons: shares of the picture for a camera that hangs still, or places on a shelf
that its markers find again wherever the camera moved.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Final

import cv2
import numpy as np
from pydantic import JsonValue

from capturekit.frame import Frame, Observation, Outline, Point
from capturekit.pipeline import Chainable
from capturekit.steps.markers import LOOK_AT_PX, Markers, Points, Registration, place

DOUBTFUL: Final = 0.05
"""Share of a zone's size, the root of its area, by which its corners may be in doubt."""
UNPLACED: Final = 0.1
"""Confidence left to what was seen on a shelf that was not found. It must not count where the
camera is, besides counting still where it lay before; reported, it is not missing either."""

_LOCATION = re.compile(r"[^\W_][\w.\- ]{0,99}")


@dataclass(frozen=True, slots=True)
class Zone:
    """One place: a location of the store, and where it is."""

    location: str
    """1 to 100 letters, digits, ``.``, ``_``, ``-`` or spaces; the first a letter or digit."""
    polygon: tuple[Point, ...]
    """3 corners or more, in order around it. Shares of the picture's width and height, 0 to 1,
    or with markers the unit in which those were given; x to the right and y down."""
    item: str | None = None
    """What belongs here, for steps that see only how much there is."""
    capacity: int = 1
    """How many of it fit."""

    def __post_init__(self) -> None:
        corners = tuple((float(x), float(y)) for x, y in self.polygon)
        object.__setattr__(self, "polygon", corners)
        if not _LOCATION.fullmatch(self.location):
            raise ValueError(
                f"location {self.location!r}: use 1 to 100 letters, digits, '.', '_', '-' or "
                "spaces, with a letter or digit first"
            )
        if not np.isfinite(corners).all() or len(corners) < 3 or not _area(np.array(corners)):
            raise ValueError(f"the polygon of {self.location!r} encloses nothing: {corners}")
        if self.capacity < 1:
            raise ValueError(f"{self.location!r} has a capacity of {self.capacity}; 1 or more")


@dataclass(frozen=True, slots=True)
class PlacedZone:
    """A zone as this picture shows it."""

    zone: Zone
    polygon: tuple[Point, ...] | None
    """In pixels of the upright picture; None when the place is not known."""
    reason: str | None = None
    """Why nothing can be said about it: ``markers missing``, ``markers disagree``, ``too far
    from the markers`` or ``outside the picture``; None when something can."""
    counts: tuple[tuple[str, int], ...] = ()
    """Code or item, and how many were observed here, by name."""

    @property
    def is_known(self) -> bool:
        """Whether the zone was found and lies in the picture, at least with its middle."""
        return self.reason is None

    def as_json(self) -> dict[str, JsonValue]:
        """One entry of ``zones`` below the key ``zones``; counts are null when not known."""
        corners: list[JsonValue] = [[round(x, 1), round(y, 1)] for x, y in self.polygon or ()]
        return {
            "location": self.zone.location,
            "known": self.is_known,
            "reason": self.reason,
            "polygon": corners or None,
            "counts": dict(self.counts) if self.is_known else None,
        }


@dataclass(frozen=True, slots=True)
class Zones:
    """The zones of a picture, in the order given."""

    json_key: ClassVar[str] = "zones"

    placed: tuple[PlacedZone, ...]
    registration: Registration
    """Takes the zones' own polygons to the picture."""
    markers: Markers | None = field(default=None, repr=False)
    """What it was found by."""

    def __iter__(self) -> Iterator[PlacedZone]:
        return iter(self.placed)

    @property
    def is_known(self) -> bool:
        """Whether all of them are. If not, silence about an item does not mean that it is gone."""
        return all(zone.is_known for zone in self.placed)

    def as_json(self) -> JsonValue:
        """The object under ``zones``."""
        error = self.registration.error_px
        return {
            "known": self.is_known,
            "reason": self.registration.reason,
            "markers": list(self.registration.markers),
            "error_px": None if error is None else round(error, 2),
            "zones": [zone.as_json() for zone in self.placed],
        }

    def outlines(self) -> Iterable[Outline]:
        """Each zone that was found, with its location."""
        for zone in self.placed:
            if zone.polygon is not None:
                yield Outline(zone.polygon, zone.zone.location, "zone")


@dataclass(frozen=True, slots=True)
class AssignZones(Chainable):
    """Finds ``Zones``, and gives observations their location: the zone their middle lies in.

    Where zones overlap, the smallest has it. What lies in none, has no box or has a location
    already stays as it is. While a zone is not found, what lies in none of the others keeps
    a confidence of at most ``UNPLACED``: it waits for a person instead of counting somewhere
    else. Put it after the steps that observe.
    """

    name: ClassVar[str] = "zones"
    version: ClassVar[int] = 1
    gives: ClassVar[tuple[type, ...]] = (Zones,)
    typical_ms: ClassVar[float] = 10.0

    zones: tuple[Zone, ...]
    markers: Markers | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "zones", tuple(self.zones))
        names = [zone.location for zone in self.zones]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"zones {names}: give at least one, and each location once")
        corners = [number for zone in self.zones for point in zone.polygon for number in point]
        if self.markers is None and not all(0 <= number <= 1 for number in corners):
            raise ValueError("without markers, polygons are shares of the picture, 0 to 1")

    @property
    def needs(self) -> tuple[str | type, ...]:
        """Pixels are read only to look for markers."""
        return () if self.markers is None else ("gray", f"gray_{LOOK_AT_PX}")

    def __call__(self, frame: Frame) -> Frame:
        """Costs what ``locate`` costs when there are markers, next to nothing when not."""
        at = place(frame, self.markers)
        placed = [_placed(zone, at, frame) for zone in self.zones]
        seen = [_assigned(one, placed) for one in frame.observations]
        counted = tuple(_counted(zone, seen) for zone in placed)
        return frame.observing_only(*seen).having(Zones(counted, at, self.markers))


def _placed(zone: Zone, at: Registration, frame: Frame) -> PlacedZone:
    if not at.is_known:
        return PlacedZone(zone, None, at.reason)
    places = np.array(zone.polygon)
    corners = at.to_picture(places)
    # NaN, from beyond the horizon, fails the comparison too.
    if not at.doubt_px(places).max() <= DOUBTFUL * _area(corners) ** 0.5:
        return PlacedZone(zone, None, "too far from the markers")
    polygon = tuple((float(x), float(y)) for x, y in corners)
    x, y = corners.mean(axis=0)
    is_inside = -0.5 <= x < frame.width and -0.5 <= y < frame.height
    return PlacedZone(zone, polygon, None if is_inside else "outside the picture")


def _assigned(seen: Observation, placed: list[PlacedZone]) -> Observation:
    if seen.location is not None or not seen.box:
        return seen
    x, y = np.mean(seen.box, axis=0)
    around = [zone for zone in placed if _contains(zone, float(x), float(y))]
    if around:
        smallest = min(around, key=lambda zone: _area(np.array(zone.polygon)))
        return seen.model_copy(update={"location": smallest.zone.location})
    if all(zone.polygon is not None for zone in placed):
        return seen
    return seen.model_copy(update={"confidence": min(seen.confidence, UNPLACED)})


def _contains(zone: PlacedZone, x: float, y: float) -> bool:
    if zone.polygon is None:
        return False
    outline = np.array(zone.polygon, np.float32)
    return cv2.pointPolygonTest(outline, (x, y), measureDist=False) >= 0


def _counted(zone: PlacedZone, seen: list[Observation]) -> PlacedZone:
    counts: Counter[str] = Counter()
    for one in seen:
        if one.location == zone.zone.location:
            counts[one.code or one.item or ""] += one.quantity
    return PlacedZone(zone.zone, zone.polygon, zone.reason, tuple(sorted(counts.items())))


def _area(corners: Points) -> float:
    return abs(float(cv2.contourArea(corners.astype(np.float32))))
