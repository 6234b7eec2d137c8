"""The step: a picture into the model, boxes out of it, items by the names of their classes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from capturekit.errors import ConfigError
from capturekit.frame import Frame, Observation, Outline, Point
from capturekit.picture import Pixels
from capturekit.pipeline import Chainable, ModelFile
from capturekit.steps.objects.engines import Backend, Batch, Engine, Loading, loaded
from capturekit.steps.objects.layouts import Layout, Numbers, candidates, told_by_shapes
from capturekit.steps.objects.letterbox import Letterbox
from capturekit.steps.objects.modelfile import ModelHeader, header_of

USUAL_SIZE: Final = (640, 640)
"""Width and height for a model that takes any: what YOLO models are trained at."""
MOST_IN_ONE_RUN: Final = 16
"""Pictures; at 640 x 640 their input has 79 MB. More in one run are not faster."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One thing that the model found."""

    class_name: str
    """Its number as text when the model's classes have no names."""
    confidence: float
    """0 to 1."""
    polygon: tuple[Point, ...]
    """Four corners in pixels of the upright picture, from the top left, clockwise."""
    item: str | None
    """None when no item goes with the class."""

    def as_json(self) -> dict[str, JsonValue]:
        """As one entry of ``objects``."""
        return {
            "class": self.class_name,
            "confidence": round(self.confidence, 4),
            "box": [[round(x, 2), round(y, 2)] for x, y in self.polygon],
            "item": self.item,
        }


@dataclass(frozen=True, slots=True)
class Objects:
    """All things found, the most certain first."""

    json_key: ClassVar[str] = "objects"

    found: tuple[Detection, ...]

    def __iter__(self) -> Iterator[Detection]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def as_json(self) -> JsonValue:
        """The list under ``objects``."""
        return [detection.as_json() for detection in self.found]

    def outlines(self) -> Iterable[Outline]:
        """Each with its class and confidence."""
        for detection in self.found:
            label = f"{detection.class_name} {detection.confidence:.2f}"
            yield Outline(detection.polygon, label, "object")


