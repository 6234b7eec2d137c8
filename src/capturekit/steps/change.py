"""Has anything changed since the last accepted picture? If not, expensive steps may be skipped.

The step compares with ``frame.reference``: the last picture of the same device and view that
was fully analysed. Whatever cannot be compared counts as changed: in doubt nothing is skipped.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import ClassVar, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from capturekit.frame import Frame, Observation, Point, Reference, shrink
from capturekit.picture import Pixels
from capturekit.pipeline import Chainable, Result
from capturekit.steps.quality import Quality, Verdict
from capturekit.steps.zones import Zones

Lines: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = NDArray[np.float64]

LONG_SIDE: Final = 640
"""Pixels. At 640 none of 600 changes was missed, among them 200 codes replaced by others of the
same size (tests/benchmarks/bench_change.py 100); small print needs 1280 and a threshold of 0.17."""
THRESHOLD: Final = 0.4
"""Unlikeness of a block, 0 to 2, from which it has changed. In the same measurement 19 of 20
changes reached 0.62, and 19 of 20 pictures with nothing but other light stayed under 0.44."""
ALIGN_PX: Final = 320
"""Longer side at which the pictures are aligned, to a twentieth of a pixel."""
FARTHEST: Final = 0.05
"""Of the longer side: a camera that moved more sees something else."""
FARTHEST_DEGREES: Final = 2.0
LEAST_LIKENESS: Final = 0.3
"""Correlation of the aligned pictures, light taken out; below it the alignment is not found."""
BLOCK: Final = 0.027
"""Side of a block, as a share of the longer side."""
NOISES: Final = 40.0
"""Times the usual difference of two slopes: blocks with less in them are noise."""
LEAST_NOISE: Final = 0.02
"""Squared grey levels a pixel."""
RIM_PX: Final = 4
BURNT: Final = 250
BURNT_SHARE: Final = 0.01
"""A hundredth of the picture in which light newly hides everything is too much."""

DEFAULT_VIEWS: Final = 256


@dataclass(frozen=True, slots=True)
class Change:
    """What the comparison found."""

    json_key: ClassVar[str] = "change"

    changed: bool
    reason: str
    """``same``, ``different``, or why they were not compared: ``no reference``, ``poor
    picture``, ``other size``, ``moved``, ``too bright``."""
    score: float | None = None
    """Unlikeness of the most changed block, 0 to 2; None when not compared."""
    share: float | None = None
    """Of the picture that changed, 0 to 1."""
    shift_px: Point | None = None
    """By how much the picture's middle moved since the reference, right and down."""
    reference_id: str | None = None
    carried: int = 0
    """Observations that were taken over from the reference."""
    gray: Pixels | None = field(default=None, repr=False, compare=False)
    """The picture, small: what a later one may be compared with."""

    def as_json(self) -> JsonValue:
        """The object under ``change``."""
        shift: list[JsonValue] | None = None
        if self.shift_px is not None:
            shift = [round(self.shift_px[0], 1), round(self.shift_px[1], 1)]
        return {
            "changed": self.changed,
            "reason": self.reason,
            "score": None if self.score is None else round(self.score, 3),
            "share": None if self.share is None else round(self.share, 4),
            "shift_px": shift,
            "reference": self.reference_id,
            "carried": self.carried,
        }


