"""Statements that are compiled once and then go straight to the driver.

Of what a small statement costs through SQLAlchemy, nine tenths are finding its compiled form in a
cache, preparing its values and wrapping its rows. The few statements that each picture needs are
therefore ``Prepared``: written as any other, compiled at their first use on each engine, and run
by the driver itself. Types are honoured: values and rows are as SQLAlchemy would have them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, cast

from sqlalchemy import Connection
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import Delete, Insert, Select, Update
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement

Row: TypeAlias = tuple[Any, ...]
"""A row's values in the order of its columns."""

Watcher: TypeAlias = Callable[[str, object], None]

watchers: Final[list[Watcher]] = []
"""Told each statement with its values before it runs, for those who watch what is asked:
SQLAlchemy's own listeners hear of others only."""

_Convert: TypeAlias = Callable[[Any], Any]


class Cursor(Protocol):
    """What a driver's cursor has."""

    rowcount: int
    description: Sequence[Sequence[Any]] | None
    """Of each column its name and the number of its type, and more."""

    def fetchall(self) -> list[Row]:
        """The rows that are left."""
        ...

    def executemany(self, sql: str, values: Sequence[object], /) -> object:
        """Run it once for each."""
        ...


class Driver(Protocol):
    """What connections of sqlite3 and of psycopg have both, and DBAPI does not ask for."""

    def execute(self, sql: str, values: object, /) -> Cursor:
        """Run a statement."""
        ...

    def cursor(self) -> Cursor:
        """Another cursor."""
        ...


def driver_of(connection: Connection) -> Driver:
    """The driver's own connection, within the same transaction."""
    return cast("Driver", connection.connection.driver_connection)


class _Form:
    """A statement as one engine takes it."""

    __slots__ = (
        "_columns",
        "_dialect",
        "convert",
        "defaults",
        "keys",
        "order",
        "sql",
        "to_driver",
    )

    def __init__(self, statement: "Select[Any] | Insert | Update | Delete", to: Dialect) -> None:
        compiled = statement.compile(dialect=to)
        assert isinstance(compiled, SQLCompiler)  # noqa: S101  # to mypy it may be another
        if compiled.post_compile_params:
            raise ValueError(f"it cannot be prepared, its length varies: {statement}")
        self.sql = compiled.string
        self.order: Sequence[str] | None = compiled.positiontup
        self.defaults: dict[str, object] = {
            name: bind.effective_value
            for bind, name in compiled.bind_names.items()
            if not bind.required
        }
        self.to_driver: dict[str, _Convert] = {
            name: convert
            for bind, name in compiled.bind_names.items()
            if (convert := bind.type.dialect_impl(to).bind_processor(to)) is not None
        }
        self._dialect = to
        self._columns = _columns(statement)
        self.convert: Callable[[list[Row], Cursor], list[Row]] | None = self._learn
        self.keys = tuple(str(column.key) for column in self._columns)

    def values(self, given: Mapping[str, object]) -> object:
        values = {**self.defaults, **given} if self.defaults else given
        if self.to_driver:
            values = {**values}
            for name, convert in self.to_driver.items():
                values[name] = convert(values[name])
        return values if self.order is None else [values[name] for name in self.order]

    def _learn(self, rows: list[Row], cursor: Cursor) -> list[Row]:
        """See the first time how values are to be read: that depends on the database's types."""
        converters = []
        for index, (column, told) in enumerate(
            zip(self._columns, cursor.description or (), strict=True)
        ):
            type_ = column.type.dialect_impl(self._dialect)
            if (convert := type_.result_processor(self._dialect, told[1])) is not None:
                converters.append((index, convert))
        self.convert = partial(_converted, converters) if converters else None
        return _converted(converters, rows, cursor)


class Prepared:
    """A Core statement with a ``bindparam`` for each value that changes.

    Errors of the driver pass through; ``Database`` translates them. Lists of varying length
    (``in_`` of a list) cannot be prepared: ValueError at the first use.
    """

    __slots__ = ("_forms", "_statement")

    def __init__(self, statement: "Select[Any] | Insert | Update | Delete") -> None:
        self._statement = statement
        self._forms: dict[str, _Form] = {}

    def rows(self, connection: Connection, **values: object) -> list[Row]:
        """Run it; the rows that it returned."""
        form = self._forms.get(connection.dialect.name) or self._compiled(connection)
        cursor = _execute(connection, form.sql, form.values(values))
        found = cursor.fetchall()
        return found if form.convert is None else form.convert(found, cursor)

    def first(self, connection: Connection, **values: object) -> Row | None:
        """Run it; its first row, or None."""
        found = self.rows(connection, **values)
        return found[0] if found else None

    def scalar(self, connection: Connection, **values: object) -> Any:  # noqa: ANN401  # SQL's
        """Run it; the first value of its first row, or None."""
        found = self.rows(connection, **values)
        return found[0][0] if found else None

    def mapping(self, connection: Connection, **values: object) -> dict[str, Any] | None:
        """Run it; its first row by the names of its columns, or None."""
        found = self.first(connection, **values)
        if found is None:
            return None
        return dict(zip(self._compiled(connection).keys, found, strict=True))

    def count(self, connection: Connection, **values: object) -> int:
        """Run it, a statement that returns no rows; how many it changed."""
        form = self._forms.get(connection.dialect.name) or self._compiled(connection)
        return _execute(connection, form.sql, form.values(values)).rowcount

    def each(self, connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
        """Run it for each of these values; for statements that return no rows."""
        form = self._compiled(connection)
        given = [form.values(row) for row in rows]
        if len(given) == 1:
            _execute(connection, form.sql, given[0])
        elif given:
            for watch in watchers:
                watch(form.sql, given[0])
            driver_of(connection).cursor().executemany(form.sql, given)

    def _compiled(self, connection: Connection) -> _Form:
        dialect = connection.dialect
        form = self._forms.get(dialect.name)
        if form is None:
            form = self._forms[dialect.name] = _Form(self._statement, dialect)
        return form


def _execute(connection: Connection, sql: str, values: object) -> Cursor:
    if watchers:
        for watch in watchers:
            watch(sql, values)
    driver: Driver = connection.connection.driver_connection  # type: ignore[assignment]
    return driver.execute(sql, values)


def _columns(statement: "Select[Any] | Insert | Update | Delete") -> list[ColumnElement[Any]]:
    """What it returns."""
    if isinstance(statement, Select):
        return list(statement.selected_columns)
    return list(statement.exported_columns)


def _converted(
    converters: Sequence[tuple[int, _Convert]], rows: list[Row], _cursor: Cursor
) -> list[Row]:
    """The rows, with values of some columns in Python's types."""
    found = []
    for row in rows:
        values = list(row)
        for index, convert in converters:
            values[index] = convert(values[index])
        found.append(tuple(values))
    return found
