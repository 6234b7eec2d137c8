"""What GS1 data in a code says: product, lot, dates, counts and weight, by their identifiers.

Labels are printed by strangers: what is wrong with one is told as data, and the rest still
counts. Source: GS1 General Specifications, "GS1 Application Identifiers" and "Element strings";
GS1 Digital Link Standard, "URI Syntax".
"""

import calendar
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import JsonValue

from capturekit.steps.gtin import has_check_digit, is_digits, is_gtin, normal_form

SEPARATOR: Final = "\x1d"
"""FNC1 as readers hand it on: it ends a value that may be shorter than the longest."""

THIS_YEAR: Final = 2026
"""Years of two digits lie at most 49 before and 50 after it ("Determination of century in
dates"). A constant, so that the same picture gives the same answer next year."""


class Element(NamedTuple):
    """One identifier and its value, as printed."""

    ai: str
    """The application identifier: 2 to 4 digits, such as ``01`` or ``3103``."""
    value: str


@dataclass(frozen=True, slots=True)
class Gs1:
    """What one label says. None is what it does not say, or says wrongly."""

    elements: tuple[Element, ...] = ()
    """All that was found, in the order of the label."""
    gtin: str | None = None
    """(01), the product that carries the label, in its normal form; see ``gtin.normal_form``."""
    content_gtin: str | None = None
    """(02), the product inside, on a case or pallet."""
    lot: str | None = None
    """(10)."""
    serial: str | None = None
    """(21)."""
    production: date | None = None
    """(11)."""
    best_before: date | None = None
    """(15)."""
    expiry: date | None = None
    """(17). A label that gives no day means the last of the month."""
    count: int | None = None
    """(37), how many of ``content_gtin`` are inside; or (30), how many pieces of a product that
    is sold by weight or number."""
    net_weight_kg: float | None = None
    """(310n)."""
    errors: tuple[str, ...] = ()
    """What is wrong with the label, in words; empty when it follows the standard."""

    def as_json(self) -> dict[str, JsonValue]:
        """As the object under ``gs1``: only what the label says; dates are ISO 8601."""
        said: dict[str, JsonValue] = {
            "gtin": self.gtin,
            "content_gtin": self.content_gtin,
            "lot": self.lot,
            "serial": self.serial,
            "production": _iso(self.production),
            "best_before": _iso(self.best_before),
            "expiry": _iso(self.expiry),
            "count": self.count,
            "net_weight_kg": self.net_weight_kg,
        }
        present = {key: value for key, value in said.items() if value is not None}
        elements: list[JsonValue] = [[element.ai, element.value] for element in self.elements]
        errors: list[JsonValue] = [*self.errors]
        return {**present, "elements": elements, **({"errors": errors} if errors else {})}


def parse(text: str) -> Gs1:
    """What an element string says, as a reader hands it on: never raises.

    Without brackets; ``SEPARATOR`` behind each value that is not of a fixed length.
    """
    elements: list[Element] = []
    errors: list[str] = []
    rest = text.lstrip(SEPARATOR)
    while rest:
        ai = _identifier(rest)
        if ai is None:
            errors.append(f"{_short(rest)} begins with no known identifier")
            break
        value, rest = _cut(ai, rest[len(ai) :])
        elements.append(Element(ai, value))
    return _meaning(elements, errors)


def parse_link(url: str) -> Gs1 | None:
    """What a GS1 Digital Link says; None for any other URL or text: never raises.

    A link has ``/01/`` and a GTIN in its path, pairs of identifier and value behind it, and
    more of them in its query.
    """
    if not url.lower().startswith(("http://", "https://")):
        return None
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return None
    path = parts.path.split("/")
    start = next((at for at in range(len(path) - 1) if _is_product(*path[at : at + 2])), None)
    if start is None:
        return None
    # Not strict: a last segment without a partner is no pair.
    pairs = zip(path[start::2], map(unquote, path[start + 1 :: 2]), strict=False)
    known = [Element(ai, value) for ai, value in (*pairs, *query) if _identifier(ai) == ai]
    return _meaning(known, [])


def _is_product(ai: str, value: str) -> bool:
    return ai == "01" and is_gtin(value)


_DATES: Final = {"11": "production", "15": "best_before", "17": "expiry"}

_FIXED: Final = {
    "00": 18, "01": 14, "02": 14, "03": 14, "11": 6, "12": 6, "13": 6, "15": 6, "16": 6, "17": 6,
    "20": 2, "31": 6, "32": 6, "33": 6, "34": 6, "35": 6, "36": 6, "41": 13,
}  # fmt: skip
"""Characters of a value by the first two digits of its identifier, where no separator follows
("Element strings with predefined length")."""

