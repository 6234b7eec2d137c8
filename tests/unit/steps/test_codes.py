import math
from collections import Counter
from datetime import date
from random import Random

import cv2
import numpy as np
import pytest
import zxingcpp

from capturekit.frame import Frame
from capturekit.pipeline import ProcessingPipeline
from capturekit.steps import Code, Codes, ReadCodes
from capturekit.steps.codes import RETAIL, Effort
from capturekit.steps.gs1 import Gs1
from tests import pictures_codes
from tests.pictures import Label, ean13, jpeg, shelf, turned
from tests.pictures_codes import EVERY, empty, photo

TEXT = ean13(400638133393)
MIXED = (
    Label(ean13(400638133393)),
    Label("96385074", "EAN8"),
    Label("BOX-17", "Code128"),
    Label("https://shelf.example/17", "QRCode", module_px=4),
)


def read(
    *labels: Label,
    step: ReadCodes | None = None,
    noise: float = 3,
    width: int = 1600,
    height: int = 1200,
) -> Codes:
    frame = Frame.open(jpeg(shelf(*labels, noise=noise, width=width, height=height)))
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


@pytest.mark.parametrize("share", [0.04, 0.06])
@pytest.mark.parametrize(("text", "format"), [("BOX-1754", "Code128"), ("10614141000415", "ITF")])
def test_other_formats_in_a_close_stack_are_all_counted(
    text: str, format: str, share: float
) -> None:
    code = drawn(text, format, 2)[10:-10, 10:-10]
    inked = np.flatnonzero((code == 0).any(axis=0))
    gap = np.full((math.ceil(share * np.ptp(inked)), code.shape[1]), 255, np.uint8)
    stack = np.vstack([code, gap, code, gap, code])
    scene = cv2.copyMakeBorder(stack, 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=255)

    codes = ReadCodes((*RETAIL, "ITF"))(Frame.from_pixels(np.asarray(scene, np.uint8))).find(Codes)

    assert texts(codes) == Counter([text] * 3)


def test_a_code_of_stacked_rows_is_one_label() -> None:
    text = "(01)09501101530003(10)AB-12345"
    label = drawn(text, "DataBarExpStk", 3)
    scene = cv2.copyMakeBorder(label, 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=255)

    codes = ReadCodes(("DataBarExpStk",))(Frame.from_pixels(np.asarray(scene, np.uint8)))

    assert texts(codes.find(Codes)) == Counter([text])


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

    assert (code.format, code.text, code.attempt) == (format, text, "fast")


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
    codes = read(*MIXED, MIXED[0], step=ReadCodes(effort="thorough"))

    assert texts(codes) == Counter([MIXED[0].text, *(label.text for label in MIXED)])


def test_fast_leaves_out_small_matrix_codes_and_default_adds_them() -> None:
    labels = (Label(ean13(1)), Label("QR-17", "QRCode", 12, 2))

    fast = read(*labels, step=ReadCodes(effort="fast"))
    default = read(*labels)

    assert texts(fast) == Counter([labels[0].text])
    assert {code.text: code.attempt for code in default} == {ean13(1): "fast", "QR-17": "default"}


def test_thorough_reads_bars_at_any_angle_and_says_so() -> None:
    label = Label(ean13(400638133393), degrees=40, module_px=3)

    [code] = read(label, step=ReadCodes(effort="thorough"))

    assert (code.text, code.attempt) == (label.text, "slanted")
    assert len(read(label)) == 0
    middle = [sum(values) / 4 for values in zip(*code.polygon, strict=True)]
    at = 20 + len(label.pixels()) / 2
    assert math.dist(middle, (at, at)) < 12


def test_thorough_reads_a_label_that_few_lines_show_once() -> None:
    bars = drawn(TEXT, "EAN13", 2)[20]
    scene = np.full((1200, 1600), 235, np.uint8)
    scene[500:560, 600 : 600 + len(bars)] = np.arange(len(bars)) // 3 % 2 * 255
    scene[531:534, 600 : 600 + len(bars)] = bars
    frame = Frame.from_pixels(scene)

    [code] = ReadCodes(effort="thorough")(frame).find(Codes)

    assert (code.text, code.attempt) == (TEXT, "lines")
    assert len(ReadCodes()(frame).find(Codes)) == 0


def test_thorough_tells_which_attempt_found_a_small_blurred_code() -> None:
    scene = photo(1037, (640, 480))
    frame = Frame.from_pixels(scene.gray)

    [code] = ReadCodes(effort="thorough")(frame).find(Codes)

    assert len(ReadCodes()(frame).find(Codes)) == 0
    assert (code.text, code.attempt) == (scene.codes[0].text, "sharpened")


def test_a_large_slanted_code_lies_where_it_is_though_it_is_read_smaller() -> None:
    label = Label(ean13(400638133393), degrees=40, module_px=9)

    [code] = read(label, step=ReadCodes(effort="thorough"), width=1800, height=1500)

    assert (code.text, code.attempt) == (label.text, "slanted")
    middle = [sum(values) / 4 for values in zip(*code.polygon, strict=True)]
    at = 20 + len(label.pixels()) / 2
    assert math.dist(middle, (at, at)) < 36


