import cv2
import numpy as np
import pytest

from capturekit.picture import Pixels
from capturekit.steps.stacks import Polygon, joined, labels, spanned
from tests.pictures import Label, ean13

LEFT, RIGHT = 100, 290
BARS = np.trim_zeros(255 - Label(ean13(400638133393)).pixels()[100])


def stack(*rows: tuple[int, int]) -> Pixels:
    """White paper with the same bars in each of these spans of rows."""
    paper = np.full((700, 400), 250, np.uint8)
    bars = 255 - cv2.resize(BARS[np.newaxis], (RIGHT - LEFT, 1), interpolation=cv2.INTER_NEAREST)
    for first, last in rows:
        paper[first:last, LEFT:RIGHT] = bars
    return paper


def read(top: float, bottom: float, aside: float = 0) -> Polygon:
    return (
        (LEFT + aside, top),
        (RIGHT + aside, top),
        (RIGHT + aside, bottom),
        (LEFT + aside, bottom),
    )


def test_a_read_that_begins_where_another_ends_is_one_with_it() -> None:
    assert joined([read(202, 400), read(50, 200)]) == [read(50, 400)]


@pytest.mark.parametrize("other", [read(240, 400), read(202, 400, aside=60)])
def test_reads_apart_are_not_put_together(other: Polygon) -> None:
    assert joined([read(50, 200), other]) == [read(50, 200), other]


def test_a_stack_that_is_read_from_within_a_label_is_told_apart() -> None:
    spans = ((50, 150), (200, 300), (350, 450), (500, 600))

    found = labels(stack(*spans), read(115, 530))

    assert [round(polygon[0][1]) for polygon in found] == pytest.approx([115, 200, 350, 500], abs=6)


def test_the_lower_one_of_two_is_a_part_of_a_label() -> None:
    assert labels(stack((50, 150), (200, 230)), read(50, 230)) == [read(50, 230)]


def test_two_reads_of_one_column_span_what_is_between_them() -> None:
    assert spanned(read(240, 400), read(50, 200)) == read(50, 400)
    assert spanned(read(50, 200), read(240, 400, aside=60)) is None
    assert spanned(read(50, 200), read(600, 650)) is None
