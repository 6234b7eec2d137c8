"""Shelves whose stock is known, and what a cheap camera in front of them sees.

Every facing on a shelf shows its own code, so the stock of a product is the number of its
codes in a picture. All randomness is the caller's ``random.Random``: a seed is a whole story.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

import cv2
import numpy as np
import simplejpeg
import zxingcpp
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour: TypeAlias = tuple[int, int, int]
Pixels: TypeAlias = NDArray[np.uint8]

WIDTH_PX: Final = 1600
HEIGHT_PX: Final = 1200
"""UXGA, what an ESP32-CAM sends at its largest."""

BOARDS_Y_PX: Final = (386, 738, 1090)
BOARD_PX: Final = 34
"""Upper edges of the boards, and their thickness."""


@dataclass(frozen=True, slots=True)
class Bay:
    """The place of one product: ``facings`` pieces at most, side by side."""

    board: int
    left_px: int
    slot_px: int
    facings: int


BAYS: Final = (
    Bay(board=0, left_px=40, slot_px=304, facings=3),
    Bay(board=0, left_px=952, slot_px=304, facings=2),
    Bay(board=1, left_px=40, slot_px=304, facings=2),
    Bay(board=1, left_px=648, slot_px=304, facings=3),
    Bay(board=2, left_px=80, slot_px=236, facings=3),
    Bay(board=2, left_px=812, slot_px=236, facings=3),
)
"""Every shelf has these: four for articles, then two for bins."""

_ARTICLES: Final = 4
_MODULE_PX: Final = 2.5
"""Width of a code's thinnest bar. At 2.0 one EAN-13 in 100 was misread (300 pictures)."""


@dataclass(frozen=True, slots=True)
class Product:
    """Something with a code, an EAN-13 or, for a bin of small parts, a QR label."""

    code: str
    name: str
    colour: Colour
    is_bin: bool = False


def ean13(stem: str) -> str:
    """The twelve digits with their check digit (GS1 General Specifications, 7.9)."""
    weighted = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(stem))
    return f"{stem}{-weighted % 10}"


def _product(number: str, name: str, colour: Colour) -> Product:
    # Prefix 20 to 29 is what GS1 leaves to every shop, so these are nobody else's articles.
    # The digits are ones that are read right, or not at all, when bars look up to 45 % of a
    # module too thick or thin; 2 of 400 random codes were then read as another valid code.
    return Product(ean13(f"2{number}"), name, colour)


def _bin(part: str, name: str, colour: Colour) -> Product:
    return Product(f"BIN-{part}", name, colour, is_bin=True)


PRODUCTS: Final = (
    _product("12951069707", "Oat flakes", (214, 160, 72)),
    _product("13624365234", "Basmati rice", (58, 110, 165)),
    _product("19435524741", "Spaghetti No 5", (32, 74, 135)),
    _product("19536405259", "Tomato sauce", (190, 48, 40)),
    _product("04524614163", "Green tea", (92, 138, 66)),
    _product("06462356590", "Espresso", (84, 58, 46)),
    _product("06732983868", "Dark chocolate", (66, 42, 66)),
    _product("07444326067", "Crispbread", (196, 122, 58)),
    _product("09766659736", "Dish tabs", (36, 134, 156)),
    _product("12336480484", "Soap", (168, 108, 150)),
)
BINS: Final = (
    _bin("SCREWS-M4", "Screws M4", (44, 82, 152)),
    _bin("ANCHORS-8", "Anchors 8 mm", (156, 46, 46)),
    _bin("FUSES-10A", "Fuses 10 A", (60, 112, 70)),
    _bin("CELLS-AA", "Cells AA", (70, 74, 82)),
)


def product_name(code: str) -> str:
    """What people call it; the code itself for one that is not in the catalogue."""
    return next((each.name for each in (*PRODUCTS, *BINS) if each.code == code), code)


