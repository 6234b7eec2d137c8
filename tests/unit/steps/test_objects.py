import multiprocessing
import pickle
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import external_data_helper, helper
from pydantic import TypeAdapter

from capturekit.errors import ConfigError, MissingExtra
from capturekit.frame import Frame
from capturekit.pipeline import ModelFile, ProcessingPipeline
from capturekit.steps.objects import Backend, DetectObjects, Layout, Objects
from capturekit.steps.objects.layouts import Candidates, candidates, told_by_shapes
from capturekit.steps.objects.letterbox import Letterbox
from capturekit.steps.objects.modelfile import parse
from tests.models import NAMES, Detector, Thing, table

LAYOUTS = ("yolov5", "yolov8", "yolox", "nms_in_model", "detr")
THINGS = (Thing("red", (400, 320)), Thing("green", (0, 1160)), Thing("blue", (1200, 80)))
PICTURE = Frame.from_pixels(table(*THINGS))
ENGINES = (
    pytest.param(Backend.ONNXRUNTIME, marks=pytest.mark.needs_extra("onnx")),
    Backend.OPENCV,
)


def step(folder: Path, detector: Detector | None = None, **options: object) -> DetectObjects:
    detector = detector or Detector()
    if detector.layout == "yolox":
        options = {"layout": Layout.YOLOX, **options}
    file = ModelFile(detector.write(folder))
    return DetectObjects(file, **options)  # type: ignore[arg-type]  # any option of the step


def found(objects: Objects) -> set[tuple[str, tuple[tuple[float, float], ...]]]:
    return {
        (one.class_name, tuple((round(x, 3), round(y, 3)) for x, y in one.polygon))
        for one in objects
    }


def truth(things: Sequence[Thing]) -> set[tuple[str, tuple[tuple[float, float], ...]]]:
    return {(thing.colour, thing.corners) for thing in things}


def white(layout: str, dtype: str) -> float:
    return 255 if layout == "yolox" or dtype == "uint8" else 1


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_things_are_found_to_the_pixel(
    tmp_path: Path, backend: Backend, layout: str, dtype: str
) -> None:
    detector = Detector(layout, dtype=dtype, range=white(layout, dtype))

    objects = step(tmp_path, detector, backend=backend)(PICTURE).find(Objects)

    assert found(objects) == truth(THINGS)
    assert all(one.confidence == pytest.approx(0.9, abs=0.1) for one in objects)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("layout", ["yolov8", "yolox"])
@pytest.mark.parametrize(
    ("input_size", "picture_size", "side"),
    [
        ((320, 320), (1200, 1600), 40),  # upright
        ((640, 320), (1200, 1200), 30),  # grey at both sides
        ((320, 320), (160, 120), 4),  # scaled up
        ((320, 256), (320, 256), 8),  # no grey at all
    ],
)
def test_any_picture_fits_any_input(  # a table with a line each
    tmp_path: Path,
    backend: Backend,
    layout: str,
    input_size: tuple[int, int],
    picture_size: tuple[int, int],
    side: int,
) -> None:
    width, height = picture_size
    things = (Thing("red", (2 * side, 4 * side), side), Thing("blue", (8 * side, 0), side))
    frame = Frame.from_pixels(table(*things, width=width, height=height))
    detector = Detector(layout, size=None, range=white(layout, "float32"))

    detect = step(tmp_path, detector, input_size=input_size, backend=backend)

    assert found(detect(frame).find(Objects)) == truth(things)


@pytest.mark.parametrize(
    ("layout", "place"),
    [
        (Layout.YOLOV8, (slice(36, 284), slice(0, 320))),
        (Layout.YOLOX, (slice(0, 248), slice(0, 320))),
    ],
)
def test_the_picture_lies_in_grey_where_its_family_has_it(
    layout: Layout, place: tuple[slice, slice]
) -> None:
    box = Letterbox.fit((1600, 1240), (320, 320), is_centred=layout is Layout.YOLOV8)
    pixels = box.pixels(Frame.from_pixels(np.full((1240, 1600, 3), 200, np.uint8)))

    assert (pixels[place] == 200).all()
    pixels[place] = 114
    assert (pixels == 114).all()


