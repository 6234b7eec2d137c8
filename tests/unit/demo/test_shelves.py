"""Shelves whose stock is known, and pictures in which every code can be read."""

from collections import Counter
from random import Random

import pytest
import simplejpeg
import zxingcpp

from capturekit.demo.shelves import (
    BAYS,
    BINS,
    HEIGHT_PX,
    PRODUCTS,
    WIDTH_PX,
    Shelf,
    ean13,
    product_name,
)

READ = zxingcpp.barcode_formats_from_str("EAN13|QRCode")
RENDERS = 200
BATCHES = 10


def codes_in(picture: bytes) -> Counter[str]:
    gray = simplejpeg.decode_jpeg(picture, colorspace="GRAY")
    return Counter(found.text for found in zxingcpp.read_barcodes(gray, formats=READ))


def on_the_shelf(shelf: Shelf) -> Counter[str]:
    return +Counter(shelf.stock)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_code_of_every_picture_is_read(batch: int) -> None:
    random = Random(batch)
    for _ in range(RENDERS // BATCHES):
        shelf = Shelf.filled("shelf-1", random)
        shelf.change(random)

        assert codes_in(shelf.picture(random)) == on_the_shelf(shelf)


def test_a_picture_is_a_jpeg_of_the_size_a_small_camera_sends() -> None:
    picture = Shelf.filled("shelf-1", Random(1)).picture(Random(1))

    height, width, _, _ = simplejpeg.decode_jpeg_header(picture)
    assert (width, height) == (WIDTH_PX, HEIGHT_PX)
    assert 100_000 < len(picture) < 400_000


def test_the_same_seed_gives_the_same_picture() -> None:
    first, second = (Shelf.filled("shelf-1", Random(7)) for _ in range(2))

    assert first.stock == second.stock
    assert first.picture(Random(7)) == second.picture(Random(7))


def test_an_empty_shelf_shows_no_code() -> None:
    shelf = Shelf("shelf-1", PRODUCTS[: len(BAYS)], {each.code: 0 for each in PRODUCTS})

    assert not codes_in(shelf.picture(Random(0)))


def test_changes_stay_between_nothing_and_a_full_bay() -> None:
    random = Random(3)
    shelf = Shelf.filled("shelf-1", random)
    most = {each.code: bay.facings for each, bay in zip(shelf.products, BAYS, strict=True)}
    seen: set[str] = set()

    for _ in range(300):
        seen.add(shelf.change(random).rpartition(" ")[2])
        assert all(0 <= count <= most[code] for code, count in shelf.stock.items())

    assert seen == {"taken", "back", "restocked", "at"}


def test_a_change_touches_one_product() -> None:
    random = Random(4)
    shelf = Shelf.filled("shelf-1", random)

    before = shelf.stock
    shelf.change(random)

    assert sum(before[code] != count for code, count in shelf.stock.items()) <= 1


def test_stock_is_a_copy() -> None:
    shelf = Shelf.filled("shelf-1", Random(5))

    shelf.stock.clear()

    assert shelf.stock


def test_a_shelf_has_articles_and_bins() -> None:
    products = Shelf.filled("shelf-1", Random(6)).products

    assert [each.is_bin for each in products] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("stem", "code"), [("400638133393", "4006381333931"), ("978020137962", "9780201379624")]
)
def test_ean13_adds_the_check_digit(stem: str, code: str) -> None:
    assert ean13(stem) == code


def test_codes_are_all_different() -> None:
    codes = [each.code for each in (*PRODUCTS, *BINS)]

    assert len(set(codes)) == len(codes)


def test_a_product_is_named_by_its_code() -> None:
    assert product_name(PRODUCTS[0].code) == PRODUCTS[0].name
    assert product_name("unknown") == "unknown"
