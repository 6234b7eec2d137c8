"""How a picture is to be turned, from its EXIF block."""

import struct

MAX_TIFF_ENTRIES = 512
"""Tags looked at in one folder; cameras write under a hundred."""


def exif_orientation(tiff: bytes) -> int:
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
