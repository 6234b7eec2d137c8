import cv2
import numpy as np
import pytest

from capturekit.picture import Pixels
from capturekit.steps import regions
from capturekit.steps.regions import Mask, look, opened
from tests.pictures import Label, ean13

CODE = Label(ean13(400638133393)).pixels()
QR = Label("https://shelf.example/17", "QRCode", module_px=4).pixels()


def scene(paper: Pixels, x: int = 600, y: int = 400) -> Pixels:
    """The paper at (x, y) on a white wall of 1600 x 1200 with a little noise."""
    wall = np.random.default_rng(0).normal(252, 2, (1200, 1600))
    wall[y : y + len(paper), x : x + paper.shape[1]] = paper
    return np.clip(wall, 0, 255).astype(np.uint8)


def turned(paper: Pixels, degrees: float) -> Pixels:
    middle = (paper.shape[1] / 2, len(paper) / 2)
    turn = cv2.getRotationMatrix2D(middle, degrees, 1)
    size = (paper.shape[1], len(paper))
    return np.asarray(cv2.warpAffine(paper, turn, size, borderValue=255), np.uint8)


def covers(box: regions.Box, paper: Pixels) -> bool:
    """Whether the box holds all ink of the paper at (600, 400)."""
    left, top, right, bottom = box
    rows, columns = np.nonzero(paper < 128)
    first_x, first_y = 600 + int(columns.min()), 400 + int(rows.min())
    last_x, last_y = 600 + int(columns.max()), 400 + int(rows.max())
    return left <= first_x and top <= first_y and right > last_x and bottom > last_y


@pytest.mark.parametrize(("turns", "kind"), [(0, "upright"), (1, "lying"), (2, "upright")])
def test_bars_are_found_where_they_are_and_how_they_stand(turns: int, kind: str) -> None:
    paper = np.asarray(np.rot90(CODE, turns), np.uint8)

    looked = look(scene(paper))

    masks: dict[str, Mask] = {"upright": looked.upright, "lying": looked.lying}
    [box] = looked.bounds(masks.pop(kind))
    assert covers(box, paper)
    assert regions.area(box) < 0.2 * 1600 * 1200
    assert masks.popitem()[1].sum() < 20


def test_a_matrix_code_is_a_pattern() -> None:
    looked = look(scene(QR))

    [box] = looked.parts(opened(looked.pattern, 3))

    assert covers(box, QR)


def test_a_bare_wall_has_nothing_to_read() -> None:
    looked = look(scene(CODE[:0]))

    assert looked.bounds(looked.busy) == looked.parts(looked.busy) == []


@pytest.mark.parametrize("degrees", [-60, -30, 20, 45, 70])
def test_slanted_bars_tell_their_direction(degrees: float) -> None:
    looked = look(scene(turned(CODE, degrees)))

    cells = looked.degrees[looked.slanted > 0]

    # A turn to the left brings the direction across the bars up, and y points down.
    off = (cells + degrees + 90) % 180 - 90
    assert len(cells) > 20
    assert np.median(np.abs(off)) < 6


def test_bars_that_stand_or_lie_are_not_slanted() -> None:
    looked = look(scene(CODE))

    assert looked.slanted.sum() < 0.1 * looked.upright.sum()


def test_what_was_read_is_not_looked_at_again() -> None:
    looked = look(scene(CODE))
    height, width = CODE.shape
    outline = ((600, 400), (600 + width, 400), (600 + width, 400 + height), (600, 400 + height))

    assert looked.upright.any()
    assert not looked.uncovered(looked.upright, [outline]).any()
    assert (looked.uncovered(looked.upright, []) == looked.upright).all()


def test_parts_are_read_as_one_where_that_is_no_more_work() -> None:
    near, far = np.zeros((75, 100), np.uint8), np.zeros((75, 100), np.uint8)
    for row in range(4, 30, 9):
        near[row : row + 4, 4:40] = 1
        far[2 * row : 2 * row + 4, 4:8] = far[2 * row : 2 * row + 4, 90:94] = 1
    looked = look(scene(CODE))

    assert len(looked.parts(near)) == 1
    assert len(looked.parts(far)) == 6


def test_stripes_are_bars_without_what_is_around() -> None:
    picture = scene(CODE)
    picture[100:1100:120, 100:1500] = 0  # boards
    for line in range(4):
        at = (40, 800 + 90 * line)
        cv2.putText(picture, "Words and more words " * 2, at, 0, 0.9, 20, 2)

    looked = look(picture)

    boxes = looked.stripes(looked.upright, lie=False)
    [bounds] = looked.bounds(looked.upright)
    assert any(covers(box, CODE) for box in boxes)
    # The letters differ between versions of OpenCV.
    assert sum(map(regions.area, boxes)) < 0.6 * regions.area(bounds)


def test_bars_that_lie_are_stripes_that_lie() -> None:
    looked = look(scene(np.asarray(np.rot90(CODE), np.uint8)))

    assert len(looked.stripes(looked.lying, lie=True)) == 1
    assert looked.stripes(looked.upright, lie=False) == []


def test_a_matrix_code_is_a_knot() -> None:
    looked = look(scene(QR))

    for knots in (looked.knots(looked.pattern, low=low) for low in (False, True)):
        [box] = looked.parts(knots)
        assert covers(box, QR)


def test_bars_and_matrix_codes_are_likely_codes_and_a_bare_wall_is_not() -> None:
    for paper in (CODE, turned(CODE, 40), QR):
        looked = look(scene(paper))
        assert covers(looked.bounds(looked.likely(low=False))[0], paper)
    assert not look(scene(CODE[:0])).likely(low=True).any()


@pytest.mark.parametrize("shape", [(1, 1), (20, 900), (33, 40)])
def test_in_a_tiny_picture_everything_is_looked_at(shape: tuple[int, int]) -> None:
    looked = look(np.full(shape, 90, np.uint8))

    assert looked.picture().ndim == 2
    for box in looked.bounds(looked.busy):
        assert box[2] <= shape[1]
        assert box[3] <= shape[0]