def test_when_nothing_else_reads_thorough_shows_zxing_the_whole_picture() -> None:
    [code] = ReadCodes(EVERY, effort="thorough")(inverted_beside()).find(Codes)

    assert (code.text, code.attempt) == ("BOX-17", "whole")


def test_thorough_reads_small_light_codes_on_dark_beside_others() -> None:
    frame = inverted_beside(drawn(TEXT, "EAN13", 3))

    codes = ReadCodes(EVERY, effort="thorough")(frame).find(Codes)

    assert {code.text: code.attempt for code in codes} == {TEXT: "fast", "BOX-17": "inverted"}
    assert len(ReadCodes(EVERY)(frame).find(Codes)) == 1


def inverted_beside(*others: np.ndarray) -> Frame:
    """A small Data Matrix, light on dark, in a picture with these others."""
    scene = np.full((1200, 1600), 230, np.uint8)
    for at, paper in enumerate((255 - drawn("BOX-17", "DataMatrix", 2), *others)):
        y, x = 700 - 400 * at, 800 - 400 * at
        scene[y : y + paper.shape[0], x : x + paper.shape[1]] = paper
    return Frame.from_pixels(scene)


def test_only_the_formats_asked_for_are_read() -> None:
    assert texts(read(*MIXED, step=ReadCodes(formats=("QRCode",)))) == Counter([MIXED[3].text])


def test_a_picture_without_codes_has_none() -> None:
    assert len(read(noise=12)) == 0


@pytest.mark.parametrize("seed", range(12))
def test_print_and_patterns_are_no_codes(seed: int) -> None:
    scene = empty(seed, (640, 480))

    assert len(ReadCodes(EVERY, effort="thorough")(Frame.from_pixels(scene.gray)).find(Codes)) == 0


@pytest.mark.parametrize("format", EVERY)
def test_every_format_is_read_in_its_place(format: str) -> None:
    label, text = pictures_codes.label(Random(7), format, 3)
    scene = cv2.copyMakeBorder(label, 300, 200, 500, 100, cv2.BORDER_CONSTANT, value=200)

    [code] = ReadCodes(EVERY)(Frame.from_pixels(np.asarray(scene, np.uint8))).find(Codes)

    assert code.text == text
    x, y = (sum(values) / 4 for values in zip(*code.polygon, strict=True))
    assert abs(x - 500 - label.shape[1] / 2) < 25
    assert 300 < y < 300 + label.shape[0]