@dataclass(frozen=True, slots=True)
class DetectChange(Chainable):
    """Finds ``Change``; when nothing changed, observes again what the reference observed.

    Those observations keep all but their boxes, which move with the picture. So a pipeline
    may skip its expensive steps (``When("change.changed")``) and an exhaustive camera still
    reports its stock. A picture that is not ``good``, if its ``Quality`` was judged, counts
    as changed.

    Something small that is replaced by something alike is not seen: two other digits on a
    label of 2 % of the width are not; see ``docs/how-to/skip-unchanged-pictures.md``.
    """

    name: ClassVar[str] = "change"
    version: ClassVar[int] = 1
    gives: ClassVar[tuple[type, ...]] = (Change,)
    typical_ms: ClassVar[float] = 14.0

    long_side: int = LONG_SIDE
    """Pixels at which pictures are compared: more notice smaller things and cost more."""
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        if self.long_side < ALIGN_PX or not 0 < self.threshold < 2:
            raise ValueError(f"{self}: long_side from {ALIGN_PX} on, threshold between 0 and 2")

    @property
    def needs(self) -> tuple[str | type, ...]:
        """The representation that is compared."""
        return (f"gray_{self.long_side}",)

    @property
    def wants(self) -> tuple[str | type, ...]:
        """The reference, and the ``Quality`` by which poor pictures are known."""
        return (Reference, Quality)

    def __call__(self, frame: Frame) -> Frame:
        """Costs about 14 ms with a reference, 1 ms without."""
        gray = frame.gray_within(self.long_side)
        reference = frame.reference
        if reference is None:
            return frame.having(Change(changed=True, reason="no reference", gray=gray))
        small = shrink(reference.gray, self.long_side)
        reason = _obstacle(frame, reference, small, gray)
        if reason is not None:
            found = Change(changed=True, reason=reason, reference_id=reference.id, gray=gray)
            return frame.having(found)
        return self._compared(frame, reference, small, gray)

    def _compared(self, frame: Frame, reference: Reference, old: Pixels, new: Pixels) -> Frame:
        found = Change(changed=True, reason="moved", reference_id=reference.id, gray=new)
        move = _move(old, new)
        if move is None:
            return frame.having(found)
        found = replace(found, shift_px=_shift_px(move, new, frame))
        back = _warped(new, move)
        there = _warped(np.full_like(new, 255), move) == 255
        if (there & (back >= BURNT) & (old < BURNT)).mean() > BURNT_SHARE:
            return frame.having(replace(found, reason="too bright"))
        unlike = _unlikeness(old, back, there)
        frame.show("change", np.clip(unlike * 127, 0, 255).astype(np.uint8))
        score, share = float(unlike.max()), float((unlike > self.threshold).mean())
        found = replace(found, reason="different", score=score, share=share)
        if score > self.threshold:
            return frame.having(found)
        seen = _carried(reference.observations, move, frame.width / new.shape[1])
        same = replace(found, changed=False, reason="same", carried=len(seen))
        return frame.having(same).observing(*seen)


class References:
    """The last accepted picture of each device and view, in this process's memory.

    For pipelines run by hand; bounded, and safe to share between threads.
    """

    def __init__(self, max_views: int = DEFAULT_VIEWS) -> None:
        """Of more than ``max_views``, the one not used longest is forgotten; 300 KB each."""
        if max_views < 1:
            raise ValueError(f"max_views is {max_views}; it must be 1 or more")
        self._max_views = max_views
        self._kept: OrderedDict[tuple[str, str], Reference] = OrderedDict()
        self._lock = Lock()

    def of(self, device: str, view: str = "") -> Reference | None:
        """What to give as ``reference`` to the pipeline's ``run``; None before the first."""
        with self._lock:
            found = self._kept.get((device, view))
            if found is not None:
                self._kept.move_to_end((device, view))
            return found

    def accept(self, device: str, view: str, result: Result, *, id: str = "") -> bool:
        """Keep this picture as the reference if it may be one, and tell whether it was kept.

        It may if it was analysed fully: it had changed, no step failed, its zones, if it has
        any, were found, and its quality, if that was judged, is good. Slow drift adds up to a
        change because an unchanged picture never becomes the reference. ``id`` is else the
        picture's SHA-256.
        """
        change = result.findings.get(Change)
        if not isinstance(change, Change) or change.gray is None or not _is_whole(result, change):
            return False
        size = (result.info.width, result.info.height) if result.info else None
        kept = Reference(id or result.sha256 or "", change.gray, result.observations, size)
        with self._lock:
            self._kept[device, view] = kept
            self._kept.move_to_end((device, view))
            while len(self._kept) > self._max_views:
                self._kept.popitem(last=False)
        return True


def _is_whole(result: Result, change: Change) -> bool:
    quality = result.findings.get(Quality)
    is_poor = isinstance(quality, Quality) and quality.verdict is not Verdict.GOOD
    has_failed = result.error is not None or any(step.error for step in result.steps)
    zones = result.findings.get(Zones)
    is_lost = isinstance(zones, Zones) and not zones.is_known
    return change.changed and not (is_poor or has_failed or is_lost)


def _obstacle(frame: Frame, reference: Reference, old: Pixels, new: Pixels) -> str | None:
    """Why the two cannot be compared."""
    quality = frame.findings.get(Quality)
    if isinstance(quality, Quality) and quality.verdict is not Verdict.GOOD:
        return "poor picture"
    height, width = reference.gray.shape
    is_same = (reference.size or (width, height)) == (frame.width, frame.height)
    return None if is_same and old.shape == new.shape else "other size"


# Alignment


