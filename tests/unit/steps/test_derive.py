import numpy as np
import pytest

from capturekit.frame import Frame
from capturekit.picture import inspect
from capturekit.pipeline import ProcessingPipeline
from capturekit.steps import MakeThumbnail
from tests.pictures import Label, ean13, jpeg, shelf, small, turned


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
def test_an_impossible_thumbnail_is_a_value_error(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not possible"):
        MakeThumbnail(**arguments)
