import contextlib
import io
import re
import time
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from capturekit.errors import (
    DamagedImage,
    ImageError,
    NotAnImage,
    TooComplex,
    TooManyBytes,
    TooManyPixels,
    UnsupportedFormat,
)
from capturekit.frame import Frame, MissingFinding, Observation, shrink
from capturekit.picture import inspect, verify
from tests.made_pictures import huge_png
from tests.pictures import FORMATS, Label, ean13, encoded, jpeg, shelf, small, turned

PIXELS = small()
JPEG = jpeg(PIXELS)
PROGRESSIVE = encoded(PIXELS, "JPEG", progressive=True)
ALL_FORMATS = (*FORMATS, "TIFF", "AVIF")


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def with_segments(segment: bytes, count: int) -> bytes:
    return JPEG[:2] + segment * count + JPEG[2:]


def cpu_seconds(data: bytes) -> tuple[float, str]:
    started = time.process_time()
    try:
        outcome = " ".join(Frame.open(data).flags) or "decoded"
    except ImageError as error:
        outcome = type(error).__name__
    return time.process_time() - started, outcome


@pytest.mark.parametrize("format", ALL_FORMATS)
def test_every_format_is_decoded_to_its_pixels(format: str) -> None:
    frame = Frame.open(encoded(PIXELS, format))

    assert (frame.info.format, frame.flags) == (format.lower(), ())
    assert (frame.width, frame.height) == (160, 120)
    # A GIF keeps 256 colours only.
    assert distance(frame.bgr, PIXELS) < (14 if format == "GIF" else 3)


@pytest.mark.parametrize(
    ("mode", "format"),
    [("CMYK", "JPEG"), ("RGBA", "PNG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("RGBA", "WEBP")],
)
def test_every_colour_mode_becomes_bgr(mode: str, format: str) -> None:
    frame = Frame.open(encoded(PIXELS, format, mode))

    assert frame.bgr.shape == (120, 160, 3)
    assert distance(frame.bgr, PIXELS) < 4


@pytest.mark.parametrize(("mode", "format"), [("L", "JPEG"), ("L", "PNG"), ("LA", "PNG")])
def test_gray_pictures_keep_their_luma(mode: str, format: str) -> None:
    frame = Frame.open(encoded(PIXELS, format, mode))

    expected = np.asarray(Image.fromarray(PIXELS[:, :, ::-1]).convert("L"))
    assert frame.gray.shape == (120, 160)
    assert distance(frame.gray, expected) < 2
    assert distance(frame.bgr[:, :, 0], expected) < 2


def test_sixteen_bits_are_brought_to_eight() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 0x1234], [0x8000, 0xFFFF]], np.uint16)).save(file, "PNG")

    assert Frame.open(file.getvalue()).gray.tolist() == [[0, 0x12], [0x80, 0xFF]]


def test_one_bit_is_black_and_white() -> None:
    frame = Frame.open(encoded(PIXELS, "PNG", "1"))

    assert set(np.unique(frame.gray)) == {0, 255}


