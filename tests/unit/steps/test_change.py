from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from threading import Thread

import cv2
import numpy as np
import pytest
import zxingcpp

from capturekit.frame import Frame, Observation, Reference
from capturekit.pipeline import ProcessingPipeline, Result
from capturekit.steps.change import Change, DetectChange, References
from capturekit.steps.markers import Marker, Markers
from capturekit.steps.quality import JudgeQuality, Quality, Verdict
from capturekit.steps.zones import AssignZones, Zone
from tests.pictures import Pixels, ean13
from tests.pictures_shelf import Camera, Rack, label, pasted

CAMERA = Camera(view=41, seed=1)
RACK = Rack(((5,), (6, 6), (), (7, 7, 7), (9,), (10,), (11, 11), ()), wall=2)
CODES = (590123412345, 400638133393)
CODE = Observation(
    analyser="codes",
    code="4006381333931",
    quantity=2,
    confidence=0.9,
    box=((700, 600), (900, 600), (900, 700), (700, 700)),
    location="slot 6",
)


@cache
def drawing(rack: Rack = RACK, code: int = CODES[0], tag: int | None = 1) -> Pixels:
    made = zxingcpp.create_barcode(ean13(code), zxingcpp.BarcodeFormat.EAN13).to_image(scale=2)
    lines = cv2.cvtColor(np.array(made)[10:90], cv2.COLOR_GRAY2BGR)
    picture = pasted(rack.drawn(), np.asarray(lines, np.uint8), 420, 500)
    return picture if tag is None else pasted(picture, label(tag), 760, 100)


@cache
def photograph(camera: Camera = CAMERA, **drawn: object) -> Pixels:
    return camera.photograph(drawing(**drawn))


def gray(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), np.uint8)


def compared(
    pixels: Pixels,
    before: Pixels | None = None,
    step: DetectChange = DetectChange(),  # noqa: B008  # frozen
    observations: tuple[Observation, ...] = (),
) -> Frame:
    old = gray(photograph() if before is None else before)
    reference = Reference("capture-1", old, observations)
    return step(replace(Frame.from_pixels(pixels), reference=reference))


def change(pixels: Pixels, **more: object) -> Change:
    return compared(pixels, **more).find(Change)  # type: ignore[arg-type]  # passed on as given


@pytest.mark.parametrize(
    "camera",
    [
        replace(CAMERA, seed=2),
        replace(CAMERA, seed=2, gain=0.6),
        replace(CAMERA, seed=2, gain=1.15),
        replace(CAMERA, seed=2, warmth=0.15),
        replace(CAMERA, seed=3, shadows=2, gain=0.9),
        replace(CAMERA, seed=2, noise=6),
        replace(CAMERA, seed=2, quality=30),
        replace(CAMERA, seed=2, shift_px=(3, -2), degrees=0.1),
        replace(CAMERA, seed=2, shift_px=(60, 30)),
    ],
    ids=["again", "dark", "bright", "warm", "shadows", "noise", "JPEG", "shaken", "pushed"],
)
def test_light_noise_and_shaking_are_no_change(camera: Camera) -> None:
    found = change(photograph(camera))

    assert not found.changed
    assert found.reason == "same"
    assert found.shift_px == pytest.approx(camera.shift_px, abs=1.5)


@pytest.mark.parametrize(
    "drawn",
    [
        {"tag": None},
        {"code": CODES[1]},
        {"rack": RACK.holding(3, 7, 7)},
        {"rack": RACK.holding(0).holding(2, 5)},
        {"rack": RACK.holding(1, 12, 12)},
    ],
    ids=["label gone", "other code", "piece taken", "moved a slot", "other goods"],
)
def test_what_people_do_is_a_change(drawn: dict[str, object]) -> None:
    other = replace(CAMERA, seed=5, gain=0.8, shadows=1, shift_px=(2, 2), quality=60)

    found = change(photograph(other, **drawn))

    assert found.changed
    assert found.reason == "different"
    assert found.score is not None
    assert found.score > 0.4
    assert found.share is not None
    assert 0 < found.share < 0.2


