"""Every figure of stock with the names beside it, for those who show all of it elsewhere."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection, Select, or_, select, tuple_

from capturekit.database import Database
from capturekit.store.changes import Key, is_among, key_values
from capturekit.store.schema import item, location, par_level, stock

KEYS_AT_ONCE: Final = 300
"""Three parameters each; old SQLites take 999."""


@dataclass(frozen=True, slots=True)
class Figure:
    """How much there is of an item in a place."""

    item_id: str
    item: str
    """Its name."""
    unit: str | None
    location_id: str
    location: str
    """Its name."""
    quantity: int
    confidence: float | None
    last_seen_at: float | None
    """In seconds since 1970, UTC."""

    @property
    def key(self) -> Key:
        """What tells it from all others, whatever the names are."""
        return Key(self.item_id, self.location_id)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Whether there is less of an item, in a place and all below it, than there should be."""

    item_id: str
    item: str
    location_id: str
    location: str
    is_low: bool

    @property
    def key(self) -> Key:
        """As of a figure."""
        return Key(self.item_id, self.location_id)


class Figures:
    """Reads all figures, in parts, by ids: names that change meanwhile hide none."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, after: Key | None, limit: int) -> Sequence[Figure]:
        """Figures past this key, in the order of keys; none after the last."""
        return await self._database.read(partial(_page, after=after, limit=limit))

    async def of(self, keys: Collection[Key]) -> dict[Key, Figure]:
        """The figures of these keys, of those that there are."""
        return await self._database.read(partial(_of, keys=sorted(set(keys))))

    async def alarms(self, after: Key | None, limit: int) -> Sequence[Alarm]:
        """Of all par levels, as ``page``."""
        return await self._database.read(partial(_alarms, after=after, limit=limit))


_POSITION: Final = tuple_(stock.c.item_id, stock.c.location_id)


def _figures() -> Select[tuple[object, ...]]:
    return (
        select(
            stock.c.item_id,
            item.c.name.label("item"),
            item.c.unit,
            stock.c.location_id,
            location.c.name.label("location"),
            stock.c.quantity,
            stock.c.confidence,
            stock.c.last_seen_at,
        )
        .join(item, item.c.id == stock.c.item_id)
        .join(location, location.c.id == stock.c.location_id)
        # As in the stock list: other rows were left by facts since corrected.
        .where(
            location.c.is_virtual.is_(False),
            or_(stock.c.quantity != 0, stock.c.last_seen_at.is_not(None)),
        )
    )


def _page(connection: Connection, after: Key | None, limit: int) -> list[Figure]:
    query = _figures().order_by(stock.c.item_id, stock.c.location_id).limit(limit)
    if after is not None:
        query = query.where(tuple_(*after) < _POSITION)
    return [Figure(**row) for row in connection.execute(query).mappings()]


def _of(connection: Connection, keys: Sequence[Key]) -> dict[Key, Figure]:
    found: dict[Key, Figure] = {}
    for start in range(0, len(keys), KEYS_AT_ONCE):
        query = _figures().where(is_among(stock.c.item_id, stock.c.location_id))
        some = keys[start : start + KEYS_AT_ONCE]
        rows = connection.execute(query, key_values(some)).mappings()
        found |= {figure.key: figure for figure in (Figure(**row) for row in rows)}
    return found


def _alarms(connection: Connection, after: Key | None, limit: int) -> list[Alarm]:
    query = (
        select(
            par_level.c.item_id,
            item.c.name.label("item"),
            par_level.c.location_id,
            location.c.name.label("location"),
            par_level.c.is_low,
        )
        .join(item, item.c.id == par_level.c.item_id)
        .join(location, location.c.id == par_level.c.location_id)
        .order_by(par_level.c.item_id, par_level.c.location_id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(tuple_(par_level.c.item_id, par_level.c.location_id) > tuple_(*after))
    return [Alarm(**row) for row in connection.execute(query).mappings()]
