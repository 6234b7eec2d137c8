"""What a picture's EXIF block says: how to turn it, and when it was taken."""

import struct
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

MAX_TIFF_ENTRIES = 512
"""Tags looked at in one folder; cameras write under a hundred."""

_ORIENTATION, _FOLDER = 0x0112, 0x8769
_TAKEN, _TAKEN_FRACTION, _TAKEN_OFFSET = 0x9003, 0x9291, 0x9011
_SHORT, _LONG, _ASCII = 3, 4, 2


def exif_orientation(tiff: bytes) -> int:
    """The orientation in an EXIF block, 1 to 8; 1 whenever it is missing or unreadable."""
    order = _byte_order(tiff)
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        for tag, kind, _, entry in _entries(tiff, order, start):
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + "H", tiff, entry)
                return value if kind == _SHORT and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def taken_at(jpeg: bytes) -> float | None:
    """When the camera says it took this JPEG, in seconds since 1970, UTC; None when it does not.

    A time without a zone is one of this machine's zone.
    """
    tiff = _exif_of(jpeg)
    order = _byte_order(tiff)
    if order is None:
        return None
    try:
        told = _texts_of_taking(tiff, order)
        moment = datetime.strptime(told[_TAKEN], "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007  # below
        fraction = float(f"0.{told.get(_TAKEN_FRACTION) or '0'}")
        return moment.replace(tzinfo=_zone(told.get(_TAKEN_OFFSET))).timestamp() + fraction
    except (struct.error, ValueError, KeyError, OverflowError):
        return None


def _byte_order(tiff: bytes) -> str | None:
    return {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])


def _entries(tiff: bytes, order: str, start: int) -> Iterator[tuple[int, int, int, int]]:
    """Tag, kind, count, and where the value is or its place is told. Raises struct.error."""
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for entry in range(start + 2, start + 2 + 12 * min(count, MAX_TIFF_ENTRIES), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", tiff, entry)
        yield tag, kind, number, entry + 8


def _texts_of_taking(tiff: bytes, order: str) -> dict[int, str]:
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    for tag, kind, _, place in _entries(tiff, order, start):
        if tag == _FOLDER and kind == _LONG:
            (inner,) = struct.unpack_from(order + "I", tiff, place)
            break
    else:
        return {}
    told = {}
    for tag, kind, count, place in _entries(tiff, order, inner):
        if tag in (_TAKEN, _TAKEN_FRACTION, _TAKEN_OFFSET) and kind == _ASCII:
            at = place if count <= 4 else struct.unpack_from(order + "I", tiff, place)[0]
            told[tag] = tiff[at : at + min(count, 32)].split(b"\0")[0].decode("ascii").strip()
    return told


def _zone(offset: str | None) -> timezone | None:
    """``+02:00``; None, which is this machine's zone, when it is missing. Raises ValueError."""
    if not offset:
        return None
    if offset == "Z":
        return timezone.utc  # noqa: UP017  # beside the other
    hours, _, minutes = offset[1:].partition(":")
    sign = {"+": 1, "-": -1}.get(offset[0], 0)
    if not sign:
        raise ValueError(f"{offset!r} is no offset from UTC")
    return timezone(sign * timedelta(hours=int(hours), minutes=int(minutes)))


def _exif_of(jpeg: bytes) -> bytes:
    """The EXIF block among the segments before the pixels; empty when there is none."""
    position = 2 if jpeg.startswith(b"\xff\xd8") else len(jpeg)
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        marker, length = jpeg[position + 1], int.from_bytes(jpeg[position + 2 : position + 4])
        if marker == 0xDA or length < 2:
            break
        segment = jpeg[position + 4 : position + 2 + length]
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            return segment[6:]
        position += 2 + length
    return b""
