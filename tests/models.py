"""Tiny ONNX detectors whose answers are known: they find cells of pure red, green or blue.

The input is parted into cells of 8 pixels. A cell of one pure colour gives a box of its own
size with a score of 0.9 and the class of its colour, and a slightly smaller double with 0.8.
So a picture that lies a few pixels off, or whose channels are swapped, gives other answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CELL_PX = 8
NAMES = ("red", "green", "blue")
BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}
DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


@dataclass(frozen=True)
class Detector:
    """What the model is like; ``write`` makes the file."""

    layout: str = "yolov8"
    size: tuple[int, int] | None = (320, 320)
    """Width and height; None takes any."""
    batch: int | None = 1
    dtype: str = "float32"
    names: str | None = str(dict(enumerate(NAMES)))
    range: float = 1.0
    """What white is in the input."""
    bias: float = 0
    """Added to every score, so that more than 0 finds something in each cell."""
    domain: str = ""
    """The operator set of its last operator."""

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.layout}.onnx"
        path.write_bytes(self.made())
        return path

    def made(self) -> bytes:
        graph = _Graph(self)
        outputs = getattr(graph, self.layout)()
        width, height = self.size or (None, None)
        picture = helper.make_tensor_value_info(
            "images", DTYPES[self.dtype], (self.batch, 3, height, width)
        )
        results = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in outputs
        ]
        graph.nodes[-1].domain = self.domain
        made = helper.make_model(
            helper.make_graph(graph.nodes, "detector", [picture], results, graph.weights),
            opset_imports=[helper.make_opsetid("", 13)],
            ir_version=8,
        )
        if self.names is not None:
            helper.set_model_props(made, {"names": self.names})
        return bytes(made.SerializeToString())


@dataclass
class _Graph:
    detector: Detector
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401  # as onnx has it
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def scores(self, cell: int = CELL_PX) -> str:
        """(N, 3, rows, columns): 0.9 where a cell is pure, 0 where it is gray."""
        picture = "images"
        if self.detector.dtype != "float32":
            picture = self.node("Cast", picture, to=TensorProto.FLOAT)
        mix = np.full((3, 3), -0.45) + np.eye(3) * 1.35
        if self.detector.layout == "yolox":
            mix = mix[:, ::-1]
        kernel = np.ones((3, 3, cell, cell)) * mix[:, :, None, None] / cell**2
        pure = self.node(
            "Conv",
            picture,
            self.constant(kernel / self.detector.range),
            kernel_shape=[cell, cell],
            strides=[cell, cell],
        )
        return self.node("Add", self.node("Relu", pure), self.constant(self.detector.bias))

    def flat(self, name: str, rows: int) -> str:
        return self.node("Reshape", name, self.constant((0, rows, -1), np.int64))

    def found(self, *, as_corners: bool = False) -> tuple[str, str]:
        """Boxes (N, 4, 2n) and scores (N, 3, 2n), each cell with its double."""
        scores = self.scores()
        one = self.node(
            "ReduceSum",
            self.node("Mul", scores, self.constant(0)),
            self.constant([1], np.int64),
            keepdims=1,
        )
        ones = self.node("Add", one, self.constant(1))
        middles = []
        for axis in (3, 2):
            count = self.node("CumSum", ones, self.constant(axis, np.int64))
            middle = self.node("Sub", count, self.constant(0.5))
            middles.append(self.node("Mul", middle, self.constant(CELL_PX)))
        boxes = [
            self.boxes(middles, ones, side, as_corners=as_corners)
            for side in (CELL_PX, CELL_PX - 1)
        ]
        flat = self.flat(scores, 3)
        doubled = self.node("Mul", flat, self.constant(8 / 9))
        return self.node("Concat", *boxes, axis=2), self.node("Concat", flat, doubled, axis=2)

    def boxes(self, middles: Sequence[str], ones: str, side: float, *, as_corners: bool) -> str:
        x, y = middles
        size = self.node("Mul", ones, self.constant(side))
        parts = [x, y, size, size]
        if as_corners:
            half = self.constant(side / 2)
            parts = [self.node(kind, at, half) for kind in ("Sub", "Add") for at in (x, y)]
        return self.flat(self.node("Concat", *parts, axis=1), 4)

    def turned(self, name: str) -> str:
        return self.node("Transpose", name, perm=[0, 2, 1])

    def yolov8(self) -> list[str]:
        return [self.node("Concat", *self.found(), axis=1)]

    def yolov5(self) -> list[str]:
        boxes, scores = self.found()
        best = self.node("ReduceMax", scores, axes=[1], keepdims=1)
        shares = self.node("Div", scores, self.node("Add", best, self.constant(1e-6)))
        return [self.turned(self.node("Concat", boxes, best, shares, axis=1))]

    def yolox(self) -> list[str]:
        """Only the finest grid finds anything."""
        grids = []
        for cell in (CELL_PX, 2 * CELL_PX, 4 * CELL_PX):
            scores = self.flat(self.scores(cell), 3)
            if cell != CELL_PX:
                scores = self.node("Mul", scores, self.constant(0))
            best = self.node("ReduceMax", scores, axes=[1], keepdims=1)
            zero = self.node("Mul", best, self.constant(0))
            half = self.node("Add", zero, self.constant(0.5))
            shares = self.node("Div", scores, self.node("Add", best, self.constant(1e-6)))
            grids.append(self.node("Concat", half, half, zero, zero, best, shares, axis=1))
        return [self.turned(self.node("Concat", *grids, axis=2))]

    def nms_in_model(self) -> list[str]:
        boxes, scores = self.found(as_corners=True)
        best = self.node("ReduceMax", scores, axes=[1], keepdims=1)
        number = self.node("ArgMax", scores, axis=1, keepdims=1)
        number = self.node("Cast", number, to=TensorProto.FLOAT)
        return [self.turned(self.node("Concat", boxes, best, number, axis=1))]

    def detr(self) -> list[str]:
        boxes, scores = self.found()
        assert self.detector.size is not None
        shares = self.node(
            "Div", boxes, self.constant([[[side] for side in self.detector.size * 2]])
        )
        logits = self.node("Mul", self.node("Sub", scores, self.constant(0.5)), self.constant(10))
        return [self.turned(logits), self.turned(shares)]


@dataclass(frozen=True)
class Thing:
    """A square of a colour; ``at`` is its top left corner in pixels."""

    colour: str
    at: tuple[int, int]
    side: int = 40

    @property
    def corners(self) -> tuple[tuple[int, int], ...]:
        (x, y), side = self.at, self.side
        return ((x, y), (x + side, y), (x + side, y + side), (x, y + side))


def table(*things: Thing, width: int = 1600, height: int = 1200) -> NDArray[np.uint8]:
    """A gray table, seen from above, with the things on it."""
    pixels = np.full((height, width, 3), 114, np.uint8)
    for thing in things:
        cv2.rectangle(
            pixels,
            thing.corners[0],
            np.subtract(thing.corners[2], 1).tolist(),
            BGR[thing.colour],
            -1,
        )
    return pixels
