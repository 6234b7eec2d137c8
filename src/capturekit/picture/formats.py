"""All formats but JPEG and WebP: check the structure ourselves, then let Pillow decode."""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    GifImagePlugin,
    Image,
    ImageFile,
    PngImagePlugin,
    TiffImagePlugin,
    features,
)

from capturekit.errors import DamagedImage, TooComplex, UnsupportedFormat
from capturekit.picture.exif import MAX_TIFF_ENTRIES, exif_orientation
from capturekit.picture.header import (
    PictureInfo,
    Pixels,
    Probe,
    bands,
    check_pixels,
    flags_of,
    on_white,
    upright,
    upright_size,
)
from capturekit.picture.rim import guarded

MAX_PNG_CHUNKS = 20_000
"""At the usual 8 KiB a chunk that is 160 MiB."""
_PNG_FIRST_BODY = 16
MAX_GIF_STEPS = 250_000
"""Blocks and pieces of blocks, all frames. Pillow reads those of comments one by one in
Python, about 1 microsecond each. 60 MB at the usual 255 bytes a piece."""
MAX_BOXES = 64
"""Of an AVIF or HEIC file; encoders write under ten, and some more within the first."""
MAX_BOXED_PIXELS = 16_000_000
"""Largest AVIF or HEIC picture. Their decoders hold it four times: 16 Mpx take 430 MB."""
MAX_TIFF_STRIPS = 32_768
"""Each strip or tile is a round through Python in Pillow, at about 10 microseconds."""


