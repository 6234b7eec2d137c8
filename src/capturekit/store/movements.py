"""What people say: received, used, moved, counted, written off, and taken back.

A movement is a fact like a camera's reading. It can be voided at any time, in any order.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final

from pydantic import JsonValue
from sqlalchemy import Connection, RowMapping, select, update

from capturekit.errors import Conflict, Unknown
from capturekit.store import digests, items, locations, outbox
from capturekit.store.changes import Cause, Key, StockChange
from capturekit.store.fold import index_movements, refold
from capturekit.store.items import Meaning
from capturekit.store.schema import (
    ADJUSTED,
    CONSUMED,
    LOST,
    MAX_QUANTITY,
    SUPPLIER,
    insert_new,
    lock_ledger,
    lot,
    movement,
    stock,
)
from capturekit.times import iso

MAX_AHEAD_S: Final = 300.0
"""A movement may be said to happen this far in the future; clocks differ."""


AT_ONCE: Final = 400
"""Movements asked for by one statement."""


class MovementKind(StrEnum):
    """What a person did."""

    RECEIVE = "receive"
    USE = "use"
    MOVE = "move"
    COUNT = "count"
    """Counted all there is of an item in a place; replaces what was thought before."""
    WRITE_OFF = "write_off"


_ELSEWHERE: Final = {
    MovementKind.RECEIVE: SUPPLIER,
    MovementKind.USE: CONSUMED,
    MovementKind.WRITE_OFF: LOST,
}
"""The virtual end of a movement that has one real end."""


@dataclass(frozen=True, slots=True)
class NewMovement:
    """What a person says was done. ``item`` is an item's id, or a code that names one.

    ``receive`` and ``count`` have a ``target``, ``use`` and ``write_off`` a ``source``,
    ``move`` has both.
    """

    kind: MovementKind
    item: str
    quantity: int
    """Over 0; a count may be 0. In the item's base unit, or pieces of the code."""
    source: str | None = None
    target: str | None = None
    at: float | None = None
    """When it was done, in seconds since 1970, UTC; None is now."""
    by: str = ""
    key: str | None = None
    """The caller's name for it: said twice under one key, it was done once."""
    may_go_negative: bool = False
    """True to take it even where it leaves less than nothing: the ledger may be the wrong one."""
    reason: str | None = None
    lot: str | None = None
    """Which units they are, by the name of what they came with. ``receive`` makes a lot that
    is not there; for others it must be. A count is of all lots."""
    expires_on: date | None = None
    """With ``receive`` alone; without a name, the lot is named after the day."""

    def __post_init__(self) -> None:
        ends = (self.source is not None, self.target is not None)
        if ends != _ENDS[self.kind] or self.source == self.target:
            raise ValueError(f"a {self.kind} {_SAID[_ENDS[self.kind]]}")
        lowest = 0 if self.kind is MovementKind.COUNT else 1
        if not lowest <= self.quantity <= MAX_QUANTITY:
            raise ValueError(f"a {self.kind} is of {lowest} to {MAX_QUANTITY:,} units")
        if self.kind is MovementKind.COUNT and self.lot is not None:
            raise ValueError("a count is of all lots of the item together")
        if self.kind is not MovementKind.RECEIVE and self.expires_on is not None:
            raise ValueError("only what is received is said to expire; later, name its lot")

    @property
    def lot_name(self) -> str | None:
        """The lot's name, given or made from the day that it expires on."""
        day = self.expires_on
        return self.lot if self.lot is not None or day is None else day.isoformat()


_ENDS: Final = {
    MovementKind.RECEIVE: (False, True),
    MovementKind.USE: (True, False),
    MovementKind.MOVE: (True, True),
    MovementKind.COUNT: (False, True),
    MovementKind.WRITE_OFF: (True, False),
}
"""Whether a movement has a source and a target."""

_SAID: Final = {
    (False, True): "names the location that it is to, and none that it is from",
    (True, False): "names the location that it is from, and none that it is to",
    (True, True): "names two locations: one that it is from, another that it is to",
}


@dataclass(frozen=True, slots=True)
class Movement:
    """A movement as it was recorded. Times are seconds since 1970, UTC."""

    id: str
    key: str
    kind: MovementKind
    item_id: str
    """The item that its name means today."""
    quantity: int
    source: str | None
    target: str | None
    at: float
    by: str
    reason: str | None
    lot: str | None
    expires_on: date | None
    recorded_at: float
    voided_at: float | None
    voided_by: str | None

    def as_json(self) -> dict[str, JsonValue]:
        """The movement as events, the HTTP API and the command line show it."""
        return {
            "movement_id": self.id,
            "key": self.key,
            "kind": self.kind.value,
            "item_id": self.item_id,
            "quantity": self.quantity,
            "from": self.source,
            "to": self.target,
            "at": iso(self.at),
            "by": self.by,
            "reason": self.reason,
            "lot": self.lot,
            "expires_on": self.expires_on.isoformat() if self.expires_on else None,
            "recorded_at": iso(self.recorded_at),
            "voided_at": iso(self.voided_at),
            "voided_by": self.voided_by,
        }


