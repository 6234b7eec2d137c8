"""Bytes to pixels: refuse what cannot be trusted, decode the rest once, strictly.

``decode`` is the whole order: byte cap, magic, structure, missing end repaired, pixel cap, one
frame, strict decode, orientation. Every picture that is not taken raises one leaf of
``ImageError`` and nothing else.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from capturekit.errors import DamagedImage, NotAnImage, TooManyBytes, UnsupportedFormat
from capturekit.picture.formats import FORMATS, decode_other, probe_other
from capturekit.picture.header import OnDamage, PictureInfo, Pixels, Probe
from capturekit.picture.jpeg import Colour, decode_jpeg, probe_jpeg
from capturekit.picture.webp import probe_webp

__all__ = [
    "DECODE_VERSION",
    "DEFAULT_MAX_BYTES",
    "DEFAULT_MAX_PIXELS",
    "OnDamage",
    "Picture",
    "PictureInfo",
    "Pixels",
    "decode",
    "inspect",
    "verify",
]

DEFAULT_MAX_BYTES = 20 * 2**20
"""Largest file taken. A 5 Mpx JPEG at quality 95 has about 3 MiB."""
DEFAULT_MAX_PIXELS = 25_000_000
"""Largest picture decoded, width x height; 75 MB as BGR. A 5 Mpx OV5640 frame is a fifth."""
DECODE_VERSION = 1
"""Raised whenever the same bytes may decode to other pixels; part of every fingerprint."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture: what it is, and its pixels."""

    info: PictureInfo
    pixels: Pixels
    """Upright, uint8: (H, W) luma or (H, W, 3) in the order blue, green, red."""
    read_colour: Callable[[], Pixels] | None = field(default=None, repr=False)
    """Decodes again, in colour, what was decoded to luma though it has colour; else None."""


def inspect(
    data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES, max_pixels: int = DEFAULT_MAX_PIXELS
) -> PictureInfo:
    """Read the header and the structure, no pixels; well under a millisecond for a JPEG.

    Raises an ImageError. A picture that passes may still be damaged: see ``verify``.
    """
    return _probe(data, max_bytes, max_pixels).info


def verify(
    data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES, max_pixels: int = DEFAULT_MAX_PIXELS
) -> PictureInfo:
    """Prove that the whole picture decodes, and forget the pixels.

    A JPEG is decoded strictly to an eighth of its size: every coded bit is read, at three
    quarters of the cost of gray pixels. Other formats cost a full decode. Raises an ImageError.
    """
    probe = _probe(data, max_bytes, max_pixels)
    if probe.load is None:
        decode_jpeg(probe, "GRAY", scaled=True)
    else:
        decode_other(probe, probe.load)
    return probe.info


def decode(
    data: bytes,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_damage: OnDamage = "refuse",
    colour: bool = True,
) -> Picture:
    """Decode the first frame of the picture, or raise an ImageError.

    With ``on_damage="flag"`` a JPEG whose data is cut or corrupt is decoded as far as it
    goes and carries the flag ``damaged``; other formats are refused all the same.
    ``colour=False`` decodes a JPEG straight to luma, at three quarters of the cost.
    """
    check_on_damage(on_damage)
    probe = _probe(data, max_bytes, max_pixels)
    if probe.load is not None:
        return Picture(probe.info, decode_other(probe, probe.load))
    return _decoded_jpeg(probe, on_damage, "BGR" if colour and probe.is_colour else "GRAY")


def check_on_damage(on_damage: str) -> None:
    """Raise ValueError for a word that is no OnDamage."""
    if on_damage not in ("refuse", "flag"):
        raise ValueError(f"on_damage is {on_damage!r}; it must be 'refuse' or 'flag'")


def _decoded_jpeg(probe: Probe, on_damage: OnDamage, wanted: Colour) -> Picture:
    info, strict = probe.info, True
    try:
        pixels = decode_jpeg(probe, wanted)
    except DamagedImage:
        if on_damage == "refuse":
            raise
        strict = False
        pixels = decode_jpeg(probe, wanted, strict=False)
        info = replace(info, flags=(*info.flags, "damaged"))
    if wanted == "BGR" or not probe.is_colour:
        return Picture(info, pixels)
    return Picture(info, pixels, lambda: decode_jpeg(probe, "BGR", strict=strict))


_MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "webp"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"II\x2a\x00|MM\x00\x2a"), "tiff"),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "avif"),
    (re.compile(rb".{4}ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL), "heic"),
    (re.compile(rb"II\x2b\x00|MM\x00\x2b"), "BigTIFF"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL), "BMP"),
    (re.compile(rb"8BPS"), "PSD"),
    (re.compile(rb"qoif"), "QOI"),
)


def _probe(data: bytes, max_bytes: int, max_pixels: int) -> Probe:
    if len(data) > max_bytes:
        raise TooManyBytes(max_bytes)
    name = _sniff(data)
    if name == "jpeg":
        return probe_jpeg(data, max_pixels)
    if name == "webp":
        return probe_webp(data, max_pixels)
    if name not in FORMATS:
        raise UnsupportedFormat(f"{name} pictures are not decoded; send JPEG, PNG or WebP")
    return probe_other(name, data, max_pixels)


def _sniff(data: bytes) -> str:
    if not data:
        raise NotAnImage("the file is empty")
    for magic, name in _MAGIC:
        if magic.match(data):
            return name
    raise NotAnImage("the bytes do not start like any known picture format")