def _check_png(data: bytes, max_pixels: int) -> int:
    """Walk the chunks and their checksums; Pillow checks none in the pixel data."""
    for kind, start, end in _png_chunks(data):
        (expected,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[start - 4 : end]) != expected:
            raise DamagedImage(f"the PNG's {kind!r} chunk is not what was written")
        if start == _PNG_FIRST_BODY:
            width, height = struct.unpack_from(">II", data, start)
            check_pixels(width, height, max_pixels)
        if kind == b"IEND":
            return end + 4
    raise TooComplex(f"the PNG has more than {MAX_PNG_CHUNKS} chunks")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type and place of each up to the last, and no more than MAX_PNG_CHUNKS."""
    start, kind = _PNG_FIRST_BODY, b""
    for _ in range(MAX_PNG_CHUNKS):
        if kind == b"IEND":
            return
        kind = data[start - 4 : start]
        end = start + int.from_bytes(data[start - 8 : start - 4])
        yield kind, start, end
        start = end + 12


def _png_exif(data: bytes) -> bytes:
    """The first EXIF block, also one after the pixels, which Pillow reads only with them."""
    found = (data[start:end] for kind, start, end in _png_chunks(data) if kind == b"eXIf")
    return next(found, b"")


def _check_gif(data: bytes, max_pixels: int) -> int:
    """Walk all blocks: Pillow reads those before the first picture one by one, in Python."""
    width, height, depth = struct.unpack_from("<HHB", data, 6)
    check_pixels(width, height, max_pixels)
    position, steps = 13 + _gif_palette(depth), 0
    while steps < MAX_GIF_STEPS:
        kind = data[position]
        if kind == 0x3B:
            return position + 1
        if kind == 0x21:
            position += 2
        elif kind == 0x2C:
            position += 10 + _gif_palette(data[position + 9]) + 1
        else:
            raise DamagedImage("the GIF has a block of no known kind")
        while data[position] and steps < MAX_GIF_STEPS:
            position, steps = position + data[position] + 1, steps + 1
        position, steps = position + 1, steps + 1
    raise TooComplex(f"the GIF has more than {MAX_GIF_STEPS} blocks")


def _gif_palette(packed: int) -> int:
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _check_tiff(data: bytes, _max_pixels: int) -> int:
    """Bound what Pillow will read for the tags: each may name the whole file as its value."""
    order = "<" if data.startswith(b"II") else ">"
    folders, total = [struct.unpack_from(order + "I", data, 4)[0]], 0
    for offset in folders:
        (count,) = struct.unpack_from(order + "H", data, offset)
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(order + "HHII", data, entry)
            total += values * _TIFF_SIZES.get(kind, 1)
            if tag in _TIFF_FOLDERS:
                folders.append(value)
            if count > MAX_TIFF_ENTRIES or (tag in _TIFF_STRIPS and values > MAX_TIFF_STRIPS):
                raise TooComplex("the TIFF has too many tags, strips or tiles")
        if total > len(data) or len(folders) > 1 + len(_TIFF_FOLDERS):
            raise TooComplex("the TIFF's tags claim more bytes than the file has")
    return len(data)


_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_FOLDERS = {34665, 34853, 40965}  # EXIF, GPS, interoperability
_TIFF_STRIPS = {273, 324}


def _check_boxes(data: bytes, max_pixels: int) -> int:
    """Find where the boxes end, and check every size that the ``meta`` box names.

    A grid's parts, a thumbnail and depth have sizes of their own; the decoder may touch each.
    """
    position = 0
    for _ in range(MAX_BOXES):
        length = int.from_bytes(data[position : position + 4])
        if length == 0:
            length = len(data) - position
        elif length == 1:
            length = int.from_bytes(data[position + 8 : position + 16])
        if length < 8 or position + length > len(data):
            return position
        if data[position + 4 : position + 8] == b"meta":
            _check_sizes(data[position : position + length], min(max_pixels, MAX_BOXED_PIXELS))
        position += length
        if position == len(data):
            break
    return position


def _check_sizes(meta: bytes, max_pixels: int) -> None:
    found = list(re.finditer(rb"\0\0\0\x14ispe\0\0\0\0(.{8})", meta, re.DOTALL))
    if len(found) > MAX_BOXES:
        raise TooComplex(f"the file names more than {MAX_BOXES} pictures")
    for size in found:
        width, height = struct.unpack(">II", size[1])
        check_pixels(width, height, max_pixels)


def _open_avif(file: BytesIO) -> ImageFile.ImageFile:
    if not features.check("avif"):
        raise UnsupportedFormat("this Pillow was built without AVIF; send JPEG, PNG or WebP")
    from PIL import AvifImagePlugin  # older Pillows have no such module

    return AvifImagePlugin.AvifImageFile(file)


def _open_heic(file: BytesIO) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError as error:
        raise UnsupportedFormat("HEIC pictures need: pip install 'capturekit[heic]'") from error
    # By name as well: registering it would change what all of the process opens.
    return cast("ImageFile.ImageFile", pillow_heif.HeifImageFile(file))  # type: ignore[no-untyped-call]  # pillow-heif leaves it out


# The plugins are called by name, not through Image.open: that tries them in turn, and prints a
# warning for a picture over its own process-wide cap before ours is asked.
FORMATS: dict[str, tuple[Callable[[bytes, int], int], Callable[[BytesIO], ImageFile.ImageFile]]] = {
    "png": (_check_png, PngImagePlugin.PngImageFile),
    "gif": (_check_gif, GifImagePlugin.GifImageFile),
    "tiff": (_check_tiff, TiffImagePlugin.TiffImageFile),
    "avif": (_check_boxes, _open_avif),
    "heic": (_check_boxes, _open_heic),
}


def probe_other(name: str, data: bytes, max_pixels: int) -> Probe:
    """Check the structure of a file of this format and open it, without its pixels."""
    check, opener = FORMATS[name]
    try:
        end = check(data, max_pixels)
    except (struct.error, IndexError) as error:
        raise DamagedImage(f"the {name.upper()} is cut") from error
    image = guarded(lambda: opener(BytesIO(data)))
    check_pixels(*image.size, max_pixels)
    exif, orientation = _png_exif(data) if name == "png" else image.info.get("exif"), 1
    # Its decoder turns a TIFF or HEIC itself, and tells its size so.
    if isinstance(exif, bytes) and name not in ("tiff", "heic"):
        orientation = exif_orientation(exif.removeprefix(b"Exif\0\0"))
    size = upright_size(*image.size, orientation)
    flags = flags_of(truncated=False, rest=memoryview(data)[end:])
    info = PictureInfo(name, f"image/{name}", *size, flags)
    return Probe(info, orientation=orientation, load=lambda: guarded(lambda: _loaded(image)))


def decode_other(probe: Probe, load: Callable[[], Pixels]) -> Pixels:
    """The first frame, upright, transparent parts on white, deeper samples cut to 8 bits."""
    pixels = upright(load(), probe.orientation)
    if pixels.shape[1::-1] != (probe.info.width, probe.info.height):
        raise DamagedImage("the picture has another size than its header says")
    return pixels


def _loaded(image: ImageFile.ImageFile) -> Pixels:
    """All the picture's rows, converted in bands: 25 Mpx of RGBA would else be held thrice."""
    image.load()
    if image.mode == "F":
        raise UnsupportedFormat("a picture of floating point numbers is not decoded")
    (width, height), is_deep = image.size, image.mode.startswith("I")
    is_gray = is_deep or (image.mode in ("1", "L") and not image.has_transparency_data)
    pixels = np.empty((height, width) if is_gray else (height, width, 3), np.uint8)
    for rows in bands(width, height):
        band = image.crop((0, rows.start, width, rows.stop))
        if is_deep:
            pixels[rows] = _eight_bits(np.asarray(band))
        else:
            pixels[rows] = np.asarray(band.convert("L")) if is_gray else _bgr(band)
    return pixels


def _bgr(band: Image.Image) -> Pixels:
    is_clear = band.has_transparency_data
    rgb = (
        on_white(np.asarray(band.convert("RGBA"))) if is_clear else np.asarray(band.convert("RGB"))
    )
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)


def _eight_bits(values: NDArray[np.integer[Any]]) -> Pixels:  # Any: uint16 or int32
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UnsupportedFormat("a picture with more than 16 bits a sample is not decoded")
    return (values >> 8).astype(np.uint8)
