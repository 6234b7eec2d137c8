"""How fast an item is used up, and when there will be none.

Stock is looked at once a day, as it was then. What it fell from one day to the next was used;
what it rose is a delivery and says nothing about use. So what is used on the day of a delivery
is not seen, and the days that are left are rather too many than too few.
"""

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Final

from pydantic import JsonValue
from sqlalchemy import BigInteger, Connection, Select, bindparam, cast, func, select

from capturekit.store import items
from capturekit.store.past import STOCK_THEN
from capturekit.store.schema import live_count, location, movement, stock
from capturekit.store.tree import within
from capturekit.times import iso

DAY_S: Final = timedelta(days=1).total_seconds()
MIN_DAYS: Final = 3.0
"""From fewer days nothing is said: one breakfast is no habit."""

MAX_DAYS: Final = 366


@dataclass(frozen=True, slots=True)
class Forecast:
    """When an item will be used up, if it goes on as it did."""

    item_id: str
    quantity: int
    """Of now, in the place and all below it."""
    per_day: float | None
    """Units used a day; None when none were, or too little is known."""
    days_left: float | None
    empty_at: float | None
    """In seconds since 1970, UTC."""
    days_known: float
    """How long stock was known within the days that were looked at."""

    def as_json(self) -> dict[str, JsonValue]:
        """The forecast as the HTTP API and the command line show it."""
        return {
            "item_id": self.item_id,
            "quantity": self.quantity,
            "per_day": self.per_day,
            "days_left": self.days_left,
            "empty_at": iso(self.empty_at),
            "days_known": self.days_known,
        }


def forecast(
    connection: Connection, item_id: str, location_id: str | None, days: int, now: float
) -> Forecast:
    """See ``Inventory.forecast``."""
    if not 1 <= days <= MAX_DAYS:
        raise ValueError(f"{days} days: look at 1 to {MAX_DAYS}")
    items.get(connection, item_id)
    known_at = _known_at(connection, item_id, location_id)
    start = max(now - days * DAY_S, now if known_at is None else min(known_at, now))
    days_known = (now - start) / DAY_S
    times = [start, *(now - DAY_S * back for back in reversed(range(int(days_known) + 1)))]
    query = _quantity_then(location_id)
    of_item = {"item": item_id}
    samples = [connection.scalars(query, of_item | {"as_of": at}).one() for at in times]
    used = sum(max(0, before - after) for before, after in pairwise(samples))
    if not used or days_known < MIN_DAYS:
        return Forecast(item_id, samples[-1], None, None, None, days_known)
    per_day = used / days_known
    days_left = max(0, samples[-1]) / per_day
    return Forecast(item_id, samples[-1], per_day, days_left, now + days_left * DAY_S, days_known)


def _quantity_then(location_id: str | None) -> Select[int]:
    place = STOCK_THEN.c.location_id
    query = (
        select(cast(func.coalesce(func.sum(STOCK_THEN.c.quantity), 0), BigInteger))
        .join(location, location.c.id == place)
        .where(STOCK_THEN.c.item_id == bindparam("item"), location.c.is_virtual.is_(False))
    )
    return query if location_id is None else query.where(place.in_(within(location_id)))


def _known_at(connection: Connection, item_id: str, location_id: str | None) -> float | None:
    """When the item was first counted or moved there."""
    firsts = [
        select(func.min(time))
        .where(item == stock.c.item_id, place == stock.c.location_id)
        .scalar_subquery()
        for time, item, place in (
            (live_count.c.counted_at, live_count.c.item_id, live_count.c.location_id),
            (movement.c.moved_at, movement.c.item_id, movement.c.to_id),
            (movement.c.moved_at, movement.c.item_id, movement.c.from_id),
        )
    ]
    query = (
        select(*(func.min(first) for first in firsts))
        .join(location, location.c.id == stock.c.location_id)
        .where(stock.c.item_id == item_id, location.c.is_virtual.is_(False))
    )
    if location_id is not None:
        query = query.where(stock.c.location_id.in_(within(location_id)))
    return min((at for at in connection.execute(query).one() if at is not None), default=None)
