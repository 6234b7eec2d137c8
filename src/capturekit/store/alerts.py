"""Alerts: told once when stock crosses a line downward, and open until it is over it again.

An alert is written, with its event, in the transaction that changes stock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import JsonValue
from sqlalchemy import (
    BigInteger,
    BindParameter,
    Connection,
    RowMapping,
    bindparam,
    cast,
    exists,
    func,
    insert,
    select,
    update,
)

from capturekit.store import outbox
from capturekit.store.changes import Key, StockChange
from capturekit.store.page import Page, from_cursor, to_cursor
from capturekit.store.schema import alert, par_level, stock
from capturekit.store.tree import above, within
from capturekit.times import iso

KEYS_AT_ONCE: Final = 400
"""Items, and places, asked for by one statement."""


class AlertKind(StrEnum):
    """What an alert warns of."""

    LOW = "low"
    """Stock of a place and all below it came down to its par level."""
    BELOW_ZERO = "below_zero"
    """Less than nothing: a fact is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A warning. Times are seconds since 1970, UTC."""

    id: int
    kind: AlertKind
    item_id: str
    location_id: str
    quantity: int
    """When it was raised."""
    raised_at: float
    cleared_at: float | None
    """None while it is open."""

    def as_json(self) -> dict[str, JsonValue]:
        """The alert as the HTTP API and the command line show it."""
        return {
            "alert_id": self.id,
            "kind": self.kind.value,
            "item_id": self.item_id,
            "location_id": self.location_id,
            "quantity": self.quantity,
            "raised_at": iso(self.raised_at),
            "cleared_at": iso(self.cleared_at),
        }


def page(
    connection: Connection,
    *,
    item_id: str | None,
    is_open: bool,
    cursor: str | None,
    limit: int,
) -> Page[Alert]:
    """Alerts, newest first; the open ones alone, or the others with them."""
    query = select(alert).order_by(alert.c.id.desc()).limit(limit + 1)
    if is_open:
        query = query.where(alert.c.cleared_at.is_(None))
    if item_id is not None:
        query = query.where(alert.c.item_id == item_id)
    if cursor is not None:
        query = query.where(alert.c.id < from_cursor(cursor, 1)[0])
    found = [
        Alert(**dict(row) | {"kind": AlertKind(row["kind"])})
        for row in connection.execute(query).mappings()
    ]
    shown = tuple(found[:limit])
    return Page(shown, to_cursor([shown[-1].id]) if len(found) > limit else None)


def watch(
    connection: Connection, touched: Sequence[Key], changes: Sequence[StockChange], at: float
) -> None:
    """Raise and clear alerts after stock changed.

    ``touched`` are all keys whose row of stock was rewritten, be it in its confidence alone.
    """
    for change in changes:
        _watch_zero(connection, change, at)
    for start in range(0, len(touched), KEYS_AT_ONCE):
        some = touched[start : start + KEYS_AT_ONCE]
        items = sorted({key.item_id for key in some})
        if connection.scalar(_HAVE_LEVELS, {"items": items}):
            places = sorted({key.location_id for key in some})
            found = connection.execute(_LEVELS_ABOVE, {"items": items, "places": places})
            look(connection, found.mappings().all(), at)


def watch_locations(connection: Connection, ids: Iterable[str], at: float) -> None:
    """Look at all par levels of these locations and those above: other places are below them."""
    found = connection.execute(_ALL_LEVELS_ABOVE, {"places": list(ids)})
    look(connection, found.mappings().all(), at)


def look(connection: Connection, levels: Sequence[RowMapping], at: float) -> None:
    """Raise or clear the alerts of these rows of par_level, where stock crossed a line."""
    for level in levels:
        of_level = {"item": level["item_id"], "place": level["location_id"]}
        quantity, confidence = connection.execute(_FIGURE, of_level).one()
        if confidence < level["min_confidence"]:
            continue
        if not level["is_low"] and quantity <= level["minimum"]:
            _cross(connection, level, quantity, at, is_low=True)
        elif level["is_low"] and quantity >= level["restocked_at"]:
            _cross(connection, level, quantity, at, is_low=False)


def clear(connection: Connection, kind: AlertKind, key: Key, at: float) -> None:
    """End the open alert of this kind, if there is one."""
    connection.execute(
        update(alert)
        .where(
            alert.c.item_id == key.item_id,
            alert.c.location_id == key.location_id,
            alert.c.kind == kind,
            alert.c.cleared_at.is_(None),
        )
        .values(cleared_at=at)
    )


_ABOVE: Final = above(bindparam("places", expanding=True))
_ITEMS: Final[BindParameter[str]] = bindparam("items", expanding=True)
_HAVE_LEVELS: Final = select(exists().where(par_level.c.item_id.in_(_ITEMS)))
"""Asked first, because it is cheap and the answer is no where there are no par levels."""
_ALL_LEVELS_ABOVE: Final = (
    select(par_level)
    .where(par_level.c.location_id.in_(_ABOVE))
    .order_by(par_level.c.item_id, par_level.c.location_id)
)
_LEVELS_ABOVE: Final = _ALL_LEVELS_ABOVE.where(par_level.c.item_id.in_(_ITEMS))
_FIGURE: Final = select(
    cast(func.coalesce(func.sum(stock.c.quantity), 0), BigInteger),
    # Rows without a confidence were not counted by a camera: nothing about them is doubtful.
    func.coalesce(func.min(stock.c.confidence), 1.0),
).where(stock.c.item_id == bindparam("item"), stock.c.location_id.in_(within(bindparam("place"))))
"""How much there is of an item in a place and below it, and how certain that is."""


def _cross(
    connection: Connection, level: RowMapping, quantity: int, at: float, *, is_low: bool
) -> None:
    key = Key(level["item_id"], level["location_id"])
    connection.execute(
        update(par_level)
        .where(par_level.c.item_id == key.item_id, par_level.c.location_id == key.location_id)
        .values(is_low=is_low)
    )
    told: dict[str, JsonValue] = {
        **key._asdict(),
        "quantity": quantity,
        "minimum": level["minimum"],
        "restock_at": level["restocked_at"],
    }
    if is_low:
        told["alert_id"] = _raise(connection, AlertKind.LOW, key, quantity, at)
    else:
        clear(connection, AlertKind.LOW, key, at)
    kind = "stock.low" if is_low else "stock.restocked"
    outbox.tell(connection, kind, told, at, item_id=key.item_id)


def _watch_zero(connection: Connection, change: StockChange, at: float) -> None:
    key = Key(change.item_id, change.location_id)
    if change.before >= 0 > change.after:
        raised = _raise(connection, AlertKind.BELOW_ZERO, key, change.after, at)
        told: dict[str, JsonValue] = {**key._asdict(), "quantity": change.after, "alert_id": raised}
        outbox.tell(connection, "stock.below_zero", told, at, item_id=key.item_id)
    elif change.before < 0 <= change.after:
        clear(connection, AlertKind.BELOW_ZERO, key, at)


def _raise(connection: Connection, kind: AlertKind, key: Key, quantity: int, at: float) -> int:
    values = {**key._asdict(), "kind": kind, "quantity": quantity, "raised_at": at}
    raised: int = connection.scalars(insert(alert).values(values).returning(alert.c.id)).one()
    return raised
