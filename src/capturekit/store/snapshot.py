"""Every row of a database as lines of JSON, the same on SQLite and Postgres, and back again."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from pydantic import JsonValue
from sqlalchemy import Connection, MetaData, Table, func, select, text

from capturekit.store import blob_records
from capturekit.store.migrations import upgrade_within
from capturekit.store.schema import location

LEFT_OUT: Final = ("doomed_blob", "installation", "worker")
"""Tables about the present moment of one installation, which a restored one makes anew."""

ROWS: Final = 500
"""Rows read or written by one statement."""

Row = dict[str, JsonValue]


def tables(*metadatas: MetaData) -> list[Table]:
    """Those that a snapshot has, each after those that it points at."""
    found = (table for metadata in metadatas for table in metadata.sorted_tables)
    return [table for table in found if table.name not in LEFT_OUT]


def rows(connection: Connection, table: Table) -> Iterator[bytes]:
    """Each row as a line, in the order of the primary key; of locations parents come first."""
    query = select(table).order_by(*table.primary_key.columns)
    found = connection.execution_options(yield_per=ROWS).execute(query).mappings()
    every: Iterable[Mapping[str, JsonValue]] = (dict(row) for row in found)
    for row in _parents_first(list(every)) if table is location else every:
        yield json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def wanted_blobs(connection: Connection) -> Iterator[str]:
    """What this snapshot needs, in ascending order."""
    after = ""
    while page := blob_records.wanted_page(connection, after, ROWS):
        yield from page
        after = page[-1]


def fill(
    connection: Connection, tables: Sequence[Table], lines: Callable[[str], Iterable[bytes]]
) -> None:
    """Make the schema in an empty database, and all rows in it."""
    upgrade_within(connection)
    # A fresh schema comes with a few.
    for table in reversed(tables):
        connection.execute(table.delete())
    for table in tables:
        parsed = (json.loads(line) for line in lines(table.name))
        while batch := list(islice(parsed, ROWS)):
            connection.execute(table.insert(), batch)
        if connection.dialect.name == "postgresql":
            _go_on_counting(connection, table)


def _parents_first(
    found: Sequence[Mapping[str, JsonValue]],
) -> Iterator[Mapping[str, JsonValue]]:
    known: set[JsonValue] = {None}
    left = list(found)
    while left:
        ready = [row for row in left if row["parent_id"] in known]
        known |= {row["id"] for row in ready}
        left = [row for row in left if row["id"] not in known]
        yield from ready or left
        if not ready:
            return


def _go_on_counting(connection: Connection, table: Table) -> None:
    """Let the numbers that Postgres gives to rows go on after those that are there."""
    column = table.autoincrement_column
    if column is None:
        return
    names = {"table": table.name, "column": column.name}
    sequence = connection.scalar(text("SELECT pg_get_serial_sequence(:table, :column)"), names)
    highest = connection.scalar(select(func.max(column)))
    if sequence is not None and highest is not None:
        connection.execute(
            text("SELECT setval(CAST(:sequence AS regclass), :highest)"),
            {"sequence": sequence, "highest": highest},
        )
