"""Catalogues as CSV: one wide table, of which each row says what it has cells for.

Files come from spreadsheets of strangers. Whatever is wrong is told by row and column; rows are
numbered as a spreadsheet does, the heading is row 1.
"""

import csv
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from capturekit.store.exchange.catalogue import (
    MAX_ROWS,
    Catalogue,
    CodeRow,
    CountRow,
    Faults,
    ItemRow,
    LevelRow,
    LocationRow,
    text_fault,
)

COLUMNS: Final = (
    "item",
    "name",
    "unit",
    "code",
    "pack_size",
    "location",
    "location_name",
    "parent",
    "minimum",
    "restock_at",
    "min_confidence",
    "count",
)

MAX_COLUMNS: Final = 50
"""Spreadsheets leave empty ones at the end."""

_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("item",),
    "unit": ("item",),
    "code": ("item",),
    "pack_size": ("code",),
    "location_name": ("location",),
    "parent": ("location",),
    "minimum": ("item", "location"),
    "restock_at": ("minimum",),
    "min_confidence": ("minimum",),
    "count": ("item", "location"),
}
"""Cells without which another says nothing."""

_NUMBERS: Final = ("pack_size", "minimum", "restock_at", "count")
_FORMULA: Final = "=+\\-@\\t\\r"
_ESCAPED: Final = re.compile(f"'[{_FORMULA}']")
_TO_ESCAPE: Final = re.compile(f"[{_FORMULA}]|'[{_FORMULA}']")
_FLOATING: Final = re.compile(r"\d[.,]\d+[eE]\+\d+")


def parse(content: bytes, faults: Faults) -> Catalogue:
    """What the file says, as far as it can be understood; the rest is added to ``faults``."""
    catalogue = Catalogue()
    text = _decoded(content, faults)
    if text is None:
        return catalogue
    rows = _rows(text, faults)
    names = _heading(next(rows, []), faults)
    if names is None:
        return catalogue
    for number, cells in enumerate(rows, start=2):
        if number > MAX_ROWS + 1:
            faults.add(number, "", "", f"a file has at most {MAX_ROWS:,} rows: split it")
            break
        if len(cells) > len(names):
            message = f"the row has {len(cells):,} cells under {len(names)} headings: quote commas"
            faults.add(number, "", "", message)
            continue
        paired = zip(names, cells, strict=False)
        filled = {name: _plain(cell) for name, cell in paired if name and cell}
        _take(number, filled, catalogue, faults)
    return catalogue


def written(catalogue: Catalogue) -> bytes:
    """The catalogue as CSV, in UTF-8.

    A cell that a spreadsheet would take for a formula gets an apostrophe in front, which
    ``parse`` takes away again.
    """
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in _records(catalogue):
        said = {name: value for name, value in row.items() if value is not None}
        writer.writerow({name: _escaped(str(value)) for name, value in said.items()})
    return out.getvalue().encode()


def _records(catalogue: Catalogue) -> Iterator[dict[str, object]]:
    for place in catalogue.locations:
        yield {"location": place.id, "location_name": place.name, "parent": place.parent}
    for item in catalogue.items:
        yield {"item": item.id, "name": item.name, "unit": item.unit}
    for code in catalogue.codes:
        yield {"item": code.item, "code": code.code, "pack_size": code.quantity}
    for level in catalogue.levels:
        yield {
            "item": level.item,
            "location": level.location,
            "minimum": level.minimum,
            "restock_at": level.restock_at,
            "min_confidence": level.min_confidence,
        }
    for count in catalogue.counts:
        yield {"item": count.item, "location": count.location, "count": count.quantity}


def _escaped(text: str) -> str:
    return f"'{text}" if _TO_ESCAPE.match(text) else text


def _plain(cell: str) -> str:
    return cell[1:] if _ESCAPED.match(cell) else cell


