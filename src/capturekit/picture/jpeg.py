"""JPEG: walk its markers without decoding, then decode it strictly.

Most bad JPEGs pass other decoders; see MAX_JPEG_SCANS and ``decode_jpeg`` for what stops them.
"""

import re
import struct
from dataclasses import dataclass, field
from typing import Literal, Self, TypeAlias

import numpy as np
import simplejpeg

from capturekit.errors import DamagedImage, TooComplex, UnsupportedFormat
from capturekit.picture.exif import exif_orientation
from capturekit.picture.header import (
    PictureInfo,
    Pixels,
    Probe,
    check_pixels,
    flags_of,
    upright,
    upright_size,
)
from capturekit.picture.rim import guarded

MAX_JPEG_MARKERS = 512
"""Cameras write 10 to 40. Without a cap, 8 MB of comments cost Pillow's probe 1.7 s."""
MAX_JPEG_SCANS = 64
"""Encoders write 1 to 12. A 94 kB file with 1,006 scans costs every decoder 10 s."""
MAX_SCANNED_PIXELS = 800_000_000
"""Width x height x scans. An empty scan still visits every block, at 0.7 ns a pixel: 60 scans
of 25 Mpx in 5 kB take 1 s (tests/hostile.py). The largest real ones come to 300 million."""

_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_STRETCH = 2**16
"""Bytes looked through at a time."""
_FRAME_HEADERS = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_OTHER_FRAME_HEADERS = {0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xCB, 0xCD, 0xCE, 0xCF}
_PROGRESSIVE = {0xC2, 0xCA}
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_STANDALONE = {0x01, *range(0xD0, 0xD9)}


def _after_marker(data: bytes, start: int) -> int | None:
    """Where the first marker at or after ``start`` ends; None when there is none.

    Most pixels hold none: NumPy skips them in half the time that ``re`` takes, and without
    holding up other threads.
    """
    if (found := _SCAN_END.match(data, start)) is not None:
        return found.end()
    for position in range(start, len(data) - 1, _STRETCH):
        end = min(position + _STRETCH + 1, len(data))  # one more: a marker has two bytes
        part = np.frombuffer(data, np.uint8, end - position, position)
        may_be = (part[:-1] == 0xFF) & (part[1:] != 0)
        first = int(may_be.argmax())
        if may_be[first]:
            found = _SCAN_END.search(data, position + first, end)
            if found is not None:
                return found.end()
    return None


@dataclass(slots=True)
class _JpegWalk:
    """One pass over a JPEG's markers, without decoding.

    Time is linear in the bytes: both loops go from marker to marker, and the number of markers
    is capped.
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
        while (after := _after_marker(self.data, position)) is not None:
            marker, position = self.data[after - 1], after
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
            self.orientation = exif_orientation(segment[6:])

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


def probe_jpeg(data: bytes, max_pixels: int) -> Probe:
    """Walk the markers; a missing end is added and flagged. Microseconds, not milliseconds."""
    walk = _JpegWalk(data).run()
    check_pixels(walk.width, walk.height, max_pixels)
    if walk.width * walk.height * walk.scans > MAX_SCANNED_PIXELS:
        raise TooComplex(f"the JPEG goes over its {walk.width} x {walk.height} {walk.scans} times")
    end = len(data) if walk.end is None else walk.end
    size = upright_size(walk.width, walk.height, walk.orientation)
    flags = flags_of(truncated=walk.end is None, rest=memoryview(data)[end:])
    return Probe(
        PictureInfo("jpeg", "image/jpeg", *size, flags),
        orientation=walk.orientation,
        jpeg=_with_end(data) if walk.end is None else data[:end],
        is_colour=len(walk.missing_bits) > 1,
        is_complete=walk.end is not None or walk.has_all_scans(),
    )


def _with_end(data: bytes) -> bytes:
    """Append the end marker; zeros that fill up the last block of a card or buffer go first."""
    kept = data.rstrip(b"\0")
    if len(data) - len(kept) >= 2:
        # A coded FF is always followed by a zero of its own.
        data = kept + b"\0" if kept.endswith(b"\xff") else kept
    return data + (b"\xd9" if data.endswith(b"\xff") else b"\xff\xd9")


Colour: TypeAlias = Literal["GRAY", "BGR"]


def decode_jpeg(
    probe: Probe, wanted: Colour, *, strict: bool = True, scaled: bool = False
) -> Pixels:
    """The pixels, upright; ``scaled`` to an eighth of the size, which still reads every bit.

    ``strict`` is simplejpeg's: frames with lost, doubled or zeroed chunks, over 90 % of which
    pass Pillow, are DamagedImage.
    """
    if strict and not probe.is_complete:
        raise DamagedImage("the JPEG is cut: whole scans are missing at its end")
    least = 1 if scaled else 0  # the least width and height; 0 means full size
    height, width, *_ = guarded(lambda: simplejpeg.decode_jpeg_header(probe.jpeg, strict=strict))
    # The decoder's own view of the size must be ours, or the pixel cap meant nothing.
    if upright_size(width, height, probe.orientation) != (probe.info.width, probe.info.height):
        raise DamagedImage(f"the JPEG has two sizes, one of them {width} x {height}")
    pixels = guarded(
        lambda: simplejpeg.decode_jpeg(
            probe.jpeg,
            wanted,
            fastdct=scaled,
            min_height=least,
            min_width=least,
            min_factor=1,
            strict=strict,
        )
    )
    return upright(pixels[:, :, 0] if wanted == "GRAY" else pixels, probe.orientation)