class Shelf:
    """A shelf and the pieces that stand on it now.

    ``stock`` has every product that has a bay here, zeros included.
    """

    def __init__(self, name: str, products: Sequence[Product], stock: Mapping[str, int]) -> None:
        self.name = name
        self.products = tuple(products)
        self._stock = dict(stock)

    @classmethod
    def filled(cls, name: str, random: Random) -> "Shelf":
        """A shelf with four articles and two bins of the catalogue, one to three pieces each."""
        products = random.sample(PRODUCTS, _ARTICLES)
        products += random.sample(BINS, len(BAYS) - _ARTICLES)
        places = zip(products, BAYS, strict=True)
        stock = {product.code: random.randint(1, bay.facings) for product, bay in places}
        return cls(name, products, stock)

    @property
    def stock(self) -> dict[str, int]:
        """Pieces by code; a copy."""
        return dict(self._stock)

    def change(self, random: Random) -> str:
        """Someone takes, puts back or restocks one product; returns what happened, in words."""
        product, bay = random.choice(list(zip(self.products, BAYS, strict=True)))
        count = self._stock[product.code]
        step = random.choices((-1, 1, bay.facings), weights=(6, 3, 2))[0]
        after = min(max(count + step, 0), bay.facings)
        self._stock[product.code] = after
        return _in_words(product, after - count)

    def picture(self, random: Random) -> bytes:
        """The shelf as its camera sees it now: a JPEG, tilted, unevenly lit, soft and noisy."""
        scene = _empty_shelf(self.products).copy()
        for product, bay in zip(self.products, BAYS, strict=True):
            for slot in range(self._stock[product.code]):
                _stand(scene, _front(product), bay, slot, random)
        return _photograph(scene, random)


def _in_words(product: Product, difference: int) -> str:
    if difference == 0:
        return f"{product.name} looked at"
    verb = "taken" if difference < 0 else "restocked" if difference > 1 else "put back"
    return f"{product.name} {verb}"


# What stands in front of the camera


def _stand(scene: Pixels, front: Pixels, bay: Bay, slot: int, random: Random) -> None:
    height, width = front.shape[:2]
    left = bay.left_px + slot * bay.slot_px + random.randint(0, bay.slot_px - width)
    top = BOARDS_Y_PX[bay.board] - height
    scene[top : top + height, left : left + width] = front


@functools.cache
def _front(product: Product) -> Pixels:
    """The front of one piece, RGB."""
    return _bin_front(product) if product.is_bin else _carton_front(product)


