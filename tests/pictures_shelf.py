"""Made shelves with markers and slots, whose stock is known, as a poor camera sees them.

A ``Rack`` is drawn flat, in shelf units, and then photographed: through a perspective, under
some light, with noise and JPEG. The photograph comes with the homography it was taken with.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.pictures import Pixels, jpeg

Matrix = NDArray[np.float64]
WIDTH, HEIGHT = 120.0, 80.0
"""Of the rack, in units; call them centimetres."""
PX = 12
"""Pixels of the flat drawing for each unit."""
MARKER = 6.0
MARKERS = ((0, 4, 4), (1, 116, 4), (2, 116, 76), (3, 4, 76), (4, 60, 4), (5, 60, 76))
"""Id and middle of each marker."""
COLUMNS, ROWS = 4, 2
CAPACITY = 4
"""Goods side by side in a slot."""


def slot(index: int) -> tuple[tuple[float, float], ...]:
    """The corners of a slot in shelf units, clockwise from the top left."""
    row, column = divmod(index, COLUMNS)
    left, top = 3 + column * 29, 11 + row * 30
    return ((left, top), (left + 27, top), (left + 27, top + 25), (left, top + 25))


@dataclass(frozen=True)
class Rack:
    """The stock of eight slots: in each the seeds of its goods, from the left."""

    goods: tuple[tuple[int, ...], ...] = ((),) * (COLUMNS * ROWS)
    wall: int = 0
    dictionary: str = "DICT_4X4_50"
    hidden: tuple[int, ...] = ()
    """Ids of markers that something stands before."""
    glare: tuple[int, ...] = ()
    """Ids of markers with a lamp's reflection on them."""
    is_untidy: bool = False
    """Goods stand up to a twelfth of their width off their place."""

    def holding(self, index: int, *goods: int) -> "Rack":
        """The same rack with other goods in one slot."""
        changed = list(self.goods)
        changed[index] = goods
        return replace(self, goods=tuple(changed))

    def drawn(self) -> Pixels:
        """The flat drawing, BGR, ``PX`` pixels a unit."""
        picture = _wall(self.wall).copy()
        for mark, x, y in MARKERS:
            _put(picture, _marker(self.dictionary, mark), x - 4, y - 4)
        for mark in self.glare:
            _glare(picture, *MARKERS[mark][1:])
        for mark in self.hidden:
            _, x, y = MARKERS[mark]
            _put(picture, np.full((8 * PX, 8 * PX, 3), (70, 90, 60), np.uint8), x - 4, y - 4)
        for index, goods in enumerate(self.goods):
            (left, _), _, (_, bottom), _ = slot(index)
            for place, seed in enumerate(goods):
                front = good(seed)
                off = np.random.default_rng((index, place)).uniform(-0.5, 0.5) * self.is_untidy
                _put(picture, front, left + 0.5 + place * 6.6 + off, bottom - len(front) / PX)
        return picture


@functools.cache
def _marker(dictionary: str, id: int) -> Pixels:
    known = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary))
    bits = cv2.aruco.generateImageMarker(known, id, int(MARKER * PX))
    paper = cv2.copyMakeBorder(bits, PX, PX, PX, PX, cv2.BORDER_CONSTANT, value=(255,))
    return np.asarray(cv2.cvtColor(paper, cv2.COLOR_GRAY2BGR), np.uint8)


