"""What all processes of a database counted, summed since it was made."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from sqlalchemy import ColumnElement, Connection, case, func, select
from sqlalchemy.dialects import postgresql, sqlite

from capturekit.database import Database
from capturekit.store.schema import lock_ledger, move, observation, telemetry
from capturekit.telemetry import MEASURES, Series, Tally

_SEPARATOR: Final = "\x1f"
"""Between labels: ASCII's unit separator, which no name has."""

COUNTED_AT_ONCE: Final = 5000
"""Rows of the ledger counted in one transaction."""


class Tallies:
    """The sums, as they are kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, counted: Mapping[Series, Tally]) -> None:
        """Add what a process counted. A crash of the machine may lose the last seconds."""
        if counted:
            await self._database.write(partial(_add, counted=counted), is_synced=False)

    async def count_ledger(self) -> bool:
        """Count the moves and observations that were not yet; True while there are more."""
        return await self._database.write(_count_ledger, is_synced=False)

    async def all(self) -> dict[Series, Tally]:
        """All sums of what this version knows."""
        return await self._database.read(_all)


def _add(connection: Connection, counted: Mapping[Series, Tally]) -> None:
    rows = [
        {"name": series.name, "labels": _SEPARATOR.join(series.labels), "bucket": bucket, "sum": n}
        for series, tally in counted.items()
        for bucket, n in ((-1, tally.total), *enumerate(tally.buckets))
        if n
    ]
    # In one order, so that two processes never wait for each other.
    rows.sort(key=lambda row: (row["name"], row["labels"], row["bucket"]))
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    insert = dialect.insert(telemetry)
    key = [telemetry.c.name, telemetry.c.labels, telemetry.c.bucket]
    added = {"sum": telemetry.c.sum + insert.excluded.sum}
    if rows:
        connection.execute(insert.on_conflict_do_update(index_elements=key, set_=added), rows)


def _count_ledger(connection: Connection) -> bool:
    lock_ledger(connection)
    decision = case((observation.c.is_confident, "counted"), else_="proposed")
    has_more = [
        _count_rows(connection, "stock_moves", move.c.seq, (move.c.cause,)),
        _count_rows(
            connection, "observations", observation.c.id, (observation.c.analyser, decision)
        ),
    ]
    return any(has_more)


def _count_rows(
    connection: Connection,
    name: str,
    number: ColumnElement[int],
    labels: tuple[ColumnElement[str], ...],
) -> bool:
    """Count rows by these labels past the last that was; True when there are more."""
    place = Series(f"{name}, counted up to")
    is_place = telemetry.c.name == place.name
    upto: int = int(connection.scalar(select(telemetry.c.sum).where(is_place)) or 0)
    new = select(number).where(number > upto).order_by(number).limit(COUNTED_AT_ONCE).subquery()
    last: int | None = connection.scalar(select(func.max(new.c[0])))
    if last is None:
        return False
    found = connection.execute(
        select(func.count(), *labels).where(number > upto, number <= last).group_by(*labels)
    ).all()
    counted = {Series(name, tuple(row[1:])): Tally(row[0]) for row in found}
    _add(connection, {**counted, place: Tally(last - upto)})
    return sum(row[0] for row in found) == COUNTED_AT_ONCE


def _all(connection: Connection) -> dict[Series, Tally]:
    found: dict[Series, Tally] = {}
    for row in connection.execute(select(telemetry)):
        measure = MEASURES.get(row.name)
        labels = tuple(row.labels.split(_SEPARATOR)) if row.labels else ()
        if measure is None or len(labels) != len(measure.labels):
            continue  # of another version
        size = len(measure.bounds) + 1 if measure.bounds else 0
        tally = found.setdefault(Series(row.name, labels), Tally(0.0, (0,) * size))
        if row.bucket < 0:
            tally.total = row.sum
        elif row.bucket < size:
            buckets = list(tally.buckets)
            buckets[row.bucket] = int(row.sum)
            tally.buckets = tuple(buckets)
    return found