def test_yolox_has_the_picture_at_the_top_left(tmp_path: Path) -> None:
    # In the middle it would lie across the model's cells.
    frame = Frame.from_pixels(table(*THINGS, height=1240))

    objects = step(tmp_path, Detector("yolox", range=255))(frame).find(Objects)

    assert found(objects) == truth(THINGS)


def test_nothing_is_found_outside_the_picture(tmp_path: Path) -> None:
    # 1210 px are 30 cells and a quarter.
    frame = Frame.from_pixels(table(height=1210))

    objects = step(tmp_path, Detector(bias=0.5), max_found=5000)(frame).find(Objects)

    corners = np.array([one.polygon for one in objects])
    assert len(corners) == 40 * 32
    assert (corners >= 0).all()
    assert corners.max(axis=(0, 1)).tolist() == [1600, 1210]
    assert ((corners[:, 2] - corners[:, 0]) > 0).all()


@pytest.mark.needs_extra("onnx")
def test_both_engines_say_the_same(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 60, (1200, 1600, 3), dtype=np.uint8)
    frame = Frame.from_pixels(np.asarray(cv2.add(table(*THINGS) // 2, noise), np.uint8))

    one, other = (
        step(tmp_path, min_confidence=0.05, backend=backend)(frame).find(Objects)
        for backend in (Backend.ONNXRUNTIME, Backend.OPENCV)
    )

    assert len(one) == len(other) >= 3
    for mine, theirs in zip(one, other, strict=True):
        assert mine.class_name == theirs.class_name
        assert mine.confidence == pytest.approx(theirs.confidence, abs=1e-5)
        assert np.allclose(mine.polygon, theirs.polygon, atol=0.01)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("batch", [None, 1, 4])
def test_many_pictures_get_the_answers_of_one_by_one(
    tmp_path: Path, backend: Backend, batch: int | None
) -> None:
    shelves = [[THINGS[n % 3]] if n % 4 else [] for n in range(7)]
    frames = [Frame.from_pixels(table(*things)) for things in shelves]
    detect = step(tmp_path, Detector(batch=batch), backend=backend)

    together = detect.detect_many(frames)

    assert [found(objects) for objects in together] == [truth(things) for things in shelves]
    assert [found(detect(frame).find(Objects)) for frame in frames] == list(map(found, together))


def test_only_classes_with_an_item_are_observed(tmp_path: Path) -> None:
    frame = step(tmp_path, items={"red": "tomatoes"})(PICTURE)

    (seen,) = frame.observations
    (red,) = [one for one in frame.find(Objects) if one.item]
    assert (seen.item, seen.quantity, seen.analyser) == ("tomatoes", 1, "objects")
    assert (seen.confidence, seen.box) == (red.confidence, red.polygon)
    assert len(frame.find(Objects)) == 3
    assert {outline.kind for outline in frame.find(Objects).outlines()} == {"object"}


def test_a_line_of_json_tells_class_confidence_box_and_item(tmp_path: Path) -> None:
    pipeline = ProcessingPipeline((step(tmp_path, items=(("red", "tomatoes"),)),))

    objects = pipeline.run(PICTURE).as_json()["objects"]

    assert isinstance(objects, list)
    assert {
        "class": "red",
        "confidence": 0.9,
        "box": [[400, 320], [440, 320], [440, 360], [400, 360]],
        "item": "tomatoes",
    } in objects


def test_names_you_give_replace_those_of_the_model(tmp_path: Path) -> None:
    detect = step(tmp_path, classes=("tin", "box", "jar"), items={"jar": "honey"})

    assert {one.class_name for one in detect(PICTURE).find(Objects)} == {"tin", "box", "jar"}


def test_classes_without_a_name_are_numbers(tmp_path: Path) -> None:
    detect = step(tmp_path, Detector(names=None))

    assert {one.class_name for one in detect(PICTURE).find(Objects)} == {"0", "1", "2"}


def test_an_item_of_a_class_that_is_not_there_is_refused_when_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no class rad; it has: red, green, blue"):
        step(tmp_path, items={"rad": "tomatoes"})


def test_the_least_confidence_and_the_most_things_hold(tmp_path: Path) -> None:
    assert not len(step(tmp_path, min_confidence=0.95)(PICTURE).find(Objects))
    assert len(step(tmp_path, max_found=2)(PICTURE).find(Objects)) == 2
    assert len(step(tmp_path, max_overlap=0.99)(PICTURE).find(Objects)) == 6


def test_input_is_normalised_as_told(tmp_path: Path) -> None:
    detect = step(tmp_path, deviation=(0.9, 0.9, 0.9))

    (least, *_) = sorted(one.confidence for one in detect(PICTURE).find(Objects))

    assert least == pytest.approx(1.0, abs=1e-5)


# A step among others


def test_the_step_survives_json_and_pickle(tmp_path: Path) -> None:
    detect = step(tmp_path, items={"red": "tomatoes"}, input_size=(320, 320))
    adapter = TypeAdapter(DetectObjects)

    again = adapter.validate_python(adapter.dump_python(detect, mode="json"))

    assert again == detect == pickle.loads(pickle.dumps(detect))  # noqa: S301  # our own
    assert ProcessingPipeline((again,)).fingerprint == ProcessingPipeline((detect,)).fingerprint
    assert found(again(PICTURE).find(Objects)) == truth(THINGS)


def test_the_model_is_part_of_the_fingerprint_and_its_place_is_not(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    here = ProcessingPipeline((step(tmp_path),)).fingerprint

    assert ProcessingPipeline((step(tmp_path / "moved"),)).fingerprint == here
    other = Detector(names=str(["a", "b", "c"]))
    assert ProcessingPipeline((step(tmp_path / "moved", other),)).fingerprint != here


@pytest.mark.parametrize("backend", ENGINES)
def test_threads_share_one_model(tmp_path: Path, backend: Backend) -> None:
    detect = step(tmp_path, backend=backend)
    frames = [Frame.from_pixels(table(THINGS[n % 3])) for n in range(24)]

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda frame: found(detect(frame).find(Objects)), frames))

    assert answers == [truth([THINGS[n % 3]]) for n in range(24)]


def _found_by(detect: DetectObjects) -> int:
    return len(detect(PICTURE).find(Objects))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="forking with threads warns from 3.12 on")
@pytest.mark.parametrize("backend", ENGINES)
def test_a_forked_process_loads_the_model_for_itself(tmp_path: Path, backend: Backend) -> None:
    detect = step(tmp_path, backend=backend)
    assert _found_by(detect) == 3

    with multiprocessing.get_context("fork").Pool(1) as processes:
        assert processes.apply_async(_found_by, [detect]).get(20) == 3


def test_the_input_is_made_of_a_representation_that_others_share(tmp_path: Path) -> None:
    assert step(tmp_path).needs == ("bgr_320",)
    assert step(tmp_path, Detector(size=(320, 256))).needs == ("bgr",)


# Models that cannot be run


def test_without_onnxruntime_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(MissingExtra, match=r"capturekit\[onnx\]"):
        step(tmp_path, Detector(names=str(list("xyz"))), backend=Backend.ONNXRUNTIME)(PICTURE)


@pytest.mark.parametrize("layout", [Layout.YOLOV5, Layout.YOLOX, Layout.DETR])
def test_a_layout_that_the_model_has_not_is_refused_with_its_shapes(
    tmp_path: Path, layout: Layout
) -> None:
    with pytest.raises(ConfigError, match=r"\(1, 7, 3200\) with 3 classes.* yolov8"):
        step(tmp_path, layout=layout)(PICTURE)


def test_scores_outside_0_to_1_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not from 0 to 1"):
        step(tmp_path, Detector(range=1 / 255))(PICTURE)


@pytest.mark.parametrize(
    ("detector", "reason"),
    [
        (Detector(domain="my.ops"), "operator 'Concat' is of the library 'my.ops'"),
        (Detector(names="{0: 'a', 2: 'b'}"), "not numbered from 0"),
        (Detector(names="__import__('os')"), "class names are not a list"),
        (Detector(names="(" * 500), "class names are not a list"),
        (Detector(names="[" + "0," * 200_000 + "]"), "more than 200,000 characters"),
    ],
    ids=["operator", "gaps", "code", "deep", "long"],
)
def test_a_hostile_model_is_refused_when_the_step_is_made(
    tmp_path: Path, detector: Detector, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        step(tmp_path, detector)


@pytest.mark.parametrize("place", ["graph", "branch", "constant"])
def test_weights_in_another_file_are_refused(tmp_path: Path, place: str) -> None:
    made = onnx.load_from_string(Detector().made())
    outside = onnx.TensorProto()
    outside.CopyFrom(made.graph.initializer[0])
    external_data_helper.set_external_data(outside, "/etc/passwd")
    if place == "graph":
        made.graph.initializer.append(outside)
    elif place == "branch":
        branch = helper.make_graph([], "branch", [], [], [outside])
        made.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch))
    else:
        made.graph.node.append(helper.make_node("Constant", [], ["y"], value=outside))
    (tmp_path / "it.onnx").write_bytes(made.SerializeToString())

    with pytest.raises(ConfigError, match="weights are in another file"):
        DetectObjects(ModelFile(tmp_path / "it.onnx"))