def test_an_unchanged_picture_keeps_what_was_observed_with_boxes_moved() -> None:
    moved = replace(CAMERA, seed=2, shift_px=(16, -10))

    frame = compared(photograph(moved), observations=(CODE, CODE.model_copy(update={"box": ()})))

    first, second = frame.observations
    assert first.model_copy(update={"box": CODE.box}) == CODE
    assert np.array(first.box) == pytest.approx(np.array(CODE.box) + np.array([16, -10]), abs=1)
    assert second.box == ()
    assert frame.find(Change).carried == 2


def test_a_changed_picture_keeps_nothing() -> None:
    frame = compared(photograph(tag=None), observations=(CODE,))

    assert frame.observations == ()
    assert frame.find(Change).carried == 0


def test_a_picture_whose_zones_were_not_found_is_no_reference() -> None:
    markers = Markers(tuple(Marker(n, 10.0 * n, 0.0, 4.0) for n in range(3)))
    zone = Zone("bay", ((0.0, 0.0), (20.0, 0.0), (20.0, 20.0)))
    references = References()
    lost = ProcessingPipeline((DetectChange(), AssignZones((zone,), markers))).run(
        np.full((480, 640, 3), 90, np.uint8)
    )

    assert lost.error is None
    assert not references.accept("shelf", "", lost)


def test_a_camera_that_changes_its_resolution_is_noticed() -> None:
    references = References()
    pipeline = ProcessingPipeline((DetectChange(),))
    references.accept("shelf", "", pipeline.run(photograph()))

    half = pipeline.run(cv2.resize(photograph(), (800, 600)), reference=references.of("shelf"))

    assert half.findings[Change].reason == "other size"  # type: ignore[attr-defined]  # a Change


def test_without_a_reference_everything_is_new() -> None:
    found = DetectChange()(Frame.from_pixels(photograph())).find(Change)

    assert (found.changed, found.reason, found.score) == (True, "no reference", None)


@pytest.mark.parametrize(
    ("pixels", "before", "reason"),
    [
        (lambda: photograph()[:1000], None, "other size"),
        (lambda: cv2.resize(photograph(), (800, 600)), None, "other size"),
        (lambda: photograph(replace(CAMERA, shift_px=(150, 0))), None, "moved"),
        (lambda: photograph(replace(CAMERA, degrees=6)), None, "moved"),
        (lambda: np.flipud(photograph()), None, "moved"),
        (lambda: photograph() * 0 + 128, None, "moved"),
        (lambda: photograph(replace(CAMERA, gain=2.2)), None, "too bright"),
    ],
    ids=["cut", "smaller", "pushed far", "turned", "upside down", "blank", "burnt"],
)
def test_what_cannot_be_compared_counts_as_changed(
    pixels: Callable[[], Pixels], before: Pixels | None, reason: str
) -> None:
    found = change(np.ascontiguousarray(pixels()), before=before)

    assert (found.changed, found.reason, found.carried) == (True, reason, 0)


@pytest.mark.parametrize("verdict", [each for each in Verdict if each is not Verdict.GOOD])
def test_a_poor_picture_counts_as_changed(verdict: Verdict) -> None:
    frame = JudgeQuality()(Frame.from_pixels(photograph()))
    frame = frame.having(replace(frame.find(Quality), verdict=verdict))
    reference = Reference("1", gray(photograph()))

    found = DetectChange()(replace(frame, reference=reference)).find(Change)

    assert (found.changed, found.reason) == (True, "poor picture")


def test_a_reference_may_be_the_small_picture_that_the_change_keeps() -> None:
    kept = DetectChange()(Frame.from_pixels(photograph())).find(Change).gray
    assert kept is not None
    frame = replace(
        Frame.from_pixels(photograph(replace(CAMERA, seed=2, shift_px=(8, 8)))),
        reference=Reference("1", kept, (CODE,), size=(1600, 1200)),
    )

    found = DetectChange()(frame)

    assert not found.find(Change).changed
    assert max(kept.shape) == 640
    assert np.array(found.observations[0].box) == pytest.approx(np.array(CODE.box) + 8, abs=1)