def do(connection: Connection, new: NewMovement, now: float) -> tuple[Movement, list[StockChange]]:
    """Record the movement and its effect; see ``Inventory.move``."""
    lock_ledger(connection)
    known = connection.scalar(select(movement.c.id).where(movement.c.key == new.key))
    if known is not None:
        return _same(connection, known, new), []
    name = _name(new)
    _insert(connection, new, name, now)
    index_movements(connection, [name["id"]])
    done = get(connection, name["id"])
    changes = _refold(connection, done, "movement", now)
    short = [change for change in changes if change.delta < 0 and change.after < 0]
    if short and not new.may_go_negative:
        raise Conflict(
            f"{short[0].location_id!r} has {short[0].before} of {short[0].item_id!r}, not "
            f"{new.quantity}: count it first, or allow it to go negative"
        )
    outbox.tell(connection, "movement.recorded", done.as_json(), now, item_id=done.item_id)
    return done, changes


def count_all(
    connection: Connection, counts: Sequence[NewMovement], cause: Cause
) -> list[StockChange]:
    """Record many counts, each with a key, of items and locations that are there.

    Those whose keys are known are left out. All their lines of the ledger name one cause.
    """
    lock_ledger(connection)
    keys: list[Key] = []
    for start in range(0, len(counts), AT_ONCE):
        some = counts[start : start + AT_ONCE]
        of_keys = select(movement.c.key).where(movement.c.key.in_([one.key for one in some]))
        known = set(connection.scalars(of_keys))
        meanings = items.meanings(connection, {one.item for one in some})
        rows = [
            _values(one, _name(one), meanings[one.item], cause.at)
            for one in some
            if one.key not in known
        ]
        for row in rows:
            row |= {"lot_id": None}
            row["digest"] = digests.of_movement(row)
        if rows:
            connection.execute(movement.insert(), rows)
            keys += _counted(connection, [str(row["id"]) for row in rows], cause.at)
    return refold(connection, keys, cause)


def _counted(connection: Connection, ids: Sequence[str], at: float) -> list[Key]:
    """Put new counts into the index and tell of them; returns their keys."""
    index_movements(connection, ids)
    done = of_ids(connection, ids)
    for movement_id in ids:
        one = done[movement_id]
        outbox.tell(connection, "movement.recorded", one.as_json(), at, item_id=one.item_id)
    return [Key(one.item_id, one.target or "") for one in done.values()]


def _name(new: NewMovement) -> dict[str, str]:
    return {"id": secrets.token_hex(8), "key": new.key or secrets.token_hex(8)}


def void(connection: Connection, id: str, by: str, now: float) -> list[StockChange]:
    """Take the movement back; without effect when it was. Raises Unknown."""
    lock_ledger(connection)
    if get(connection, id).voided_at is not None:
        return []
    connection.execute(
        update(movement).where(movement.c.id == id).values(voided_at=now, voided_by=by)
    )
    index_movements(connection, [id])
    done = get(connection, id)
    changes = _refold(connection, done, "void", now)
    outbox.tell(connection, "movement.voided", done.as_json(), now, item_id=done.item_id)
    return changes


def get(connection: Connection, id: str) -> Movement:
    """The movement; raises Unknown."""
    found = of_ids(connection, [id])
    if not found:
        raise Unknown("movement", id)
    return found[id]


def quantity(connection: Connection, key: Key) -> int:
    """What stock says of the key now."""
    query = select(stock.c.quantity).where(
        stock.c.item_id == key.item_id, stock.c.location_id == key.location_id
    )
    return connection.scalar(query) or 0


def of_ids(connection: Connection, ids: Collection[str]) -> dict[str, Movement]:
    """Those of the movements that there are, by id."""
    query = _MOVEMENTS.where(movement.c.id.in_(ids))
    return {row["id"]: from_row(row) for row in connection.execute(query).mappings()}


