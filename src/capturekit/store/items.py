"""Items, the codes that name them, and what a name means today.

Facts keep the name they came with. Whoever gives a code to another item therefore moves all
that was ever counted or moved under that code, and can give it back.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Connection, Select, or_, select, union, update

from capturekit.errors import Unknown
from capturekit.store.changes import Cause, Key, StockChange
from capturekit.store.fold import index_captures, index_movements, refold
from capturekit.store.page import Page, from_cursor, to_cursor
from capturekit.store.schema import (
    MAX_CODE_QUANTITY,
    insert_new,
    item,
    item_code,
    location,
    lock_ledger,
    movement,
    observation,
    run,
)


@dataclass(frozen=True, slots=True)
class Item:
    """Something that stock is kept of. ``unit`` is the base unit, in which it is counted."""

    id: str
    name: str
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class ItemCode:
    """A code that names an item."""

    code: str
    quantity: int
    """How many of the item one such code stands for."""


@dataclass(frozen=True, slots=True)
class ItemEntry:
    """An item as the catalogue lists it."""

    id: str
    name: str
    unit: str | None
    codes: tuple[ItemCode, ...]

    def as_json(self) -> dict[str, JsonValue]:
        """The entry as the HTTP API and the command line show it."""
        codes: list[JsonValue] = [
            {"code": one.code, "quantity": one.quantity} for one in self.codes
        ]
        return {"item_id": self.id, "name": self.name, "unit": self.unit, "codes": codes}


class Meaning(NamedTuple):
    """What a name stands for: so many units of an item."""

    item_id: str
    units: int


def add(connection: Connection, new: Item, at: float) -> Item:
    """Make the item, or return it as it is when it was there."""
    insert_new(
        connection,
        item,
        [{"id": new.id, "name": new.name, "unit": new.unit, "created_at": at}],
    )
    return get(connection, new.id)


def get(connection: Connection, id: str) -> Item:
    """The item; raises Unknown."""
    row = connection.execute(
        select(item.c.id, item.c.name, item.c.unit).where(item.c.id == id)
    ).one_or_none()
    if row is None:
        raise Unknown("item", id)
    return Item(*row)


def rename(connection: Connection, id: str, name: str, unit: str | None) -> Item:
    """Give the item another name, and another unit unless that is None. Raises Unknown."""
    values = {"name": name} if unit is None else {"name": name, "unit": unit}
    connection.execute(update(item).where(item.c.id == id).values(values))
    return get(connection, id)


def page(
    connection: Connection,
    *,
    text: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[ItemEntry]:
    """The catalogue, by id; ``text`` is part of a name, or a whole code or id."""
    query = select(item.c.id, item.c.name, item.c.unit).order_by(item.c.id).limit(limit + 1)
    if text is not None:
        coded = select(item_code.c.item_id).where(item_code.c.code == text)
        named = item.c.name.icontains(text, autoescape=True)
        query = query.where(or_(named, item.c.id == text, item.c.id.in_(coded)))
    if cursor is not None:
        query = query.where(item.c.id > from_cursor(cursor, 1)[0])
    found = connection.execute(query).all()
    shown = found[:limit]
    codes = entry_codes(connection, [row.id for row in shown])
    entries = tuple(ItemEntry(*row, tuple(codes.get(row.id, ()))) for row in shown)
    return Page(entries, to_cursor([shown[-1].id]) if len(found) > limit else None)


def entry(connection: Connection, id: str) -> ItemEntry:
    """The item with its codes; raises Unknown."""
    one = get(connection, id)
    codes = entry_codes(connection, [id]).get(id, ())
    return ItemEntry(one.id, one.name, one.unit, tuple(codes))


def entry_codes(connection: Connection, item_ids: Collection[str]) -> dict[str, list[ItemCode]]:
    """The codes of each item that has some, with what they stand for, in order."""
    query = select(item_code).where(item_code.c.item_id.in_(item_ids)).order_by(item_code.c.code)
    codes: dict[str, list[ItemCode]] = {}
    for row in connection.execute(query):
        codes.setdefault(row.item_id, []).append(ItemCode(row.code, row.quantity))
    return codes


def codes_of(connection: Connection, item_ids: Collection[str]) -> dict[str, list[str]]:
    """The codes of each item that has some, in order."""
    query = select(item_code.c.item_id, item_code.c.code).where(item_code.c.item_id.in_(item_ids))
    codes: dict[str, list[str]] = {}
    for item_id, code in connection.execute(query.order_by(item_code.c.code)):
        codes.setdefault(item_id, []).append(code)
    return codes


def ensure_codes(connection: Connection, codes: Collection[str], at: float) -> dict[str, Meaning]:
    """What the codes stand for; an unknown one becomes an item of that name, one unit each."""
    new = sorted(set(codes) - assigned(connection, codes).keys())
    ensure_items(connection, new, at)
    insert_new(
        connection, item_code, [{"code": code, "item_id": code, "quantity": 1} for code in new]
    )
    return assigned(connection, codes)


def ensure_items(connection: Connection, names: Iterable[str], at: float) -> None:
    """Make items of these names, unless they are there."""
    insert_new(
        connection,
        item,
        [{"id": name, "name": name, "unit": None, "created_at": at} for name in sorted(set(names))],
    )


def meanings(connection: Connection, names: Collection[str]) -> dict[str, Meaning]:
    """What names of items stand for. An item may be named by a code that is now another's."""
    known = assigned(connection, names)
    return {
        name: found if (found := known.get(name)) and found.item_id != name else Meaning(name, 1)
        for name in names
    }


