from io import BytesIO
from typing import Any  # arguments of any type, by name

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter

from capturekit.frame import Frame, Observation, Point
from capturekit.picture import inspect
from capturekit.pipeline import ProcessingPipeline
from capturekit.steps.derive import CropObservations, Format, MakePreview, MakeThumbnail
from tests.pictures import Label, ean13, encoded, jpeg, shelf, small, turned


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1600, 1200, (320, 240)), (1200, 1600, (240, 320)), (100, 80, (100, 80))],
)
def test_a_thumbnail_has_a_long_side_of_320(
    width: int, height: int, expected: tuple[int, int]
) -> None:
    result = ProcessingPipeline((MakeThumbnail(),)).run(jpeg(small(0, width, height)))

    thumbnail = result.derived["thumbnail"]
    info = inspect(thumbnail.data)
    assert (info.width, info.height) == (thumbnail.width, thumbnail.height) == expected
    assert thumbnail.media_type == info.media_type == "image/jpeg"


def test_a_thumbnail_shows_the_picture() -> None:
    pixels = small(0, 640, 480)
    thumbnail = MakeThumbnail()(Frame.from_pixels(pixels)).derived["thumbnail"]

    shown = Frame.open(thumbnail.data).bgr
    assert np.abs(shown.astype(int) - small(0, 320, 240).astype(int)).mean() < 4


def test_a_thumbnail_carries_nothing_of_the_original_file() -> None:
    original = turned(shelf(Label(ean13(1)), width=640, height=480), 6) + b"PK\3\4 hidden"
    thumbnail = MakeThumbnail()(Frame.open(original)).derived["thumbnail"]

    assert b"Exif" in original
    assert b"Exif" not in thumbnail.data
    assert b"hidden" not in thumbnail.data
    assert inspect(thumbnail.data).flags == ()
    assert (thumbnail.width, thumbnail.height) == (240, 320)


@pytest.mark.parametrize("arguments", [{"long_side": 0}, {"quality": 0}, {"quality": 101}])
@pytest.mark.parametrize("step", [MakeThumbnail, MakePreview])
def test_an_impossible_picture_is_a_value_error(
    step: type[MakeThumbnail | MakePreview], arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="not possible"):
        step(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"margin": -0.1}, {"margin": float("nan")}, {"limit": 0}, {"max_long_side": 20_000}],
)
def test_impossible_crops_are_a_value_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not possible"):
        CropObservations(**arguments)


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_a_preview_shows_the_picture_in_the_format_asked_for(format: str) -> None:
    preview = MakePreview(640, Format(format))(Frame.from_pixels(small(0, 1280, 960)))

    derived = preview.derived["preview"]
    shown = Frame.open(derived.data)
    assert derived.media_type == shown.info.media_type == f"image/{format}"
    assert (derived.width, derived.height) == (shown.width, shown.height) == (640, 480)
    assert np.abs(shown.bgr.astype(int) - small(0, 640, 480).astype(int)).mean() < 4


def laden() -> bytes:
    """A JPEG with EXIF, XMP, a colour profile, a comment and a zip file behind it."""
    exif = Image.Exif()
    exif[0x010F] = "Hidden Cameras Ltd"
    pixels = shelf(Label(ean13(1)), width=640, height=480)
    file = encoded(
        pixels,
        "JPEG",
        exif=exif,
        icc_profile=b"hidden profile",
        comment="hidden words",
        xmp=b"<x:xmpmeta>hidden</x:xmpmeta>",
    )
    return file + b"PK\3\4 hidden archive"


def parts(data: bytes) -> set[bytes]:
    """The kinds of chunks of a WebP file, or of segments before the scan of a JPEG file."""
    if data[:4] == b"RIFF":
        assert int.from_bytes(data[4:8], "little") == len(data) - 8
        assert int.from_bytes(data[16:20], "little") + len(data) % 2 <= len(data) - 20
        return {data[8:12], data[12:16]}
    found, at = set(), 2
    while data[at + 1] != 0xDA:
        found.add(data[at + 1 : at + 2])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    assert data.count(b"\xff\xd9") == 1
    assert data.endswith(b"\xff\xd9")
    return found


JPEG_PARTS = {b"\xe0", b"\xdb", b"\xc0", b"\xc4"}


