"""Reading stock: as a list, as sums, and why a number is what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from pydantic import JsonValue
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    RowMapping,
    Select,
    cast,
    func,
    or_,
    select,
    tuple_,
)

from capturekit.errors import Unknown
from capturekit.store import items, movements
from capturekit.store.movements import Movement
from capturekit.store.movements import get as get_movement
from capturekit.store.page import from_cursor, to_cursor
from capturekit.store.past import STOCK_THEN
from capturekit.store.schema import (
    capture,
    item,
    item_code,
    location,
    move,
    observation,
    run,
    stock,
    verdict,
)
from capturekit.store.seen import ITEM_SEEN, UNITS_SEEN
from capturekit.store.tree import within
from capturekit.times import iso

MOVES_SHOWN: Final = 50


class StockSort(StrEnum):
    """Orders of the stock list; ties go by item and location."""

    NAME = "name"
    QUANTITY = "quantity"
    """Least first."""
    LAST_SEEN = "last_seen_at"
    """Longest ago first, never seen before all."""


@dataclass(frozen=True, slots=True)
class StockRow:
    """How much there is of an item in a place. Times are seconds since 1970, UTC."""

    item_id: str
    name: str
    quantity: int
    unit: str | None
    location: str
    confidence: float | None
    """Of the least certain observation in the count; None when nothing was counted there:
    it was silence of a camera that sees all, or movements alone."""
    last_seen_at: float | None
    """When the newest count that found some was taken."""
    counted_at: float | None
    """When the count was taken that quantity is based on."""
    version: int
    """Grows with every change of this row."""
    codes: tuple[str, ...]

    def as_json(self) -> dict[str, JsonValue]:
        """The row as the HTTP API and the command line show it."""
        return {
            "item_id": self.item_id,
            "name": self.name,
            "quantity": self.quantity,
            "unit": self.unit,
            "location": self.location,
            "confidence": self.confidence,
            "last_seen_at": iso(self.last_seen_at),
            "codes": list(self.codes),
        }


@dataclass(frozen=True, slots=True)
class StockPage:
    """Some of the stock list."""

    rows: tuple[StockRow, ...]
    next: str | None
    updated_at: float | None
    """When a quantity last changed, anywhere."""


@dataclass(frozen=True, slots=True)
class StockQuery:
    """What part of the stock list is asked for."""

    location: str | None = None
    """With all locations below it."""
    item: str | None = None
    text: str | None = None
    """Part of a name, or a code."""
    sort: StockSort = StockSort.NAME
    cursor: str | None = None
    limit: int = 100
    as_of: float | None = None
    """A time, in seconds since 1970, UTC; None is now."""

    @property
    def rows(self) -> FromClause:
        """Where the figures stand: ``stock``, or what it was then."""
        return stock if self.as_of is None else STOCK_THEN

    @property
    def values(self) -> dict[str, float]:
        """What statements on ``rows`` need to know."""
        return {} if self.as_of is None else {"as_of": self.as_of}


@dataclass(frozen=True, slots=True)
class ItemSum:
    """How much there is of an item in all the places asked for."""

    item_id: str
    name: str
    unit: str | None
    quantity: int


@dataclass(frozen=True, slots=True)
class Move:
    """A line of the ledger. Virtual locations begin with a tilde."""

    seq: int
    source: str
    target: str
    quantity: int
    cause: str
    cause_id: str
    recorded_at: float

    def as_json(self) -> dict[str, JsonValue]:
        """The line as the HTTP API and the command line show it."""
        return {
            "seq": self.seq,
            "from": self.source,
            "to": self.target,
            "quantity": self.quantity,
            "cause": self.cause,
            "cause_id": self.cause_id,
            "recorded_at": iso(self.recorded_at),
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """An observation that a count is made of."""

    observation_id: int
    analyser: str
    code: str | None
    quantity: int
    confidence: float
    box: JsonValue
    """A polygon in pixels of the upright picture."""
    is_confident: bool
    is_accepted: bool | None
    """What a person decided, if one did."""
    decided_by: str | None = None
    is_corrected: bool = False
    """Whether the person gave another item or quantity, which is the one told here."""
    carried_from: int | None = None
    """The observation of another run that was decided about, which showed the same thing."""


@dataclass(frozen=True, slots=True)
class Basis:
    """The camera's reading that a stock figure starts from."""

    capture_id: str
    device_id: str
    captured_at: float
    run_id: str
    fingerprint: str
    evidence: tuple[Evidence, ...]
    """Empty when it is the item's absence that was seen."""


