"""Findings drawn on the picture, as PNG or SVG, and sheets of several pictures."""

import base64
from collections.abc import Iterable, Sequence
from typing import Final
from xml.sax.saxutils import escape, quoteattr

import cv2
import numpy as np
from numpy.typing import NDArray

from capturekit.frame import Outline, encode_jpeg, shrink
from capturekit.picture import Pixels

COLOURS: Final = {
    "code": (0, 158, 115),
    "codes": (0, 158, 115),
    "object": (230, 159, 0),
    "objects": (230, 159, 0),
    "zone": (86, 180, 233),
    "zones": (86, 180, 233),
}
"""Red, green, blue by kind; tell-apart colours of Okabe and Ito (2008)."""
OTHER_COLOUR: Final = (204, 121, 167)
TILE: Final = 320
"""Longer side of a picture on a sheet, in pixels."""
CAPTION: Final = 24
COLUMNS: Final = 4
MAX_LABEL: Final = 48
"""Characters of a label that are drawn."""


def png(bgr: Pixels, outlines: Iterable[Outline]) -> bytes:
    """The picture with the outlines, as PNG."""
    return _png(drawn(bgr, outlines))


def svg(bgr: Pixels, outlines: Iterable[Outline]) -> bytes:
    """The picture with the outlines over it as shapes; labels stay text. Needs no other file."""
    height, width = bgr.shape[:2]
    picture = base64.b64encode(encode_jpeg(bgr)).decode()
    stroke = _thickness(bgr)
    shapes = "".join(_shape(outline, stroke) for outline in outlines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">'
        f'<image width="{width}" height="{height}" href="data:image/jpeg;base64,{picture}"/>'
        f"{shapes}</svg>"
    ).encode()


def drawn(bgr: Pixels, outlines: Iterable[Outline]) -> Pixels:
    """A copy of the picture, (H, W, 3) BGR, with the outlines and their labels on it."""
    canvas = bgr.copy()
    thickness = _thickness(bgr)
    for outline in outlines:
        colour = _colour(outline.kind)[::-1]
        corners = np.array(outline.polygon, np.float64).reshape(-1, 1, 2)
        cv2.drawContours(canvas, [_whole(corners)], 0, colour, thickness, cv2.LINE_AA)
        if outline.polygon and outline.label:
            _write(canvas, _printable(outline.label), _label_at(outline), colour, thickness)
    return canvas


def sheet(pictures: Sequence[tuple[str, Pixels]]) -> bytes:
    """The pictures, gray or BGR, small and side by side, each under its name, as PNG."""
    tiles = [_tile(name, pixels) for name, pixels in pictures]
    rows = [tiles[at : at + COLUMNS] for at in range(0, len(tiles), COLUMNS)]
    blank = np.full_like(tiles[0], 255)
    columns = min(COLUMNS, len(tiles))
    full = [np.hstack(row + [blank] * (columns - len(row))) for row in rows]
    return _png(np.vstack(full).astype(np.uint8))


def _tile(name: str, pixels: Pixels) -> Pixels:
    small = shrink(pixels, TILE - 8)
    if small.ndim == 2:
        small = np.asarray(cv2.cvtColor(small, cv2.COLOR_GRAY2BGR), np.uint8)
    tile = np.full((TILE + CAPTION, TILE, 3), 255, np.uint8)
    height, width = small.shape[:2]
    tile[CAPTION : CAPTION + height, 4 : 4 + width] = small
    text = _printable(name)
    cv2.putText(tile, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return tile


def _png(pixels: Pixels) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError(f"{pixels.shape} pixels cannot be written as PNG")
    return data.tobytes()


def _shape(outline: Outline, stroke: int) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline.polygon)
    colour = "rgb({},{},{})".format(*_colour(outline.kind))
    x, y = _label_at(outline)
    size = 8 * stroke
    return (
        f'<polygon points="{points}" fill="none" stroke="{colour}" stroke-width="{stroke}"/>'
        f'<text x="{x:.1f}" y="{y - stroke:.1f}" font-family="sans-serif" font-size="{size}" '
        f'fill="{colour}" data-kind={quoteattr(_printable(outline.kind))}>'
        f"{escape(_printable(outline.label))}</text>"
    )


def _label_at(outline: Outline) -> tuple[float, float]:
    return min(outline.polygon, key=lambda point: (point[1], point[0]), default=(0.0, 0.0))


def _colour(kind: str) -> tuple[int, int, int]:
    return COLOURS.get(kind, OTHER_COLOUR)


def _thickness(bgr: Pixels) -> int:
    longest: int = max(bgr.shape[:2])
    return max(1, round(longest / 400))


def _whole(corners: NDArray[np.float64]) -> NDArray[np.int32]:
    # Far outside, OpenCV would take hours; what lies there is not seen anyway.
    return np.asarray(np.clip(np.nan_to_num(corners), -30_000, 30_000).round(), np.int32)


def _printable(label: str) -> str:
    text = "".join(char if char.isprintable() else "?" for char in label)
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def _write(
    canvas: Pixels, text: str, at: tuple[float, float], colour: tuple[int, ...], thickness: int
) -> None:
    """The text on a ground of its own, kept inside the picture. Only ASCII has glyphs."""
    scale, font = 0.4 * max(1, thickness), cv2.FONT_HERSHEY_SIMPLEX
    text = text.encode("ascii", "replace").decode()
    (width, height), _ = cv2.getTextSize(text, font, scale, thickness)
    x = int(min(max(at[0], 0), max(0, canvas.shape[1] - width)))
    y = int(min(max(at[1] - thickness, height + thickness), canvas.shape[0] - 1))
    cv2.rectangle(canvas, (x, y - height - thickness), (x + width, y + thickness), colour, -1)
    cv2.putText(canvas, text, (x, y), font, scale, (255, 255, 255), thickness, cv2.LINE_AA)