def assigned(connection: Connection, codes: Collection[str]) -> dict[str, Meaning]:
    """What those of the codes stand for that are assigned."""
    query = select(item_code.c.code, item_code.c.item_id, item_code.c.quantity).where(
        item_code.c.code.in_(codes)
    )
    return {code: Meaning(item_id, units) for code, item_id, units in connection.execute(query)}


def assign_code(
    connection: Connection, code: str, meaning: Meaning, at: float
) -> list[StockChange]:
    """Let the code stand for these units of the item, for the past as well. Raises Unknown."""
    require_units(meaning.units)
    lock_ledger(connection)
    get(connection, meaning.item_id)
    keys = _keys_named(connection, code)
    _point(connection, code, meaning)
    index_captures(connection, _captures_naming(code))
    index_movements(connection, select(movement.c.id).where(movement.c.item == code))
    return refold(connection, keys | _keys_named(connection, code), Cause("code", code, at))


def require_units(units: int) -> None:
    """Raise ValueError unless a code may stand for so many units."""
    if not 1 <= units <= MAX_CODE_QUANTITY:
        raise ValueError(f"a code stands for 1 to {MAX_CODE_QUANTITY:,} units")


def used_names(connection: Connection, names: Collection[str]) -> set[str]:
    """Those of the names that some fact came under."""
    return {
        name
        for column in (observation.c.code, observation.c.item, movement.c.item)
        for name in connection.scalars(select(column).where(column.in_(names)).distinct())
        if name is not None
    }


def release_code(connection: Connection, code: str, item_id: str, at: float) -> list[StockChange]:
    """Let the code name an item of its own again. Raises Unknown unless it is the item's."""
    lock_ledger(connection)
    if assigned(connection, [code]).get(code, Meaning("", 0)).item_id != item_id:
        raise Unknown(f"code of {item_id!r}", code)
    ensure_items(connection, [code], at)
    return assign_code(connection, code, Meaning(code, 1), at)


def _named(code: str) -> ColumnElement[bool]:
    return or_(observation.c.code == code, observation.c.item == code)


def _point(connection: Connection, code: str, meaning: Meaning) -> None:
    """Write the assignment, and what it means into every fact that came under the code."""
    values = {"item_id": meaning.item_id, "quantity": meaning.units}
    insert_new(connection, item_code, [{"code": code, **values}])
    connection.execute(update(item_code).where(item_code.c.code == code).values(values))
    as_item = meanings(connection, [code])[code]
    for table, name, amount, stands_for in (
        (observation, observation.c.code, observation.c.quantity, meaning),
        (observation, observation.c.item, observation.c.quantity, as_item),
        (movement, movement.c.item, movement.c.amount, as_item),
    ):
        connection.execute(
            update(table)
            .where(name == code)
            .values(item_id=stands_for.item_id, units=amount * stands_for.units)
        )


def _captures_naming(code: str) -> Select[str]:
    return select(run.c.capture_id).join(observation).where(_named(code))


def _keys_named(connection: Connection, code: str) -> set[Key]:
    moved = [
        select(movement.c.item_id, end)
        .join(location, location.c.id == end)
        .where(movement.c.item == code, location.c.is_virtual.is_(False))
        for end in (movement.c.from_id, movement.c.to_id, movement.c.counted_id)
    ]
    seen = select(observation.c.item_id, observation.c.location_id).where(_named(code))
    return {Key(*row) for row in connection.execute(union(seen, *moved))}