_IDENTIFIER: Final = re.compile(
    r"0[0-3]|1[0-35-7]|2[0-2]|30|37|9[0-9]"
    r"|235|24[0-3]|25[0-5]|40[0-3]|41[0-7]|42[0-7]|71[0-9]"
    r"|3[1-6][0-9]{2}|39[0-9]{2}|43[0-9]{2}|70[0-9]{2}|72[0-9]{2}|80[0-9]{2}|81[0-9]{2}|8200",
    re.ASCII,
)
_LONGEST: Final = {"10": 20, "21": 20, "22": 20, "30": 8, "37": 8}
_LONGEST_OF_ALL: Final = 90
_TEXT: Final = re.compile(r"[!\"%-?A-Z_a-z]+")
"""GS1 AI encodable character set 82."""


def _identifier(text: str) -> str | None:
    match = _IDENTIFIER.match(text)
    return match[0] if match else None


def _cut(ai: str, text: str) -> tuple[str, str]:
    """The value at the start of the text, and what comes after it."""
    length = _FIXED.get(ai[:2])
    end = text.find(SEPARATOR)
    end = len(text) if end < 0 else end
    if length is not None:
        end = min(end, length)
    return text[:end], text[end:].lstrip(SEPARATOR)


def _meaning(elements: Iterable[Element], errors: Iterable[str]) -> Gs1:
    said: dict[str, str] = {}
    wrong = [*errors]
    kept = tuple(elements)
    for ai, value in kept:
        if said.setdefault(ai, value) != value:
            wrong.append(f"({ai}) is there twice, with different values")
        wrong.extend(_faults(ai, value))
    dates = {name: _date(said.get(ai, "")) for ai, name in _DATES.items()}
    return Gs1(
        elements=kept,
        gtin=_gtin(said.get("01", "")),
        content_gtin=_gtin(said.get("02", "")),
        lot=said.get("10") or None,
        serial=said.get("21") or None,
        production=dates["production"],
        best_before=dates["best_before"],
        expiry=dates["expiry"],
        count=_count(said.get("37", said.get("30", ""))),
        net_weight_kg=_weight(said),
        errors=tuple(wrong),
    )


def _faults(ai: str, value: str) -> Iterator[str]:
    """What is wrong with one value."""
    length = _FIXED.get(ai[:2])
    if length is not None and (len(value) != length or not is_digits(value)):
        yield f"({ai}) {_short(value)} is not {length} digits"
    elif length is None and not 1 <= len(value) <= _LONGEST.get(ai, _LONGEST_OF_ALL):
        yield f"({ai}) has {len(value)} characters"
    elif ai in {"00", "01", "02", "03"} and not has_check_digit(value):
        yield f"({ai}) {value} has a wrong check digit"
    elif ai in _DATES and _date(value) is None:
        yield f"({ai}) {value} is no date"
    elif ai in {"30", "37"} and _count(value) is None:
        yield f"({ai}) {_short(value)} is no number"
    elif not _TEXT.fullmatch(value):
        yield f"({ai}) {_short(value)} has characters that GS1 data cannot have"


def _gtin(value: str) -> str | None:
    return normal_form(value) if is_gtin(value) else None


def _date(value: str) -> date | None:
    """YYMMDD; day 00 is the last of the month."""
    if len(value) != len("YYMMDD") or not is_digits(value):
        return None
    year, month, day = int(value[:2]), int(value[2:4]), int(value[4:])
    year = THIS_YEAR - 49 + (year - THIS_YEAR + 49) % 100
    try:
        return date(year, month, day or calendar.monthrange(year, month)[1])
    except ValueError:
        return None


def _count(value: str) -> int | None:
    return int(value) if is_digits(value) and len(value) <= _LONGEST["37"] else None


def _weight(said: dict[str, str]) -> float | None:
    """Six digits; the last of the identifier says how many stand behind the point."""
    weights = ((ai, value) for ai, value in said.items() if re.fullmatch(r"310[0-5]", ai))
    ai, value = next(weights, ("", ""))
    if len(value) != _FIXED["31"] or not is_digits(value):
        return None
    return float(f"{value}e-{ai[3]}")


def _iso(day: date | None) -> str | None:
    return day.isoformat() if day else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 20 else text[:20] + "…")