@dataclass(frozen=True, slots=True)
class Why:
    """Where a stock figure comes from."""

    stock: StockRow
    basis: Basis | Movement | None
    """A camera's reading, a person's count, or nothing but movements."""
    movements: tuple[Movement, ...]
    """What people moved after it, which the figure includes; newest first, at most 50."""
    moves: tuple[Move, ...]
    """Lines of the ledger, into and out of this place, newest first; at most 50. They were
    written up to the time asked for."""

    def as_json(self) -> dict[str, JsonValue]:
        """The explanation as the HTTP API and the command line show it."""
        movements: list[JsonValue] = [one.as_json() for one in self.movements]
        moves: list[JsonValue] = [one.as_json() for one in self.moves]
        return self.stock.as_json() | {
            "basis": _basis_as_json(self.basis),
            "movements": movements,
            "moves": moves,
        }


def _basis_as_json(basis: Basis | Movement | None) -> dict[str, JsonValue] | None:
    if isinstance(basis, Basis):
        camera: dict[str, JsonValue] = {"kind": "camera", "captured_at": iso(basis.captured_at)}
        return asdict(basis) | camera
    return None if basis is None else basis.as_json() | {"kind": "person"}


def page(connection: Connection, query: StockQuery) -> StockPage:
    """The part of the list that ``query`` asks for; see ``Inventory.stock``."""
    rows = query.rows
    sorted_by = _sorted_by(query)
    # In the words of the table that is read in order: only then is nothing sorted.
    item_id = item.c.id if query.sort is StockSort.NAME else rows.c.item_id
    place = (sorted_by, item_id, rows.c.location_id)
    statement = _lines(query).order_by(*place)
    position = None if query.cursor is None else from_cursor(query.cursor, 3)
    if position is not None:
        statement = statement.where(tuple_(*place) > tuple_(*position))
    # By itself SQLite sorts all rows of stock rather than read an index from its beginning.
    start = _LOWEST[query.sort] if position is None else position[0]
    statement = statement.where(sorted_by >= start)
    limited = statement.add_columns(sorted_by.label("sorted_by")).limit(query.limit + 1)
    found = connection.execute(limited, query.values).mappings().all()
    shown = found[: query.limit]
    updated_at = connection.scalar(select(move.c.recorded_at).order_by(move.c.seq.desc()).limit(1))
    return StockPage(
        tuple(_with_codes(connection, shown)),
        _cursor(shown[-1]) if len(found) > query.limit else None,
        updated_at,
    )


def sums(connection: Connection, query: StockQuery) -> list[ItemSum]:
    """Sums over a location and all below it, or over all that are real; by name."""
    lines = _lines(query).subquery()
    summed = (
        select(
            lines.c.item_id,
            lines.c.name,
            lines.c.unit,
            cast(func.sum(lines.c.quantity), BigInteger),
        )
        .group_by(lines.c.item_id, lines.c.name, lines.c.unit)
        .order_by(lines.c.name, lines.c.item_id)
    )
    return [ItemSum(*row) for row in connection.execute(summed, query.values)]


def why(connection: Connection, item_id: str, location_id: str, as_of: float | None) -> Why:
    """See ``Inventory.why``."""
    query = StockQuery(item=item_id, as_of=as_of)
    lines = _lines(query).where(query.rows.c.location_id == location_id)
    with_basis = lines.add_columns(query.rows.c.basis_run_id, query.rows.c.basis_movement_id)
    row = connection.execute(with_basis, query.values).mappings().one_or_none()
    if row is None:
        raise Unknown("stock", f"{item_id} in {location_id}")
    basis: Basis | Movement | None = None
    if row["basis_movement_id"] is not None:
        basis = get_movement(connection, row["basis_movement_id"])
    elif row["basis_run_id"] is not None:
        basis = _basis(connection, row["basis_run_id"], item_id, location_id)
    between = (row["counted_at"], as_of)
    return Why(
        _with_codes(connection, [row])[0],
        basis,
        movements.between(connection, item_id, location_id, *between, limit=MOVES_SHOWN),
        _moves(connection, item_id, location_id, as_of),
    )