@pytest.mark.parametrize("backend", ENGINES)
def test_a_model_that_its_engine_refuses_is_a_config_error(
    tmp_path: Path, backend: Backend, capfd: pytest.CaptureFixture[str]
) -> None:
    made = onnx.load_from_string(Detector().made())
    made.graph.node[0].op_type = "Konv"
    (tmp_path / "it.onnx").write_bytes(made.SerializeToString())

    with pytest.raises(ConfigError, match="cannot be run"):
        DetectObjects(ModelFile(tmp_path / "it.onnx"), backend=backend)(PICTURE)
    if backend is Backend.ONNXRUNTIME:
        assert capfd.readouterr().err == ""


def test_a_model_that_changed_on_disk_is_not_run(tmp_path: Path) -> None:
    detect = step(tmp_path, Detector(names=str(["one", "two", "three"])))
    Detector(names=str(["a", "b", "c"])).write(tmp_path)

    with pytest.raises(ConfigError, match="changed since"):
        detect(PICTURE)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mutated_model_is_read_or_refused(data: st.DataObject) -> None:
    made = bytearray(Detector().made())
    for _ in range(data.draw(st.integers(1, 8))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))

    try:
        header = parse(bytes(made[: data.draw(st.integers(0, len(made)))]))
    except ValueError:
        return
    assert len(header.shape) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"min_confidence": 1.1},
        {"max_overlap": 0},
        {"max_found": 0},
        {"threads": 0},
        {"input_size": (8, 320)},
        {"deviation": (1, 0, 1)},
        {"layout": "yolo"},
        {"backend": "tensorrt"},
    ],
)
def test_an_impossible_option_is_a_value_error(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"is|are"):
        step(tmp_path, Detector(size=None), **options)