def _decoded(content: bytes, faults: Faults) -> str | None:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        faults.add(1, "", "", "the file is UTF-16: save it as CSV in UTF-8")
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        given = content[max(0, error.start - 10) : error.start + 10]
        faults.add(row, "", given, "the file is not UTF-8: save it as CSV in UTF-8")
        return None
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        faults.add(row, "", "NUL", "the file has NUL characters: save it as CSV in UTF-8")
        return None
    return text


def _rows(text: str, faults: Faults) -> Iterator[Sequence[str]]:
    """Rows as far as they can be read; blank ones are rows without cells."""
    heading = text.partition("\n")[0]
    delimiter = max(",;\t", key=heading.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        for cells in reader:
            number += 1
            yield cells
    except csv.Error as error:
        faults.add(number + 1, "", "", f"the row cannot be read: {error}; look at its quotes")


def _heading(cells: Sequence[str], faults: Faults) -> list[str] | None:
    """The columns' names; a column without one is left out. None when there is a fault."""
    names = [cell.strip().lower() for cell in cells[:MAX_COLUMNS]]
    if len(cells) > MAX_COLUMNS:
        faults.add(1, "", "", f"{len(cells):,} columns: there are {', '.join(COLUMNS)}")
        return None
    if not any(names):
        faults.add(1, "", "", f"the first row names the columns: {', '.join(COLUMNS)}")
        return None
    before = len(faults)
    for name in sorted({name for name in names if name}):
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, 1)
            wanted = f"did you mean {near[0]!r}" if near else f"there are {', '.join(COLUMNS)}"
            faults.add(1, name, name, f"no such column: {wanted}")
        elif names.count(name) > 1:
            faults.add(1, name, name, "the column is there twice: remove one")
    return names if len(faults) == before else None


def _take(number: int, cells: Mapping[str, str], catalogue: Catalogue, faults: Faults) -> None:
    """Add what the row says to the catalogue, or what is wrong with it to the faults."""
    before = len(faults)
    numbers = _checked(number, cells, faults)
    if len(faults) > before or not cells:
        return
    item, location = cells.get("item"), cells.get("location")
    if location is not None and (item is None or cells.keys() & {"location_name", "parent"}):
        place = LocationRow(number, location, cells.get("location_name"), cells.get("parent"))
        catalogue.locations.append(place)
    if item is None:
        return
    catalogue.items.append(ItemRow(number, item, cells.get("name"), cells.get("unit")))
    if "code" in cells:
        quantity = numbers.get("pack_size", 1)
        catalogue.codes.append(CodeRow(number, cells["code"], item, quantity))
    if location is not None and "minimum" in numbers:
        restock_at = numbers.get("restock_at")
        certain = float(cells.get("min_confidence", "0"))
        level = LevelRow(number, item, location, numbers["minimum"], restock_at, certain)
        catalogue.levels.append(level)
    if location is not None and "count" in numbers:
        catalogue.counts.append(CountRow(number, item, location, numbers["count"]))


def _checked(number: int, cells: Mapping[str, str], faults: Faults) -> dict[str, int]:
    """The row's whole numbers, after a look at all of its cells."""
    numbers: dict[str, int] = {}
    for name, cell in cells.items():
        missing = [one for one in _NEEDS.get(name, ()) if one not in cells]
        if missing:
            faults.add(number, name, cell, f"needs {' and '.join(missing)} in the same row")
        elif name in _NUMBERS:
            if re.fullmatch(r"[0-9]{1,10}", cell.strip()):
                numbers[name] = int(cell)
            else:
                faults.add(number, name, cell, "is no whole number: give digits alone")
        elif name == "min_confidence":
            if not re.fullmatch(r"[01](\.[0-9]{1,17})?", cell.strip()):
                faults.add(number, name, cell, "is no number from 0 to 1, such as 0.8")
        elif message := text_fault(cell) or _float_fault(name, cell):
            faults.add(number, name, cell, message)
    return numbers


def _float_fault(name: str, cell: str) -> str | None:
    if name == "code" and _FLOATING.fullmatch(cell):
        return "was rounded by a spreadsheet: format the column as text and enter it again"
    return None
