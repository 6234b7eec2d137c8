"""What each family of detectors puts out, as boxes, scores and classes.

Every layout is checked against the shapes a model really gave, because a wrong one does not
fail by itself: it finds things that are not there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.errors import ConfigError
from capturekit.steps.objects.letterbox import Boxes

Numbers = NDArray[np.float32]

STRIDES: Final = (8, 16, 32)
"""Pixels of the input to a cell, of the three grids on which YOLO models predict."""
ANCHORS: Final = 3
"""Boxes that YOLOv5 to v7 predict in each cell."""
MOST_FROM_MODEL: Final = 1000
"""Models that end in a suppression of their own give 100 to 300 boxes; others, thousands."""
MOST_CANDIDATES: Final = 3000
"""Boxes over the threshold that suppression looks at, best first. Bounds its time to 20 ms."""
ROUNDING: Final = 1e-2
"""How far half-precision scores may lie outside 0 to 1."""


class Layout(StrEnum):
    """How boxes lie in a model's output. N is the batch, C the number of classes."""

    AUTO = "auto"
    """Told by the shapes; ConfigError when they fit none or two."""
    YOLOV5 = "yolov5"
    """(N, boxes, 5 + C): centre and size in pixels, objectness, classes. Also YOLOv7."""
    YOLOV8 = "yolov8"
    """(N, 4 + C, boxes): centre and size in pixels, classes. Also YOLOv9, 11 and 12."""
    YOLOX = "yolox"
    """(N, boxes, 5 + C) in cells of grids; takes BGR from 0 to 255, placed at the top left.
    Shaped as YOLOv5, so it must be named."""
    NMS_IN_MODEL = "nms_in_model"
    """(N, boxes, 6): corners in pixels, score, class. YOLOv10, YOLO26, others exported so."""
    DETR = "detr"
    """(N, boxes, 4) centre and size from 0 to 1, and (N, boxes, C) logits, in any order.
    RT-DETR, D-FINE and Deformable DETR."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes of one picture in pixels of the input."""

    boxes: Boxes
    scores: Numbers
    """(n,) from 0 to 1."""
    classes: NDArray[np.int64]

    def best(self, max_overlap: float, limit: int) -> "Candidates":
        """Of boxes of one class that overlap by more than ``max_overlap`` only the best.

        Overlap is intersection over union. At most ``limit``, best first.
        """
        found = self.at(np.argsort(-self.scores, kind="stable")[:MOST_CANDIDATES])
        if not len(found.scores):
            return found
        sizes = found.boxes[:, 2:] - found.boxes[:, :2]
        # Suppression knows no classes, so each is moved to a place of its own.
        apart = found.classes * (2 * np.abs(found.boxes).max() + 1)
        moved = np.concatenate((found.boxes[:, :2] + apart[:, np.newaxis], sizes), axis=1)
        kept = cv2.dnn.NMSBoxes(moved, found.scores, 0.0, max_overlap)  # type: ignore[arg-type]  # takes arrays, too
        return found.at(np.array(kept, np.int64)[:limit])

    def at(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Candidates":
        """Those of these rows."""
        return Candidates(self.boxes[rows], self.scores[rows], self.classes[rows])


def told_by_shapes(
    layout: Layout,
    shapes: Sequence[tuple[int, ...]],
    class_count: int,
    input_size: tuple[int, int],
) -> Layout:
    """The layout of outputs of these shapes; ConfigError when that is not ``layout``.

    ``class_count`` is 0 when it is not known, ``input_size`` width and height.
    """
    fitting = [one for one, fits in _FITS.items() if fits(shapes, class_count)]
    if Layout.YOLOV5 in fitting and shapes[0][1] == _cells(input_size):
        fitting.append(Layout.YOLOX)
    if layout in fitting:
        return layout
    likely = _likely(fitting, shapes, input_size)
    if layout is not Layout.AUTO or len(likely) != 1:
        raise ConfigError(
            f"the model's outputs {', '.join(map(str, shapes))} with {class_count or 'unknown'} "
            f"classes are not read as {layout}; they look like: {', '.join(likely) or 'none known'}"
        )
    return likely[0]


def candidates(
    layout: Layout, outputs: Sequence[Numbers], input_size: tuple[int, int], least: float
) -> Candidates:
    """Boxes of one picture with a score of ``least`` or more; what is not finite is no box.

    ``outputs`` are without their batch axis, in a layout ``told_by_shapes``. Raises
    ConfigError when scores are not from 0 to 1: then it is another layout after all.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = _DECODERS[layout](outputs, input_size, least)
    boxes = found.boxes
    is_box = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return found.at(is_box & np.isfinite(boxes).all(axis=1))


# Which layouts have these shapes?


def _is_yolov5(shapes: Sequence[tuple[int, ...]], class_count: int) -> bool:
    # Some exports add the grids that the first output was made from.
    if len(shapes[0]) != 3 or any(len(shape) != 5 for shape in shapes[1:]):
        return False
    return shapes[0][2] == 5 + class_count if class_count else shapes[0][2] > 5


def _is_yolov8(shapes: Sequence[tuple[int, ...]], class_count: int) -> bool:
    if len(shapes) != 1 or len(shapes[0]) != 3:
        return False
    return shapes[0][1] == 4 + class_count if class_count else shapes[0][1] > 4


def _is_nms_in_model(shapes: Sequence[tuple[int, ...]], _class_count: int) -> bool:
    return len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] == 6


def _is_detr(shapes: Sequence[tuple[int, ...]], class_count: int) -> bool:
    if len(shapes) != 2 or any(len(shape) != 3 for shape in shapes):
        return False
    boxes = _detr_boxes(shapes)
    if boxes is None or shapes[0][:2] != shapes[1][:2]:
        return False
    return class_count in (0, shapes[1 - boxes][2])


def _detr_boxes(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Which output holds boxes; with four classes both look so, and they come last."""
    return next((at for at in (1, 0) if shapes[at][-1] == 4), None)


_FITS: Final[dict[Layout, Callable[[Sequence[tuple[int, ...]], int], bool]]] = {
    Layout.YOLOV5: _is_yolov5,
    Layout.YOLOV8: _is_yolov8,
    Layout.NMS_IN_MODEL: _is_nms_in_model,
    Layout.DETR: _is_detr,
}


def _likely(
    fitting: Sequence[Layout], shapes: Sequence[tuple[int, ...]], input_size: tuple[int, int]
) -> list[Layout]:
    """Of layouts that have these shapes those that have them in real models."""
    likely = set(fitting) - {Layout.YOLOX}
    if len(likely) > 1:
        rows, columns = shapes[0][1:]
        if rows != columns:
            # There are more boxes than numbers to a box.
            unlikely = {Layout.YOLOV8} if rows > columns else likely - {Layout.YOLOV8}
            likely = likely - unlikely or likely
        if {Layout.YOLOV5, Layout.NMS_IN_MODEL} <= likely:
            is_grid = rows in (ANCHORS * _cells(input_size), _cells(input_size))
            ends_plain = is_grid or rows > MOST_FROM_MODEL
            likely.remove(Layout.NMS_IN_MODEL if ends_plain else Layout.YOLOV5)
    return sorted(likely)


def _cells(input_size: tuple[int, int]) -> int:
    return sum((input_size[0] // stride) * (input_size[1] // stride) for stride in STRIDES)


# Each layout read


def _from_centres(boxes: Numbers, scores: Numbers, classes: NDArray[np.int64]) -> Candidates:
    """``boxes`` are (n, 4) centre and size."""
    exact = boxes.astype(np.float64)
    half = exact[:, 2:] / 2
    return Candidates(
        np.concatenate((exact[:, :2] - half, exact[:, :2] + half), axis=1), scores, classes
    )


def _at_least(least: float, scores: Numbers) -> NDArray[np.bool_]:
    """Which scores count; not a number and infinity do not."""
    finite = scores[np.isfinite(scores)]
    if finite.size and (finite.max() > 1 + ROUNDING or finite.min() < -ROUNDING):
        raise ConfigError(
            f"the model's scores are from {finite.min():g} to {finite.max():g}, not from 0 to 1: "
            "it has another layout, or its last layer was left out"
        )
    return np.asarray(np.isfinite(scores) & (scores >= least))


def _yolov5(outputs: Sequence[Numbers], _size: tuple[int, int], least: float) -> Candidates:
    rows = outputs[0]
    # No class makes a box more likely than it is to be a thing at all.
    rows = rows[~(rows[:, 4] < least)]
    scores = rows[:, 4] * rows[:, 5:].max(axis=1)
    rows, scores = rows[kept := _at_least(least, scores)], scores[kept]
    return _from_centres(rows[:, :4], np.clip(scores, 0, 1), rows[:, 5:].argmax(axis=1))


def _yolov8(outputs: Sequence[Numbers], _size: tuple[int, int], least: float) -> Candidates:
    columns = outputs[0]
    scores = columns[4:].max(axis=0)
    columns, scores = columns[:, kept := _at_least(least, scores)], scores[kept]
    return _from_centres(columns[:4].T, np.clip(scores, 0, 1), columns[4:].argmax(axis=0))


def _yolox(outputs: Sequence[Numbers], size: tuple[int, int], least: float) -> Candidates:
    rows = outputs[0].copy()
    grid = [_grid(size, stride) for stride in STRIDES]
    corners, strides = (np.concatenate(part) for part in zip(*grid, strict=True))
    rows[:, :2] = (rows[:, :2] + corners) * strides
    rows[:, 2:4] = np.exp(rows[:, 2:4]) * strides
    return _yolov5([rows], size, least)


def _grid(size: tuple[int, int], stride: int) -> tuple[Numbers, Numbers]:
    columns, rows = np.meshgrid(np.arange(size[0] // stride), np.arange(size[1] // stride))
    corners = np.stack((columns, rows), axis=2).reshape(-1, 2).astype(np.float32)
    return corners, np.full((len(corners), 1), stride, np.float32)


def _nms_in_model(outputs: Sequence[Numbers], _size: tuple[int, int], least: float) -> Candidates:
    rows = outputs[0][_at_least(least, outputs[0][:, 4])]
    rows = rows[(rows[:, 5] >= 0) & (rows[:, 5] < 1 << 24)]
    scores = np.clip(rows[:, 4], 0, 1)
    return Candidates(rows[:, :4].astype(np.float64), scores, rows[:, 5].astype(np.int64))


def _detr(outputs: Sequence[Numbers], size: tuple[int, int], least: float) -> Candidates:
    boxes_at = _detr_boxes([output.shape for output in outputs]) or 0
    boxes, logits = outputs[boxes_at], outputs[1 - boxes_at]
    scores = np.asarray(1 / (1 + np.exp(-logits.max(axis=1))), np.float32)
    kept = _at_least(least, scores)
    in_pixels = boxes[kept] * np.array((*size, *size), np.float32)
    return _from_centres(in_pixels, scores[kept], logits[kept].argmax(axis=1))


_DECODERS: Final[
    dict[Layout, Callable[[Sequence[Numbers], tuple[int, int], float], Candidates]]
] = {
    Layout.YOLOV5: _yolov5,
    Layout.YOLOV8: _yolov8,
    Layout.YOLOX: _yolox,
    Layout.NMS_IN_MODEL: _nms_in_model,
    Layout.DETR: _detr,
}
