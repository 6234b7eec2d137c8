"""Where is the shelf in this picture? Printed markers at known places tell.

Each marker seen gives four points in the picture and on the shelf; together they give the
homography that takes any place on the shelf to the picture, and how far it can be trusted.
"""

import math
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.frame import Frame, Point
from capturekit.picture import Pixels

Points: TypeAlias = NDArray[np.float64]
"""Shape (N, 2)."""
Row: TypeAlias = tuple[float, float, float]

LOOK_AT_PX: Final = 800
"""Longer side at which markers are looked for first; only when some are missing the whole
picture is searched, at three times the cost. Markers of 12 px are found."""
LEAST_MARKERS: Final = 2
"""One marker always fits itself. Two that agree rule out a moved, wrong or mistaken one; how
far they reach is another question: see ``Registration.doubt_px``."""
MISFIT: Final = 0.008
"""Of the picture's longer side: how far a corner may lie from where the others put it. A lens
that draws the corners in by 5 % puts them 0.4 % off; a marker moved by a third of its width is
1.5 % off."""
CORNER_PX: Final = 0.5
"""Least doubt about a corner. With it and 2 or 3 markers, 19 of 20 zones were no more than 1.2
times as far off as ``doubt_px`` says."""

_DICTIONARY = re.compile(r"DICT_[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Marker:
    """One printed marker and its place on the shelf, in any unit, x right and y down."""

    id: int
    x: float
    """Of its middle, as ``y``."""
    y: float
    size: float
    """Side of its black square."""
    degrees: float = 0
    """By how much it is turned clockwise."""

    def __post_init__(self) -> None:
        numbers = (self.x, self.y, self.size, self.degrees)
        if not all(math.isfinite(number) for number in numbers) or self.size <= 0:
            raise ValueError(f"{self} is not possible: finite numbers, size > 0")

    def corners(self) -> Points:
        """In shelf units, in the order of detection: clockwise from its own top left."""
        turn = math.radians(self.degrees)
        cosine, sine = math.cos(turn) * self.size / 2, math.sin(turn) * self.size / 2
        square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float64)
        turned = square @ np.array([(cosine, sine), (-sine, cosine)])
        return np.asarray(turned + np.array([self.x, self.y]), np.float64)


@dataclass(frozen=True, slots=True)
class Markers:
    """The markers of a shelf, ArUco or AprilTag, each id once."""

    placed: tuple[Marker, ...]
    dictionary: str = "DICT_4X4_50"
    """As OpenCV names it: ``DICT_5X5_100``, ``DICT_APRILTAG_36h11``. 4 x 4 is read from the
    fewest pixels; AprilTag 36h11 needs a third more and three times the time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "placed", tuple(self.placed))
        ids = [marker.id for marker in self.placed]
        if len(ids) < LEAST_MARKERS or len(set(ids)) < len(ids):
            raise ValueError(f"marker ids {ids}: give {LEAST_MARKERS} or more, each once")
        size = len(_dictionary(self.dictionary).bytesList)
        if not all(0 <= one < size for one in ids):
            raise ValueError(f"marker ids {ids}: {self.dictionary} has 0 to {size - 1}")


@dataclass(frozen=True, slots=True)
class Registration:
    """Where a shelf is in a picture, or why that is not known."""

    reason: str | None
    """Why it is not known: ``markers missing`` or ``markers disagree``; None when it is."""
    markers: tuple[int, ...] = ()
    """Ids of the markers that agree."""
    error_px: float | None = None
    """Root mean square distance of their corners from where the shelf puts them."""
    matrix: tuple[Row, Row, Row] | None = None
    """The homography, shelf to upright picture; None when not known."""
    anchors: tuple[Point, ...] = ()
    """The corners it rests on, in shelf units."""

    @property
    def is_known(self) -> bool:
        """Whether places can be found in the picture."""
        return self.matrix is not None

    def to_picture(self, places: Points) -> Points:
        """Pixels of places on the shelf, (N, 2). NaN for all when the shelf is not known.

        A place on or behind the horizon is NaN too.
        """
        matrix = np.full((3, 3), np.nan) if self.matrix is None else np.array(self.matrix)
        flat = np.column_stack([places, np.ones(len(places))]) @ matrix.T
        depth = np.where(flat[:, 2:] > 0, flat[:, 2:], np.nan)
        return np.asarray(flat[:, :2] / depth, np.float64)

    def doubt_px(self, places: Points) -> NDArray[np.float64]:
        """Standard deviation of where these places are in the picture, (N,) in pixels.

        The doubt about the markers' corners, carried through the fit: small between the
        markers, growing quickly beyond them. Zero for a shelf given without markers.
        """
        if not self.anchors:
            return np.zeros(len(places))
        anchors = np.array(self.anchors)
        middle, size = anchors.mean(axis=0), np.ptp(anchors, axis=0).max()
        known, asked = (self._slopes(at, middle, size) for at in (anchors, places))
        scale = np.linalg.norm(known, axis=0)
        _, singular, turned = np.linalg.svd(known / scale, full_matrices=False)
        reach = ((asked / scale) @ turned.T) / singular
        spread = np.sqrt((reach**2).sum(axis=1).reshape(-1, 2).sum(axis=1))
        return np.asarray(spread * max(CORNER_PX, self.error_px or 0), np.float64)

    def _slopes(self, places: Points, middle: Points, size: float) -> Points:
        """How x and y in the picture move with the homography's eight numbers, (2 N, 8)."""
        from_unit = np.array([[size, 0, middle[0]], [0, size, middle[1]], [0, 0, 1]])
        matrix = np.array(self.matrix) @ from_unit
        matrix /= matrix[2, 2]
        at = np.column_stack([(places - middle) / size, np.ones(len(places))])
        depth = at @ matrix[2]
        seen = (at @ matrix[:2].T) / depth[:, None]
        slopes = np.zeros((len(places), 2, 8))
        slopes[:, 0, 0:3] = slopes[:, 1, 3:6] = at
        slopes[:, :, 6:8] = -seen[:, :, None] * at[:, None, :2]
        return np.asarray((slopes / depth[:, None, None]).reshape(-1, 8), np.float64)


