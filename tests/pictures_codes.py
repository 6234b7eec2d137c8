"""Made photographs of codes with a known truth, and of what only looks like codes.

Everything comes from one seed. A ``Scene`` has codes under what cheap cameras do to them: tilt,
perspective, bent surfaces, blur, noise, glare, little light and hard JPEG compression.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np
import zxingcpp
from numpy.typing import NDArray

from tests.pictures import ean13

Pixels = NDArray[np.uint8]
SIZES = ((640, 480), (1280, 960), (1600, 1200), (2592, 1944))
RETAIL = ("EAN13", "EAN8", "UPCA", "UPCE", "Code128", "QRCode")
MATRIX = ("QRCode", "DataMatrix", "Aztec")
EVERY = (*RETAIL, "Code39", "ITF", "DataMatrix", "Aztec")


@dataclass(frozen=True)
class Printed:
    """A code in a scene: what readers say for it, and where its middle is."""

    text: str
    format: str
    middle: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """Gray pixels, (H, W), and all codes in them."""

    gray: Pixels
    codes: tuple[Printed, ...]
    kind: str


def content(random: Random, format: str) -> tuple[str, str]:
    """Something to print in this format, and what zxing reads from that."""
    number = random.randrange(10**12)
    if format == "EAN13":
        return (text := ean13(number)), text
    if format == "UPCA":
        text = ean13(number % 10**11)
        return text[1:], text
    if format == "EAN8":
        return (text := ean13(number % 10**7)[5:]), text
    if format == "UPCE":
        return _upc_e(random)
    if format == "ITF":
        body = f"{random.randrange(1, 9)}{number:012d}"
        return (text := body + _check(body)), text
    alphabet = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"
    word = "".join(random.choice(alphabet) for _ in range(random.randrange(6, 14)))
    if format == "Code39":
        word = word[:9]
    return (text := f"https://x.example/{word}" if format == "QRCode" else word), text


def _check(body: str) -> str:
    weighted = (int(d) * (1 if at % 2 else 3) for at, d in enumerate(reversed(body)))
    return str(-sum(weighted) % 10)


def _upc_e(random: Random) -> tuple[str, str]:
    six = f"{random.randrange(10**4):04d}{random.randrange(1, 10)}{random.randrange(5, 10)}"
    body = f"0{six[:5]}0000{six[5]}"
    check = _check(body)
    return f"0{six}{check}", f"0{body}{check}"


def symbol(text: str, format: str, module_px: float, height_share: float = 0.6) -> Pixels:
    """The code black on white with its quiet zone; bars are cut to a share of their length."""
    kind = getattr(zxingcpp.BarcodeFormat, format)
    made = np.array(zxingcpp.create_barcode(text, kind).to_image(scale=8), np.uint8)
    if format in MATRIX:
        paper = cv2.copyMakeBorder(made, 16, 16, 16, 16, cv2.BORDER_CONSTANT, value=255)
        size = (round(paper.shape[1] * module_px / 8), round(paper.shape[0] * module_px / 8))
    else:
        paper = made[:60]
        width = round(paper.shape[1] * module_px / 8)
        size = (width, max(12, round(width * height_share)))
    return np.asarray(cv2.resize(paper, size, interpolation=cv2.INTER_AREA), np.uint8)


def label(random: Random, format: str, module_px: float) -> tuple[Pixels, str]:
    """A paper with a code, often with its text below and a line above, and what it says."""
    printed, read = content(random, format)
    share = random.uniform(0.25, 0.9)
    code = symbol(printed, format, module_px, share)
    edge = round(module_px * random.uniform(0, 6))
    paper = cv2.copyMakeBorder(code, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=255)
    for below in range(2):
        if random.random() < 0.5:
            line = np.full((round(9 * module_px + 6), paper.shape[1]), 255, np.uint8)
            size = max(0.25, 0.11 * module_px * random.uniform(1.5, 3))
            cv2.putText(line, read, (edge, len(line) - 4), 2, size, 0, 1 + round(module_px / 3))
            paper = np.vstack((paper, line) if below else (line, paper))
    if random.random() < 0.5 and format not in MATRIX:
        paper = _bent(random, np.asarray(paper, np.uint8))
    if random.random() < 0.06:
        paper = 255 - paper if format in {"QRCode", "DataMatrix", "Aztec"} else paper
    return np.asarray(paper, np.uint8), read


def _bent(random: Random, paper: Pixels) -> Pixels:
    """As on a bottle: bars toward one or both sides are narrower."""
    height, width = paper.shape
    reach, off = random.uniform(0.2, 0.8), random.uniform(-0.3, 0.3)
    x = np.linspace(-1, 1, width, dtype=np.float32)
    bent = np.arcsin(np.clip(x * reach + off * reach, -0.99, 0.99))
    bent = (bent - bent[0]) / (bent[-1] - bent[0]) * (width - 1)
    rows = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, 1)
    columns = np.repeat(bent[None].astype(np.float32), height, 0)
    return np.asarray(cv2.remap(paper, columns, rows, cv2.INTER_LINEAR, borderValue=255), np.uint8)


def photo(seed: int, size: tuple[int, int], formats: tuple[str, ...] = RETAIL) -> Scene:
    """One code among print and shapes, as a phone or a cheap camera held in a hand sees it."""
    random = Random(seed)
    width, height = size
    kind = random.choice(formats)
    picture = _ground(random, size)
    for _ in range(random.randrange(4)):
        _clutter(random, picture)
    modules = {"Code128": 150, "QRCode": 37, "DataMatrix": 24, "Aztec": 27, "UPCE": 70}
    share = random.uniform(0.25, 0.95) * (0.8 if kind in MATRIX else 1)
    module = max(1.1, (height if kind in MATRIX else width) * share / modules.get(kind, 115))
    paper, text = label(random, kind, module)
    angle = random.gauss(0, 8) + random.choice([0, 0, 0, 90, 180, 270])
    if random.random() < 0.12:
        angle = random.uniform(0, 360)
    codes = _stick(random, picture, paper, angle, (text, kind))
    return Scene(_taken(random, picture), codes, "photo")


def shelf(seed: int, size: tuple[int, int], formats: tuple[str, ...] = RETAIL) -> Scene:
    """Many small codes on packages side by side, some turned by a quarter, some equal."""
    random = Random(seed)
    width, height = size
    picture = _ground(random, size)
    codes: list[Printed] = []
    module = random.uniform(1.6, 3.2) if width > 1000 else random.uniform(1.4, 2)
    twin: tuple[Pixels, str, str] | None = None
    y = 10
    while y < height - 60:
        x, row = 10, 60
        while x < width - 60:
            kind = random.choice(formats)
            if twin and random.random() < 0.3:
                paper, text, kind = twin
            else:
                paper, text = label(random, kind, module * (1.5 if kind in MATRIX else 1))
            twin = (paper, text, kind)
            turned = np.ascontiguousarray(np.rot90(paper, random.choice([0, 0, 0, 1, 2])))
            high, wide = turned.shape
            if x + wide + 10 < width and y + high + 10 < height and random.random() < 0.75:
                picture[y : y + high, x : x + wide] = turned
                codes.append(Printed(text, kind, (x + wide / 2, y + high / 2)))
                row = max(row, high)
            x += wide + random.randrange(12, 60)
        y += row + random.randrange(12, 40)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), random.gauss(0, 2), 1)
    tilted = cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    moved = [(code, matrix @ (*code.middle, 1.0)) for code in codes]
    placed = tuple(Printed(c.text, c.format, (float(at[0]), float(at[1]))) for c, at in moved)
    return Scene(_taken(random, np.asarray(tilted, np.uint8), hard=0.5), placed, "shelf")


def clean(seed: int, size: tuple[int, int]) -> tuple[Pixels, list[str]]:
    """Sharp labels of every format side by side, modules of 2 to 4 px, and what they say."""
    random = Random(seed)
    width, height = size
    picture = np.full((height, width), random.choice([255, 230, 200]), np.uint8)
    texts: list[str] = []
    x, y, row = 20, 20, 60
    while y < height - 60:
        kind = random.choice(EVERY)
        printed, text = content(random, kind)
        as_kind = getattr(zxingcpp.BarcodeFormat, kind)
        made = zxingcpp.create_barcode(printed, as_kind).to_image(scale=random.choice([2, 3, 4]))
        paper = cv2.copyMakeBorder(np.array(made), 9, 9, 9, 9, cv2.BORDER_CONSTANT, value=255)
        high, wide = paper.shape
        if x + wide < width - 10 and y + high < height - 10:
            picture[y : y + high, x : x + wide] = paper
            texts.append(text)
            row = max(row, high)
        x += wide + random.randrange(12, 60)
        if x > width - 60:
            x, y, row = 20, y + row + random.randrange(12, 40), 60
    return np.asarray(picture, np.uint8), texts


def empty(seed: int, size: tuple[int, int]) -> Scene:
    """No code: print, stripes, grids, fences, checks, shelves, grain, or a bare wall."""
    random = Random(seed)
    picture = _ground(random, size)
    for _ in range(random.choice([0, 1, 2, 4, 8, 16])):
        _clutter(random, picture)
    return Scene(_taken(random, picture), (), "empty")


def _ground(random: Random, size: tuple[int, int]) -> Pixels:
    noise = np.random.default_rng(random.getrandbits(32))
    cell = random.choice([8, 24, 80, 300])
    low, high = sorted(random.sample(range(40, 240), 2))
    coarse = noise.integers(low, high, (size[1] // cell + 2, size[0] // cell + 2), dtype=np.uint8)
    ground = cv2.resize(coarse, size, interpolation=random.choice([cv2.INTER_CUBIC, 0]))
    return np.array(ground, np.uint8)


def _text(random: Random, part: Pixels) -> None:
    part[:] = paper = random.randrange(150, 256)
    scale = random.uniform(0.3, 2)
    step = round(24 * scale) + random.randrange(2, 14)
    ink = random.randrange(0, max(1, paper - 60))
    for y in range(step, len(part), step):
        words = "".join(random.choice("abcdefgh ilmnoprstuv AEIMNT 0123456789") for _ in range(160))
        cv2.putText(part, words, (4, y), random.randrange(5), scale, ink, 1 + round(scale))


def _bars(random: Random, part: Pixels) -> None:
    """Stripes of random widths: a bar code of no known kind, a fence, corrugation."""
    widths = random.choice([(2, 3), (2, 8), (10, 40), (1, 5)])
    x, dark = 0, random.randrange(0, 120)
    while x < part.shape[1]:
        bar = random.randint(*widths)
        part[:, x : x + bar] = dark
        x += bar + random.randint(*widths)


def _grid(random: Random, part: Pixels) -> None:
    step = random.randrange(6, 40)
    part[::step] = part[:, ::step] = random.randrange(0, 120)


def _checks(random: Random, part: Pixels) -> None:
    noise = np.random.default_rng(random.getrandbits(32))
    cell = random.randrange(3, 16)
    coarse = noise.integers(0, 2, (len(part) // cell + 1, part.shape[1] // cell + 1)) * 220 + 20
    fine = np.kron(coarse, np.ones((cell, cell)))
    part[:] = fine[: len(part), : part.shape[1]].astype(np.uint8)


def _boards(random: Random, part: Pixels) -> None:
    step = random.randrange(40, 200)
    for y in range(0, len(part), step):
        part[y : y + random.randrange(4, 20)] = random.randrange(30, 220)


CLUTTER: tuple[Callable[[Random, Pixels], None], ...] = (
    _text,
    _text,
    _bars,
    _grid,
    _checks,
    _boards,
)


def _clutter(random: Random, picture: Pixels) -> None:
    """One patch of print or pattern, at an angle that is often straight."""
    height, width = picture.shape
    wide, high = (round(side * random.uniform(0.15, 0.9)) for side in (width, height))
    patch = np.full((high, wide), random.randrange(120, 256), np.uint8)
    random.choice(CLUTTER)(random, patch)
    _stick(random, picture, patch, random.choice([0, 0, 90, random.uniform(0, 360)]), ("", ""))


def _stick(
    random: Random, picture: Pixels, paper: Pixels, degrees: float, says: tuple[str, str]
) -> tuple[Printed, ...]:
    """Put paper on the picture, turned and seen somewhat from the side; inside if it fits."""
    height, width = picture.shape
    high, wide = paper.shape
    corners = np.array([(0, 0), (wide, 0), (wide, high), (0, high)], np.float32)
    lean = random.uniform(0, 0.12) * min(wide, high)
    seen = corners + np.array([[random.uniform(-lean, lean) for _ in "xy"] for _ in range(4)])
    turn = cv2.getRotationMatrix2D((wide / 2, high / 2), degrees, 1)
    seen = seen @ turn[:, :2].T + turn[:, 2]
    box = np.ptp(seen, axis=0)
    scale = min(1.0, float((np.array([width, height]) * 0.98 / box).min()))
    seen = (seen - seen.min(axis=0)) * scale
    room = np.array([width, height]) - box * scale
    seen += np.array([random.uniform(0, max(float(side), 0)) for side in room])
    way = cv2.getPerspectiveTransform(corners, seen.astype(np.float32))
    size = (width, height)
    cover = cv2.warpPerspective(np.full_like(paper, 255), way, size)
    shown = cv2.warpPerspective(paper, way, size, flags=cv2.INTER_AREA)
    np.copyto(picture, shown, where=cover > 127)
    x, y = (float(value) for value in seen.mean(axis=0))
    return (Printed(*says, (x, y)),)


def _taken(random: Random, picture: Pixels, hard: float = 1) -> Pixels:
    """What a cheap camera makes of it; ``hard`` scales what it loses."""
    height, width = picture.shape
    seen: NDArray[np.float32] = picture.astype(np.float32)
    scale = width / 1600
    blur = random.choice([0.4, 0.7, 1, 1.5, 2.2]) * (0.5 + 0.5 * scale) * (0.4 + 0.6 * hard)
    seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), blur), np.float32)
    if random.random() < 0.15 * hard:
        length = random.randrange(3, round(6 + 6 * scale))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        way = kernel if random.random() < 0.5 else kernel.T
        seen = np.asarray(cv2.filter2D(seen, -1, way), np.float32)
    light = random.choice([1, 1, 0.8, 0.5, 0.25])
    slope = np.linspace(random.uniform(0.5, 1), 1, width, dtype=np.float32) * light
    seen = np.asarray(seen * slope + random.uniform(0, 30), np.float32)
    for _ in range(random.choice([0, 0, 1])):
        y, x = np.ogrid[:height, :width]
        middle = (random.uniform(0, width), random.uniform(0, height))
        radius = width * random.uniform(0.02, 0.12)
        far = ((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / radius**2
        seen = np.asarray(seen + 230 * np.exp(-far), np.float32)
    noise = np.random.default_rng(random.getrandbits(32)).standard_normal(
        (height, width), np.float32
    )
    seen = seen + noise * random.choice([1, 3, 6, 10]) * (0.5 + 0.5 * hard)
    lit = np.clip(seen, 0, 255).astype(np.uint8)
    quality = random.choice([10, 15, 20, 30, 40, 60, 80, 92]) if hard >= 1 else 60
    encoded = cv2.imencode(".jpg", lit, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)