@dataclass(frozen=True, slots=True)
class DetectObjects(Chainable):
    """Finds ``Objects``, and observes each whose class has an item: quantity 1.

    The model is any ONNX detector with one picture as input and a ``Layout`` that is known.
    Raises ConfigError, when made or at the first picture, for a model that cannot be run.
    """

    name: ClassVar[str] = "objects"
    version: ClassVar[int] = 1
    gives: ClassVar[tuple[type, ...]] = (Objects,)

    model: ModelFile
    items: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    """Class name to item. Things of other classes are found and not observed."""
    classes: tuple[str, ...] = ()
    """In the order of the model's outputs; empty: the names in the model's metadata."""
    min_confidence: float = 0.25
    max_overlap: float = 0.45
    """Of two things of a class, intersection over union; above it the less certain one goes.
    Also for models that suppress by themselves, where it finds nothing more to do."""
    max_found: int = 300
    layout: Layout = Layout.AUTO
    input_size: tuple[int, int] | None = None
    """Width and height, only for a model that takes any; None: its own, or ``USUAL_SIZE``."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Taken from the input's red, green and blue, which are from 0 to 1; before ``deviation``."""
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    backend: Backend = Backend.AUTO
    threads: int = 1
    """Of onnxruntime, for one picture. Several pictures at a time use the cores better."""

    def __post_init__(self) -> None:
        pairs = self.items.items() if isinstance(self.items, Mapping) else self.items
        object.__setattr__(self, "items", tuple(sorted((str(k), str(v)) for k, v in pairs)))
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "layout", Layout(self.layout))
        object.__setattr__(self, "backend", Backend(self.backend))
        self._check_numbers()
        header = header_of(self.model)
        self._check_size(header)
        names = self.classes or header.names
        unknown = sorted(set(self._item_of()) - set(names))
        if names and unknown:
            raise ConfigError(
                f"the model has no class {', '.join(unknown)}; it has: {', '.join(names)}"
            )

    def _check_numbers(self) -> None:
        if not 0 <= self.min_confidence <= 1 or not 0 < self.max_overlap <= 1:
            raise ValueError("min_confidence is 0 to 1, max_overlap above 0 and up to 1")
        if self.max_found < 1 or self.threads < 1:
            raise ValueError("max_found and threads are 1 or more")
        if self.input_size is not None and not all(16 <= side <= 8192 for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} is not 16 to 8192 each way")
        if min(self.deviation) <= 0:
            raise ValueError("each deviation is above 0")

    def _check_size(self, header: ModelHeader) -> None:
        if self.input_size is None:
            return
        given = (header.shape[3], header.shape[2])
        if any(own not in (None, side) for own, side in zip(given, self.input_size, strict=True)):
            raise ConfigError(f"the model takes {given} only, not {self.input_size}")

    @property
    def needs(self) -> tuple[str | type, ...]:
        """The representation that the model's input is filled from."""
        width, height = self._size(header_of(self.model))
        return (f"bgr_{width}" if width == height else "bgr",)

    def __call__(self, frame: Frame) -> Frame:
        """Letterboxing and reading the outputs cost about 3 ms; the model costs the rest."""
        (objects,) = self.detect_many([frame])
        seen = (self._observation(one, one.item) for one in objects if one.item is not None)
        return frame.having(objects).observing(*seen)

    def detect_many(self, frames: Sequence[Frame]) -> list[Objects]:
        """What is in each picture, in their order.

        Pictures share a run when the model takes any number or a fixed number of them; the
        answers are those of one by one.
        """
        header = header_of(self.model)
        engine = loaded(Loading(self.model, self.backend, self.threads))
        own_batch = header.shape[0]
        at_once = own_batch or (MOST_IN_ONE_RUN if engine.takes_batches else 1)
        found: list[Objects] = []
        for start in range(0, len(frames), at_once):
            found += self._run(engine, header, frames[start : start + at_once])
        return found

    def _run(
        self, engine: Engine, header: ModelHeader, frames: Sequence[Frame]
    ) -> Iterator[Objects]:
        size = self._size(header)
        is_centred = self.layout is not Layout.YOLOX
        boxes = [Letterbox.fit((f.width, f.height), size, is_centred=is_centred) for f in frames]
        inputs = [box.pixels(frame) for box, frame in zip(boxes, frames, strict=True)]
        # A model of a fixed batch is filled up.
        inputs += inputs[:1] * ((header.shape[0] or 0) - len(inputs))
        outputs = engine.run(self._batch(inputs, header.dtype))
        names = self.classes or header.names
        layout = self._layout(outputs, len(inputs), len(names), size)
        for at, box in enumerate(boxes):
            yield self._objects(layout, [output[at] for output in outputs], box, names)

    def _size(self, header: ModelHeader) -> tuple[int, int]:
        width, height = self.input_size or USUAL_SIZE
        return header.shape[3] or width, header.shape[2] or height

    def _batch(self, inputs: Sequence[Pixels], dtype: str) -> Batch:
        is_plain = self.layout is Layout.YOLOX
        if dtype == "uint8":
            whole = cv2.dnn.blobFromImages(inputs, swapRB=not is_plain, ddepth=cv2.CV_8U)
            return np.asarray(whole, np.uint8)
        scale = 1.0 if is_plain else 1 / 255
        blob: NDArray[np.float32] = np.asarray(
            cv2.dnn.blobFromImages(inputs, scale, swapRB=not is_plain), np.float32
        )
        if any(self.mean) or self.deviation != (1.0, 1.0, 1.0):
            blob = (blob - _by_channel(self.mean)) / _by_channel(self.deviation)
        return blob.astype(np.float16) if dtype == "float16" else blob

    def _layout(
        self, outputs: Sequence[Numbers], count: int, classes: int, size: tuple[int, int]
    ) -> Layout:
        shapes = [output.shape for output in outputs]
        if not shapes or any(len(shape) < 2 or shape[0] != count for shape in shapes):
            raise ConfigError(f"the model's outputs {shapes} are not for {count} pictures")
        return told_by_shapes(self.layout, shapes, classes, size)

    def _objects(
        self, layout: Layout, outputs: Sequence[Numbers], box: Letterbox, names: tuple[str, ...]
    ) -> Objects:
        found = candidates(layout, outputs, box.input_size, self.min_confidence)
        best = found.best(self.max_overlap, self.max_found)
        rows = zip(box.to_picture(best.boxes), best.scores, best.classes, strict=True)
        item_of = self._item_of()
        return Objects(
            tuple(
                _detection(corners.tolist(), float(score), _name(int(number), names), item_of)
                for corners, score, number in rows
                # A thing in the grey around the picture is none.
                if corners[2] > corners[0] and corners[3] > corners[1]
            )
        )

    def _item_of(self) -> dict[str, str]:
        return dict(self.items)

    def _observation(self, seen: Detection, item: str) -> Observation:
        return Observation(
            analyser=self.name, item=item, confidence=seen.confidence, box=seen.polygon
        )


def _by_channel(numbers: tuple[float, float, float]) -> NDArray[np.float32]:
    return np.array(numbers, np.float32).reshape(1, 3, 1, 1)


def _name(number: int, names: tuple[str, ...]) -> str:
    return names[number] if number < len(names) else str(number)


def _detection(
    corners: list[float], score: float, name: str, item_of: Mapping[str, str]
) -> Detection:
    left, top, right, bottom = corners
    polygon = ((left, top), (right, top), (right, bottom), (left, bottom))
    return Detection(name, score, polygon, item_of.get(name))
