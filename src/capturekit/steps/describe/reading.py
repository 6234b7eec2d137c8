"""Single values as models write them: ``"two"``, ``95``, ``"12/2027"``."""

import math
import re
import unicodedata
from calendar import monthrange
from datetime import date
from typing import Final

MAX_TEXT: Final = 120
"""Characters of a name, a brand and the like."""
MAX_QUANTITY: Final = 9_999
"""More packages than a picture can show."""

_NOTHING: Final = frozenset({"", "null", "none", "n/a", "na", "unknown", "-", "?", "not visible"})
_ONES: Final = re.findall(
    r"\w+",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty",
)
_COUNTS: Final = {word: at for at, word in enumerate(_ONES, 1)} | {
    "a": 1,
    "an": 1,
    "single": 1,
    "a couple": 2,
    "a pair": 2,
    "a dozen": 12,
    "dozen": 12,
}
_COUNT: Final = re.compile(r"(?:x|×|~|≈|about|approx\.?|ca\.?)? ?(\d{1,9})(?:\.0*)? ?([^\W\d]*)")
_UNITS: Final = frozenset({"g", "kg", "mg", "ml", "cl", "dl", "l", "oz", "lb", "lbs", "cm", "mm"})
_LEVELS: Final = {"certain": 0.95, "high": 0.9, "medium": 0.6, "moderate": 0.6, "low": 0.3}


def clean(value: object) -> str:
    """A text without control, format and unassigned characters, NFKC, on one line, cut.

    Raises ValueError for what is neither a text nor a number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        # pydantic turns a ValueError into its own; a TypeError would escape.
        raise ValueError(f"{type(value).__name__} is no text")  # noqa: TRY004
    # Normal forms of some characters are 18 long, so the cut comes first and last.
    plain = "".join(map(_plain, str(value)[: 4 * MAX_TEXT]))
    return " ".join(unicodedata.normalize("NFKC", plain).split())[:MAX_TEXT].strip()


def _plain(char: str) -> str:
    if char.isspace():
        return " "
    return "" if unicodedata.category(char).startswith("C") else char


def read_name(value: object) -> str:
    """A text that says something; else ValueError."""
    text = clean(value)
    if text.lower() in _NOTHING:
        raise ValueError("it has no name")
    return text


def read_text(value: object) -> str | None:
    """A text, or None for the many ways to say that there is none."""
    if value is None:
        return None
    text = clean(value)
    return None if text.lower() in _NOTHING else text


def read_quantity(value: object) -> int:
    """A count from 1 to 9,999; what was listed without one is there once. Else ValueError.

    Takes ``2``, ``2.0``, ``"two"``, ``"x2"``, ``"~2"``, ``"2 bottles"``; no ranges, no weights.
    """
    if value is None:
        return 1
    count = _count(clean(value).lower())
    if count is None or not 1 <= count <= MAX_QUANTITY:
        raise ValueError(f"its quantity is {clean(value)!r}")
    return count


def _count(text: str) -> int | None:
    if text in _COUNTS:
        return _COUNTS[text]
    match = _COUNT.fullmatch(text)
    return int(match[1]) if match and match[2] not in _UNITS else None


def read_confidence(value: object) -> float:
    """From 0 to 1. Over 1 and up to 100 is percent; what cannot be read is 0."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return 0.0
    text = clean(value).lower().removesuffix("%").strip()
    if text in _LEVELS:
        return _LEVELS[text]
    try:
        number = float(text)
    except ValueError:
        return 0.0
    if clean(value).endswith("%") or 1 < number <= 100:
        number /= 100
    return number if math.isfinite(number) and 0 <= number <= 1 else 0.0


# Dates

_MONTHS: Final = re.findall("...", "janfebmaraprmayjunjulaugsepoctnovdec")
_LABEL: Final = re.compile(r"^(?:best before(?: end)?|use by|expiry|expires|exp|bbe|bb|mhd)[:.]? ?")
_YEAR_FIRST: Final = re.compile(r"(\d{4})[-/. ](\d{1,2})(?:[-/. ](\d{1,2}))?(?:t.*)?")
_MONTH_YEAR: Final = re.compile(r"(\d{1,2})[-/. ](\d{4})")
_YEAR_LAST: Final = re.compile(r"(\d{1,2})([-/. ])(\d{1,2})\2(\d{4}|\d{2})")
_NAMED: Final = re.compile(r"(?:(\d{1,2})[-/. ]*)?([a-z]{3})[a-z]*[-/. ]*(\d{4})")


def date_of(text: str) -> date | None:
    """The day that a printed date means; of a month its last day. None when it is not certain.

    ``03/04/2027`` may be in March or in April: None. ``03.04.2027`` is in April.
    """
    text = _LABEL.sub("", text.strip().lower())
    if match := _YEAR_FIRST.fullmatch(text):
        return _day(match[1], match[2], match[3])
    if match := _MONTH_YEAR.fullmatch(text):
        return _day(match[2], match[1], None)
    if match := _NAMED.fullmatch(text):
        month = _MONTHS.index(match[2]) + 1 if match[2] in _MONTHS else 0
        return _day(match[3], month, match[1])
    if match := _YEAR_LAST.fullmatch(text):
        return _year_last(match[1], match[3], match[4], match[2])
    return None


def _year_last(first: str, second: str, year: str, separator: str) -> date | None:
    year = year if len(year) == 4 else f"20{year}"
    if separator == "." or int(first) > 12 or first == second:
        return _day(year, second, first)
    return _day(year, first, second) if int(second) > 12 else None


def _day(year: str | int, month: str | int, day: str | int | None) -> date | None:
    year, month = int(year), int(month)
    if not (2000 <= year <= 2100 and 1 <= month <= 12):
        return None
    last = monthrange(year, month)[1]
    number = last if day is None else int(day)
    return date(year, month, number) if 1 <= number <= last else None
