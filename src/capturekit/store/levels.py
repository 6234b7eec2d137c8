"""How little there may be of an item in a place: par levels, which raise and clear alerts."""

from dataclasses import asdict, dataclass

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Connection, RowMapping, delete, select, tuple_, update

from capturekit.errors import Unknown
from capturekit.store import alerts, items, locations, outbox
from capturekit.store.alerts import AlertKind
from capturekit.store.changes import Key
from capturekit.store.page import Page, from_cursor, to_cursor
from capturekit.store.schema import MAX_QUANTITY, insert_new, lock_ledger, par_level
from capturekit.times import iso


@dataclass(frozen=True, slots=True)
class NewParLevel:
    """A par level as someone wants it."""

    item_id: str
    location_id: str
    minimum: int
    """It is low from here down."""
    restock_at: int
    """Once low it is low until here, so that a figure that wavers raises one alert."""
    min_confidence: float = 0.0
    """A figure less certain than this, 0 to 1, neither raises an alert nor clears one."""
    by: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum < self.restock_at <= MAX_QUANTITY:
            raise ValueError(
                f"a par level from {self.minimum} to {self.restock_at}: the minimum is 0 or more, "
                f"and restock_at is over it and at most {MAX_QUANTITY:,}"
            )
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence {self.min_confidence:g} is not within 0 and 1")


@dataclass(frozen=True, slots=True)
class ParLevel:
    """How little of an item there may be in a place and all below it; see ``NewParLevel``."""

    item_id: str
    location_id: str
    minimum: int
    restock_at: int
    min_confidence: float
    is_low: bool
    changed_at: float
    """In seconds since 1970, UTC."""
    by: str

    def as_json(self) -> dict[str, JsonValue]:
        """The level as the HTTP API and the command line show it."""
        return asdict(self) | {"changed_at": iso(self.changed_at)}


def set_level(connection: Connection, new: NewParLevel, at: float) -> ParLevel:
    """Keep the level in place of the one before, and look at once. Raises Unknown."""
    lock_ledger(connection)
    items.get(connection, new.item_id)
    locations.require(connection, new.location_id)
    values = asdict(new) | {"changed_at": at}
    values["restocked_at"] = values.pop("restock_at")
    insert_new(connection, par_level, [values | {"is_low": False}])
    key = Key(new.item_id, new.location_id)
    connection.execute(update(par_level).where(*_of(key)).values(values))
    of_key = select(par_level).where(*_of(key))
    alerts.look(connection, connection.execute(of_key).mappings().all(), at)
    return _level(connection.execute(of_key).mappings().one())


def is_set(connection: Connection, new: NewParLevel) -> bool:
    """Whether the level is there just so, whoever set it."""
    query = select(par_level).where(*_of(Key(new.item_id, new.location_id)))
    row = connection.execute(query).one_or_none()
    wanted = (new.minimum, new.restock_at, new.min_confidence)
    return row is not None and wanted == (row.minimum, row.restocked_at, row.min_confidence)


def remove(connection: Connection, key: Key, at: float) -> None:
    """Forget the level; an alert that it raised is cleared, and that is told. Raises Unknown."""
    lock_ledger(connection)
    is_low = connection.scalar(select(par_level.c.is_low).where(*_of(key)))
    if is_low is None:
        raise Unknown("par level", f"{key.item_id} in {key.location_id}")
    connection.execute(delete(par_level).where(*_of(key)))
    if is_low:
        alerts.clear(connection, AlertKind.LOW, key, at)
        outbox.tell(connection, "stock.unwatched", {**key._asdict()}, at, item_id=key.item_id)


def page(
    connection: Connection,
    *,
    item_id: str | None = None,
    location_id: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[ParLevel]:
    """Par levels by item and location; those of a location alone, not of what is below it."""
    query = select(par_level).order_by(par_level.c.item_id, par_level.c.location_id)
    if item_id is not None:
        query = query.where(par_level.c.item_id == item_id)
    if location_id is not None:
        query = query.where(par_level.c.location_id == location_id)
    if cursor is not None:
        position = tuple_(par_level.c.item_id, par_level.c.location_id)
        query = query.where(position > tuple_(*from_cursor(cursor, 2)))
    found = [_level(row) for row in connection.execute(query.limit(limit + 1)).mappings()]
    shown = tuple(found[:limit])
    is_last = len(found) <= limit
    return Page(shown, None if is_last else to_cursor([shown[-1].item_id, shown[-1].location_id]))


def _of(key: Key) -> tuple[ColumnElement[bool], ...]:
    return (par_level.c.item_id == key.item_id, par_level.c.location_id == key.location_id)


def _level(row: RowMapping) -> ParLevel:
    values = dict(row)
    values["restock_at"] = values.pop("restocked_at")
    return ParLevel(**values)