def test_a_transparent_palette_lies_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    file = io.BytesIO()
    image.save(file, "PNG", transparency=0)

    assert Frame.open(file.getvalue()).bgr.tolist() == [[[255, 255, 255], [30, 20, 10]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    data = turned(PIXELS, orientation, format)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")

    frame = Frame.open(data)

    assert frame.bgr.shape == (frame.height, frame.width, 3)
    assert (inspect(data).width, inspect(data).height) == expected.size
    assert distance(frame.bgr, np.asarray(expected)[:, :, ::-1]) < 3


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("whole", [JPEG, PROGRESSIVE])
def test_a_missing_end_marker_is_repaired_and_flagged(whole: bytes, missing: int) -> None:
    frame = Frame.open(whole[:-missing])

    assert frame.flags == ("truncated",)
    assert np.array_equal(frame.bgr, Frame.open(whole).bgr)
    assert verify(whole[:-missing]).flags == ("truncated",)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("whole", [JPEG, PROGRESSIVE])
def test_a_jpeg_cut_in_its_pixels_is_refused(whole: bytes, share: float) -> None:
    cut = whole[: max(700, int(len(whole) * share))]

    for read in (Frame.open, verify):
        with pytest.raises(DamagedImage):
            read(cut)


def test_a_progressive_jpeg_cut_between_scans_is_refused() -> None:
    scans = [found.start() for found in re.finditer(b"\xff\xda", PROGRESSIVE)]
    assert len(scans) > 3

    for start in scans[1:]:
        with pytest.raises(DamagedImage):
            Frame.open(PROGRESSIVE[:start])


def test_lost_doubled_and_zeroed_chunks_are_found() -> None:
    whole = jpeg(shelf(Label(ean13(1)), width=400, height=400), quality=92)
    faults = 0
    for start in range(2048, len(whole) - 2048, 1024):
        chunk, rest = whole[start : start + 1024], whole[start + 1024 :]
        for middle in (b"", chunk * 2, bytes(1024)):
            faults += 1
            with pytest.raises(DamagedImage):
                verify(whole[:start] + middle + rest)
    assert faults > 30


def test_damage_can_be_flagged_instead() -> None:
    frame = Frame.open(JPEG[: len(JPEG) * 2 // 3], on_damage="flag")

    assert frame.flags == ("truncated", "damaged")
    assert distance(frame.bgr[:30], PIXELS[:30]) < 4


def test_bytes_behind_the_picture_are_flagged() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "hidden")

    for kind in ("JPEG", "PNG", "GIF", "WEBP", "AVIF"):
        data = encoded(PIXELS, kind) + file.getvalue()
        assert Frame.open(data).flags == ("trailing_bytes",), kind


def test_zeros_behind_the_picture_are_padding() -> None:
    assert Frame.open(JPEG + bytes(4096)).flags == ()


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"x", b"Dear camera,\n", b"\0" * 100, b"PK\3\4"]
)
def test_what_is_no_picture_is_named_so(data: bytes) -> None:
    with pytest.raises(NotAnImage):
        Frame.open(data)


def test_a_known_format_that_is_not_decoded_is_named() -> None:
    with pytest.raises(UnsupportedFormat, match="BMP"):
        Frame.open(encoded(PIXELS, "BMP"))


def test_caps_hold_before_decoding() -> None:
    with pytest.raises(TooManyBytes):
        inspect(JPEG, max_bytes=len(JPEG) - 1)
    with pytest.raises(TooManyPixels) as refused:
        inspect(JPEG, max_pixels=160 * 120 - 1)
    assert inspect(JPEG, max_bytes=len(JPEG), max_pixels=160 * 120).width == 160
    assert (refused.value.width, refused.value.height) == (160, 120)


def test_a_jpeg_of_no_height_is_refused() -> None:
    at = JPEG.index(b"\xff\xc0") + 5

    with pytest.raises(DamagedImage):
        Frame.open(JPEG[:at] + b"\0\0" + JPEG[at + 2 :])


def test_a_second_frame_header_is_refused() -> None:
    at = JPEG.index(b"\xff\xc0")
    header = JPEG[at : at + 19]

    with pytest.raises(DamagedImage):
        Frame.open(JPEG[:at] + header + JPEG[at:])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PROGRESSIVE[:-2] + PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2] * 1000, "TooComplex"),
        (with_segments(b"\xff\xfe\0\2", 2_000_000), "TooComplex"),
        (with_segments(b"\xff\xfe\xff\xff" + bytes(65533), 122), "decoded"),
        (with_segments(b"\xff", 8_000_000), "decoded"),
        (JPEG[:-2] + b"\xff\0" * 4_000_000, "DamagedImage"),
        (JPEG[:-2] + b"\xff" * 8_000_000, "truncated"),
        (huge_png(10_000, 10_000), "TooManyPixels"),
        (huge_png(5_000, 5_000), "decoded"),
        (encoded(PIXELS, "GIF")[:13] + b"\x21\xfe\1a\0" * 1_000_000, "DamagedImage"),
        (encoded(PIXELS, "TIFF")[:4] + b"\xff" * 100, "DamagedImage"),
    ],
    ids=["scans", "comments", "long-comments", "fill", "stuffing", "fill-at-end", "100Mpx", "25Mpx",
         "gif-blocks", "tiff-offset"],
)  # fmt: skip
def test_a_hostile_picture_costs_little(data: bytes, expected: str) -> None:
    seconds, outcome = cpu_seconds(data)

    assert outcome == expected
    assert seconds < 1


def test_a_gif_of_very_many_blocks_is_refused() -> None:
    whole = encoded(PIXELS, "GIF")
    palette_end = 13 + (3 << (whole[10] & 7) + 1)
    many = whole[:palette_end] + b"\x21\xfe" + b"\1a" * 3_000_000 + b"\0" + whole[palette_end:]

    with pytest.raises(TooComplex):
        inspect(many)


def test_a_tiff_whose_tags_name_the_whole_file_many_times_is_refused() -> None:
    entry = b"\xff\x7f\x01\x00" + (4000).to_bytes(4, "little") + b"\x08\0\0\0"
    data = b"II*\0\x08\0\0\0" + (400).to_bytes(2, "little") + entry * 400 + bytes(2000)

    with pytest.raises(TooComplex):
        inspect(data)


