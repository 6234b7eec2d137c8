"""Bytes to pixels: refuse what cannot be trusted, decode the rest once, strictly.

A ``Frame`` is the only thing pipeline steps take and return. Its pixels are decoded when it
is opened; everything derived from them is made on demand and kept, for all frames that share
them. Every picture that is not taken raises one leaf of ``ImageError`` and nothing else.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

import cv2
import numpy as np
import simplejpeg
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
from pydantic import BaseModel, ConfigDict, Field, model_validator

from capturekit.errors import (
    CaptureKitError,
    DamagedImage,
    ImageError,
    NotAnImage,
    TooComplex,
    TooManyBytes,
    TooManyPixels,
    UnsupportedFormat,
)

DEFAULT_MAX_BYTES = 20 * 2**20
"""Largest file taken. A 5 Mpx JPEG at quality 95 has about 3 MiB."""
DEFAULT_MAX_PIXELS = 25_000_000
"""Largest picture decoded, width x height; 75 MB as BGR. A 5 Mpx OV5640 frame is a fifth."""
DECODE_VERSION = 1
"""Raised whenever the same bytes may decode to other pixels; part of every fingerprint."""

MAX_JPEG_MARKERS = 512
"""Cameras write 10 to 40. Without a cap, 8 MB of comments cost Pillow's probe 1.7 s."""
MAX_JPEG_SCANS = 64
"""Encoders write 1 to 12. A 94 kB file with 1,006 scans costs every decoder 10 s."""
MAX_PNG_CHUNKS = 20_000
"""At the usual 8 KiB a chunk that is 160 MiB."""
MAX_GIF_STEPS = 250_000
"""Blocks and pieces of blocks, all frames. Pillow reads those of comments one by one in
Python, about 1 microsecond each. 60 MB at the usual 255 bytes a piece."""
MAX_TIFF_ENTRIES = 512
MAX_AVIF_BOXES = 64
MAX_TIFF_STRIPS = 32_768
"""Each strip or tile is a round through Python in Pillow, at about 10 microseconds."""

Pixels: TypeAlias = NDArray[np.uint8]
OnDamage: TypeAlias = Literal["refuse", "flag"]
Point: TypeAlias = tuple[float, float]
F = TypeVar("F")


class MissingFinding(CaptureKitError, LookupError):
    """A step asked the frame for what no step before it found."""

    def __init__(self, wanted: type) -> None:
        super().__init__(
            f"no {wanted.__name__} on this frame: the step that finds it must run earlier"
        )
        self.wanted = wanted


class Observation(BaseModel):
    """What one run saw: so many of an item, or of a code, at a place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    analyser: Annotated[str, Field(min_length=1)]
    """The step that saw it."""
    code: str | None = None
    item: str | None = None
    """Exactly one of code and item is given."""
    quantity: Annotated[int, Field(ge=0)] = 1
    """In the item's base unit."""
    confidence: Annotated[float, Field(ge=0, le=1)]
    box: tuple[Point, ...] = ()
    """A polygon in pixels of the upright picture, x to the right and y down."""
    location: str | None = None

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        if (self.code is None) == (self.item is None):
            raise ValueError("an observation names either a code or an item")
        return self


@dataclass(frozen=True, slots=True)
class Derived:
    """A picture made from a frame, encoded, without any of the original's metadata."""

    media_type: str
    width: int
    height: int
    data: bytes = field(repr=False)


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
    if probe.image is None:
        _decode_jpeg(probe, "GRAY", scaled=True)
    else:
        _decode_other(probe, probe.image)
    return probe.info


