"""Proof that stock is what the facts say, and that no fact was changed.

Everything is read once, a page of rows at a time, on one snapshot. What is found wrong is
told, never mended: which of two figures is the right one is for a person to say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    case,
    cast,
    func,
    literal,
    or_,
    select,
    tuple_,
    union_all,
)

from capturekit.store import digests, fold, plausible
from capturekit.store.changes import Key
from capturekit.store.schema import (
    capture,
    item_code,
    live_count,
    live_scope,
    location,
    move,
    movement,
    observation,
    run,
    run_scope,
    stock,
)

ROWS_AT_ONCE: Final = 500
"""Read by one statement; fits the parameters that old SQLites take."""

MAX_FINDINGS: Final = 100
"""Told at most; more would say the same."""


class Doubt(StrEnum):
    """What kind of thing is wrong."""

    LEDGER = "ledger"
    """A line of the ledger was changed, taken out or put in."""
    RUN = "run"
    """A run, its observations or its scopes were changed."""
    MOVEMENT = "movement"
    """What a person said was changed."""
    MEANING = "meaning"
    """A fact counts for another item, or for other units, than its code stands for."""
    INDEX = "index"
    """The index of live counts does not hold what the facts say."""
    STOCK = "stock"
    """Stock is not what the facts say."""
    SUM = "sum"
    """Stock is not the sum of the ledger's lines, or an item's sum over all places is not 0."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    doubt: Doubt
    name: str
    """Of the line, run, movement or key of stock."""
    message: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What was read, and what is wrong with it."""

    findings: tuple[Finding, ...]
    """At most 100. Empty when all is well."""
    checked: dict[str, int] = field(default_factory=dict)
    """Numbers of lines, runs, movements and figures of stock that were read."""

    @property
    def is_proved(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify(connection: Connection) -> Proof:
    """See ``Inventory.verify``."""
    checked: dict[str, int] = {}
    return Proof(tuple(islice(_findings(connection, checked), MAX_FINDINGS)), checked)


def _findings(connection: Connection, checked: dict[str, int]) -> Iterator[Finding]:
    yield from _lines(connection, checked)
    yield from _runs(connection, checked)
    yield from _movements(connection, checked)
    yield from _meanings(connection)
    yield from _index_of_captures(connection)
    yield from _index_of_movements(connection)
    for key in plausible.misjudged(connection):
        yield Finding(Doubt.INDEX, _name(key), "a count is judged otherwise than its rule does")
    yield from _figures(connection, checked)
    yield from _sums(connection)


def _pages(
    connection: Connection, query: Select[tuple[object, ...]], *order: ColumnElement[object]
) -> Iterator[Sequence[dict[str, Any]]]:
    """The rows of the query in this order, by pages: no server keeps them all for us."""
    page = query.order_by(*order).limit(ROWS_AT_ONCE)
    rows = connection.execute(page).mappings().all()
    while rows:
        yield [dict(row) for row in rows]
        after = tuple_(*order) > tuple_(*(rows[-1][column] for column in order))
        rows = connection.execute(page.where(after)).mappings().all()


# Digests


def _lines(connection: Connection, checked: dict[str, int]) -> Iterator[Finding]:
    seq, digest = 0, ""
    for page in _pages(connection, select(move), move.c.seq):
        for row in page:
            name = str(row["seq"])
            if row["seq"] != seq + 1:
                yield Finding(Doubt.LEDGER, name, f"line {seq + 1} is not there")
            elif row["digest"] != digests.of_move(row, digest):
                yield Finding(Doubt.LEDGER, name, "the line is not the one written")
            seq, digest = row["seq"], row["digest"]
    checked["lines"] = seq


def _runs(connection: Connection, checked: dict[str, int]) -> Iterator[Finding]:
    count = 0
    for page in _pages(connection, select(run), run.c.id):
        count += len(page)
        ids = [row["id"] for row in page]
        seen = _by_run(connection, select(observation).where(observation.c.run_id.in_(ids)))
        scopes = _by_run(connection, select(run_scope).where(run_scope.c.run_id.in_(ids)))
        for row in page:
            places = [str(one["location_id"]) for one in scopes.get(row["id"], ())]
            if row["digest"] != digests.of_run(row, places, seen.get(row["id"], ())):
                yield Finding(Doubt.RUN, row["id"], "the run is not the one recorded")
    checked["runs"] = count


def _by_run(
    connection: Connection, query: Select[tuple[object, ...]]
) -> dict[str, list[Mapping[str, object]]]:
    found: dict[str, list[Mapping[str, object]]] = {}
    for row in connection.execute(query).mappings():
        found.setdefault(row["run_id"], []).append(dict(row))
    return found


def _movements(connection: Connection, checked: dict[str, int]) -> Iterator[Finding]:
    count = 0
    for page in _pages(connection, select(movement), movement.c.id):
        count += len(page)
        for row in page:
            if row["digest"] != digests.of_movement(row):
                yield Finding(Doubt.MOVEMENT, row["id"], "the movement is not the one recorded")
    checked["movements"] = count


# What codes mean today


def _meanings(connection: Connection) -> Iterator[Finding]:
    by_code = select(observation.c.id).join(item_code, item_code.c.code == observation.c.code)
    code_means = (item_code.c.item_id, observation.c.quantity * item_code.c.quantity)
    queries = (
        ("observation", by_code.where(_differs(observation, *code_means))),
        ("observation", _misnamed(observation, observation.c.quantity)),
        ("movement", _misnamed(movement, movement.c.amount)),
    )
    for what, query in queries:
        for name in connection.scalars(query.limit(MAX_FINDINGS)):
            yield Finding(Doubt.MEANING, str(name), f"the {what} counts as something else")


def _misnamed(table: Table, amount: ColumnElement[int]) -> Select[tuple[object, ...]]:
    """Facts that name an item, and count as another than ``items.meanings`` says."""
    is_code = item_code.c.code.is_not(None) & (item_code.c.item_id != table.c.item)
    means = (
        case((is_code, item_code.c.item_id), else_=table.c.item),
        amount * case((is_code, item_code.c.quantity), else_=1),
    )
    return (
        select(table.c.id)
        .outerjoin(item_code, item_code.c.code == table.c.item)
        .where(table.c.item.is_not(None), _differs(table, *means))
    )


def _differs(
    table: Table, item_id: ColumnElement[str], units: ColumnElement[int]
) -> ColumnElement[bool]:
    return or_(table.c.item_id != item_id, table.c.units != units)


# The index of live counts


def _index_of_captures(connection: Connection) -> Iterator[Finding]:
    with_run = select(capture.c.id).where(capture.c.current_run_id.is_not(None))
    for page in _pages(connection, with_run, capture.c.id):
        ids = [row["id"] for row in page]
        for table, facts in (
            (live_count, fold.counts_of_runs()),
            (live_scope, fold.scopes_of_runs()),
        ):
            columns = [table.c[column.name] for column in facts.selected_columns]
            held = connection.execute(select(*columns).where(table.c.capture_id.in_(ids)))
            meant = connection.execute(facts.where(capture.c.id.in_(ids)))
            where = columns.index(table.c.capture_id)
            for row in {tuple(one) for one in held} ^ {tuple(one) for one in meant}:
                yield Finding(Doubt.INDEX, str(row[where]), f"{table.name} differs from the run")


def _index_of_movements(connection: Connection) -> Iterator[Finding]:
    facts = fold.counts_by_hand()
    columns = [live_count.c[column.name] for column in facts.selected_columns]
    counted = select(movement.c.id).where(movement.c.counted_id.is_not(None))
    where = columns.index(live_count.c.movement_id)
    for page in _pages(connection, counted, movement.c.id):
        ids = [row["id"] for row in page]
        held = connection.execute(select(*columns).where(live_count.c.movement_id.in_(ids)))
        meant = connection.execute(facts.where(movement.c.id.in_(ids)))
        for row in {tuple(one) for one in held} ^ {tuple(one) for one in meant}:
            yield Finding(Doubt.INDEX, str(row[where]), "live_count differs from the movement")


# Stock


def _figures(connection: Connection, checked: dict[str, int]) -> Iterator[Finding]:
    count = 0
    real = (
        select(stock.c.item_id, stock.c.location_id)
        .join(location, location.c.id == stock.c.location_id)
        .where(location.c.is_virtual.is_(False))
    )
    for page in _pages(connection, real, stock.c.item_id, stock.c.location_id):
        count += len(page)
        keys = [Key(row["item_id"], row["location_id"]) for row in page]
        for key, held, meant in fold.compared(connection, keys):
            if held != meant:
                yield Finding(
                    Doubt.STOCK, _name(key), f"stock says {held.quantity}, facts {meant.quantity}"
                )
    checked["figures"] = count


def _sums(connection: Connection) -> Iterator[Finding]:
    into = select(move.c.item_id, move.c.to_id.label("location_id"), move.c.quantity)
    out_of = select(move.c.item_id, move.c.from_id, -move.c.quantity)
    moved = union_all(into, out_of).subquery()
    summed = (
        select(
            moved.c.item_id,
            moved.c.location_id,
            cast(func.sum(moved.c.quantity), BigInteger).label("quantity"),
        )
        .group_by(moved.c.item_id, moved.c.location_id)
        .subquery()
    )
    same = and_(summed.c.item_id == stock.c.item_id, summed.c.location_id == stock.c.location_id)
    lines = func.coalesce(summed.c.quantity, literal(0))
    differing = (
        select(stock.c.item_id, stock.c.location_id, stock.c.quantity, lines.label("lines"))
        .outerjoin(summed, same)
        .where(stock.c.quantity != lines)
    )
    for row in connection.execute(differing.limit(MAX_FINDINGS)):
        message = f"stock says {row.quantity}, the ledger's lines {row.lines}"
        yield Finding(Doubt.SUM, _name(Key(row.item_id, row.location_id)), message)
    total = cast(func.sum(stock.c.quantity), BigInteger)
    uneven = select(stock.c.item_id, total.label("total")).group_by(stock.c.item_id)
    for row in connection.execute(uneven.having(total != 0).limit(MAX_FINDINGS)):
        yield Finding(Doubt.SUM, row.item_id, f"all places together hold {row.total}, not 0")


def _name(key: Key) -> str:
    return f"{key.item_id} in {key.location_id}"
