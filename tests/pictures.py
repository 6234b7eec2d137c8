"""Made pictures with a known truth: codes on a shelf, with blur, noise and turns we choose."""

from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
import simplejpeg
import zxingcpp
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


@dataclass(frozen=True)
class Label:
    """One printed code: what it says, how it is coded, and by how many degrees it is turned."""

    text: str
    format: str = "EAN13"
    degrees: float = 0
    module_px: int = 2

    def pixels(self) -> Pixels:
        """White paper with the code in black, turned, gray."""
        kind = getattr(zxingcpp.BarcodeFormat, self.format)
        image = zxingcpp.create_barcode(self.text, kind).to_image(scale=self.module_px)
        code = cv2.copyMakeBorder(np.array(image), 8, 8, 8, 8, cv2.BORDER_CONSTANT, value=255)
        height, width = code.shape
        side = int(np.hypot(height, width)) + 2
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), self.degrees, 1)
        turn[:, 2] += (side - width) / 2, (side - height) / 2
        return np.asarray(cv2.warpAffine(code, turn, (side, side), borderValue=255), np.uint8)


def ean13(number: int) -> str:
    """The EAN-13 of a number of at most 12 digits, with its check digit."""
    digits = f"{number:012d}"
    total = sum(int(digit) * (3 if at % 2 else 1) for at, digit in enumerate(digits))
    return f"{digits}{-total % 10}"


def shelf(
    *labels: Label,
    width: int = 1600,
    height: int = 1200,
    blur_px: float = 0.6,
    noise: float = 3,
    brightness: float = 1,
    seed: int = 0,
) -> Pixels:
    """BGR pixels of a wooden shelf with the labels side by side, row by row."""
    random = np.random.default_rng(seed)
    grain = random.integers(120, 190, (height // 40, width // 40, 3), dtype=np.uint8)
    picture = np.asarray(cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC))
    x = y = 20
    row = 0
    for label in labels:
        paper = label.pixels()
        side = len(paper)
        if x + side > width:
            x, y, row = 20, y + row + 10, 0
        assert y + side <= height, "the shelf is full"
        picture[y : y + side, x : x + side] = paper[:, :, np.newaxis]
        x, row = x + side + 10, max(row, side)
    blurred = cv2.GaussianBlur(picture, (0, 0), blur_px) if blur_px else picture
    lit = blurred.astype(np.float64) * brightness + random.normal(0, noise, picture.shape)
    return np.clip(lit, 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    """A baseline JPEG of gray or BGR pixels."""
    if pixels.ndim == 2:
        return bytes(simplejpeg.encode_jpeg(pixels[:, :, np.newaxis], quality, "GRAY", "Gray"))
    return bytes(simplejpeg.encode_jpeg(pixels, quality, "BGR", "420"))


def small(seed: int = 0, width: int = 160, height: int = 120) -> Pixels:
    """A smooth coloured BGR picture that every format keeps well."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def encoded(pixels: Pixels, format: str, mode: str = "RGB", **options: object) -> bytes:
    """The picture as Pillow writes it in this format and mode."""
    file = BytesIO()
    Image.fromarray(pixels[:, :, ::-1]).convert(mode).save(file, format, **options)
    return file.getvalue()


def turned(pixels: Pixels, orientation: int, format: str = "JPEG") -> bytes:
    """A file whose EXIF orientation says how its pixels are to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, format, exif=exif)