@functools.cache
def _wall(seed: int) -> Pixels:
    random = np.random.default_rng(seed)
    width, height = int(WIDTH * PX), int(HEIGHT * PX)
    wood = random.normal(0, 1, (height // 3, width // 40)).astype(np.float32)
    grain = cv2.resize(wood, (width, height), interpolation=cv2.INTER_CUBIC)
    colour = random.uniform(90, 200, 3)
    picture = np.clip(colour + grain[:, :, None] * random.uniform(2, 10), 0, 255).astype(np.uint8)
    for row in range(ROWS):
        board = int((36 + row * 30) * PX)
        picture[board : board + 3 * PX] = (picture[board : board + 3 * PX] * 0.55).astype(np.uint8)
        for column in range(COLUMNS):
            _put(
                picture, _ticket(100 * seed + 10 * row + column), 10 + column * 29, 36.3 + row * 30
            )
    picture.flags.writeable = False
    return picture


@functools.cache
def _ticket(seed: int) -> Pixels:
    random = np.random.default_rng(seed)
    ticket = np.full((int(2.4 * PX), 8 * PX, 3), 245, np.uint8)
    cv2.putText(
        ticket, f"{random.integers(1, 99)}.{random.integers(10, 99)}", (6, 24), 0, 0.8, 0, 2
    )
    return ticket


@functools.cache
def good(seed: int) -> Pixels:
    """The front of one article, 6 units wide and 14 to 24 high; a quarter have no print."""
    random = np.random.default_rng(1000 + seed)
    width, height = 6 * PX, int(random.uniform(14, 24) * PX)
    colour = random.uniform(30, 230, 3)
    front = np.full((height, width, 3), colour, np.uint8)
    if seed % 4:
        top = int(random.uniform(0.1, 0.3) * height)
        band = np.clip(colour + random.choice([-90, 90]), 0, 255)
        cv2.rectangle(front, (0, top), (width, top + height // 6), band.tolist(), -1)
        ink = np.clip(colour + random.choice([-120, 120]), 0, 255).tolist()
        for line in range(3):
            text = "".join(chr(random.integers(65, 91)) for _ in range(4))
            cv2.putText(front, text, (5, top + height // 6 + 22 + line * 24), 0, 0.7, ink, 2)
        bars = random.integers(0, 2, 40).repeat(1)[None, :].astype(np.uint8) * 235
        code = cv2.resize(bars, (width - 14, height // 7), interpolation=cv2.INTER_NEAREST)
        front[-height // 7 - 4 : -height // 7 - 4 + len(code), 7 : width - 7] = code[:, :, None]
    shade = np.linspace(1.05, 0.8, width)[None, :, None]
    shaded = np.clip(front * shade, 0, 255).astype(np.uint8)
    cv2.rectangle(shaded, (0, 0), (width - 1, height - 1), (colour * 0.5).tolist(), 2)
    return shaded


@functools.cache
def label(seed: int) -> Pixels:
    """A price label of 2 % of a picture's width, with two digits."""
    random = np.random.default_rng(seed)
    paper = np.full((24, 33, 3), 240, np.uint8)
    cv2.putText(paper, f"{random.integers(10, 99)}", (3, 19), 0, 0.6, (20, 20, 20), 2)
    return paper


def pasted(drawing: Pixels, what: Pixels, left_px: int, top_px: int) -> Pixels:
    """A copy of the drawing with something on it."""
    drawing = drawing.copy()
    drawing[top_px : top_px + len(what), left_px : left_px + what.shape[1]] = what
    return drawing


def _put(picture: Pixels, what: Pixels, x: float, y: float) -> None:
    left, top = round(x * PX), round(y * PX)
    picture[top : top + len(what), left : left + what.shape[1]] = what


def _glare(picture: Pixels, x: float, y: float) -> None:
    layer = np.zeros(picture.shape[:2], np.float32)
    cv2.circle(layer, (round((x + 0.5) * PX), round(y * PX)), round(2.4 * PX), 400, -1)
    lit = picture + cv2.GaussianBlur(layer, (0, 0), PX)[:, :, None]
    picture[:] = np.clip(lit, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Camera:
    """Where it stands, its light and its faults. The defaults are a good one."""

    width: int = 1600
    height: int = 1200
    quarter_turns: int = 0
    tilt: float = 0.03
    """How far the corners are moved, as a share of the size, by ``view``."""
    view: int = 0
    """Seed of the perspective: the same number is the same place."""
    shift_px: tuple[float, float] = (0, 0)
    degrees: float = 0
    gain: float = 1
    warmth: float = 0
    """Red gains and blue loses this share."""
    slope: float = 0
    """By this share the light falls from left to right."""
    shadows: int = 0
    """How many shadows fall on it, each over two fifths of the width."""
    penumbra: float = 0.04
    """Softness of their edges, as a share of the width."""
    blur_px: float = 0.5
    noise: float = 3
    quality: int = 85
    seed: int = 0
    barrel: float = 0
    """By this share of the half width the corners are drawn in by the lens."""

    def homography(self) -> Matrix:
        """From shelf units to pixels, before the lens."""
        random = np.random.default_rng(self.view)
        size = np.array([self.width, self.height])
        corners = np.array([(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)])
        corners = (corners + random.uniform(-self.tilt, self.tilt, (4, 2))) * size
        corners = np.roll(corners, -self.quarter_turns, axis=0)
        flat = np.array([(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT)])
        seen = cv2.getPerspectiveTransform(flat.astype(np.float32), corners.astype(np.float32))
        turn = np.eye(3)
        turn[:2] = cv2.getRotationMatrix2D((self.width / 2, self.height / 2), self.degrees, 1)
        turn[:2, 2] += self.shift_px
        return np.asarray(turn @ seen, np.float64)

    def picture(self, rack: Rack) -> Pixels:
        """BGR pixels, as decoded from the camera's JPEG."""
        return self.photograph(rack.drawn())

    def photograph(self, drawing: Pixels, units_px: float = PX) -> Pixels:
        """BGR pixels of any flat drawing."""
        # Whole numbers are the middles of pixels, in the drawing as in the picture.
        from_middle = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, units_px]]) / units_px
        to_px = self.homography() @ from_middle
        size = (self.width, self.height)
        area = abs(np.linalg.det(to_px[:2, :2])) ** 0.5
        if area < 1:
            drawing = np.asarray(cv2.GaussianBlur(drawing, (0, 0), 0.45 / area), np.uint8)
        seen = cv2.warpPerspective(
            drawing, to_px, size, flags=cv2.INTER_LINEAR, borderValue=(96, 104, 100)
        )
        if self.barrel:
            seen = self._through_lens(np.asarray(seen, np.uint8))
        return self._exposed(np.asarray(cv2.GaussianBlur(seen, (0, 0), self.blur_px), np.uint8))

    def _through_lens(self, seen: Pixels) -> Pixels:
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        u, v = (x - self.width / 2) / (self.width / 2), (y - self.height / 2) / (self.width / 2)
        far = 1 + self.barrel * (u * u + v * v)
        x, y = u * far * self.width / 2 + self.width / 2, v * far * self.width / 2 + self.height / 2
        return np.asarray(cv2.remap(seen, x, y, cv2.INTER_LINEAR), np.uint8)

    def _exposed(self, seen: Pixels) -> Pixels:
        random = np.random.default_rng((self.seed, self.width))
        light = np.linspace(1 + self.slope / 2, 1 - self.slope / 2, self.width, dtype=np.float32)
        light = np.repeat(light[None, :], self.height, axis=0) * self.gain
        for _ in range(self.shadows):
            light *= self._shadow(random)
        colour = np.array([1 - self.warmth, 1, 1 + self.warmth], np.float32)
        noise = np.empty(seen.shape, np.float32)
        cv2.setRNGSeed(int(random.integers(1 << 30)))
        cv2.randn(noise, np.zeros(3), np.full(3, self.noise))
        lit = seen * light[:, :, None] * colour + noise
        data = jpeg(np.clip(lit, 0, 255).astype(np.uint8), self.quality)
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)

    def _shadow(self, random: np.random.Generator) -> NDArray[np.float32]:
        small = np.ones((self.height // 16, self.width // 16), np.float32)
        middle = tuple(int(random.uniform(0, side)) for side in small.shape[::-1])
        axes = (len(small[0]) // 5, len(small[0]) // 8)
        cv2.ellipse(
            small, middle, axes, random.uniform(0, 180), 0, 360, random.uniform(0.6, 0.8), -1
        )
        soft = cv2.GaussianBlur(small, (0, 0), max(0.4, self.penumbra * len(small[0])))
        return np.asarray(cv2.resize(soft, (self.width, self.height)), np.float32)


def random_camera(random: np.random.Generator, base: Camera) -> Camera:
    """The same camera on another day: light, colour, shadows, noise and JPEG differ."""
    return replace(
        base,
        gain=float(random.uniform(0.6, 1.5)),
        warmth=float(random.uniform(-0.15, 0.15)),
        slope=float(random.uniform(-0.3, 0.3)),
        shadows=int(random.integers(0, 3)),
        noise=float(random.uniform(1, 6)),
        quality=int(random.integers(40, 91)),
        seed=int(random.integers(1 << 30)),
    )


def stocked(random: np.random.Generator, wall: int = 0, counts: Iterable[int] = ()) -> Rack:
    """A rack with this many goods in each slot, or with any number, none in half of them."""
    given = list(counts) or [
        int(n) for n in random.integers(1, CAPACITY + 1, 8) * random.integers(0, 2, 8)
    ]
    goods = tuple(tuple([int(random.integers(0, 400))] * n) for n in given)
    return Rack(goods, wall)
