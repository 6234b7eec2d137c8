"""All formats but JPEG: check the structure ourselves, then let Pillow decode."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    GifImagePlugin,
    Image,
    ImageFile,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from capturekit.errors import DamagedImage, ImageError, TooComplex, UnsupportedFormat
from capturekit.picture.exif import MAX_TIFF_ENTRIES, exif_orientation
from capturekit.picture.header import (
    PictureInfo,
    Pixels,
    Probe,
    check_pixels,
    flags_of,
    upright,
    upright_size,
)

MAX_PNG_CHUNKS = 20_000
"""At the usual 8 KiB a chunk that is 160 MiB."""
MAX_GIF_STEPS = 250_000
"""Blocks and pieces of blocks, all frames. Pillow reads those of comments one by one in
Python, about 1 microsecond each. 60 MB at the usual 255 bytes a piece."""
MAX_AVIF_BOXES = 64
MAX_TIFF_STRIPS = 32_768
"""Each strip or tile is a round through Python in Pillow, at about 10 microseconds."""


def _check_png(data: bytes, max_pixels: int) -> int:
    """Walk the chunks and their checksums; Pillow checks none in the pixel data."""
    position = 8
    for _ in range(MAX_PNG_CHUNKS):
        kind = data[position + 4 : position + 8]
        body_end = position + 8 + int.from_bytes(data[position : position + 4])
        (expected,) = struct.unpack_from(">I", data, body_end)
        if zlib.crc32(memoryview(data)[position + 4 : body_end]) != expected:
            raise DamagedImage(f"the PNG's {kind!r} chunk is not what was written")
        if position == 8:
            width, height = struct.unpack_from(">II", data, 16)
            check_pixels(width, height, max_pixels)
        position = body_end + 4
        if kind == b"IEND":
            return position
    raise TooComplex(f"the PNG has more than {MAX_PNG_CHUNKS} chunks")


def _check_webp(data: bytes, max_pixels: int) -> int:
    length = int.from_bytes(data[4:8], "little")
    end = 8 + length + length % 2
    if end - length % 2 > len(data):
        raise DamagedImage("the WebP is cut")
    check_pixels(*_webp_size(data), max_pixels)
    return min(end, len(data))


def _webp_size(data: bytes) -> tuple[int, int]:
    if data[12:16] == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        return width, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


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


def _check_avif(data: bytes, _max_pixels: int) -> int:
    """Find where the boxes end; sizes are checked by Pillow's decoder before it allocates."""
    position = 0
    for _ in range(MAX_AVIF_BOXES):
        length = int.from_bytes(data[position : position + 4])
        if length == 0:
            return len(data)
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16])
        if length < 8 or position + length > len(data):
            return position
        position += length
        if position == len(data):
            break
    return position


def _open_avif(file: BytesIO) -> ImageFile.ImageFile:
    if not features.check("avif"):
        raise UnsupportedFormat("this Pillow was built without AVIF; send JPEG, PNG or WebP")
    from PIL import AvifImagePlugin  # older Pillows have no such module

    return AvifImagePlugin.AvifImageFile(file)


# The plugins are called by name, not through Image.open: that tries them in turn, and prints a
# warning for a picture over its own process-wide cap before ours is asked.
FORMATS: dict[str, tuple[Callable[[bytes, int], int], Callable[[BytesIO], ImageFile.ImageFile]]] = {
    "png": (_check_png, PngImagePlugin.PngImageFile),
    "webp": (_check_webp, WebPImagePlugin.WebPImageFile),
    "gif": (_check_gif, GifImagePlugin.GifImageFile),
    "tiff": (_check_tiff, TiffImagePlugin.TiffImageFile),
    "avif": (_check_avif, _open_avif),
}


def probe_other(name: str, data: bytes, max_pixels: int) -> Probe:
    """Check the structure of a file of this format and open it, without its pixels."""
    check, opener = FORMATS[name]
    try:
        end = check(data, max_pixels)
    except (struct.error, IndexError) as error:
        raise DamagedImage(f"the {name.upper()} is cut") from error
    image = _guarded(lambda: opener(BytesIO(data)))
    check_pixels(*image.size, max_pixels)
    exif, orientation = image.info.get("exif"), 1
    # A TIFF is turned by Pillow itself, and tells its size so.
    if isinstance(exif, bytes) and name != "tiff":
        orientation = exif_orientation(exif.removeprefix(b"Exif\0\0"))
    size = upright_size(*image.size, orientation)
    flags = flags_of(truncated=False, rest=memoryview(data)[end:])
    info = PictureInfo(name, f"image/{name}", *size, flags)
    return Probe(info, orientation=orientation, image=image)


def decode_other(probe: Probe, image: ImageFile.ImageFile) -> Pixels:
    """The first frame, upright, transparent parts on white, deeper samples cut to 8 bits."""
    pixels = upright(_guarded(lambda: _loaded(image)), probe.orientation)
    if pixels.shape[1::-1] != (probe.info.width, probe.info.height):
        raise DamagedImage("the picture has another size than its header says")
    return pixels


def _loaded(image: ImageFile.ImageFile) -> Pixels:
    image.load()
    if image.mode == "F":
        raise UnsupportedFormat("a picture of floating point numbers is not decoded")
    if image.mode.startswith("I"):
        return _eight_bits(np.asarray(image))
    flat = _on_white(image) if image.has_transparency_data else image
    if flat.mode in ("1", "L"):
        return np.asarray(flat.convert("L"))
    return np.asarray(cv2.cvtColor(np.asarray(flat.convert("RGB")), cv2.COLOR_RGB2BGR), np.uint8)


def _eight_bits(values: NDArray[np.integer[Any]]) -> Pixels:  # Any: uint16 or int32
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UnsupportedFormat("a picture with more than 16 bits a sample is not decoded")
    return (values >> 8).astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


T = TypeVar("T")


def _guarded(work: Callable[[], T]) -> T:
    """Run Pillow and let nothing out but an ImageError.

    Fed with hostile bytes Pillow raises OSError, SyntaxError, ValueError, EOFError,
    struct.error, IndexError, OverflowError, MemoryError, DecompressionBombError and, where
    warnings are errors, warnings: at this rim all of them are one thing, a damaged picture.
    """
    try:
        return work()
    except ImageError:
        raise
    except Exception as error:
        cause = str(error) or type(error).__name__
        if isinstance(error, MemoryError) or "memory" in cause:
            raise TooComplex("the picture takes more memory than it may") from error
        raise DamagedImage(f"the picture does not decode: {cause}") from error