def _carton_front(product: Product) -> Pixels:
    width, height = 298, 262
    carton = Image.new("RGB", (width, height), product.colour)
    draw = ImageDraw.Draw(carton)
    draw.ellipse((width - 150, -90, width + 60, 120), fill=_shade(product.colour, 1.2))
    draw.rectangle((0, 84, width, 91), fill=_shade(product.colour, 1.45))
    _write(draw, (20, 46), product.name, size_px=33)
    code = Image.fromarray(_ean_symbol(product.code))
    carton.paste(code, ((width - code.width) // 2, height - 22 - code.height))
    draw.rectangle((0, 0, width - 1, height - 1), outline=_shade(product.colour, 0.55), width=2)
    return _frozen(carton)


def _bin_front(product: Product) -> Pixels:
    width, height = 224, 248
    tray = Image.new("RGB", (width, height), product.colour)
    draw = ImageDraw.Draw(tray)
    draw.rectangle((0, 0, width, 22), fill=_shade(product.colour, 0.5))
    draw.rectangle((0, 22, width, 28), fill=_shade(product.colour, 1.4))
    draw.rounded_rectangle((12, 40, width - 12, height - 14), 8, fill=(238, 238, 232))
    label = product.name
    draw.text((width // 2, 58), label, fill=(30, 30, 30), font=_font(22), anchor="mm")
    code = Image.fromarray(_qr_symbol(product.code))
    tray.paste(code, ((width - code.width) // 2, 74))
    draw.rectangle((0, 0, width - 1, height - 1), outline=_shade(product.colour, 0.5), width=2)
    return _frozen(tray)


def _ean_symbol(code: str) -> Pixels:
    symbol = zxingcpp.create_barcode(code, zxingcpp.BarcodeFormat.EAN13).to_image(scale=10)
    wide = np.asarray(symbol, dtype=np.uint8)
    size = (round(wide.shape[1] * _MODULE_PX / 10), 124)
    return np.asarray(cv2.resize(wide, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _qr_symbol(code: str) -> Pixels:
    symbol = zxingcpp.create_barcode(code, zxingcpp.BarcodeFormat.QRCode).to_image(scale=5)
    return np.array(symbol, dtype=np.uint8)


@functools.cache
def _empty_shelf(products: tuple[Product, ...]) -> Pixels:
    """Back wall, boards and price labels, RGB."""
    scene = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), (240, 238, 232))
    draw = ImageDraw.Draw(scene)
    for top in BOARDS_Y_PX:
        draw.rectangle((0, top - 300, WIDTH_PX, top), fill=(232, 229, 221))
        draw.rectangle((0, top - 300, WIDTH_PX, top - 276), fill=(208, 203, 193))
        draw.rectangle((0, top, WIDTH_PX, top + BOARD_PX), fill=(150, 112, 74))
        draw.rectangle((0, top, WIDTH_PX, top + 3), fill=(186, 146, 104))
        draw.rectangle((0, top + BOARD_PX, WIDTH_PX, top + BOARD_PX + 8), fill=(96, 74, 52))
    for product, bay in zip(products, BAYS, strict=True):
        _price_label(draw, product, bay)
    return _frozen(scene)


def _price_label(draw: ImageDraw.ImageDraw, product: Product, bay: Bay) -> None:
    left, top = bay.left_px + 8, BOARDS_Y_PX[bay.board] + 4
    draw.rectangle((left, top, left + 250, top + 27), fill=(244, 243, 236))
    draw.text((left + 10, top + 13), product.name, fill=(30, 30, 30), font=_font(19), anchor="lm")


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size_px: int) -> None:
    draw.text(at, text, fill=(250, 248, 242), font=_font(size_px), anchor="lm")


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(int(part * factor), 255) for part in colour)
    return red, green, blue


def _frozen(image: Image.Image) -> Pixels:
    pixels = np.array(image, dtype=np.uint8)
    pixels.setflags(write=False)
    return pixels


# What the camera makes of it


def _photograph(scene: Pixels, random: Random) -> bytes:
    tilted = cv2.warpAffine(
        scene,
        _tilt(random),
        (WIDTH_PX, HEIGHT_PX),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    soft = cv2.GaussianBlur(tilted, (5, 5), random.uniform(0.4, 0.7))
    exposed = cv2.multiply(soft, _lighting(random), scale=1 / 255, dtype=cv2.CV_8U)
    grained = cv2.add(exposed, _grain(random), dtype=cv2.CV_8U)
    quality = random.randint(75, 85)
    pixels = np.ascontiguousarray(grained, dtype=np.uint8)
    return bytes(simplejpeg.encode_jpeg(pixels, quality=quality))


def _tilt(random: Random) -> NDArray[np.float64]:
    centre = (WIDTH_PX / 2, HEIGHT_PX / 2)
    tilt = cv2.getRotationMatrix2D(centre, random.uniform(-2.0, 2.0), random.uniform(0.97, 1.0))
    tilt[:, 2] += np.array([random.uniform(-8, 8), random.uniform(-8, 8)])
    return np.asarray(tilt, dtype=np.float64)


def _lighting(random: Random) -> Pixels:
    """A lamp to one side: 255 is full light, down to about 80 % away from it."""
    corners = [[random.randint(200, 255) for _ in range(2)] for _ in range(2)]
    small = np.array(corners, dtype=np.uint8)
    plane = cv2.resize(small, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.merge([plane] * 3), dtype=np.uint8)


def _grain(random: Random) -> NDArray[np.int8]:
    """Sensor noise, a few grey levels; a window of one tile, which costs a tenth of new noise."""
    tile = _noise_tile()
    top, left = random.randrange(256), random.randrange(256)
    window = tile[top : top + HEIGHT_PX, left : left + WIDTH_PX]
    return np.asarray(np.rint(window * random.uniform(1.0, 3.0)), dtype=np.int8)


@functools.cache
def _noise_tile() -> NDArray[np.float32]:
    size = (HEIGHT_PX + 256, WIDTH_PX + 256, 3)
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32)