def test_a_size_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes \(320, 320\) only"):
        step(tmp_path, input_size=(640, 640))


# Layouts


@pytest.mark.parametrize(
    ("shapes", "class_count", "layout"),
    [
        ([(1, 25200, 85)], 80, Layout.YOLOV5),
        ([(1, 25200, 85)], 0, Layout.YOLOV5),
        ([(1, 25200, 6)], 1, Layout.YOLOV5),
        ([(1, 25200, 6), (1, 3, 80, 80, 6)], 1, Layout.YOLOV5),
        ([(1, 84, 8400)], 80, Layout.YOLOV8),
        ([(1, 84, 8400)], 0, Layout.YOLOV8),
        ([(1, 6, 8400)], 2, Layout.YOLOV8),
        ([(1, 300, 6)], 80, Layout.NMS_IN_MODEL),
        ([(1, 300, 6)], 1, Layout.NMS_IN_MODEL),
        ([(1, 300, 6)], 0, Layout.NMS_IN_MODEL),
        ([(1, 300, 80), (1, 300, 4)], 80, Layout.DETR),
        ([(1, 300, 4), (1, 300, 80)], 0, Layout.DETR),
    ],
)
def test_the_shapes_tell_the_layout(
    shapes: list[tuple[int, ...]], class_count: int, layout: Layout
) -> None:
    assert told_by_shapes(Layout.AUTO, shapes, class_count, (640, 640)) is layout


