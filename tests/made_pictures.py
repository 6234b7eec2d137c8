"""Small pictures with real codes, for tests that are not about reading."""

import functools
import io
import zlib
from struct import pack

import numpy as np
import zxingcpp
from PIL import Image

COLUMNS = 3
CELL = 300


@functools.cache
def picture(*codes: str) -> bytes:
    """A JPEG of a shelf with these EAN codes (QR where they are none), on a gray ground."""
    rows = max(1, -(-len(codes) // COLUMNS))
    canvas = Image.new("L", (COLUMNS * CELL + 60, rows * CELL + 60), 235)
    for index, code in enumerate(codes):
        row, column = divmod(index, COLUMNS)
        canvas.paste(_code(code), (column * CELL + 60, row * CELL + 60))
    # A patterned edge: a bare wall with one label would pass for blank.
    canvas.paste(Image.effect_noise((canvas.width, 40), 80), (0, 0))
    file = io.BytesIO()
    canvas.convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


def _code(text: str) -> Image.Image:
    is_ean = text.isdigit() and len(text) in (8, 13)
    name = f"EAN{len(text)}" if is_ean else "QRCode"
    made = zxingcpp.create_barcode(text, getattr(zxingcpp.BarcodeFormat, name))
    pixels = np.array(zxingcpp.write_barcode_to_image(made, scale=2 if is_ean else 4))
    return Image.fromarray(np.pad(pixels, 16, constant_values=255))


def huge_png(width: int, height: int) -> bytes:
    """A valid gray PNG of a size that nobody should decode; a few kilobytes as a file."""
    row = b"\0" + bytes(width)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@functools.cache
def dark_picture() -> bytes:
    """A JPEG of the same shelf at night, with the noise of a sensor at its highest gain."""
    file = io.BytesIO()
    noise = Image.effect_noise((960, 360), 4)
    Image.eval(noise, lambda level: max(0, level - 118)).save(file, "JPEG", quality=85)
    return file.getvalue()
