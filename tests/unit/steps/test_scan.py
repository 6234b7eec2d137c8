import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.steps import scan
from capturekit.steps.scan import View
from tests.pictures import Label, ean13

TEXT = ean13(400638133393)
CODE = Label(TEXT, module_px=3).pixels()
SIDE = len(CODE)
BARS = scan.formats(["EAN13"]).all


def scene() -> View:
    """A code at (300, 200) of a gray picture."""
    gray = np.full((900, 1100), 180, np.uint8)
    gray[200 : 200 + SIDE, 300 : 300 + SIDE] = CODE
    return scan.cut(gray, (0, 0, 1100, 900))


def test_every_view_leads_back_to_the_same_place() -> None:
    whole = scene()
    gray, box = whole.pixels, (280, 180, 340 + SIDE, 240 + SIDE)
    lying = np.ascontiguousarray(np.rot90(gray))
    views = {
        "whole": whole,
        "thinned": scan.thinned(scan.cut(gray, box), 2),
        "cut": scan.cut(gray, box),
        "enlarged": scan.enlarged(scan.cut(gray, box), 2),
        "shrunk": scan.enlarged(scan.cut(gray, box), 0.6),
        "a third": scan.thirded(scan.cut(gray, box)),
        "turned": scan.turned(scan.cut(gray, box), 5),
    }
    for name, view in views.items():
        [(code, corners)] = scan.read(view, BARS)
        assert code.text == TEXT, name
        x, y = np.mean(corners, axis=0)
        assert abs(x - 300 - SIDE / 2) < 8, name
        assert 200 < y < 200 + SIDE, name
    # Turned by a quarter to the left, (x, y) comes to (y, width - x).
    [(_, corners)] = scan.read(scan.mirrored(scan.cut(lying, (0, 0, 900, 1100))), BARS)
    x, y = np.mean(corners, axis=0)
    assert abs(1100 - y - 300 - SIDE / 2) < 8
    assert 200 < x < 200 + SIDE


@given(st.floats(0.3, 3), st.floats(-180, 180), st.floats(0, 99), st.floats(0, 99))
def test_a_point_of_a_made_view_is_found_again(
    factor: float, degrees: float, x: float, y: float
) -> None:
    view = View(np.zeros((100, 100), np.uint8), (1.0, 0.0, 40.0, 0.0, 1.0, 70.0))

    made = scan.turned(scan.enlarged(view, factor), degrees)

    to_picture = np.reshape(made.to_picture, (2, 3))
    back = np.linalg.inv(np.vstack((to_picture, (0, 0, 1))))
    there = back @ (x + 40, y + 70, 1)
    assert np.allclose(to_picture @ there, (x + 40, y + 70))
    height, width = made.pixels.shape
    assert -2 <= there[0] <= width + 2
    assert -2 <= there[1] <= height + 2


def test_formats_are_parted_by_what_they_look_like() -> None:
    mixed = scan.formats(["EAN13", "QRCode"])
    assert mixed.bars is not None
    assert mixed.matrix is not None
    assert scan.formats(["QRCode"]).bars is None
    assert scan.formats(["EAN13"]).matrix is None
    assert mixed.only_qr
    assert not scan.formats(["QRCode", "DataMatrix"]).only_qr
    assert not scan.formats(["All"]).only_qr
    everything = scan.formats(["All"])
    assert everything.bars is not None
    assert everything.matrix is not None


@pytest.mark.parametrize("names", [[], ["EAN99"]])
def test_unknown_formats_are_a_value_error(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"at least one|not known"):
        scan.formats(names)
