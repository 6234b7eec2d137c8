from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.steps import gs1, gtin
from capturekit.steps.gs1 import SEPARATOR, Element

GTIN = "09501101530003"
FIXED = {"01": 14, "02": 14, "11": 6, "15": 6, "17": 6, "3103": 6, "410": 13, "00": 18}


def composed(*pairs: tuple[str, str]) -> str:
    """An element string, as a reader hands it on."""
    return "".join(f"{ai}{value}{'' if ai in FIXED else SEPARATOR}" for ai, value in pairs)


def test_a_case_label_tells_product_lot_and_expiry() -> None:
    said = gs1.parse(composed(("01", GTIN), ("17", "260731"), ("10", "AB-123"), ("21", "12")))

    assert (said.gtin, said.lot, said.serial) == ("9501101530003", "AB-123", "12")
    assert said.expiry == date(2026, 7, 31)
    assert said.errors == ()


def test_a_pallet_label_tells_what_is_inside_and_how_many() -> None:
    said = gs1.parse(composed(("02", GTIN), ("37", "48"), ("3103", "012500"), ("11", "260102")))

    assert (said.gtin, said.content_gtin, said.count) == (None, "9501101530003", 48)
    assert (said.net_weight_kg, said.production) == (12.5, date(2026, 1, 2))


@pytest.mark.parametrize(
    ("yymmdd", "day"),
    [
        ("260200", date(2026, 2, 28)),
        ("280200", date(2028, 2, 29)),
        ("261200", date(2026, 12, 31)),
        ("760101", date(2076, 1, 1)),
        ("770101", date(1977, 1, 1)),
    ],
)
def test_day_00_is_the_last_of_the_month_and_years_are_near(yymmdd: str, day: date) -> None:
    said = gs1.parse(composed(("15", yymmdd)))

    assert (said.best_before, said.errors) == (day, ())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("0109501101530004", "(01) 09501101530004 has a wrong check digit"),
        ("17261332", "(17) 261332 is no date"),
        ("1726", "(17) '26' is not 6 digits"),
        ("37x", "(37) 'x' is no number"),
        ("10" + "A" * 21, "(10) has 21 characters"),
        ("10", "(10) has 0 characters"),
        ("10a b", "(10) 'a b' has characters that GS1 data cannot have"),
        ("xyz", "'xyz' begins with no known identifier"),
        (f"10A{SEPARATOR}10B", "(10) is there twice, with different values"),
    ],
)
def test_what_is_wrong_is_told_as_data(text: str, error: str) -> None:
    assert error in gs1.parse(text).errors


def test_what_stands_before_and_beside_a_fault_still_counts() -> None:
    said = gs1.parse(composed(("01", GTIN), ("17", "269999"), ("10", "A")) + "ZZZ")

    assert (said.gtin, said.lot, said.expiry) == ("9501101530003", "A", None)
    assert len(said.errors) == 2


def test_a_wrong_check_digit_names_no_product() -> None:
    said = gs1.parse("0109501101530004")

    assert (said.gtin, said.elements) == (None, (Element("01", "09501101530004"),))


printable = st.text(
    st.sampled_from([chr(c) for c in range(33, 123) if chr(c) not in "#$@[\\]^`"]),
    min_size=1,
    max_size=20,
)
numbers = st.integers(0, 10**13 - 1).map(lambda n: f"{n:013d}" + gtin.check_digit(f"{n:013d}"))
days = st.dates(date(1977, 1, 1), date(2076, 12, 31)).map(lambda day: f"{day:%y%m%d}")
elements = st.fixed_dictionaries(
    {"01": numbers},
    optional={
        "10": printable,
        "21": printable,
        "240": printable,
        "8008": printable,
        "91": printable,
        "17": days,
        "15": days,
        "3103": st.from_regex(r"[0-9]{6}", fullmatch=True),
        "37": st.integers(0, 10**8 - 1).map(str),
    },
)


@given(elements, st.randoms(use_true_random=False))
def test_what_was_composed_is_found_again(said: dict[str, str], random: object) -> None:
    pairs = list(said.items())
    random.shuffle(pairs)  # type: ignore[attr-defined]  # Hypothesis does not name its type

    found = gs1.parse(composed(*pairs))

    assert (found.elements, found.errors) == (tuple(Element(*pair) for pair in pairs), ())
    assert found.gtin == gtin.normal_form(said["01"])
    assert (found.lot, found.serial) == (said.get("10"), said.get("21"))
    assert found.count == (int(said["37"]) if "37" in said else None)


hostile = st.text(st.sampled_from([*"0123456789", SEPARATOR, "A", "(", "²", "٣", "\x00"]))


@given(hostile | st.text())
def test_no_text_raises(text: str) -> None:
    said = gs1.parse(text)

    assert sum(len(e.ai) + len(e.value) for e in said.elements) <= len(text)
    said.as_json()


@given(st.text() | hostile.map(lambda text: f"https://x/01/{GTIN}/{text}?{text}"))
def test_no_url_raises(url: str) -> None:
    gs1.parse_link(url)


def test_a_digital_link_says_the_same_as_a_label() -> None:
    said = gs1.parse_link(
        f"https://shop.example/a/01/{GTIN}/10/AB%2F1/21/7?17=260731&x=1&3103=001500"
    )

    assert said is not None
    assert (said.gtin, said.lot, said.serial) == ("9501101530003", "AB/1", "7")
    assert (said.expiry, said.net_weight_kg, said.errors) == (date(2026, 7, 31), 1.5, ())


@pytest.mark.parametrize(
    "url",
    [
        "https://shelf.example/17",
        "https://shelf.example/01/12345",
        f"ftp://x/01/{GTIN}",
        "http://[",
        f"{GTIN}",
        "https://x/01",
    ],
)
def test_another_url_is_no_digital_link(url: str) -> None:
    assert gs1.parse_link(url) is None


def test_json_has_what_the_label_says_and_nothing_else() -> None:
    said = gs1.parse(composed(("01", GTIN), ("17", "260700")))

    assert said.as_json() == {
        "gtin": "9501101530003",
        "expiry": "2026-07-31",
        "elements": [["01", GTIN], ["17", "260700"]],
    }
    assert gs1.parse("x").as_json()["errors"] == ["'x' begins with no known identifier"]
