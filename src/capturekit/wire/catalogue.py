"""What things are called and where they are: items, codes, locations, par levels, alerts."""

from datetime import date
from typing import Literal

from capturekit.wire.base import Answer, Cursor, Moment, Point


class CodeRow(Answer):
    """A code, and how many of the item it stands for."""

    code: str
    quantity: int


class ItemName(Answer):
    """An item's name and unit."""

    item_id: str
    name: str
    unit: str | None


class ItemRow(ItemName):
    """An item with its codes."""

    codes: list[CodeRow]


class ItemPage(Answer):
    """The catalogue."""

    items: list[ItemRow]
    next: Cursor


class CodeAssigned(Answer):
    """What a code stands for now."""

    item_id: str
    code: str
    quantity: int


class Lot(Answer):
    """Units that came together."""

    lot: str | None
    expires_on: date | None
    quantity: int


class Lots(Answer):
    """Which lots stock of an item is made of."""

    item_id: str
    quantity: int
    lots: list[Lot]
    unknown: int
    """Units of which no lot is known."""


class Forecast(Answer):
    """When an item will be used up; null when nothing was used or too little is known."""

    item_id: str
    quantity: int
    per_day: float | None
    days_left: float | None
    empty_at: Moment | None
    days_known: float


class LocationRow(Answer):
    """A place."""

    location_id: str
    name: str
    parent_id: str | None


class LocationList(Answer):
    """Every place but the virtual ones."""

    locations: list[LocationRow]


class ViewSet(Answer):
    """What a device sees of a location."""

    device_id: str
    location_id: str
    polygon: list[Point] | None
    """In pixels of the upright picture; null for all of it."""
    is_exhaustive: bool
    """Whether what is not seen there is not there."""


class LevelRow(Answer):
    """How little of an item there may be in a place and all below it."""

    item_id: str
    location_id: str
    minimum: int
    restock_at: int
    min_confidence: float
    is_low: bool
    changed_at: Moment
    by: str


class LevelPage(Answer):
    """Par levels."""

    par_levels: list[LevelRow]
    next: Cursor


class AlertRow(Answer):
    """A warning."""

    alert_id: int
    kind: Literal["low", "below_zero"]
    item_id: str
    location_id: str
    quantity: int
    """When it was raised."""
    raised_at: Moment
    cleared_at: Moment | None


class AlertPage(Answer):
    """Alerts, the newest first."""

    alerts: list[AlertRow]
    next: Cursor


class ImportDone(Answer):
    """What an import did, or would do."""

    is_dry_run: bool
    locations_added: int
    locations_changed: int
    items_added: int
    items_changed: int
    codes_assigned: int
    par_levels_set: int
    counts_recorded: int