def normalised(width: int, height: int) -> Registration:
    """The picture itself as a shelf from (0, 0) to (1, 1)."""
    # Whole numbers are the middles of pixels: the left edge is half a pixel before 0.
    return Registration(
        None, matrix=((width, 0, -0.5), (0, height, -0.5), (0, 0, 1)), error_px=None
    )


def place(frame: Frame, markers: Markers | None) -> Registration:
    """``locate`` by the markers, or without them the whole picture as it is."""
    return normalised(frame.width, frame.height) if markers is None else locate(frame, markers)


def locate(frame: Frame, markers: Markers) -> Registration:
    """Find the shelf by its markers, however the camera is turned.

    Costs 11 ms at 1600 x 1200, 30 ms when a marker is missing; three times that for AprilTags.
    """
    wanted = {marker.id: marker.corners() for marker in markers.placed}
    found = _seen(frame, markers.dictionary, len(wanted))
    seen = {name: corners for name, corners in found.items() if name in wanted}
    if len(seen) < LEAST_MARKERS:
        return Registration("markers missing", tuple(sorted(seen)))
    return _fitted(wanted, seen, MISFIT * max(frame.width, frame.height))


def _dictionary(name: str) -> cv2.aruco.Dictionary:
    number: int | None = getattr(cv2.aruco, name, None) if _DICTIONARY.fullmatch(name) else None
    if number is None:
        raise ValueError(f"{name!r} is no dictionary of markers, such as DICT_4X4_50")
    return cv2.aruco.getPredefinedDictionary(number)


def _seen(frame: Frame, dictionary: str, enough: int) -> dict[int, Points]:
    """Corners of the markers in the picture, by id; an id seen twice is nobody's."""
    detector = cv2.aruco.ArucoDetector(_dictionary(dictionary))
    seen = _detected(detector, frame.gray_within(LOOK_AT_PX), frame.gray)
    if len(seen) >= enough or max(frame.width, frame.height) <= LOOK_AT_PX:
        return seen
    return _detected(detector, frame.gray, frame.gray)


def _detected(detector: cv2.aruco.ArucoDetector, small: Pixels, gray: Pixels) -> dict[int, Points]:
    found, ids, _ = detector.detectMarkers(small)
    if ids is None:
        return {}
    named = [int(one) for one in np.asarray(ids).ravel()]
    scale = np.array(gray.shape[::-1]) / np.array(small.shape[::-1])
    return {
        name: _refined(gray, (np.array(corners[0], np.float64) + 0.5) * scale - 0.5)
        for name, corners in zip(named, found, strict=True)
        if named.count(name) == 1
    }


def _refined(gray: Pixels, corners: Points) -> Points:
    """The corners to a fraction of a pixel, looked for within a sixth of the marker's side."""
    side = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).min()
    reach = int(np.clip(side / 6 / 2, 2, 8))
    height, width = gray.shape
    inside = np.clip(corners, 0, (width - 1, height - 1)).astype(np.float32).reshape(-1, 1, 2)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.02)
    return np.asarray(
        cv2.cornerSubPix(gray, inside, (reach, reach), (-1, -1), stop).reshape(-1, 2), np.float64
    )


def _fitted(wanted: dict[int, Points], seen: dict[int, Points], misfit_px: float) -> Registration:
    ids = sorted(seen)
    places, pixels = (np.concatenate([of[one] for one in ids]) for of in (wanted, seen))
    _, fits = cv2.findHomography(places, pixels, cv2.RANSAC, misfit_px)
    agree = np.all(np.reshape(fits, (-1, 4)), axis=1, keepdims=True)[:, 0]
    agreeing = tuple(one for one, is_good in zip(ids, agree, strict=True) if is_good)
    if len(agreeing) < LEAST_MARKERS:
        return Registration("markers disagree", agreeing)
    places, pixels = (of.reshape(-1, 4, 2)[agree].reshape(-1, 2) for of in (places, pixels))
    return _measured(agreeing, places, pixels, misfit_px)


def _measured(
    ids: tuple[int, ...], places: Points, pixels: Points, misfit_px: float
) -> Registration:
    matrix, _ = cv2.findHomography(places, pixels)
    if np.linalg.det(matrix) * matrix[2, 2] <= 0:
        return Registration("markers disagree", ids)
    rows = [(float(a), float(b), float(c)) for a, b, c in matrix / matrix[2, 2]]
    anchors = tuple((float(x), float(y)) for x, y in places)
    found = Registration(None, ids, None, (rows[0], rows[1], rows[2]), anchors)
    off = np.linalg.norm(found.to_picture(places) - pixels, axis=1)
    error = float(np.sqrt((off**2).mean()))
    if not error <= misfit_px:
        return Registration("markers disagree", ids, error)
    return Registration(None, ids, error, found.matrix, anchors)
