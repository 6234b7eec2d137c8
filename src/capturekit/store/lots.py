"""Which lots stock is made of, and which of them expire soon.

Nothing counts lots, so they are worked out: what is used is what expires first, and so what is
left is what expires last. A figure cannot know better than its facts: what no lot explains is
unknown, and is taken to have been used before anything that has a day to expire on.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import date
from typing import Final, NamedTuple

from pydantic import JsonValue
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    exists,
    func,
    or_,
    select,
    text,
    union,
)

from capturekit.store import items
from capturekit.store.changes import Key
from capturekit.store.schema import (
    item,
    live_count,
    live_scope,
    location,
    lot,
    movement,
    observation,
    stock,
    verdict,
)
from capturekit.store.seen import ITEM_SEEN, UNITS_SEEN, is_live
from capturekit.store.tree import within

KEYS_AT_ONCE: Final = 400
"""Items asked for by one statement."""


class Package(NamedTuple):
    """What tells lots apart: a name, a day, or both."""

    lot: str | None
    expires_on: date | None


@dataclass(frozen=True, slots=True)
class Lot:
    """So many units of an item that came together."""

    lot: str | None
    """None where only the day was printed on it."""
    expires_on: date | None
    quantity: int


@dataclass(frozen=True, slots=True)
class Lots:
    """What stock of an item is made of: the lots and what is unknown add up to it."""

    item_id: str
    quantity: int
    lots: tuple[Lot, ...]
    """What expires first is first; what has no day is last."""
    unknown: int
    """Units that no lot explains; negative when there is less than nothing."""

    def as_json(self) -> dict[str, JsonValue]:
        """The lots as the HTTP API and the command line show them."""
        lots: list[JsonValue] = [
            {"lot": one.lot, "expires_on": _iso(one.expires_on), "quantity": one.quantity}
            for one in self.lots
        ]
        return {
            "item_id": self.item_id,
            "quantity": self.quantity,
            "lots": lots,
            "unknown": self.unknown,
        }


@dataclass(frozen=True, slots=True)
class Expiring:
    """Stock that expires soon, or did."""

    item_id: str
    name: str
    lot: str | None
    expires_on: date
    quantity: int

    def as_json(self) -> dict[str, JsonValue]:
        """The stock as the HTTP API and the command line show it."""
        return asdict(self) | {"expires_on": self.expires_on.isoformat()}


def _iso(day: date | None) -> str | None:
    return day.isoformat() if day else None


def first_expired_first_out(
    quantity: int, came: Iterable[tuple[Package, int]]
) -> tuple[tuple[Lot, ...], int]:
    """What is left of lots of which so many units came, when there are ``quantity`` in all.

    Returns the lots that something is left of, what expires first first, and the units that
    they do not explain. Less than nothing of a lot came when it was moved away by name.
    """
    supplied: dict[Package, int] = {}
    for package, units in came:
        supplied[package] = supplied.get(package, 0) + units
    left = max(quantity, 0)
    lots: list[Lot] = []
    for package in sorted(supplied, key=_expiry, reverse=True):
        units = min(left, supplied[package])
        if units > 0:
            lots.append(Lot(package.lot, package.expires_on, units))
            left -= units
    return tuple(reversed(lots)), quantity - sum(one.quantity for one in lots)


def _expiry(package: Package) -> tuple[date, str]:
    return package.expires_on or date.max, package.lot or ""


def of_item(connection: Connection, item_id: str, location_id: str | None) -> Lots:
    """See ``Inventory.lots``."""
    items.get(connection, item_id)
    return _of_items(connection, [item_id], location_id)[item_id]


def expiring(connection: Connection, until: date, location_id: str | None) -> list[Expiring]:
    """See ``Inventory.expiring``."""
    found: list[Expiring] = []
    names = _may_expire(connection, until)
    item_ids = sorted(names)
    for start in range(0, len(item_ids), KEYS_AT_ONCE):
        some = item_ids[start : start + KEYS_AT_ONCE]
        for item_id, lots in _of_items(connection, some, location_id).items():
            found += [
                Expiring(item_id, names[item_id], one.lot, one.expires_on, one.quantity)
                for one in lots.lots
                if one.expires_on is not None and one.expires_on <= until
            ]
    return sorted(found, key=lambda one: (one.expires_on, one.name, one.item_id, one.lot or ""))


class _Came(NamedTuple):
    """Units of a lot that came to a place, or less than nothing where they were taken."""

    key: Key
    at: float
    package: Package
    units: int


def _of_items(
    connection: Connection, item_ids: Collection[str], location_id: str | None
) -> dict[str, Lots]:
    quantities = dict.fromkeys(item_ids, 0)
    came: dict[str, list[_Came]] = {item_id: [] for item_id in item_ids}
    # When there was nothing of a key, or all there was had its lots read.
    since: dict[Key, float | None] = {}
    for row in connection.execute(_keys(item_ids, location_id)):
        quantities[row.item_id] += row.quantity
        key = Key(row.item_id, row.location_id)
        since[key] = row.counted_at if row.is_silent else row.emptied_at
    for row in connection.execute(_printed(item_ids, location_id)):
        key = Key(row.item_id, row.location_id)
        package = _package(row.lot, row.expires_on)
        came[row.item_id].append(_Came(key, row.counted_at, package, row.units))
        since[key] = row.counted_at
    for row in connection.execute(_moved(item_ids)):
        package = _package(row.name, row.expires_on)
        for place, units in ((row.to_id, row.units), (row.from_id, -row.units)):
            key = Key(row.item_id, place)
            if key in since and row.moved_at > (since[key] or 0.0):
                came[row.item_id].append(_Came(key, row.moved_at, package, units))
    return {
        item_id: _made_of(connection, item_id, units, came[item_id])
        for item_id, units in quantities.items()
    }


def _made_of(connection: Connection, item_id: str, units: int, came: list[_Came]) -> Lots:
    """What is left of the lots, without what came before a camera saw the place empty."""
    lots = _left(item_id, units, came)
    left = {Package(one.lot, one.expires_on) for one in lots.lots}
    first: dict[Key, float] = {}
    for one in came:
        if one.package in left:
            first[one.key] = min(one.at, first.get(one.key, one.at))
    # Asked only of lots that are left: those are mostly new, and few pictures were taken since.
    silent_at = {key: _silent_at(connection, key, at) for key, at in first.items()}
    if not any(silent_at.values()):
        return lots
    held = [one for one in came if one.at > (silent_at.get(one.key) or -math.inf)]
    return _left(item_id, units, held)


def _left(item_id: str, units: int, came: Iterable[_Came]) -> Lots:
    supplied = ((one.package, one.units) for one in came)
    return Lots(item_id, units, *first_expired_first_out(units, supplied))


def _silent_at(connection: Connection, key: Key, after: float) -> float | None:
    """When a camera that sees the place whole last saw none of the item, after a time."""
    reported = (
        select(observation.c.id)
        .outerjoin(verdict, verdict.c.observation_id == observation.c.id)
        .where(
            observation.c.run_id == live_scope.c.run_id,
            observation.c.location_id == live_scope.c.location_id,
            ITEM_SEEN.in_([key.item_id]),
        )
        .correlate(live_scope)
        .exists()
    )
    query = (
        select(live_scope.c.counted_at)
        .where(
            live_scope.c.location_id == key.location_id, live_scope.c.counted_at > after, ~reported
        )
        .order_by(live_scope.c.counted_at.desc())
        .limit(1)
    )
    return connection.scalar(query)


def _package(name: str | None, expires_on: str | None) -> Package:
    return Package(name, date.fromisoformat(expires_on) if expires_on else None)


def _places(location_id: str | None) -> ColumnElement[bool]:
    if location_id is not None:
        return stock.c.location_id.in_(within(location_id))
    is_virtual = exists().where(location.c.id == stock.c.location_id, location.c.is_virtual)
    return ~is_virtual


def _keys(item_ids: Collection[str], location_id: str | None) -> Select[tuple[object, ...]]:
    emptied_at = (
        select(func.max(live_count.c.counted_at))
        .where(
            live_count.c.item_id == stock.c.item_id,
            live_count.c.location_id == stock.c.location_id,
            # Text, not a parameter: only then can the planner prove that the partial index fits.
            text("live_count.quantity = 0"),
            live_count.c.is_plausible,
        )
        .scalar_subquery()
    )
    # A run without a confidence was silent on the item.
    is_silent = and_(stock.c.basis_run_id.is_not(None), stock.c.confidence.is_(None))
    return select(
        stock.c.item_id,
        stock.c.location_id,
        stock.c.quantity,
        stock.c.counted_at,
        is_silent.label("is_silent"),
        emptied_at.label("emptied_at"),
    ).where(stock.c.item_id.in_(item_ids), _places(location_id))


def _printed(item_ids: Collection[str], location_id: str | None) -> Select[tuple[object, ...]]:
    """Lots that were read off packages by the counts that stock starts from."""
    return (
        select(
            stock.c.item_id,
            stock.c.location_id,
            stock.c.counted_at,
            observation.c.lot,
            observation.c.expires_on,
            UNITS_SEEN.label("units"),
        )
        .join_from(
            stock,
            observation,
            and_(
                observation.c.run_id == stock.c.basis_run_id,
                observation.c.location_id == stock.c.location_id,
            ),
        )
        .outerjoin(verdict, verdict.c.observation_id == observation.c.id)
        .where(
            stock.c.item_id.in_(item_ids),
            _places(location_id),
            stock.c.item_id == ITEM_SEEN,
            is_live(),
            or_(observation.c.lot.is_not(None), observation.c.expires_on.is_not(None)),
        )
    )


def _moved(item_ids: Collection[str]) -> Select[tuple[object, ...]]:
    return (
        select(
            movement.c.item_id,
            movement.c.from_id,
            movement.c.to_id,
            movement.c.moved_at,
            movement.c.units,
            lot.c.name,
            lot.c.expires_on,
        )
        .join(lot, lot.c.id == movement.c.lot_id)
        .where(
            movement.c.item_id.in_(item_ids),
            text("movement.lot_id IS NOT NULL"),
            movement.c.voided_at.is_(None),
        )
    )


def _may_expire(connection: Connection, until: date) -> dict[str, str]:
    """Names of items in stock of which some may expire by then."""
    day = until.isoformat()
    came = (
        select(movement.c.item_id)
        .join(lot, lot.c.id == movement.c.lot_id)
        .where(lot.c.expires_on <= day, movement.c.voided_at.is_(None))
    )
    printed = (
        select(stock.c.item_id)
        .join(observation, observation.c.run_id == stock.c.basis_run_id)
        .where(stock.c.quantity > 0, observation.c.expires_on <= day)
    )
    is_there = exists().where(stock.c.item_id == item.c.id, stock.c.quantity > 0, _places(None))
    query = select(item.c.id, item.c.name).where(item.c.id.in_(union(came, printed)), is_there)
    return {row.id: row.name for row in connection.execute(query)}
