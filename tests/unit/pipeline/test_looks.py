"""Explaining, tracing and drawing."""

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest
from PIL import Image

from capturekit import overlay
from capturekit.frame import Frame, Outline
from capturekit.pipeline import NoPicture, ProcessingPipeline, Stage, When
from capturekit.steps import default_pipeline
from tests.pictures import Label, ean13, jpeg, shelf, small, turned
from tests.unit.pipeline.made_steps import DoubleSize, MeasureSize, fail, is_wide, read_colour

JPEG = jpeg(small())
SVG = "{http://www.w3.org/2000/svg}"


def pixels(png: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def test_an_explanation_tells_what_runs_on_what_and_if() -> None:
    pipeline = ProcessingPipeline(
        (MeasureSize(), Stage(DoubleSize(), when=When("size.is_wide"), deadline_s=2)),
    )

    table = str(pipeline.explain()).splitlines()

    assert re.fullmatch(r"step +reads +finds +frees +cost +if", table[0])
    assert re.fullmatch(r"decode +gray +unknown", table[1])
    assert re.fullmatch(r"size 3 +gray_half +Size +gray_half, gray, bgr +~1.5 ms", table[2])
    assert re.fullmatch(r"double +Doubled +unknown +size.is_wide is true; within 2 s", table[3])
    assert table[4] == f"fingerprint {pipeline.fingerprint}"


def test_an_explanation_on_a_picture_has_measured_costs() -> None:
    explained = (MeasureSize() | DoubleSize()).explain(JPEG, rounds=2)

    assert all(cost.is_measured and cost.ms is not None for cost in explained.costs)
    assert explained.decode_cost.ms is not None
    assert explained.decode_cost.ms > 0


def test_a_step_that_did_not_run_has_no_measured_cost() -> None:
    explained = ProcessingPipeline((fail, MeasureSize())).explain(JPEG)

    assert [cost.ms is None for cost in explained.costs] == [False, True]
    with pytest.raises(ValueError, match="rounds"):
        ProcessingPipeline().explain(JPEG, rounds=0)


def test_a_trace_holds_what_each_step_read_and_showed() -> None:
    result = (MeasureSize() | DoubleSize()).run(JPEG, trace=True)

    assert result.trace is not None
    assert [(shot.step, shot.name) for shot in result.trace] == [
        ("size", "gray_half"),
        ("size", "half"),
    ]
    assert [shot.pixels.shape for shot in result.trace] == [(60, 80), (60, 80)]


def test_what_a_step_that_does_not_say_made_is_traced_too() -> None:
    result = ProcessingPipeline((read_colour,)).run(JPEG, trace=True)

    assert result.trace is not None
    assert [(shot.step, shot.name) for shot in result.trace] == [("read_colour", "bgr")]


def test_a_trace_may_hold_nothing_but_the_result() -> None:
    sheet = pixels(ProcessingPipeline().run(JPEG, trace=True).trace_sheet())

    assert sheet.shape == (overlay.CAPTION + 234 + 8, overlay.TILE, 3)


def test_nothing_is_traced_unless_asked_for() -> None:
    result = (MeasureSize() | DoubleSize()).run(JPEG)

    assert result.trace is None
    with pytest.raises(NoPicture, match="trace=True"):
        result.trace_sheet()


def test_a_trace_sheet_shows_every_picture() -> None:
    sheet = pixels((MeasureSize() | DoubleSize()).run(JPEG, trace=True).trace_sheet())

    # Three tiles: the result with its outlines, and two traced pictures.
    assert sheet.shape == (overlay.CAPTION + 234 + 8, 3 * overlay.TILE, 3)
    for column in range(3):
        tile = sheet[overlay.CAPTION + 20 : overlay.CAPTION + 60, 320 * column + 20 :][:, :60]
        assert (tile != 255).any()


def test_findings_and_observations_are_drawn_where_they_are() -> None:
    label = Label(ean13(400638133393))
    source = jpeg(shelf(label, width=640, height=480))
    result = default_pipeline().run(source)
    plain, drawn = Frame.open(source).bgr, pixels(result.draw())

    changed = np.abs(plain.astype(int) - drawn).max(axis=2) > 40
    ys, xs = np.nonzero(changed)
    box = np.array(result.observations[0].box)

    assert drawn.shape == plain.shape
    assert changed.mean() < 0.2
    assert abs(xs.min() - box[:, 0].min()) < 10
    assert abs(ys.max() - box[:, 1].max()) < 10


def test_an_svg_has_the_picture_and_text_that_can_be_read() -> None:
    root = ET.fromstring((MeasureSize() | DoubleSize()).run(JPEG).draw("svg"))

    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts == ["<size> & co", "thing"]
    assert root.attrib["viewBox"] == "0 0 160 120"
    [image] = root.iter(f"{SVG}image")
    assert image.attrib["href"].startswith("data:image/jpeg;base64,")


def test_a_drawing_has_none_of_the_files_own_bytes() -> None:
    secret = b"GPS of the pantry"
    source = turned(small(), 6) + secret

    for drawn in (
        ProcessingPipeline().run(source).draw(),
        ProcessingPipeline().run(source).draw("svg"),
    ):
        assert secret not in drawn
        assert b"Exif" not in drawn
    assert Image.open(BytesIO(ProcessingPipeline().run(source).draw())).size == (120, 160)


def test_a_frame_of_pixels_can_be_drawn() -> None:
    frame = Frame.from_pixels(small())

    assert pixels(ProcessingPipeline((MeasureSize(),)).run(frame).draw()).shape == (120, 160, 3)
    assert (frame.bgr == small()).all()


def test_there_is_nothing_to_draw_on_without_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(JPEG)
    gone = ProcessingPipeline().run(file)
    file.unlink()
    changed = tmp_path / "b.jpg"
    changed.write_bytes(JPEG)
    other = ProcessingPipeline().run(changed)
    changed.write_bytes(b"something else")

    replaced = tmp_path / "c.jpg"
    replaced.write_bytes(JPEG)
    swapped = ProcessingPipeline().run(replaced)
    replaced.write_bytes(jpeg(small(1)))

    for result in (ProcessingPipeline().run(b"no picture"), gone, other, swapped):
        with pytest.raises(NoPicture):
            result.draw()
    with pytest.raises(ValueError, match="'png' or 'svg'"):
        ProcessingPipeline().run(JPEG).draw("gif")  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize(
    "polygon",
    [(), ((5.0, 5.0),), ((-1e9, 5.0), (1e9, 5.0), (float("nan"), 7.0)), ((1.0, 1.0), (159, 119))],
)
def test_any_outline_can_be_drawn(polygon: tuple[tuple[float, float], ...]) -> None:
    outline = Outline(polygon, "långt\n\x00 namn" * 20, "else")

    assert pixels(overlay.png(small(), [outline])).shape == (120, 160, 3)
    ET.fromstring(overlay.svg(small(), [outline]))


def test_an_isolated_picture_is_drawn_isolated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ProcessingPipeline((MeasureSize(),), isolated=True).run(JPEG, trace=True)
    monkeypatch.setattr("capturekit.picture.jpeg.decode_jpeg", None)
    monkeypatch.setattr("capturekit.picture.decode_jpeg", None)

    assert pixels(result.draw()).shape == (120, 160, 3)
    assert result.trace_sheet()


@pytest.mark.parametrize(
    "shown",
    [
        np.eye(4, dtype=bool),
        np.ones((3, 4, 1), np.float32),
        np.full((2, 2), np.nan),
        np.zeros((0, 3)),
        np.zeros((2, 2, 7)),
        np.arange(6).reshape(2, 3),
    ],
)
def test_a_step_may_show_any_array(shown: np.ndarray) -> None:
    @dataclass(frozen=True)
    class Show:
        fingerprint = "show"

        def __call__(self, frame: Frame) -> Frame:
            frame.show("it", shown)
            return frame

    result = ProcessingPipeline((Show(),)).run(JPEG, trace=True)

    assert result.error is None
    assert result.trace_sheet()


def test_a_picture_that_does_not_decode_has_no_measured_cost() -> None:
    assert ProcessingPipeline().explain(b"junk").decode_cost.ms is None


def test_labels_do_not_hide_each_other_while_there_is_room() -> None:
    square = ((40.0, 40.0), (90.0, 40.0), (90.0, 80.0), (40.0, 80.0))
    shelf = np.zeros((300, 400, 3), np.uint8)

    one = overlay.drawn(shelf, [Outline(square, "mmmm", "code")])
    both = overlay.drawn(shelf, [Outline(square, "mmmm", "code"), Outline(square, "wwww", "zone")])

    green = (one == overlay.COLOURS["code"][::-1]).all(axis=2)
    blue = (both == overlay.COLOURS["zone"][::-1]).all(axis=2)
    above = slice(0, 38)
    assert (both[above] == one[above]).all()
    assert green[above].sum() > 50
    assert blue[82:].sum() > 50


def test_conditions_of_your_own_are_told_by_name() -> None:
    assert "is_wide" in str(ProcessingPipeline((Stage(fail, when=is_wide),)).explain())