_LOWEST: Final[Mapping[StockSort, JsonValue]] = {
    StockSort.NAME: "",
    StockSort.QUANTITY: -(2**62),
    StockSort.LAST_SEEN: 0.0,
}
"""What no row sorts before."""


def _sorted_by(query: StockQuery) -> ColumnElement[object]:
    if query.sort is StockSort.NAME:
        return item.c.name
    if query.sort is StockSort.QUANTITY:
        return query.rows.c.quantity
    return func.coalesce(query.rows.c.last_seen_at, 0.0)


def _lines(query: StockQuery) -> Select[tuple[object, ...]]:
    """Stock rows that mean something, of real locations, as the query filters them."""
    rows = query.rows
    lines = (
        select(
            rows.c.item_id,
            item.c.name,
            rows.c.quantity,
            item.c.unit,
            rows.c.location_id.label("location"),
            rows.c.confidence,
            rows.c.last_seen_at,
            rows.c.counted_at,
            rows.c.version,
        )
        .join(item, item.c.id == rows.c.item_id)
        .join(location, location.c.id == rows.c.location_id)
        .where(
            location.c.is_virtual.is_(False),
            # Other rows were left by facts since corrected: nothing was ever there.
            or_(rows.c.quantity != 0, rows.c.last_seen_at.is_not(None)),
        )
    )
    if query.location is not None:
        lines = lines.where(rows.c.location_id.in_(within(query.location)))
    if query.item is not None:
        lines = lines.where(rows.c.item_id == query.item)
    if query.text is not None:
        coded = select(item_code.c.item_id).where(item_code.c.code == query.text)
        named = item.c.name.icontains(query.text, autoescape=True)
        lines = lines.where(or_(named, rows.c.item_id.in_(coded)))
    return lines


def _with_codes(connection: Connection, rows: Sequence[RowMapping]) -> list[StockRow]:
    codes = items.codes_of(connection, {row["item_id"] for row in rows})
    names = [name for name in StockRow.__slots__ if name != "codes"]
    return [
        StockRow(**{name: row[name] for name in names}, codes=tuple(codes.get(row["item_id"], ())))
        for row in rows
    ]


def _cursor(row: RowMapping) -> str:
    return to_cursor([row["sorted_by"], row["item_id"], row["location"]])


def _basis(connection: Connection, run_id: str, item_id: str, location_id: str) -> Basis:
    of_run = select(
        capture.c.id, capture.c.device_id, capture.c.captured_at, run.c.id, run.c.fingerprint
    ).join(run, run.c.capture_id == capture.c.id)
    row = connection.execute(of_run.where(run.c.id == run_id)).one()
    seen = (
        select(
            observation.c.id,
            observation.c.analyser,
            observation.c.code,
            UNITS_SEEN,
            observation.c.confidence,
            observation.c.box,
            observation.c.is_confident,
            verdict.c.is_accepted,
            verdict.c.by,
            or_(verdict.c.item_id.is_not(None), verdict.c.units.is_not(None)),
            verdict.c.carried_from_id,
        )
        .outerjoin(verdict, verdict.c.observation_id == observation.c.id)
        .where(
            observation.c.run_id == run_id,
            observation.c.location_id == location_id,
            ITEM_SEEN.in_([item_id]),
        )
        .order_by(observation.c.id)
    )
    return Basis(*row, tuple(Evidence(*one) for one in connection.execute(seen)))


def _moves(
    connection: Connection, item_id: str, location_id: str, until: float | None
) -> tuple[Move, ...]:
    columns = (
        move.c.seq,
        move.c.from_id,
        move.c.to_id,
        move.c.quantity,
        move.c.cause,
        move.c.cause_id,
        move.c.recorded_at,
    )
    found: list[Move] = []
    for end in (move.c.from_id, move.c.to_id):
        newest = (
            select(*columns)
            .where(move.c.item_id == item_id, end == location_id)
            .order_by(move.c.seq.desc())
            .limit(MOVES_SHOWN)
        )
        if until is not None:
            newest = newest.where(move.c.recorded_at <= until)
        found += [Move(*row) for row in connection.execute(newest)]
    found.sort(key=lambda one: one.seq, reverse=True)
    return tuple(found[:MOVES_SHOWN])
