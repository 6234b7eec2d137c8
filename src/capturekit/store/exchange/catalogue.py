"""What a file says, whatever its form, and what is wrong with it row by row."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from capturekit.errors import ImportFault
from capturekit.store.changes import Key

MAX_FAULTS: Final = 100
"""Faults that are told of one file; who has more has one that repeats."""

MAX_IMPORT_BYTES: Final = 4 * 1024 * 1024
MAX_ROWS: Final = 10_000
"""An import is one transaction, in which nobody else writes: 4 s on SQLite and 15 s on Postgres
for so many new items, each with a code and a count."""

MAX_SHOWN: Final = 40
"""Characters of a cell that a fault repeats."""

MAX_TEXT: Final = 200
"""Characters of a name or id."""


class ExchangeFormat(StrEnum):
    """The form of a file."""

    CSV = "csv"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class LocationRow:
    """A place. None is what the file leaves as it is."""

    row: int
    id: str
    name: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class ItemRow:
    """An item. One without a name must be known already."""

    row: int
    id: str
    name: str | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class CodeRow:
    """A code, and how many of the item it stands for."""

    row: int
    code: str
    item: str
    quantity: int = 1


@dataclass(frozen=True, slots=True)
class LevelRow:
    """A par level."""

    row: int
    item: str
    location: str
    minimum: int
    restock_at: int | None = None
    min_confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class CountRow:
    """How much there is of an item in a place."""

    row: int
    item: str
    location: str
    quantity: int

    def key(self) -> Key:
        """What it counts."""
        return Key(self.item, self.location)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that a file says."""

    locations: list[LocationRow] = field(default_factory=list)
    items: list[ItemRow] = field(default_factory=list)
    codes: list[CodeRow] = field(default_factory=list)
    levels: list[LevelRow] = field(default_factory=list)
    counts: list[CountRow] = field(default_factory=list)

    def size(self) -> int:
        """How many things it says."""
        named = len(self.locations) + len(self.items) + len(self.codes)
        return named + len(self.levels) + len(self.counts)


class Faults(list[ImportFault]):
    """What is wrong with a file, as far as it is told."""

    def add(self, row: int, column: str, given: object, message: str) -> None:
        """Note one more; ``message`` says what to do."""
        if len(self) < MAX_FAULTS:
            text = str(given)
            shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
            self.append(ImportFault(row, column, shown, message))


def text_fault(text: str) -> str | None:
    """What is wrong with a name or id; None when nothing is."""
    if not text.strip():
        return "is empty: give at least one letter or digit"
    if len(text) > MAX_TEXT:
        return f"has {len(text)} characters: at most {MAX_TEXT} are taken"
    if any(not one.isprintable() for one in text):
        return "has line breaks or characters that cannot be printed: remove them"
    return None
