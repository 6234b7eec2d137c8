"""Catalogues as JSON: a list of each kind of thing."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


class _Entry(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)


class LocationEntry(_Entry):
    """A place in a file."""

    id: str
    name: str | None = None
    parent: str | None = None


class CodeEntry(_Entry):
    """A code of an item in a file."""

    code: str
    quantity: Annotated[int, Field(ge=1)] = 1


class CatalogueItem(_Entry):
    """An item in a file."""

    id: str
    name: str | None = None
    unit: str | None = None
    codes: list[CodeEntry] = []


class LevelEntry(_Entry):
    """A par level in a file."""

    item: str
    location: str
    minimum: Annotated[int, Field(ge=0)]
    restock_at: Annotated[int | None, Field(ge=1)] = None
    min_confidence: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0


class CountEntry(_Entry):
    """A count in a file."""

    item: str
    location: str
    quantity: Annotated[int, Field(ge=0)]


class Document(_Entry):
    """A whole file."""

    locations: list[LocationEntry] = []
    items: list[CatalogueItem] = []
    par_levels: list[LevelEntry] = []
    counts: list[CountEntry] = []


def parse(content: bytes, faults: Faults) -> Catalogue:
    """What the file says; what is wrong with it is added to ``faults``.

    The row of a fault is the place in its list, from 1 on.
    """
    try:
        document = Document.model_validate_json(content.removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        for one in error.errors(include_url=False, include_context=False):
            numbers = [part for part in one["loc"] if isinstance(part, int)]
            column = ".".join(part for part in one["loc"] if isinstance(part, str))
            row = numbers[0] + 1 if numbers else 1
            given = "" if isinstance(one["input"], (bytes, dict, list)) else one["input"]
            faults.add(row, column, given, one["msg"])
        return Catalogue()
    catalogue = _catalogue(document)
    if catalogue.size() > MAX_ROWS:
        faults.add(1, "", "", f"a file says at most {MAX_ROWS:,} things: split it")
    _check_texts(catalogue, faults)
    return catalogue


def written(catalogue: Catalogue) -> bytes:
    """The catalogue as indented JSON."""
    codes: dict[str, list[CodeEntry]] = {}
    for code in catalogue.codes:
        codes.setdefault(code.item, []).append(CodeEntry(code=code.code, quantity=code.quantity))
    document = Document(
        locations=[
            LocationEntry(id=one.id, name=one.name, parent=one.parent)
            for one in catalogue.locations
        ],
        items=[
            CatalogueItem(id=one.id, name=one.name, unit=one.unit, codes=codes.get(one.id, []))
            for one in catalogue.items
        ],
        par_levels=[
            LevelEntry(
                item=one.item,
                location=one.location,
                minimum=one.minimum,
                restock_at=one.restock_at,
                min_confidence=one.min_confidence,
            )
            for one in catalogue.levels
        ],
        counts=[
            CountEntry(item=one.item, location=one.location, quantity=one.quantity)
            for one in catalogue.counts
        ],
    )
    return document.model_dump_json(indent=2, exclude_none=True).encode() + b"\n"


def _catalogue(document: Document) -> Catalogue:
    items = list(enumerate(document.items, start=1))
    return Catalogue(
        [LocationRow(n, x.id, x.name, x.parent) for n, x in enumerate(document.locations, 1)],
        [ItemRow(n, x.id, x.name, x.unit) for n, x in items],
        [CodeRow(n, code.code, x.id, code.quantity) for n, x in items for code in x.codes],
        [
            LevelRow(n, x.item, x.location, x.minimum, x.restock_at, x.min_confidence)
            for n, x in enumerate(document.par_levels, 1)
        ],
        [CountRow(n, x.item, x.location, x.quantity) for n, x in enumerate(document.counts, 1)],
    )


def _check_texts(catalogue: Catalogue, faults: Faults) -> None:
    texts = [
        *((one.row, "locations.id", one.id) for one in catalogue.locations),
        *((one.row, "locations.name", one.name) for one in catalogue.locations),
        *((one.row, "items.id", one.id) for one in catalogue.items),
        *((one.row, "items.name", one.name) for one in catalogue.items),
        *((one.row, "items.unit", one.unit) for one in catalogue.items),
        *((one.row, "items.codes.code", one.code) for one in catalogue.codes),
    ]
    for row, column, text in texts:
        if text is not None and (message := text_fault(text)):
            faults.add(row, column, text, message)
