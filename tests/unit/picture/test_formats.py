import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from capturekit.errors import DamagedImage, TooComplex, TooManyPixels, UnsupportedFormat
from capturekit.picture import decode, inspect, verify
from tests.pictures import encoded, jpeg, small

JPEG = jpeg(small())


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def see_through(width: int = 60, height: int = 40) -> Image.Image:
    """Colours whose alpha grows from left to right."""
    image = Image.fromarray(small(3, width, height)[:, :, ::-1]).convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, width, dtype=np.uint8),
                                           (height, 1))))  # fmt: skip
    return image


def on_white(image: Image.Image) -> np.ndarray:
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(flat.convert("RGB"))[:, :, ::-1]


# JPEGs that lack only their end


@pytest.mark.parametrize("padding", [2, 3, 100, 512, 4096])
def test_zeros_in_place_of_the_end_are_repaired(padding: int) -> None:
    picture = decode(JPEG[:-2] + bytes(padding))

    assert picture.info.flags == ("truncated",)
    assert np.array_equal(picture.pixels, decode(JPEG).pixels)


@pytest.mark.parametrize("filler", [b"\1", b"\xff\0", b"\0\xff", b"\xff\xd3", b"\xff"], ids=repr)
@pytest.mark.parametrize("length", [0, 1, *range(65_532, 65_539), 131_072, 200_001])
def test_the_end_of_a_jpeg_is_found_wherever_it_is(length: int, filler: bytes) -> None:
    """The file is looked through in stretches, and the marker may lie on a seam."""
    whole = jpeg(small())
    pixels = filler * (length // len(filler)) + b"\1" * (length % len(filler))
    cut = whole[: whole.index(b"\xff\xda") + 14] + pixels

    assert inspect(cut).flags == ("truncated",)
    assert inspect(cut + b"\xff\xd9").flags == ()
    assert inspect(cut + b"\xff\xd9" + b"another").flags == ("trailing_bytes",)


def test_a_coded_ff_before_zeros_keeps_its_own_zero() -> None:
    # Some picture of these ends in a coded FF; all of them must be whole again.
    for seed in range(300):
        whole = jpeg(small(seed, 32, 32), quality=99)
        assert np.array_equal(decode(whole[:-2] + bytes(64)).pixels, decode(whole).pixels)


@pytest.mark.parametrize("block", [512, 1024, 1460])
def test_a_jpeg_cut_at_a_block_is_damaged(block: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    whole = jpeg(noise)
    cut = whole[: len(whole) // block * block - block]

    for data in (cut, cut + bytes(block)):
        with pytest.raises(DamagedImage):
            verify(data)
        assert decode(data, on_damage="flag").info.flags == ("truncated", "damaged")


def test_the_last_coded_bytes_lost_are_damage() -> None:
    with pytest.raises(DamagedImage):
        decode(JPEG[:-30])


# WebP


@pytest.mark.parametrize("lossless", [False, True])
def test_a_clear_webp_lies_on_white(lossless: bool) -> None:  # noqa: FBT001
    data = saved(see_through(), "WEBP", lossless=lossless, quality=95)

    expected = on_white(Image.open(BytesIO(data)))
    assert np.abs(decode(data).pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("lossless", [False, True])
def test_the_first_frame_of_a_webp_animation_is_whole(lossless: bool) -> None:  # noqa: FBT001
    frames = [Image.fromarray(small(seed)[:, :, ::-1]) for seed in (1, 2, 3)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=lossless)

    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB"))[:, :, ::-1]
    assert np.array_equal(decode(data).pixels, expected)


def test_a_small_frame_lies_on_a_white_canvas() -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    data = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (99).to_bytes(3, "little") + (79).to_bytes(3, "little")
    frame = data.index(b"ANMF") + 8
    data[frame : frame + 6] = (5).to_bytes(3, "little") + (4).to_bytes(3, "little")

    pixels = decode(bytes(data)).pixels

    assert pixels.shape == (80, 100, 3)
    assert (pixels[:8] == 255).all()
    assert (pixels[:, :10] == 255).all()
    assert abs(int(pixels[30, 40, 2]) - 255) < 5
    assert (pixels[56:] == 255).all()


@pytest.mark.parametrize("change", [b"VP8X", b"ANMF"])
def test_a_webp_of_two_sizes_is_damaged(change: bytes) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    data = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    at = data.index(change) + (12 if change == b"VP8X" else 14)
    data[at] -= 9

    with pytest.raises(DamagedImage, match="another size"):
        inspect(bytes(data))


def test_a_webp_without_a_picture_is_damaged() -> None:
    data = b"RIFF" + (4 + 12).to_bytes(4, "little") + b"WEBPabcd\4\0\0\0" + bytes(4)
    with pytest.raises(DamagedImage, match="no picture"):
        inspect(data)


def test_a_webp_of_very_many_chunks_is_refused() -> None:
    body = b"abcd\0\0\0\0" * 10_001
    data = b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WEBP" + body
    with pytest.raises(TooComplex):
        inspect(data)


# PNG


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return chunk(b"eXIf", block.tobytes().removeprefix(b"Exif\0\0"))


def png_with(chunks: bytes, before: bytes) -> bytes:
    """A PNG of 60 x 40 with these chunks before its first of the other type."""
    data = encoded(small(1, 60, 40), "PNG")
    at = data.index(before) - 4
    return data[:at] + chunks + data[at:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_a_png_is_turned_by_an_exif_chunk_anywhere(before: bytes, orientation: int) -> None:
    data = png_with(exif(orientation), before)
    image = Image.open(BytesIO(data))
    image.load()
    expected = np.asarray(ImageOps.exif_transpose(image))[:, :, ::-1]

    picture = decode(data)

    assert np.array_equal(picture.pixels, expected)
    assert inspect(data) == verify(data) == picture.info
    assert (picture.info.height, picture.info.width) == expected.shape[:2]


@pytest.mark.parametrize(
    ("chunks", "size"),
    [
        (exif(6) + exif(1), (40, 60)),
        (exif(1) + exif(6), (60, 40)),
        (chunk(b"eXIf", b"no such thing"), (60, 40)),
        (chunk(b"eXIf", b""), (60, 40)),
        (chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"), (60, 40)),
    ],
    ids=["first is turned", "first is not", "garbage", "empty", "points outside"],
)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_the_first_exif_chunk_of_a_png_counts_if_it_can_be_read(
    chunks: bytes, size: tuple[int, int], before: bytes
) -> None:
    data = png_with(chunks, before)

    picture = decode(data)

    assert (picture.info.width, picture.info.height) == size
    assert inspect(data) == verify(data) == picture.info


def test_an_exif_chunk_behind_the_end_of_a_png_is_not_its() -> None:
    assert inspect(encoded(small(1, 60, 40), "PNG") + exif(6)).width == 60


# Pixels are converted in bands


@pytest.mark.parametrize(
    ("mode", "format"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("CMYK", "TIFF"), ("P", "GIF")],
)
def test_bands_join_without_a_seam(mode: str, format: str) -> None:
    image = see_through(1200, 1900).convert(mode)
    data = saved(image, format)
    with Image.open(BytesIO(data)) as opened:
        expected = on_white(opened)

    pixels = decode(data).pixels

    shown = expected[:, :, 0] if pixels.ndim == 2 else expected
    assert np.abs(pixels.astype(int) - shown).max() <= 1


def test_a_very_long_side_is_too_complex() -> None:
    with pytest.raises(TooComplex, match="65536 x 1"):
        inspect(encoded(np.zeros((1, 65_536, 3), np.uint8), "PNG"))
    assert inspect(encoded(np.zeros((1, 65_535, 3), np.uint8), "PNG")).width == 65_535


# AVIF and HEIC


def heic(image: Image.Image) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95)
    return file.getvalue()


def with_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"ispe") + 8
    return data[:at] + width.to_bytes(4) + height.to_bytes(4) + data[at + 8 :]


def test_a_size_in_a_box_is_checked_before_decoding() -> None:
    with pytest.raises(TooManyPixels):
        inspect(with_size(encoded(small(), "AVIF"), 5000, 4000))
    with pytest.raises(TooManyPixels):
        inspect(encoded(small(), "AVIF"), max_pixels=160 * 120 - 1)
    with pytest.raises(DamagedImage):
        inspect(with_size(encoded(small(), "AVIF"), 0, 4000))


@pytest.mark.needs_extra("heic")
def test_a_heic_is_decoded() -> None:
    picture = decode(heic(Image.fromarray(small()[:, :, ::-1])))

    assert (picture.info.format, picture.info.media_type) == ("heic", "image/heic")
    assert picture.info.flags == ()
    assert np.abs(picture.pixels.astype(int) - small()).mean() < 3


@pytest.mark.needs_extra("heic")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_once(orientation: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image, exif, file = Image.fromarray(small(1, 60, 40)[:, :, ::-1]), Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    pillow_heif.encode("RGB", image.size, image.tobytes(), file, quality=95, exif=exif.tobytes())
    image.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(image))[:, :, ::-1]

    shown = inspect(file.getvalue())

    assert (shown.height, shown.width) == expected.shape[:2]
    assert np.abs(decode(file.getvalue()).pixels.astype(int) - expected).mean() < 4


@pytest.mark.needs_extra("heic")
def test_a_huge_heic_is_refused_unopened() -> None:
    with pytest.raises(TooManyPixels):
        inspect(with_size(heic(Image.new("RGB", (64, 64))), 5000, 4000))


def test_without_its_library_a_heic_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)

    with pytest.raises(UnsupportedFormat, match=r"capturekit\[heic\]"):
        inspect(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def test_reading_a_heic_registers_nothing() -> None:
    before = set(Image.OPEN)
    with pytest.raises(DamagedImage if "pillow_heif" in sys.modules else UnsupportedFormat):
        inspect(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert set(Image.OPEN) == before
