import math
from collections import Counter

import cv2
import numpy as np
import pytest
import zxingcpp

from capturekit.frame import Frame
from capturekit.pipeline import ProcessingPipeline
from capturekit.steps import Code, Codes, ReadCodes
from tests.pictures import Label, ean13, jpeg, shelf, turned

TEXT = ean13(400638133393)
MIXED = (
    Label(ean13(400638133393)),
    Label("96385074", "EAN8"),
    Label("BOX-17", "Code128"),
    Label("https://shelf.example/17", "QRCode", module_px=4),
)


def read(*labels: Label, step: ReadCodes | None = None, noise: float = 3) -> Codes:
    frame = Frame.open(jpeg(shelf(*labels, noise=noise)))
    return (step or ReadCodes())(frame).find(Codes)


def texts(codes: Codes) -> Counter[str]:
    return Counter(code.text for code in codes)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 10, -15, 20, 75, 100, 350])
def test_every_code_is_read_however_the_shelf_is_turned(degrees: float) -> None:
    labels = [Label(label.text, label.format, degrees, module_px=3) for label in MIXED]

    assert texts(read(*labels)) == Counter(label.text for label in MIXED)


@pytest.mark.parametrize("degrees", [10, 80, 100, 170])
def test_a_misread_on_top_of_a_read_is_not_a_second_code(degrees: float) -> None:
    # zxing 3.1 also reads "!OX-17" in the middle of this label.
    assert texts(read(Label("BOX-17", "Code128", degrees, 3))) == Counter(["BOX-17"])


def stacked(gap_px: int) -> Codes:
    """Four equal EAN-13, 190 px long, straight above each other."""
    code = np.array(zxingcpp.create_barcode(TEXT, zxingcpp.BarcodeFormat.EAN13).to_image(scale=2))
    half = gap_px // 2
    label = cv2.copyMakeBorder(code, half, half, 30, 30, cv2.BORDER_CONSTANT, value=255)
    return ReadCodes()(Frame.from_pixels(np.vstack([label] * 4))).find(Codes)


def test_equal_labels_in_a_stack_are_all_counted() -> None:
    assert texts(stacked(gap_px=100)) == Counter([TEXT] * 4)


def test_equal_labels_in_a_close_stack_are_all_counted() -> None:
    assert texts(stacked(gap_px=40)) == Counter([TEXT] * 4)


@pytest.mark.parametrize("gap_px", [12, 20, 60])
def test_labels_in_a_stack_are_counted_at_other_distances(gap_px: int) -> None:
    assert texts(stacked(gap_px)) == Counter([TEXT] * 4)


@pytest.mark.parametrize("row", [30, 60, 75])
def test_a_crease_does_not_make_two_labels_of_one(row: int) -> None:
    code = np.array(zxingcpp.create_barcode(TEXT, zxingcpp.BarcodeFormat.EAN13).to_image(scale=2))
    label = cv2.copyMakeBorder(code, 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=255)
    label[60 + row : 60 + row + 3] = 255
    assert texts(
        ReadCodes()(Frame.from_pixels(np.asarray(label, np.uint8))).find(Codes)
    ) == Counter([TEXT])


def test_a_qr_code_is_read_at_any_angle() -> None:
    labels = [Label(f"QR-{degrees}", "QRCode", degrees, 4) for degrees in range(0, 360, 30)]

    assert texts(read(*labels)) == Counter(label.text for label in labels)


@pytest.mark.parametrize("seed", range(3))
def test_a_full_shelf_is_counted_exactly(seed: int) -> None:
    # Four kinds, several packs of each, some lying on their side: all are stock.
    labels = [
        Label(ean13(400638100000 + 37 * (number * 5 % 4)), degrees=90 * ((number + seed) % 4))
        for number in range(20)
    ]

    assert texts(read(*labels)) == Counter(label.text for label in labels)


@pytest.mark.parametrize(
    ("label", "format", "text"),
    [
        (Label(ean13(400638133393)), "EAN13", ean13(400638133393)),
        (Label("96385074", "EAN8"), "EAN8", "96385074"),
        (Label("042100005264", "UPCA"), "EAN13", "0042100005264"),
        (Label("01234565", "UPCE", module_px=3), "UPCE", "0012345000065"),
        (Label("BOX-17", "Code128"), "Code128", "BOX-17"),
        (Label("hello", "QRCode", module_px=4), "QRCode", "hello"),
    ],
    ids=["EAN13", "EAN8", "UPCA", "UPCE", "Code128", "QRCode"],
)
def test_formats_have_plain_names(label: Label, format: str, text: str) -> None:
    [code] = read(label)

    assert (code.format, code.text, code.attempt) == (format, text, "default")


def test_a_polygon_lies_where_the_code_is() -> None:
    paper = MIXED[3].pixels()

    [code] = read(MIXED[3])

    middle = [sum(values) / 4 for values in zip(*code.polygon, strict=True)]
    expected = 20 + len(paper) / 2
    assert math.dist(middle, (expected, expected)) < 4


def test_a_polygon_is_in_pixels_of_the_upright_picture() -> None:
    pixels = shelf(MIXED[3], width=800, height=600)
    lying = turned(pixels, 6)  # to be shown turned by a quarter, clockwise

    [code] = ReadCodes()(Frame.open(lying)).find(Codes)

    middle = [sum(values) / 4 for values in zip(*code.polygon, strict=True)]
    at = 20 + len(MIXED[3].pixels()) / 2
    assert math.dist(middle, (600 - at, at)) < 4


def test_each_code_becomes_one_observation() -> None:
    frame = Frame.open(jpeg(shelf(*MIXED, MIXED[0])))

    result = ProcessingPipeline((ReadCodes(),)).run(frame)

    seen = Counter((o.analyser, o.code, o.quantity, o.confidence) for o in result.observations)
    assert seen[("codes", MIXED[0].text, 1, 1.0)] == 2
    assert seen.total() == 5
    assert [o.box for o in result.observations] == [c.polygon for c in frame_codes(result.findings)]


def frame_codes(findings: object) -> tuple[Code, ...]:
    assert hasattr(findings, "__getitem__")
    found = findings[Codes]
    assert isinstance(found, Codes)
    return found.found


def test_what_two_attempts_read_in_one_place_counts_once() -> None:
    codes = read(*MIXED, MIXED[0], step=ReadCodes(attempts=("fast", "default")))

    assert texts(codes) == Counter([MIXED[0].text, *(label.text for label in MIXED)])


def test_fast_leaves_out_what_lies_on_its_side_and_default_adds_it() -> None:
    upright, lying = Label(ean13(1)), Label(ean13(2), degrees=90)

    fast = read(upright, lying, step=ReadCodes(attempts=("fast",)))
    both = read(upright, lying, step=ReadCodes(attempts=("fast", "default")))

    assert texts(fast) == Counter([upright.text])
    assert texts(both) == Counter([upright.text, lying.text])
    assert {code.attempt for code in both if code.text == lying.text} == {"default"}


def test_only_the_formats_asked_for_are_read() -> None:
    assert texts(read(*MIXED, step=ReadCodes(formats=("QRCode",)))) == Counter([MIXED[3].text])


def test_a_picture_without_codes_has_none() -> None:
    assert len(read(noise=12)) == 0


@pytest.mark.parametrize(
    "arguments",
    [{"formats": ("EAN99",)}, {"formats": ()}, {"attempts": ("hard",)}, {"attempts": ()}],
)
def test_what_is_not_known_is_a_value_error(arguments: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match=r"not known|at least one|not among"):
        ReadCodes(**arguments)