@pytest.mark.parametrize("degrees", [0, 180])
@pytest.mark.parametrize("text", ["MF8U990EZCW", "WUE70CAXYK87", "P4BR58RZRR6V"])
def test_a_low_data_matrix_is_read_close_to_other_codes(text: str, degrees: int) -> None:
    # 64 x 16 px: as low as one cell of the look, between two codes that are read before it.
    low, bars = drawn(text, "DataMatrix", 2), drawn(TEXT, "EAN13", 2)
    low = cv2.copyMakeBorder(low, 0, 0, 0, bars.shape[1] - low.shape[1], 0, value=255)
    shelf = np.vstack([bars, low, bars])
    scene = cv2.copyMakeBorder(shelf, 500, 300, 600, 400, cv2.BORDER_CONSTANT, value=230)
    scene = np.rot90(scene, degrees // 90).copy()

    codes = ReadCodes(EVERY)(Frame.from_pixels(np.asarray(scene, np.uint8))).find(Codes)

    assert texts(codes) == Counter([TEXT, TEXT, text])


@pytest.mark.parametrize("size", [(800, 700), (1600, 1200)])
def test_clean_codes_of_every_format_are_all_read(size: tuple[int, int]) -> None:
    for seed in (0, 1, 3):  # in 2 a Code 39 is by chance a Code 32 too
        pixels, printed = pictures_codes.clean(seed, size)

        for turned_by in (0, 2):
            frame = Frame.from_pixels(np.rot90(pixels, turned_by).copy())
            assert texts(ReadCodes(EVERY)(frame).find(Codes)) == Counter(printed)


def drawn(text: str, format: str, module_px: int) -> np.ndarray:
    """The code as a printer would draw it, with 10 px of white around."""
    made = zxingcpp.create_barcode(text, getattr(zxingcpp.BarcodeFormat, format))
    pixels = np.array(made.to_image(scale=module_px))
    return cv2.copyMakeBorder(pixels, 10, 10, 10, 10, cv2.BORDER_CONSTANT, value=255)


def coded(content: str, format: str, *, gs1: bool = False) -> Code:
    """The one code in a picture of this content."""
    kind = getattr(zxingcpp.BarcodeFormat, format)
    made = np.array(zxingcpp.create_barcode(content, kind, gs1=gs1).to_image(scale=3), np.uint8)
    scene = cv2.copyMakeBorder(made, 80, 80, 80, 80, cv2.BORDER_CONSTANT, value=255)
    frame = Frame.from_pixels(np.asarray(scene, np.uint8))
    [code] = ReadCodes((*RETAIL, "ITF", "DataMatrix"))(frame).find(Codes)
    return code


@pytest.mark.parametrize("format", ["Code128", "DataMatrix", "QRCode"])
def test_a_gs1_label_is_one_unit_of_its_product(format: str) -> None:
    code = coded("(01)09501101530003(17)260731(10)AB-123", format, gs1=True)

    assert code.gs1 is not None
    assert (code.gtin, code.gs1.lot, code.gs1.errors) == ("9501101530003", "AB-123", ())
    assert code.gs1.expiry == date(2026, 7, 31)
    seen = code.observed("codes")
    assert (seen.code, seen.quantity) == ("9501101530003", 1)
    assert (seen.lot, seen.expires_on) == ("AB-123", date(2026, 7, 31))


def test_what_is_best_before_a_day_expires_then() -> None:
    seen = coded("(01)09501101530003(15)260731", "Code128", gs1=True).observed("codes")

    assert (seen.lot, seen.expires_on) == (None, date(2026, 7, 31))


@pytest.mark.parametrize("lot", ["x" * 21, "x" * 4000, "a\x00b", ""])
def test_a_lot_that_is_none_is_left_out(lot: str) -> None:
    code = Code("QRCode", "x", ((0, 0), (1, 0), (1, 1), (0, 1)), "fast", gs1=Gs1(lot=lot))

    assert code.observed("codes").lot is None


def test_a_label_of_contents_is_as_many_as_it_says() -> None:
    seen = coded("(02)09501101530003(37)48", "Code128", gs1=True).observed("codes")

    assert (seen.code, seen.quantity) == ("9501101530003", 48)


def test_a_case_is_a_unit_of_its_own() -> None:
    code = coded("10614141000415", "ITF")

    assert (code.gtin, code.observed("codes").code) == ("10614141000415", "10614141000415")


@pytest.mark.parametrize("digits", ["10614141000416", "1234"])
def test_an_itf_without_a_right_check_digit_or_too_short_is_not_believed(digits: str) -> None:
    kind = zxingcpp.BarcodeFormat.ITF
    made = np.array(zxingcpp.create_barcode(digits, kind).to_image(scale=3), np.uint8)
    scene = cv2.copyMakeBorder(made, 80, 80, 80, 80, cv2.BORDER_CONSTANT, value=255)

    frame = ReadCodes(("ITF",))(Frame.from_pixels(np.asarray(scene, np.uint8)))

    assert len(frame.find(Codes)) == 0


def test_all_writings_of_a_product_are_one_stock_key() -> None:
    upc_e, upc_a = coded("01234565", "UPCE"), coded("012345000065", "UPCA")

    assert upc_e.gtin == upc_a.gtin == "0012345000065"
    assert upc_e.observed("codes").code == upc_a.observed("codes").code == "0012345000065"


def test_a_link_to_a_product_names_it_and_plain_text_names_itself() -> None:
    link = coded("https://id.gs1.org/01/09501101530003/10/A", "QRCode")
    other = coded("4006381333931", "QRCode")

    assert (link.gtin, link.gs1 and link.gs1.lot) == ("9501101530003", "A")
    assert (other.gtin, other.gs1, other.observed("codes").code) == (None, None, other.text)


def test_json_has_gtin_and_gs1_only_when_there_are() -> None:
    plain, gs1 = coded("BOX-17", "Code128"), coded("(01)09501101530003", "Code128", gs1=True)

    assert plain.as_json().keys() == {"format", "text", "polygon", "attempt"}
    assert gs1.as_json()["gtin"] == "9501101530003"
    assert gs1.as_json()["gs1"] == {
        "gtin": "9501101530003",
        "elements": [["01", "09501101530003"]],
    }


def test_codes_can_be_drawn() -> None:
    codes = read(MIXED[0])

    [outline] = codes.outlines()

    assert (outline.polygon, outline.label) == (codes.found[0].polygon, MIXED[0].text)


@pytest.mark.parametrize("effort", ["fast", "default", "thorough"])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 1500), (1500, 1), (2, 3000), (3, 2000), (3, 40_000), (31, 40)]
)
def test_a_tiny_or_thin_picture_has_no_codes_and_no_error(
    shape: tuple[int, int], effort: Effort
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)

    for pixels in (noise, np.full(shape, 128, np.uint8)):
        frame = Frame.from_pixels(pixels)
        assert len(ReadCodes(EVERY, effort)(frame).find(Codes)) == 0


@pytest.mark.parametrize("formats", [("EAN99",), ()])
def test_formats_that_are_not_known_are_a_value_error(formats: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"not known|at least one"):
        ReadCodes(formats)


def test_an_effort_that_is_not_known_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not among"):
        ReadCodes(effort="hard")  # type: ignore[arg-type]  # a caller without a type checker
