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
FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
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
    canvas, thickness = bgr.copy(), _thickness(bgr)
    shapes = tuple(outlines)
    for outline in shapes:
        corners = np.array(outline.polygon, np.float64).reshape(-1, 1, 2)
        colour = _colour(outline.kind)[::-1]
        cv2.drawContours(canvas, [_whole(corners)], 0, colour, thickness, cv2.LINE_AA)
    labels = _Labels(canvas)
    for outline in shapes:
        if outline.polygon and outline.label:
            labels.write(_printable(outline.label), outline)
    return canvas


def sheet(pictures: Sequence[tuple[str, Pixels]]) -> bytes:
    """The pictures, gray or BGR, small and side by side, each under its name, as PNG."""
    small = [_fitted(pixels) for _, pixels in pictures]
    height = max(len(pixels) for pixels in small)
    names = (name for name, _ in pictures)
    tiles = [_tile(name, pixels, height) for name, pixels in zip(names, small, strict=True)]
    blank = np.full_like(tiles[0], 255)
    columns = min(COLUMNS, len(tiles))
    rows = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
    full = [np.hstack(row + [blank] * (columns - len(row))) for row in rows]
    return _png(np.vstack(full).astype(np.uint8))


def _fitted(pixels: Pixels) -> Pixels:
    """BGR whose longer side is that of a tile; small ones are enlarged with their pixels seen."""
    small = shrink(pixels, TILE - 8)
    if small.ndim == 2:
        small = np.asarray(cv2.cvtColor(small, cv2.COLOR_GRAY2BGR), np.uint8)
    factor = (TILE - 8) / max(small.shape[:2])
    if factor <= 1:
        return small
    size = tuple(max(1, round(side * factor)) for side in small.shape[1::-1])
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _tile(name: str, pixels: Pixels, height: int) -> Pixels:
    tile = np.full((CAPTION + height + 8, TILE, 3), 255, np.uint8)
    tile[CAPTION : CAPTION + pixels.shape[0], 4 : 4 + pixels.shape[1]] = pixels
    text = _printable(name).encode("ascii", "replace").decode()
    cv2.putText(tile, text, (4, 16), FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return tile


def _png(pixels: Pixels) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError(f"{pixels.shape} pixels cannot be written as PNG")
    return data.tobytes()


def _shape(outline: Outline, stroke: int) -> str:
    corners = _whole(np.array(outline.polygon, np.float64).reshape(-1, 2))
    points = " ".join(f"{x},{y}" for x, y in corners)
    colour = "rgb({},{},{})".format(*_colour(outline.kind))
    x, y = min(corners.tolist(), key=lambda corner: (corner[1], corner[0]), default=(0, 0))
    size = 5 * stroke + 4
    return (
        f'<polygon points="{points}" fill="none" stroke="{colour}" stroke-width="{stroke}"/>'
        f'<text x="{x}" y="{y - stroke}" font-family="sans-serif" font-size="{size}" '
        f'fill="{colour}" data-kind={quoteattr(_printable(outline.kind))}>'
        f"{escape(_printable(outline.label))}</text>"
    )


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


class _Labels:
    """Writes labels, each on a ground of its own, where no other is if there is room."""

    def __init__(self, canvas: Pixels) -> None:
        self._canvas = canvas
        self._scale = max(0.35, max(canvas.shape[:2]) / 3200)
        self._taken: list[tuple[int, int, int, int]] = []

    def write(self, text: str, outline: Outline) -> None:
        """Only ASCII has glyphs in every build of OpenCV; the SVG has the rest."""
        text = text.encode("ascii", "replace").decode()
        (width, height), rise = cv2.getTextSize(text, FONT, self._scale, 1)
        box = self._place(outline, width, height + rise)
        self._taken.append(box)
        x, y = box[:2]
        colour = _colour(outline.kind)[::-1]
        cv2.rectangle(self._canvas, (x, y), (x + width, y + height + rise), colour, -1)
        at, white = (x, y + height + rise // 2), (255, 255, 255)
        cv2.putText(self._canvas, text, at, FONT, self._scale, white, 1, cv2.LINE_AA)

    def _place(self, outline: Outline, width: int, height: int) -> tuple[int, int, int, int]:
        """Above the outline, below it, or inside; left, top, width and height."""
        corners = _whole(np.array(outline.polygon, np.float64))
        left, top, bottom = corners[:, 0].min(), corners[:, 1].min(), corners[:, 1].max()
        boxes = [
            self._inside(int(left), int(y), width, height)
            for y in (top - height, bottom, top, bottom - height)
        ]
        return next((box for box in boxes if not self._is_taken(box)), boxes[0])

    def _inside(self, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
        most_y, most_x = (
            max(0, side) for side in np.array(self._canvas.shape[:2]) - (height, width)
        )
        return (min(max(x, 0), int(most_x)), min(max(y, 0), int(most_y)), width, height)

    def _is_taken(self, box: tuple[int, int, int, int]) -> bool:
        x, y, width, height = box
        return any(
            x < left + across and left < x + width and y < top + down and top < y + height
            for left, top, across, down in self._taken
        )
