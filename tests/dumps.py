"""All that a database holds, to compare it with what it holds later."""

from sqlalchemy import Connection, inspect, text


def whole(connection: Connection) -> dict[str, list[str]]:
    """Every row of every table, in no order of its own."""
    tables = inspect(connection).get_table_names()
    return {
        name: sorted(repr(tuple(row)) for row in connection.execute(text(f"SELECT * FROM {name}")))  # noqa: S608
        for name in tables
    }