def between(
    connection: Connection,
    item_id: str,
    location_id: str,
    after: float | None,
    until: float | None,
    *,
    limit: int,
) -> tuple[Movement, ...]:
    """Those into and out of a location in this time that hold, the last done first.

    None is the beginning, and now. Counts are not among them.
    """
    found: dict[str, Movement] = {}
    for end in (movement.c.from_id, movement.c.to_id):
        query = (
            _MOVEMENTS.where(
                movement.c.item_id == item_id, end == location_id, movement.c.voided_at.is_(None)
            )
            .order_by(movement.c.moved_at.desc(), movement.c.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(movement.c.moved_at > after)
        if until is not None:
            query = query.where(movement.c.moved_at <= until)
        found |= {row["id"]: from_row(row) for row in connection.execute(query).mappings()}
    newest = sorted(found.values(), key=lambda one: (-one.at, one.id))
    return tuple(newest[:limit])


def from_row(row: RowMapping) -> Movement:
    """The movement of a row of ``movements``."""
    return Movement(
        id=row["id"],
        key=row["key"],
        kind=MovementKind(row["kind"]),
        item_id=row["item_id"],
        quantity=row["units"],
        source=_real(row["from_id"]),
        target=_real(row["to_id"]) or row["counted_id"],
        at=row["moved_at"],
        by=row["by"],
        reason=row["reason"],
        lot=row["lot_name"],
        expires_on=date.fromisoformat(row["expires_on"]) if row["expires_on"] else None,
        recorded_at=row["recorded_at"],
        voided_at=row["voided_at"],
        voided_by=row["voided_by"],
    )


_MOVEMENTS: Final = select(movement, lot.c.name.label("lot_name"), lot.c.expires_on).outerjoin(
    lot, lot.c.id == movement.c.lot_id
)


def _real(end: str | None) -> str | None:
    return None if end in _ELSEWHERE.values() else end


def _same(connection: Connection, id: str, new: NewMovement) -> Movement:
    """The movement of this key, unless it is another than what is said now."""
    known = get(connection, id)
    said = select(movement.c.item, movement.c.amount).where(movement.c.id == id)
    item, amount = connection.execute(said).one()
    if (known.kind, known.source, known.target, item, amount, known.lot) != (
        new.kind,
        new.source,
        new.target,
        new.item,
        new.quantity,
        new.lot_name,
    ):
        raise Conflict(f"{known.key!r} names a {known.kind} already; use a key once")
    return known


def _insert(connection: Connection, new: NewMovement, name: dict[str, str], now: float) -> None:
    at = now if new.at is None else new.at
    if at > now + MAX_AHEAD_S:
        raise ValueError("a movement cannot be in the future")
    for end in (new.source, new.target):
        if end is not None:
            locations.require(connection, end)
    meaning = items.meanings(connection, [new.item])[new.item]
    items.get(connection, meaning.item_id)
    values = _values(new, name, meaning, now) | {
        "moved_at": at,
        "lot_id": _lot(connection, new, meaning.item_id, now),
    }
    digest = digests.of_movement(values)
    connection.execute(movement.insert().values(values | {"digest": digest}))


def _values(
    new: NewMovement, name: dict[str, str], meaning: Meaning, now: float
) -> dict[str, object]:
    """The movement's row, but for its lot."""
    return {
        "from_id": None,
        "to_id": None,
        "counted_id": None,
        **name,
        **_ends(new),
        "kind": new.kind,
        "item": new.item,
        "amount": new.quantity,
        "moved_at": now if new.at is None else new.at,
        "by": new.by,
        "recorded_at": now,
        "reason": new.reason,
        "item_id": meaning.item_id,
        "units": new.quantity * meaning.units,
    }


def _lot(connection: Connection, new: NewMovement, item_id: str, now: float) -> int | None:
    """The id of the movement's lot, which a delivery makes."""
    name, day = new.lot_name, new.expires_on.isoformat() if new.expires_on else None
    if name is None:
        return None
    if new.kind is MovementKind.RECEIVE:
        made: dict[str, object] = {
            "item_id": item_id,
            "name": name,
            "expires_on": day,
            "created_at": now,
        }
        insert_new(connection, lot, [made])
    query = select(lot.c.id, lot.c.expires_on).where(lot.c.item_id == item_id, lot.c.name == name)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Unknown(f"lot of {item_id!r}", name)
    if day not in (None, row.expires_on):
        raise Conflict(f"lot {name!r} of {item_id!r} expires on {row.expires_on}, not {day}")
    found: int = row.id
    return found


def _ends(new: NewMovement) -> dict[str, str | None]:
    if new.kind is MovementKind.COUNT:
        return {"counted_id": new.target}
    virtual = _ELSEWHERE.get(new.kind)
    return {"from_id": new.source or virtual, "to_id": new.target or virtual}


def _refold(connection: Connection, done: Movement, cause: str, now: float) -> list[StockChange]:
    keys = [Key(done.item_id, end) for end in (done.source, done.target) if end is not None]
    return refold(
        connection,
        keys,
        Cause(
            cause,
            done.id,
            now,
            elsewhere=_ELSEWHERE.get(done.kind, ADJUSTED),
            is_transfer=done.kind is MovementKind.MOVE,
        ),
    )