class _Shared:
    """Pixels and what was made of them, for all frames of one picture.

    Two threads that ask at once may both compute the same value; either is right.
    """

    __slots__ = ("_bgr", "_gray", "_made", "_read_colour", "_sha256", "source")

    def __init__(
        self,
        pixels: Pixels,
        source: bytes | None = None,
        read_colour: Callable[[], Pixels] | None = None,
    ) -> None:
        is_gray = pixels.ndim == 2
        self._gray = _read_only(pixels) if is_gray else None
        self._bgr = None if is_gray else _read_only(pixels)
        self._read_colour = read_colour
        self._made: dict[object, Pixels] = {}
        self._sha256: str | None = None
        self.source = source

    def gray(self) -> Pixels:
        if self._gray is None:
            self._gray = _read_only(cv2.cvtColor(self.bgr(), cv2.COLOR_BGR2GRAY))
        return self._gray

    def bgr(self) -> Pixels:
        if self._bgr is None:
            read = self._read_colour or self._colour_of_gray
            self._bgr = _read_only(read())
        return self._bgr

    def _colour_of_gray(self) -> Pixels:
        return np.asarray(cv2.cvtColor(self.gray(), cv2.COLOR_GRAY2BGR), np.uint8)

    def made(self, name: object, make: Callable[[], Pixels]) -> Pixels:
        if name not in self._made:
            self._made[name] = _read_only(make())
        return self._made[name]

    def sha256(self) -> str | None:
        if self._sha256 is None and self.source is not None:
            self._sha256 = hashlib.sha256(self.source).hexdigest()
        return self._sha256


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A decoded, upright picture and what the steps so far found in it. Never changes.

    Arrays are read-only and shared: copy one before drawing on it.
    """

    info: PictureInfo
    findings: Mapping[type, object]
    """What steps found, by its type."""
    observations: tuple[Observation, ...]
    derived: Mapping[str, Derived]
    """Pictures made from this one, by name, such as ``thumbnail``."""
    _shared: _Shared = field(repr=False)

    @classmethod
    def open(
        cls,
        data: bytes,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        on_damage: OnDamage = "refuse",
        colour: bool = True,
    ) -> "Frame":
        """Decode the first frame of the picture, or raise an ImageError.

        With ``on_damage="flag"`` a JPEG whose data is cut or corrupt is decoded as far as it
        goes and carries the flag ``damaged``; other formats are refused all the same.
        ``colour=False`` decodes a JPEG straight to gray, at three quarters of the cost;
        asking for ``bgr`` then decodes again.
        """
        if on_damage not in ("refuse", "flag"):
            raise ValueError(f"on_damage is {on_damage!r}; it must be 'refuse' or 'flag'")
        probe = _probe(data, max_bytes, max_pixels)
        if probe.image is not None:
            return cls._of(probe.info, _Shared(_decode_other(probe, probe.image), data))
        return cls._of_jpeg(probe, data, on_damage, colour=colour)

    @classmethod
    def from_pixels(cls, pixels: Pixels) -> "Frame":
        """A frame of pixels you have: uint8, (H, W) gray or (H, W, 3) BGR. They are copied."""
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
            raise ValueError(f"{pixels.dtype} {pixels.shape} is not uint8 (H, W) or (H, W, 3)")
        if pixels.ndim == 3 and pixels.shape[2] != 3:
            raise ValueError(f"{pixels.shape[2]} channels; colour pixels are BGR")
        height, width = pixels.shape[:2]
        return cls._of(PictureInfo("pixels", "", width, height), _Shared(pixels.copy()))

    @classmethod
    def _of(cls, info: PictureInfo, shared: _Shared) -> "Frame":
        return cls(info, _EMPTY, (), _EMPTY, shared)

    @classmethod
    def _of_jpeg(
        cls, probe: "_Probe", data: bytes, on_damage: OnDamage, *, colour: bool
    ) -> "Frame":
        wanted: _Colour = "BGR" if colour and probe.is_colour else "GRAY"
        info, strict = probe.info, True
        try:
            pixels = _decode_jpeg(probe, wanted)
        except DamagedImage:
            if on_damage == "refuse":
                raise
            strict = False
            pixels = _decode_jpeg(probe, wanted, strict=False)
            info = replace(info, flags=(*info.flags, "damaged"))
        read_colour = None
        if probe.is_colour:
            read_colour = lambda: _decode_jpeg(probe, "BGR", strict=strict)  # noqa: E731
        return cls._of(info, _Shared(pixels, data, read_colour))

    @property
    def width(self) -> int:
        """Pixels, upright."""
        return self.info.width

    @property
    def height(self) -> int:
        """Pixels, upright."""
        return self.info.height

    @property
    def flags(self) -> tuple[str, ...]:
        """See PictureInfo."""
        return self.info.flags

    @property
    def sha256(self) -> str | None:
        """Of the file as it was given, in hex; None for a frame made from pixels."""
        return self._shared.sha256()

    @property
    def gray(self) -> Pixels:
        """Luma, (H, W) uint8."""
        return self._shared.gray()

    @property
    def bgr(self) -> Pixels:
        """Colour, (H, W, 3) uint8 in the order blue, green, red, as OpenCV has it."""
        return self._shared.bgr()

    @property
    def gray_half(self) -> Pixels:
        """Luma at half the width and height, averaged over 2 x 2 pixels."""
        return self._shared.made("gray_half", lambda: _half(self.gray))

    def gray_within(self, long_side: int) -> Pixels:
        """Luma scaled down so that the longer side has ``long_side`` pixels; never scaled up."""

        def make() -> Pixels:
            return shrink(self._start_for(long_side), long_side)

        return self._shared.made(("gray", long_side), make)

    def _start_for(self, long_side: int) -> Pixels:
        return self.gray_half if max(self.gray.shape) >= 2 * long_side else self.gray

    def having(self, finding: object) -> "Frame":
        """The same picture with one finding more; one of the same type is replaced."""
        return replace(self, findings=MappingProxyType({**self.findings, type(finding): finding}))

    def observing(self, *observations: Observation) -> "Frame":
        """The same picture with more observations."""
        return replace(self, observations=(*self.observations, *observations))

    def deriving(self, name: str, picture: Derived) -> "Frame":
        """The same picture with one derived picture more."""
        return replace(self, derived=MappingProxyType({**self.derived, name: picture}))

    def find(self, wanted: type[F]) -> F:
        """The finding of exactly this type; raises MissingFinding."""
        finding = self.findings.get(wanted)
        if not isinstance(finding, wanted):
            raise MissingFinding(wanted)
        return finding


_EMPTY: Mapping[Any, Any] = MappingProxyType({})  # Any: it is empty, of every type


def shrink(pixels: Pixels, long_side: int) -> Pixels:
    """Scale down, gray or BGR, so that the longer side has ``long_side`` pixels; never up.

    Halves by averaging while it can, then interpolates: a third of the cost of one
    ``INTER_AREA`` step from 1600 px, and as free of aliasing.
    """
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    while min(pixels.shape[:2]) >= 2 and max(pixels.shape[:2]) >= 2 * long_side:
        pixels = _half(pixels)
    # The last step is by less than two, where bilinear weights cover every source pixel.
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _half(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    size = (max(1, width // 2), max(1, height // 2))
    # The odd last row or column is left out: whole factors of two take OpenCV's fast path.
    even = pixels[: max(1, height // 2 * 2), : max(1, width // 2 * 2)]
    return np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_jpeg(pixels: Pixels, *, quality: int = 85) -> bytes:
    """Gray or BGR pixels as a baseline JPEG without metadata."""
    if pixels.ndim == 2:
        gray = np.ascontiguousarray(pixels)[:, :, np.newaxis]
        return bytes(simplejpeg.encode_jpeg(gray, quality, "GRAY", "Gray"))
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "BGR", "420"))


def _read_only(pixels: object) -> Pixels:
    array = np.ascontiguousarray(pixels, np.uint8)
    array.flags.writeable = False
    return array


# Probing: from bytes to a header we believe


@dataclass(slots=True)
class _Probe:
    """What the header says, and what is needed to go on and decode."""

    info: PictureInfo
    orientation: int = 1
    jpeg: bytes = b""
    is_colour: bool = True
    is_complete: bool = True
    """False when the end is missing and whole scans are missing with it."""
    image: ImageFile.ImageFile | None = None
    """Opened by Pillow, not loaded; None for a JPEG."""


_MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "webp"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"II\x2a\x00|MM\x00\x2a"), "tiff"),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "avif"),
    (re.compile(rb".{4}ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)", re.DOTALL), "HEIF"),
    (re.compile(rb"II\x2b\x00|MM\x00\x2b"), "BigTIFF"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL), "BMP"),
    (re.compile(rb"8BPS"), "PSD"),
    (re.compile(rb"qoif"), "QOI"),
)


def _probe(data: bytes, max_bytes: int, max_pixels: int) -> _Probe:
    if len(data) > max_bytes:
        raise TooManyBytes(max_bytes)
    name = _sniff(data)
    if name == "jpeg":
        return _probe_jpeg(data, max_pixels)
    if name not in _FORMATS:
        raise UnsupportedFormat(f"{name} pictures are not decoded; send JPEG, PNG or WebP")
    return _probe_other(name, data, max_pixels)


def _sniff(data: bytes) -> str:
    if not data:
        raise NotAnImage("the file is empty")
    for magic, name in _MAGIC:
        if magic.match(data):
            return name
    raise NotAnImage("the bytes do not start like any known picture format")


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise DamagedImage(f"the header says {width} x {height} pixels")
    if width * height > max_pixels:
        raise TooManyPixels(width, height, max_pixels)


def _upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if orientation >= 5 else (width, height)


def _flags(*, truncated: bool, rest: bytes | memoryview) -> tuple[str, ...]:
    flags = ("truncated",) if truncated else ()
    # Cameras pad with zeros; anything else may be a second file, such as a zip.
    return (*flags, "trailing_bytes") if np.frombuffer(rest, np.uint8).any() else flags


# JPEG


_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_FRAME_HEADERS = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_OTHER_FRAME_HEADERS = {0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xCB, 0xCD, 0xCE, 0xCF}
_PROGRESSIVE = {0xC2, 0xCA}
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_STANDALONE = {0x01, *range(0xD0, 0xD9)}


@dataclass(slots=True)
class _JpegWalk:
    """One pass over a JPEG's markers, without decoding.

    Time is linear in the bytes: both loops go from marker to marker at the speed of ``re``,
    and the number of markers is capped.
    """

    data: bytes
    width: int = 0
    height: int = 0
    orientation: int = 1
    end: int | None = None
    """Where the picture ends, past its end marker; None when that is missing."""
    markers: int = 0
    scans: int = 0
    is_progressive: bool = False
    missing_bits: dict[int, list[int]] = field(default_factory=dict)
    """Per component and coefficient, how many low bits no scan has brought yet."""

    def run(self) -> Self:
        position = 2
        while (found := _SCAN_END.search(self.data, position)) is not None:
            marker, position = self.data[found.end() - 1], found.end()
            self._count(marker)
            if marker == _EOI:
                self.end = position
                break
            if marker in _STANDALONE:
                continue
            segment = self._segment(position)
            if segment is None:
                break
            self._read(marker, segment)
            position += len(segment) + 2
        if not self.missing_bits or not self.scans:
            raise DamagedImage("the JPEG ends before its pixels begin")
        return self

    def _count(self, marker: int) -> None:
        self.markers += 1
        self.scans += marker == _SOS
        if self.markers > MAX_JPEG_MARKERS or self.scans > MAX_JPEG_SCANS:
            raise TooComplex(
                f"the JPEG has more than {MAX_JPEG_MARKERS} markers or {MAX_JPEG_SCANS} scans"
            )

    def _segment(self, position: int) -> bytes | None:
        length = int.from_bytes(self.data[position : position + 2])
        if length < 2 or position + length > len(self.data):
            return None
        return self.data[position + 2 : position + length]

    def _read(self, marker: int, segment: bytes) -> None:
        if marker in _OTHER_FRAME_HEADERS:
            raise UnsupportedFormat("a lossless or hierarchical JPEG is not decoded")
        if marker in _FRAME_HEADERS:
            self._read_frame_header(marker, segment)
        elif marker == _SOS:
            self._read_scan_header(segment)
        elif marker == _APP1 and self.orientation == 1 and segment.startswith(b"Exif\0\0"):
            self.orientation = _exif_orientation(segment[6:])

    def _read_frame_header(self, marker: int, segment: bytes) -> None:
        if self.missing_bits or len(segment) < 9 or len(segment) < 6 + 3 * segment[5]:
            raise DamagedImage("the JPEG's frame header is doubled or cut")
        if segment[0] != 8:
            raise UnsupportedFormat(f"a JPEG with {segment[0]} bits a sample is not decoded")
        self.height, self.width = struct.unpack_from(">HH", segment, 1)
        self.is_progressive = marker in _PROGRESSIVE
        self.missing_bits = {segment[i]: [8] * 64 for i in range(6, 6 + 3 * segment[5], 3)}

    def _read_scan_header(self, segment: bytes) -> None:
        count = segment[0] if segment else 0
        if len(segment) < 4 + 2 * count:
            return
        first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
        if not self.is_progressive:
            first, last, bits = 0, 63, 0
        for component in segment[1 : 1 + 2 * count : 2]:
            missing = self.missing_bits.get(component, [])
            missing[first : last + 1] = [bits & 15] * len(missing[first : last + 1])

    def has_all_scans(self) -> bool:
        return not any(any(missing) for missing in self.missing_bits.values())


def _probe_jpeg(data: bytes, max_pixels: int) -> _Probe:
    walk = _JpegWalk(data).run()
    _check_pixels(walk.width, walk.height, max_pixels)
    end = len(data) if walk.end is None else walk.end
    size = _upright_size(walk.width, walk.height, walk.orientation)
    flags = _flags(truncated=walk.end is None, rest=memoryview(data)[end:])
    return _Probe(
        PictureInfo("jpeg", "image/jpeg", *size, flags),
        orientation=walk.orientation,
        jpeg=_with_end(data) if walk.end is None else data[:end],
        is_colour=len(walk.missing_bits) > 1,
        is_complete=walk.end is not None or walk.has_all_scans(),
    )


def _with_end(data: bytes) -> bytes:
    return data + (b"\xd9" if data.endswith(b"\xff") else b"\xff\xd9")


_Colour: TypeAlias = Literal["GRAY", "BGR"]


def _decode_jpeg(
    probe: _Probe, wanted: _Colour, *, strict: bool = True, scaled: bool = False
) -> Pixels:
    if strict and not probe.is_complete:
        raise DamagedImage("the JPEG is cut: whole scans are missing at its end")
    least = 1 if scaled else 0  # the least width and height; 0 means full size
    try:
        # The decoder's own view of the size must be ours, or the pixel cap meant nothing.
        height, width, *_ = simplejpeg.decode_jpeg_header(probe.jpeg, strict=strict)
        if _upright_size(width, height, probe.orientation) != (probe.info.width, probe.info.height):
            raise DamagedImage(f"the JPEG has two sizes, one of them {width} x {height}")
        pixels = simplejpeg.decode_jpeg(
            probe.jpeg,
            wanted,
            fastdct=scaled,
            min_height=least,
            min_width=least,
            min_factor=1,
            strict=strict,
        )
    except (ValueError, KeyError, MemoryError) as error:
        # KeyError: simplejpeg 1.9 looks up a chroma subsampling that no name stands for.
        raise DamagedImage(f"the JPEG does not decode: {error}") from error
    return _upright(pixels[:, :, 0] if wanted == "GRAY" else pixels, probe.orientation)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation, 1 to 8, without making a copy."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _exif_orientation(tiff: bytes) -> int:
    """The orientation in an EXIF block, 1 to 8; 1 whenever it is missing or unreadable."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * min(count, MAX_TIFF_ENTRIES), 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == 0x0112:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


