"""What a picture's header says, before any pixel is decoded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from capturekit.errors import DamagedImage, TooComplex, TooManyPixels

Pixels: TypeAlias = NDArray[np.uint8]
OnDamage: TypeAlias = Literal["refuse", "flag"]

MAX_SIDE = 65_535
"""Longest side, as in a JPEG. Pillow keeps a pointer a row: 25 million rows take 500 MB."""
BAND_PIXELS = 2**20
"""Pixels that are converted at a time, so that a picture is never held twice over."""


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What the header says. Flags: ``truncated``, ``trailing_bytes``, ``damaged``."""

    format: str
    """``jpeg``, ``png``, ``webp``, ``gif``, ``tiff`` or ``avif``."""
    media_type: str
    width: int
    """Of the upright picture, as ``height``: EXIF orientation is already applied."""
    height: int
    flags: tuple[str, ...] = ()
    """``truncated``: the end marker was missing and was added. ``trailing_bytes``: something
    follows the picture, and was not looked at. ``damaged``: pixels are partly guessed."""


@dataclass(slots=True)
class Probe:
    """What the header says, and what is needed to go on and decode."""

    info: PictureInfo
    orientation: int = 1
    jpeg: bytes = b""
    is_colour: bool = True
    is_complete: bool = True
    """False when the end is missing and whole scans are missing with it."""
    load: Callable[[], Pixels] | None = None
    """Decodes the pixels, not yet turned; None for a JPEG."""


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise TooManyPixels, TooComplex for a very long side, DamagedImage for no pixels."""
    if width < 1 or height < 1:
        raise DamagedImage(f"the header says {width} x {height} pixels")
    if width * height > max_pixels:
        raise TooManyPixels(width, height, max_pixels)
    if max(width, height) > MAX_SIDE:
        raise TooComplex(f"the picture is {width} x {height}; a side has at most {MAX_SIDE} pixels")


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height after an EXIF orientation, 1 to 8, is undone."""
    return (height, width) if orientation >= 5 else (width, height)


def flags_of(*, truncated: bool, rest: bytes | memoryview) -> tuple[str, ...]:
    """The flags of a file that ended early, or goes on after the picture."""
    flags = ("truncated",) if truncated else ()
    # Cameras pad with zeros; anything else may be a second file, such as a zip.
    return (*flags, "trailing_bytes") if np.frombuffer(rest, np.uint8).any() else flags


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation, 1 to 8, without making a copy."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def bands(width: int, height: int) -> Iterator[slice]:
    """The rows of a picture, some at a time."""
    step = max(1, BAND_PIXELS // width)
    for top in range(0, height, step):
        yield slice(top, min(height, top + step))


def on_white(pixels: Pixels) -> Pixels:
    """Three colours in any order, and alpha, (H, W, 4), laid on white: (H, W, 3)."""
    layer = Image.fromarray(pixels)
    flat = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(flat.convert("RGB"))
