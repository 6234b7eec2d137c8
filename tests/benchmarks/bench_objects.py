"""What detecting objects costs: both engines on one model, and the work around them.

The model is made here with random weights: convolutions as in a small YOLOv8 at 640 x 640,
about 8 GFLOP, with its 8,400 boxes of 80 classes. The engines take turns on one core each.

Run it from the root of the repository: ``python tests/benchmarks/bench_objects.py [rounds]``.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2]))

from capturekit.frame import Frame
from capturekit.pipeline import ModelFile
from capturekit.steps.objects import Backend, DetectObjects
from capturekit.steps.objects.layouts import Layout, candidates
from capturekit.steps.objects.letterbox import Letterbox
from tests.pictures import Label, ean13, jpeg, shelf

WIDTHS = (3, 16, 32, 64, 128, 256)
"""Channels after each halving of the picture."""
DEEP = 3
"""Further convolutions at each size."""


@dataclass
class Net:
    """Convolutions with random weights, one after the other."""

    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401  # as onnx
        """One operator; returns the name of its output."""
        name = f"out{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, values: np.ndarray) -> str:
        """A constant; returns its name."""
        self.weights.append(numpy_helper.from_array(values, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def conv(self, name: str, inputs: int, outputs: int, stride: int = 1, size: int = 3) -> str:
        """Random weights that keep the values' size."""
        random = np.random.default_rng(len(self.nodes))
        kernel = random.normal(0, (inputs * size * size) ** -0.5, (outputs, inputs, size, size))
        weight = self.weight(kernel.astype(np.float32))
        window: dict[str, Any] = {"kernel_shape": [size, size], "pads": [size // 2] * 4}
        return self.add("Relu", self.add("Conv", name, weight, strides=[stride] * 2, **window))


def model(folder: Path) -> Path:
    """Writes the network."""
    net, heads, at = Net(), [], "images"
    for level, (before, after) in enumerate(itertools.pairwise(WIDTHS)):
        at = net.conv(at, before, after, 2)
        for _ in range(DEEP):
            at = net.conv(at, after, after)
        if level >= 2:
            head = net.conv(at, after, 84, size=1)
            heads.append(net.add("Reshape", head, net.weight(np.array((0, 84, -1)))))
    last = net.add("Sigmoid", net.add("Concat", *heads, axis=2))
    picture = helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 640, 640))
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, (1, 84, 8400))
    graph = helper.make_graph(net.nodes, "yolo", [picture], [output], net.weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    file = folder / "yolo.onnx"
    file.write_bytes(made.SerializeToString())
    return file


def around(frame: Frame, output: np.ndarray) -> Callable[[], None]:
    """What we do before and after the model, with a few hundred boxes over the threshold."""

    def work() -> None:
        box = Letterbox.fit((frame.width, frame.height), (640, 640), is_centred=True)
        cv2.dnn.blobFromImages([box.pixels(frame)], 1 / 255, swapRB=True)
        found = candidates(Layout.YOLOV8, [output], (640, 640), 0.25).best(0.45, 300)
        box.to_picture(found.boxes)

    return work


def crowd() -> np.ndarray:
    """8,400 boxes of which 400 are of 40 things."""
    random = np.random.default_rng(2)
    output = random.uniform(0, 0.1, (84, 8400)).astype(np.float32)
    middles = np.repeat(random.uniform(50, 590, (2, 40)), 10, axis=1)
    output[:2, :400] = middles + random.normal(0, 3, middles.shape)
    output[2:4] = 60
    output[4, :400] = random.uniform(0.3, 0.9, 400)
    return output


def main(rounds: int) -> None:
    """Medians, in milliseconds of wall time."""
    cv2.setNumThreads(1)
    picture = jpeg(shelf(*(Label(ean13(number)) for number in range(12))))
    with tempfile.TemporaryDirectory() as folder:
        file = ModelFile(model(Path(folder)))
        runtime, opencv = (
            DetectObjects(file, min_confidence=0.999, backend=backend)
            for backend in (Backend.ONNXRUNTIME, Backend.OPENCV)
        )
        frame = Frame.open(picture)
        contestants: dict[str, Callable[[], object]] = {
            "onnxruntime": lambda: runtime(frame),
            "opencv": lambda: opencv(frame),
            "around the model": around(frame, crowd()),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(rounds + 1):
            for name, work in contestants.items():
                frame.forget("bgr_640", "bgr_half")
                started = time.perf_counter()
                work()
                if number:
                    times[name].append(1000 * (time.perf_counter() - started))
        medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, taken in medians.items():
        print(f"{name:18} {taken:7.2f} ms")
    print(f"opencv / onnxruntime: {medians['opencv'] / medians['onnxruntime']:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