def test_a_png_with_a_flipped_bit_is_refused() -> None:
    data = bytearray(encoded(PIXELS, "PNG"))
    data[len(data) // 2] ^= 1

    with pytest.raises(DamagedImage):
        verify(bytes(data))


def test_only_the_first_frame_is_taken() -> None:
    first, second = (Image.fromarray(small(seed)[:, :, ::-1]) for seed in (1, 2))
    file = io.BytesIO()
    first.save(file, "WEBP", save_all=True, append_images=[second], quality=95)

    assert distance(Frame.open(file.getvalue()).bgr, small(1)) < 5


def test_gray_is_decoded_alone_when_colour_is_not_wanted() -> None:
    frame = Frame.open(JPEG, colour=False)

    assert distance(frame.gray, Frame.open(JPEG).gray) < 1
    assert np.array_equal(frame.bgr, Frame.open(JPEG).bgr)


def test_pixels_are_shared_computed_once_and_read_only() -> None:
    frame = Frame.open(JPEG)
    other = frame.having("a finding")

    for name in ("gray", "bgr", "gray_half"):
        assert getattr(frame, name) is getattr(other, name)
        with pytest.raises(ValueError, match="read-only"):
            getattr(frame, name)[0] = 1
    assert frame.gray_within(64) is other.gray_within(64)
    assert frame.gray_half.shape == (60, 80)


def test_a_frame_does_not_change_by_having_more() -> None:
    frame = Frame.open(JPEG)
    seen = Observation(analyser="test", code="1", confidence=1)

    more = frame.having(3).having("text").having(4).observing(seen)

    assert (more.find(int), more.find(str), more.observations) == (4, "text", (seen,))
    assert (dict(frame.findings), frame.observations) == ({}, ())
    with pytest.raises(MissingFinding, match="float"):
        more.find(float)


def test_a_frame_of_pixels_is_a_copy() -> None:
    pixels = small()
    frame = Frame.from_pixels(pixels)
    pixels[:] = 0

    assert np.array_equal(frame.bgr, small())
    assert frame.sha256 is None
    with pytest.raises(ValueError, match="uint8"):
        Frame.from_pixels(pixels.astype(np.float64))


@pytest.mark.parametrize(
    ("width", "height"), [(1600, 1200), (1, 1), (2000, 1), (641, 3), (640, 480)]
)
def test_shrinking_gives_the_long_side_asked_for(width: int, height: int) -> None:
    small_one = shrink(np.full((height, width), 77, np.uint8), 640)

    assert max(small_one.shape) == min(640, max(width, height))
    assert np.all(small_one == 77)


@pytest.mark.parametrize(("names", "count"), [({}, 0), ({"code": "1", "item": "x"}, 2)])
def test_an_observation_names_one_thing(names: dict[str, str], count: int) -> None:
    assert len(names) == count
    with pytest.raises(ValueError, match="either a code or an item"):
        Observation(analyser="test", confidence=1, code=names.get("code"), item=names.get("item"))


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A real file with bytes changed, cut out, doubled, or cut off."""
    progressive, kind = draw(st.booleans()), draw(st.sampled_from(ALL_FORMATS))
    data = bytearray(encoded(small(1, 48, 40), kind, progressive=progressive))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 32))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                del data[at:]
            case _:
                data[at : at + 1] = bytes([draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))])
    return bytes(data)


def test_a_chroma_subsampling_without_a_name_is_damage() -> None:
    # Luma sampled 1 x 4 against chroma: legal, and a name for it is missing.
    data = bytearray(encoded(small(1, 48, 40), "JPEG"))
    sof = data.index(b"\xff\xc0")
    data[sof + 11] = 0x14
    for on_damage in ("refuse", "flag"):
        with pytest.raises(DamagedImage):
            Frame.open(bytes(data), on_damage="flag" if on_damage == "flag" else "refuse")


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(damaged_files(), st.sampled_from(["refuse", "flag"]))
def test_a_damaged_file_is_a_frame_or_an_image_error(data: bytes, on_damage: str) -> None:
    # Pillow warns about odd metadata; as an error it would be one more thing to map.
    with warnings.catch_warnings(action="ignore"):
        for read in (inspect, verify):
            with contextlib.suppress(ImageError):
                read(data)
        try:
            frame = Frame.open(data, on_damage="flag" if on_damage == "flag" else "refuse")
        except ImageError:
            return
        assert frame.gray.shape == (frame.height, frame.width)
        assert frame.bgr.dtype == np.uint8


@settings(max_examples=100, deadline=1000)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b""]), st.binary()
)
def test_any_bytes_are_a_picture_or_an_image_error(magic: bytes, rest: bytes) -> None:
    with contextlib.suppress(ImageError):
        inspect(magic + rest)


def test_an_observation_holds_only_text_that_databases_keep() -> None:
    seen = Observation(analyser="test", code="a\0b\ud800", confidence=1, location="\0", lot="L\0")

    assert (seen.code, seen.location, seen.lot) == ("a\ufffdb?", "\ufffd", "L\ufffd")