@pytest.mark.parametrize(
    ("shapes", "class_count"),
    [
        ([(1, 116, 8400), (1, 32, 160, 160)], 80),  # masks
        ([(1, 116, 8400), (1, 32, 160, 160)], 0),
        ([(1, 84, 8400)], 79),
        ([(1, 1000)], 1000),  # a classifier
        ([(1, 100, 100)], 0),
    ],
)
def test_shapes_of_no_layout_are_refused(shapes: list[tuple[int, ...]], class_count: int) -> None:
    with pytest.raises(ConfigError, match="outputs"):
        told_by_shapes(Layout.AUTO, shapes, class_count, (640, 640))


numbers = st.floats(width=32) | st.floats(-10, 700, width=32) | st.floats(0, 1, width=32)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([Layout.YOLOV5, Layout.YOLOV8, Layout.NMS_IN_MODEL, Layout.DETR]), st.data())
def test_whatever_a_model_puts_out_boxes_are_finite(layout: Layout, data: st.DataObject) -> None:
    values = data.draw(st.lists(numbers, min_size=42, max_size=42))
    rows = np.array(values, np.float32).reshape(6, 7)
    outputs = {
        Layout.YOLOV8: [rows.T],
        Layout.NMS_IN_MODEL: [rows[:, :6]],
        Layout.DETR: [rows[:, :3], rows[:, 3:]],
    }.get(layout, [rows])

    try:
        best = candidates(layout, outputs, (320, 320), 0.0).best(0.45, 300)
    except ConfigError:
        return
    assert np.isfinite(best.boxes).all()
    assert ((best.scores >= 0) & (best.scores <= 1)).all()


def test_an_endless_box_is_none_and_a_score_just_over_1_is_1() -> None:
    rows = np.array([(50, 50, np.inf, 20, 0.9), (50, 50, 20, 20, 1.005)], np.float32)

    seen = candidates(Layout.YOLOV8, [rows.T], (320, 320), 0.5)

    assert seen.scores.tolist() == [1]
    assert seen.boxes.tolist() == [[40, 40, 60, 60]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_suppression_keeps_what_an_oracle_keeps(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(-20, 100, (40, 2))
    boxes = np.concatenate((corners, corners + random.uniform(5, 60, (40, 2))), axis=1)
    made = Candidates(
        boxes, random.uniform(0.01, 1, 40).astype(np.float32), random.integers(0, 3, 40)
    )

    best = made.best(0.45, 100)

    kept: list[int] = []
    for at in np.argsort(-made.scores, kind="stable"):
        rivals = [one for one in kept if made.classes[one] == made.classes[at]]
        if all(_overlap(boxes[at], boxes[one]) <= 0.45 for one in rivals):
            kept.append(int(at))
    assert np.array_equal(best.boxes, boxes[kept])


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    areas = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])
    return both / (float(areas) - both)


def test_names_are_read_from_a_list_too() -> None:
    assert parse(Detector(names=str(list(NAMES))).made()).names == NAMES
