"""A catalogue into the database, all of it or nothing; and out of it."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, select

from capturekit.errors import Conflict, ImportRefused, Unknown
from capturekit.store import items, levels, locations, movements
from capturekit.store.changes import Cause
from capturekit.store.exchange.catalogue import (
    Catalogue,
    CodeRow,
    CountRow,
    Faults,
    ItemRow,
    LevelRow,
    LocationRow,
)
from capturekit.store.items import Item, Meaning
from capturekit.store.levels import NewParLevel
from capturekit.store.locations import Location
from capturekit.store.movements import MovementKind, NewMovement
from capturekit.store.schema import (
    insert_new,
    item,
    item_code,
    location,
    lock_ledger,
    par_level,
    stock,
)

AT_ONCE: Final = 400
"""Names asked for by one statement."""

REASON: Final = "import"


@dataclass(slots=True)
class ImportReport:
    """What an import did, or would do; what was there already is not in it."""

    is_dry_run: bool
    locations_added: int = 0
    locations_changed: int = 0
    items_added: int = 0
    items_changed: int = 0
    codes_assigned: int = 0
    par_levels_set: int = 0
    counts_recorded: int = 0


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """Who imports, when, and which file it is."""

    by: str
    at: float
    name: str
    """The same for the same file: its counts are made once."""
    is_dry_run: bool


class DryRun(Exception):  # no error of ours: it undoes the transaction that it leaves
    """Carries what an import would have done."""

    def __init__(self, report: ImportReport) -> None:
        super().__init__("a dry run")
        self.report = report


def apply(connection: Connection, catalogue: Catalogue, order: ImportOrder) -> ImportReport:
    """Make the database say what the catalogue says; see ``Inventory.import_items``.

    Raises ImportRefused with all faults, and DryRun at the end of one: both undo everything.
    """
    lock_ledger(connection)
    work = _Import(connection, order)
    _contradictions(catalogue, work.faults)
    work.take_locations(catalogue.locations)
    work.take_items(catalogue.items)
    # What names things that are not there would only repeat their faults.
    if not work.faults:
        work.take_codes(catalogue.codes)
        # Levels last: what the file counts is not low before it is counted.
        work.take_counts(catalogue.counts)
        work.take_levels(catalogue.levels)
    if work.faults:
        raise ImportRefused(work.faults)
    if order.is_dry_run:
        raise DryRun(work.report)
    return work.report


class _Import:
    """One import under way, in a transaction."""

    def __init__(self, connection: Connection, order: ImportOrder) -> None:
        self._connection = connection
        self._order = order
        self.faults = Faults()
        self.report = ImportReport(order.is_dry_run)

    def take_locations(self, rows: list[LocationRow]) -> None:
        ids = {row.id for row in rows}
        known = self._known_locations(ids)
        for one in sorted(ids - known.keys()):
            row = next(row for row in rows if row.id == one)
            with self._told(row.row, "location", one):
                locations.ensure(self._connection, [one])
                self.report.locations_added += 1
        for row in rows:
            now = known.get(row.id, Location(row.id, row.id, None))
            changes = 0
            if row.name not in (None, now.name):
                with self._told(row.row, "location_name", row.name):
                    locations.rename(self._connection, row.id, row.name or "")
                    changes += 1
            if row.parent not in (None, now.parent_id):
                with self._told(row.row, "parent", row.parent):
                    locations.move(self._connection, row.id, row.parent, self._order.at)
                    changes += 1
            self.report.locations_changed += changes > 0 and row.id in known

    def take_items(self, rows: list[ItemRow]) -> None:
        """Make the new ones, each said by all of its rows together."""
        said: dict[str, ItemRow] = {}
        for row in rows:
            first = said.setdefault(row.id, row)
            said[row.id] = replace(first, name=first.name or row.name, unit=first.unit or row.unit)
        known = self._known_items(said)
        new = [row for row in said.values() if row.id not in known]
        for row in new:
            if row.name is None:
                self.faults.add(row.row, "item", row.id, "no such item: name it, or correct the id")
        at = self._order.at
        made: list[dict[str, object]] = [
            {"id": row.id, "name": row.name, "unit": row.unit, "created_at": at} for row in new
        ]
        if not self.faults:
            insert_new(self._connection, item, made)
            self.report.items_added += len(made)
        for item_id, now in known.items():
            row = said[item_id]
            name, unit = row.name or now.name, row.unit or now.unit
            if (name, unit) != (now.name, now.unit):
                items.rename(self._connection, item_id, name, unit)
                self.report.items_changed += 1

    def take_codes(self, rows: list[CodeRow]) -> None:
        """New codes that no fact came under are written together: there is nothing to move."""
        wanted = {row.code: row for row in rows}
        known: dict[str, Meaning] = {}
        used: set[str] = set()
        for some in _chunks(wanted):
            known |= items.assigned(self._connection, some)
            used |= items.used_names(self._connection, some)
        fresh: list[dict[str, object]] = []
        for code, row in wanted.items():
            meaning = Meaning(row.item, row.quantity)
            if known.get(code) == meaning:
                continue
            with self._told(row.row, "code", code):
                items.require_units(row.quantity)
                if code in known or code in used:
                    items.assign_code(self._connection, code, meaning, self._order.at)
                else:
                    fresh.append({"code": code, "item_id": row.item, "quantity": row.quantity})
                self.report.codes_assigned += 1
        if not self.faults:
            insert_new(self._connection, item_code, fresh)

    def take_levels(self, rows: list[LevelRow]) -> None:
        for row in rows:
            restock_at = row.minimum + 1 if row.restock_at is None else row.restock_at
            with self._told(row.row, "minimum", row.minimum):
                new = NewParLevel(
                    row.item,
                    row.location,
                    row.minimum,
                    restock_at,
                    row.min_confidence,
                    self._order.by,
                )
                if not levels.is_set(self._connection, new):
                    levels.set_level(self._connection, new, self._order.at)
                    self.report.par_levels_set += 1

    def take_counts(self, rows: list[CountRow]) -> None:
        """Count what differs. The same file again finds its counts made, whatever came since."""
        places = self._known_locations({row.location for row in rows})
        known = self._known_items({row.item for row in rows})
        counts: list[NewMovement] = []
        for row in rows:
            if row.location not in places:
                self.faults.add(
                    row.row,
                    "count",
                    row.quantity,
                    f"no location {row.location!r}: give its location_name as well",
                )
            elif row.item not in known:
                self.faults.add(row.row, "count", row.quantity, f"no item {row.item!r}")
            elif movements.quantity(self._connection, row.key()) != row.quantity:
                with self._told(row.row, "count", row.quantity):
                    counts.append(self._count(row))
        if not self.faults:
            cause = Cause("import", self._order.name, self._order.at)
            changes = movements.count_all(self._connection, counts, cause)
            self.report.counts_recorded += len(changes)

    def _count(self, row: CountRow) -> NewMovement:
        return NewMovement(
            MovementKind.COUNT,
            row.item,
            row.quantity,
            target=row.location,
            by=self._order.by,
            key=f"import:{self._order.name}:{row.item}:{row.location}",
            reason=REASON,
        )

    def _known_locations(self, ids: Collection[str]) -> dict[str, Location]:
        found: dict[str, Location] = {}
        for some in _chunks(ids):
            query = select(location.c.id, location.c.name, location.c.parent_id).where(
                location.c.id.in_(some), location.c.is_virtual.is_(False)
            )
            found |= {row.id: Location(*row) for row in self._connection.execute(query)}
        return found

    def _known_items(self, ids: Collection[str]) -> dict[str, Item]:
        found: dict[str, Item] = {}
        for some in _chunks(ids):
            query = select(item.c.id, item.c.name, item.c.unit).where(item.c.id.in_(some))
            found |= {row.id: Item(*row) for row in self._connection.execute(query)}
        return found

    @contextmanager
    def _told(self, row: int, column: str, given: object) -> Iterator[None]:
        """Turn what is refused into a fault of the row."""
        try:
            yield
        except (Unknown, Conflict, ValueError) as error:
            self.faults.add(row, column, given, str(error))


def _chunks(names: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(names)
    for start in range(0, len(ordered), AT_ONCE):
        yield ordered[start : start + AT_ONCE]


def _contradictions(catalogue: Catalogue, faults: Faults) -> None:
    """Two rows that say different things of one: which of them holds nobody knows."""
    first: dict[tuple[str, ...], tuple[int, object]] = {}
    for row, about, column, value in _statements(catalogue):
        if value is None:
            continue
        row_before, said = first.setdefault((*about, column), (row, value))
        if said != value:
            faults.add(row, column, value, f"row {row_before} says {said!r}: keep one of them")


def _statements(
    catalogue: Catalogue,
) -> Iterator[tuple[int, tuple[str, ...], str, object]]:
    for place in catalogue.locations:
        yield place.row, (place.id,), "location_name", place.name
        yield place.row, (place.id,), "parent", place.parent
    for one in catalogue.items:
        yield one.row, (one.id,), "name", one.name
        yield one.row, (one.id,), "unit", one.unit
    for code in catalogue.codes:
        yield code.row, (code.code,), "code", f"{code.quantity} of {code.item}"
    for level in catalogue.levels:
        about = (level.item, level.location)
        yield level.row, about, "minimum", level.minimum
        yield level.row, about, "restock_at", level.restock_at
        yield level.row, about, "min_confidence", level.min_confidence
    for count in catalogue.counts:
        yield count.row, (count.item, count.location), "count", count.quantity


def read_catalogue(connection: Connection) -> Catalogue:
    """All that an import can bring, in order; of stock what is more than nothing."""
    places = locations.all_locations(connection)
    names = select(item.c.id, item.c.name, item.c.unit).order_by(item.c.id)
    codes = select(item_code.c.code, item_code.c.item_id, item_code.c.quantity)
    set_levels = select(
        par_level.c.item_id,
        par_level.c.location_id,
        par_level.c.minimum,
        par_level.c.restocked_at,
        par_level.c.min_confidence,
    ).order_by(par_level.c.item_id, par_level.c.location_id)
    counted = (
        select(stock.c.item_id, stock.c.location_id, stock.c.quantity)
        .join(location, location.c.id == stock.c.location_id)
        .where(location.c.is_virtual.is_(False), stock.c.quantity > 0)
        .order_by(stock.c.item_id, stock.c.location_id)
    )
    execute = connection.execute
    return Catalogue(
        [LocationRow(0, one.id, one.name, one.parent_id) for one in places],
        [ItemRow(0, *row) for row in execute(names)],
        [
            CodeRow(0, *row)
            for row in execute(codes.order_by(item_code.c.item_id, item_code.c.code))
        ],
        [LevelRow(0, *row) for row in execute(set_levels)],
        [CountRow(0, *row) for row in execute(counted)],
    )