def _move(old: Pixels, new: Pixels) -> Matrix | None:
    """From the old picture's pixels to the new one's, a shift and a turn; None if not found."""
    one, other = (_flattened(shrink(each, ALIGN_PX)) for each in (old, new))
    height, width = one.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    (right, down), _ = cv2.phaseCorrelate(one, other, window)
    start = np.array([(1, 0, right), (0, 1, down)], np.float32)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 12, 1e-3)
    everywhere = np.full_like(one, 255, np.uint8)
    try:
        likeness, found = cv2.findTransformECC(
            one, other, start, cv2.MOTION_EUCLIDEAN, stop, everywhere, 3
        )
    except cv2.error:  # it says so when it does not converge
        return None
    move = _enlarged(np.asarray(found, np.float64), old.shape[1] / width)
    return move if likeness >= LEAST_LIKENESS and _is_small(move, old) else None


def _flattened(gray: Pixels) -> Lines:
    """Light and contrast taken out, each pixel by its surroundings."""
    light = gray.astype(np.float32)
    mean = cv2.blur(light, (15, 15))
    variance = cv2.blur(light * light, (15, 15)) - mean * mean
    spread = np.sqrt(np.maximum(variance, 0))
    return np.asarray((light - mean) / (spread + 4), np.float32)


def _enlarged(move: Matrix, scale: float) -> Matrix:
    """The same move in a picture ``scale`` times as large; whole numbers are middles of pixels."""
    turn = move[:, :2].sum(axis=1)
    shift = scale * (move[:, 2] + 0.5 - turn / 2) + turn / 2 - 0.5
    return np.column_stack([move[:, :2], shift])


def _is_small(move: Matrix, gray: Pixels) -> bool:
    middle = np.array(gray.shape[::-1]) / 2
    away = float(np.linalg.norm(move[:, :2] @ middle + move[:, 2] - middle))
    turned = abs(math.degrees(math.atan2(move[1, 0], move[0, 0])))
    return away <= FARTHEST * max(gray.shape) and turned <= FARTHEST_DEGREES


def _warped(new: Pixels, move: Matrix) -> Pixels:
    """The new picture as the old one would have it; 0 where that has nothing."""
    ways = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(new, move, new.shape[::-1], flags=ways), np.uint8)


def _shift_px(move: Matrix, gray: Pixels, frame: Frame) -> Point:
    middle = np.array(gray.shape[::-1]) / 2
    right, down = (move[:, :2] @ middle + move[:, 2] - middle) * frame.width / gray.shape[1]
    return (float(right), float(down))


def _carried(
    observations: tuple[Observation, ...], move: Matrix, scale: float
) -> list[Observation]:
    whole = _enlarged(move, scale)
    return [one.model_copy(update={"box": _moved(one.box, whole)}) for one in observations]


def _moved(box: tuple[Point, ...], move: Matrix) -> tuple[Point, ...]:
    if not box:
        return ()
    corners = np.array(box) @ move[:, :2].T + move[:, 2]
    return tuple((round(float(x), 2), round(float(y), 2)) for x, y in corners)


# Comparison


def _unlikeness(old: Pixels, new: Pixels, there: NDArray[np.bool_]) -> Lines:
    """For the block around each pixel 1 less the correlation of the slopes, (H, W), 0 to 2.

    Slopes of light keep their places when the light changes, and a block's correlation does
    not ask how strong they are. Blocks with nothing but noise in both are alike.
    """
    # The rim too is left out: slopes there see what lies outside.
    rim = np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1), np.uint8)
    seen = np.asarray(cv2.erode(there.astype(np.uint8), rim, borderValue=(0,)), np.uint8)
    before, after = _slopes(old, seen), _slopes(new, seen)
    both, one, other = (_dot(*pair) for pair in ((before, after), (before, before), (after, after)))
    gain = float(np.clip(float(both.sum()) / max(float(one.sum()), 1e-6), 0.2, 4))
    both, one = both * np.float32(gain), one * np.float32(gain * gain)
    off = (one + other - 2 * both)[seen > 0]
    noise = NOISES * max(LEAST_NOISE, float(np.median(off)) if off.size else 0.0)
    side = round(BLOCK * max(old.shape)) | 1
    both, one, other = (cv2.blur(each, (side, side)) + noise for each in (both, one, other))
    return np.asarray((1 - both / np.sqrt(one * other)) * seen, np.float32)


def _slopes(gray: Pixels, seen: Pixels) -> tuple[Lines, Lines]:
    """Grey levels a pixel, to the right and down; 0 where nothing was seen."""
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 1.0)
    right, down = (
        np.asarray(cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) * seen, np.float32)
        for dx in (1, 0)
    )
    return right, down


def _dot(left: tuple[Lines, Lines], right: tuple[Lines, Lines]) -> Lines:
    return left[0] * right[0] + left[1] * right[1]