@pytest.mark.parametrize("format", list(Format))
def test_nothing_of_the_original_file_is_in_what_is_derived(format: Format) -> None:
    original = laden()
    seen = Observation(analyser="a", item="tin", confidence=1, box=((9, 9), (99, 99)))
    frame = Frame.open(original).observing(seen)

    steps = (MakeThumbnail(), MakePreview(format=format), CropObservations(format=format))
    for step in steps:
        frame = step(frame)

    assert {"thumbnail", "preview", "crop-0"} == set(frame.derived)
    assert original.lower().count(b"hidden") >= 5
    for derived in frame.derived.values():
        assert b"hidden" not in derived.data.lower()
        allowed = JPEG_PARTS if derived.media_type == "image/jpeg" else {b"WEBP", b"VP8 "}
        assert parts(derived.data) <= allowed
        image = Image.open(BytesIO(derived.data))
        assert not image.getexif()
        assert not {"exif", "icc_profile", "xmp", "comment"} & set(image.info)


# Crops


def cropped(*boxes: tuple[Point, ...], step: CropObservations | None = None) -> Frame:
    seen = [Observation(analyser="a", item="tin", confidence=1, box=box) for box in boxes]
    frame = Frame.from_pixels(small(0, 400, 300)).observing(*seen)
    return (step or CropObservations(margin=0))(frame)


def square(left: float, top: float, right: float, bottom: float) -> tuple[Point, ...]:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def test_a_crop_shows_its_observation() -> None:
    derived = cropped(square(100, 50, 220, 130)).derived["crop-0"]

    shown = Frame.open(derived.data).bgr.astype(int)
    assert (derived.width, derived.height) == (120, 80)
    assert np.abs(shown - small(0, 400, 300)[50:130, 100:220]).mean() < 4


def test_a_crop_has_a_margin_on_each_side_within_the_picture() -> None:
    frame = cropped(square(100, 50, 200, 100), square(0, 0, 40, 20), step=CropObservations(0.1))

    sizes = [(one.width, one.height) for one in frame.derived.values()]
    assert sizes == [(120, 70), (44, 24)]


def test_a_large_crop_is_scaled_down() -> None:
    derived = cropped(square(0, 0, 400, 200), step=CropObservations(0, 100)).derived["crop-0"]

    assert (derived.width, derived.height) == (100, 50)


def test_a_turned_box_is_cropped_upright() -> None:
    frame = cropped(((100, 50), (150, 100), (100, 150), (50, 100)))

    assert (frame.derived["crop-0"].width, frame.derived["crop-0"].height) == (100, 100)


def test_boxes_without_area_are_left_out_and_numbers_stay_those_of_observations() -> None:
    frame = cropped(
        (),
        square(10, 10, 10, 90),
        square(-50, -50, -10, -10),
        square(500, 10, 600, 90),
        square(10, 10, float("nan"), 90),
        square(float("nan"), 10, 90, 90),
        square(10, 10, float("inf"), float("inf")),
        square(390, 290, 900, 900),
    )

    assert set(frame.derived) == {"crop-7"}
    assert (frame.derived["crop-7"].width, frame.derived["crop-7"].height) == (10, 10)


def test_the_number_of_crops_is_bounded() -> None:
    frame = cropped((), *[square(0, 0, 10, 10)] * 9, step=CropObservations(limit=3))

    assert list(frame.derived) == ["crop-1", "crop-2", "crop-3"]


numbers = st.floats(-1e6, 1e6) | st.floats(-50, 450) | st.floats()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), max_size=5))
def test_any_box_gives_a_crop_within_the_picture_or_none(box: list[tuple[float, float]]) -> None:
    for derived in cropped(tuple(box)).derived.values():
        assert 1 <= derived.width <= 400
        assert 1 <= derived.height <= 300


@pytest.mark.parametrize(
    "step", [MakeThumbnail(99), MakePreview(99, Format.JPEG), CropObservations(0.5)]
)
def test_a_step_survives_json(step: MakeThumbnail | MakePreview | CropObservations) -> None:
    adapter = TypeAdapter(type(step))

    assert adapter.validate_python(adapter.dump_python(step, mode="json")) == step
