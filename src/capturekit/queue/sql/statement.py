"""SQL that goes straight to the driver, as ``database.prepared`` has it for the store.

Both databases understand the same SQL here but for the words in ``WORDS``, so a statement is
written once, as text, and compiled once for each.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection, text

from capturekit.database.prepared import Cursor, Row, driver_of

WORDS: Final = {
    "sqlite": {
        # One write at a time: there is nobody to wait for.
        "SKIP_LOCKED": "",
        "FOR_UPDATE": "",
        # Without statistics its planner prefers whatever index has the most columns.
        "BY": "INDEXED BY {0}",
        # A column of numbers keeps any text that it is given, and text is more than all numbers.
        "IF_NUMBER": "AND {0} < 1e300",
        "AMONG": "IN (SELECT value FROM json_each(:{0}))",
        "PAIRS": "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]')"
        " FROM json_each(:{0})",
    },
    "postgresql": {
        "SKIP_LOCKED": "FOR UPDATE SKIP LOCKED",
        "FOR_UPDATE": "FOR UPDATE",
        "BY": "",
        "IF_NUMBER": "",
        "AMONG": "= ANY(:{0})",
        "PAIRS": "SELECT value ->> 0, CAST(value ->> 1 AS integer)"
        " FROM json_array_elements(CAST(:{0} AS json)) AS value",
    },
}
"""What the two say differently, as ``{WORD}`` or ``{WORD:name of a value}``."""


class _Word(str):
    """``{AMONG:ids}`` in a format string is the word AMONG with "ids" put in."""

    __slots__ = ()

    def __format__(self, name: str) -> str:
        return self.replace("{0}", name)


class Statement:
    """A statement with ``:names`` for values and ``{WORDS}`` for what databases say differently.

    Errors of the driver pass through; ``Database`` translates them.
    """

    __slots__ = ("_compiled", "_sql")

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._compiled: dict[str, tuple[str, Sequence[str] | None]] = {}

    def rows(self, connection: Connection, **values: object) -> list[Row]:
        """Run it; the rows it returned."""
        return self._run(connection, values).fetchall()

    def first(self, connection: Connection, **values: object) -> Row | None:
        """Run it; its first row, or None."""
        # To the end: on SQLite a statement that changes rows goes only as far as it is read.
        found = self._run(connection, values).fetchall()
        return found[0] if found else None

    def count(self, connection: Connection, **values: object) -> int:
        """Run it, a statement that returns no rows; how many it changed."""
        return self._run(connection, values).rowcount

    def _run(self, connection: Connection, values: dict[str, object]) -> Cursor:
        driver = driver_of(connection)
        dialect = connection.dialect.name
        compiled = self._compiled.get(dialect)
        if compiled is None:
            compiled = self._compiled[dialect] = self._compile(connection)
        sql, order = compiled
        return driver.execute(sql, values if order is None else [values[name] for name in order])

    def _compile(self, connection: Connection) -> tuple[str, Sequence[str] | None]:
        words = WORDS[connection.dialect.name]
        sql = self._sql.format(**{name: _Word(word) for name, word in words.items()})
        compiled = text(sql).compile(dialect=connection.dialect)
        return compiled.string, compiled.positiontup


def several(connection: Connection, values: Iterable[object]) -> object:
    """The value of an ``{AMONG:…}``."""
    found = list(values)
    return json.dumps(found) if connection.dialect.name == "sqlite" else found


def pairs(values: Iterable[tuple[str, int]]) -> str:
    """The value of a ``{PAIRS:…}``."""
    return json.dumps(list(values))