def test_slow_drift_adds_up_to_a_change() -> None:
    references, pipeline = References(), ProcessingPipeline((DetectChange(),))
    pictures = [slid(px) for px in range(7)]
    changed = []
    for picture in pictures:
        result = ran(pipeline, picture, references.of("cam"))
        changed.append(found(result).changed)
        references.accept("cam", "", result)

    steps = [change(after, before=before) for before, after in pairwise(pictures)]

    assert not any(step.changed for step in steps)
    assert changed[:2] == [True, False]
    assert any(changed[2:])


def slid(px: int) -> Pixels:
    """The code was pushed to the right by so much, in pixels of 1600."""
    part = drawing()[500:580, 420:635]
    return CAMERA.photograph(pasted(drawing(), part, 420 + px, 500))


def ran(pipeline: ProcessingPipeline, pixels: Pixels, reference: Reference | None) -> Result:
    return pipeline.run(Frame.from_pixels(pixels), reference=reference)


def found(result: Result) -> Change:
    change = result.findings[Change]
    assert isinstance(change, Change)
    return change


def test_only_pictures_that_were_fully_analysed_become_references() -> None:
    def fail(_: Frame) -> Frame:
        raise RuntimeError

    pixels = photograph()
    references = References()
    detect = DetectChange()

    for pipeline, picture in (
        (ProcessingPipeline((detect, fail)), pixels),
        (ProcessingPipeline((JudgeQuality(), detect)), pixels // 16),
        (ProcessingPipeline((JudgeQuality(),)), pixels),
    ):
        assert not references.accept("cam", "", ran(pipeline, picture, None))
    assert references.of("cam") is None
    first = ran(ProcessingPipeline((JudgeQuality(), detect)), pixels, None)
    assert references.accept("cam", "", first, id="first")
    again = ran(ProcessingPipeline((detect,)), pixels, references.of("cam"))
    assert not references.accept("cam", "", again, id="again")
    kept = references.of("cam")
    assert kept is not None
    assert kept.id == "first"


def test_each_device_and_view_has_its_own_and_the_oldest_is_forgotten() -> None:
    references = References(max_views=2)
    result = ran(ProcessingPipeline((DetectChange(),)), photograph(), None)

    references.accept("a", "left", result)
    references.accept("a", "right", result)
    assert references.of("a", "left") is not None
    references.accept("b", "left", result)

    assert references.of("a", "right") is None
    assert references.of("a", "left") is not None
    assert references.of("b", "left") is not None
    with pytest.raises(ValueError, match="max_views"):
        References(0)


def test_threads_may_share_references() -> None:
    references = References(max_views=5)
    result = ran(ProcessingPipeline((DetectChange(),)), photograph(), None)
    failed: list[Exception] = []

    def work(name: str) -> None:
        try:
            for number in range(300):
                references.accept(name, str(number % 9), result)
                references.of("1", str(number % 7))
        except Exception as error:  # noqa: BLE001  # whatever a thread may raise
            failed.append(error)

    threads = [Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed


def test_the_json_tells_why_and_holds_no_pixels() -> None:
    frame = compared(photograph(), observations=(CODE,))
    told = ProcessingPipeline().run(frame).as_json()["change"]

    assert isinstance(told, dict)
    assert set(told) == {
        "changed", "reason", "score", "share", "shift_px", "reference", "carried",
    }  # fmt: skip
    assert (told["reason"], told["reference"], told["carried"]) == ("same", "capture-1", 1)
    assert "gray" not in repr(frame.find(Change))


@pytest.mark.parametrize("wrong", [{"long_side": 100}, {"threshold": 0}, {"threshold": 2}])
def test_impossible_parameters_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="long_side"):
        DetectChange(**wrong)


def test_the_pipeline_is_told_that_a_reference_is_of_use() -> None:
    assert ProcessingPipeline((DetectChange(),)).wants_reference