# All other formats: structure first, then Pillow


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
            _check_pixels(width, height, max_pixels)
        position = body_end + 4
        if kind == b"IEND":
            return position
    raise TooComplex(f"the PNG has more than {MAX_PNG_CHUNKS} chunks")


def _check_webp(data: bytes, max_pixels: int) -> int:
    length = int.from_bytes(data[4:8], "little")
    end = 8 + length + length % 2
    if end - length % 2 > len(data):
        raise DamagedImage("the WebP is cut")
    _check_pixels(*_webp_size(data), max_pixels)
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
    _check_pixels(width, height, max_pixels)
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
_FORMATS: dict[
    str, tuple[Callable[[bytes, int], int], Callable[[BytesIO], ImageFile.ImageFile]]
] = {
    "png": (_check_png, PngImagePlugin.PngImageFile),
    "webp": (_check_webp, WebPImagePlugin.WebPImageFile),
    "gif": (_check_gif, GifImagePlugin.GifImageFile),
    "tiff": (_check_tiff, TiffImagePlugin.TiffImageFile),
    "avif": (_check_avif, _open_avif),
}


def _probe_other(name: str, data: bytes, max_pixels: int) -> _Probe:
    check, opener = _FORMATS[name]
    try:
        end = check(data, max_pixels)
    except (struct.error, IndexError) as error:
        raise DamagedImage(f"the {name.upper()} is cut") from error
    image = _guarded(lambda: opener(BytesIO(data)))
    _check_pixels(*image.size, max_pixels)
    exif, orientation = image.info.get("exif"), 1
    # A TIFF is turned by Pillow itself, and tells its size so.
    if isinstance(exif, bytes) and name != "tiff":
        orientation = _exif_orientation(exif.removeprefix(b"Exif\0\0"))
    size = _upright_size(*image.size, orientation)
    flags = _flags(truncated=False, rest=memoryview(data)[end:])
    info = PictureInfo(name, f"image/{name}", *size, flags)
    return _Probe(info, orientation=orientation, image=image)


def _decode_other(probe: _Probe, image: ImageFile.ImageFile) -> Pixels:
    pixels = _upright(_guarded(lambda: _loaded(image)), probe.orientation)
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
        raise DamagedImage(f"the picture does not decode: {cause}") from error
