"""What stock is kept for, what changed in it, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, tuple_

from capturekit.store.schema import ADJUSTED


class Key(NamedTuple):
    """What stock is kept for."""

    item_id: str
    location_id: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why stock was folded anew; every move names it."""

    kind: str
    """``run``, ``choice``, ``verdict``, ``policy``, ``movement``, ``void``, ``code`` or
    ``import``."""
    id: str
    at: float
    elsewhere: str = ADJUSTED
    """The virtual location that gives or takes what no real one does."""
    is_transfer: bool = False
    """True when what one real location loses is what another gains."""


@dataclass(frozen=True, slots=True)
class StockChange:
    """What a refold did to the quantity of one key."""

    item_id: str
    location_id: str
    before: int
    after: int
    confidence: float | None = field(default=None, compare=False)
    """That of the figure it is now; None where nothing was counted."""

    @property
    def delta(self) -> int:
        """Units gained, or lost when negative."""
        return self.after - self.before


class Rehearsed(Exception):  # no error of ours: it undoes the transaction that it leaves
    """Carries what a dry run would have changed."""

    def __init__(self, changes: Sequence[StockChange]) -> None:
        super().__init__("a dry run")
        self.changes = merged(changes)


def merged(changes: Sequence[StockChange]) -> list[StockChange]:
    """What changes one after the other did to each key, where they did anything."""
    last: dict[Key, StockChange] = {}
    for change in changes:
        key = Key(change.item_id, change.location_id)
        before = last[key].before if key in last else change.before
        last[key] = replace(change, before=before)
    return [change for _, change in sorted(last.items()) if change.delta]


def is_among(item_id: ColumnElement[str], location_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a row is of one of the keys that the statement is given by ``key_values``."""
    # By itself SQLite looks up one pair and scans for more; single values it looks up.
    return and_(
        item_id.in_(bindparam("items", expanding=True)),
        tuple_(item_id, location_id).in_(bindparam("keys", expanding=True)),
    )


def key_values(keys: Sequence[Key]) -> dict[str, object]:
    """The parameters of ``is_among``, three for each key."""
    return {"keys": list(keys), "items": sorted({key.item_id for key in keys})}
