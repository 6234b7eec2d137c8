"""What a picture's header says, before any pixel is decoded."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from capturekit.errors import DamagedImage, TooManyPixels

Pixels: TypeAlias = NDArray[np.uint8]
OnDamage: TypeAlias = Literal["refuse", "flag"]


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
    image: ImageFile.ImageFile | None = None
    """Opened by Pillow, not loaded; None for a JPEG."""


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise TooManyPixels, or DamagedImage for a picture without pixels."""
    if width < 1 or height < 1:
        raise DamagedImage(f"the header says {width} x {height} pixels")
    if width * height > max_pixels:
        raise TooManyPixels(width, height, max_pixels)


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
