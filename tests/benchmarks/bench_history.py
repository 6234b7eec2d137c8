"""What questions about the past and about single items cost in a large ledger, on both engines.

usage: bench_history.py [--rows 100000] [--lines 400000]

Medians in milliseconds, with the thread that answers and all rows made into objects. "new" is
a database whose planner was never told what is in it; Postgres sees to that by itself after
a minute, SQLite by ``ANALYZE``. The import is timed once, in seconds.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import Connection, text

from capturekit.database import Database
from capturekit.store import Inventory, Store, migrations
from tests.servers_postgres import running_postgres

ROUNDS: Final = 9
IMPORTED: Final = 2_000

NUMBERS: Final = "WITH RECURSIVE g(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM g WHERE n < {last})"
FILLS: Final = (
    (
        "INSERT INTO item (id, name, created_at) {rows} SELECT 'i' || n, 'Item ' || n, 1.0 FROM g",
        (
            "INSERT INTO location (id, name, parent_id, is_virtual) {places}"
            " SELECT 'l' || n, 'l' || n, CASE n WHEN 0 THEN NULL ELSE 'l0' END, false FROM g"
        ),
    ),
    (
        (
            "INSERT INTO move (seq, item_id, from_id, to_id, quantity, cause, cause_id,"
            " recorded_at, digest) {lines} SELECT n + 1, 'i' || (n % {count}), '~adjusted',"
            " 'l' || (n % 50), 1,"
            " 'run', 'r' || n, 1000.0 + n, '' FROM g"
        ),
    ),
    (
        (
            "INSERT INTO stock (item_id, location_id, quantity, version, confidence, counted_at,"
            " last_seen_at) {rows}"
            " SELECT 'i' || n, 'l' || (n % 50), {each}, 1, 1.0, 1.0, 1.0 FROM g"
        ),
        (
            "INSERT INTO live_count (item_id, location_id, counted_at, source, key, quantity,"
            " confidence, is_plausible) {rows}"
            " SELECT 'i' || n, 'l' || (n % 50), 1.0, 'cam', 'k', {each}, 1.0, true FROM g"
        ),
    ),
)


def filling(statements: tuple[str, ...], rows: int, lines: int) -> Callable[[Connection], None]:
    words = {
        "rows": NUMBERS.format(last=rows - 1),
        "lines": NUMBERS.format(last=lines - 1),
        "places": NUMBERS.format(last=49),
        "count": rows,
        "each": lines // rows,
    }

    def fill(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement.format(**words)))

    return fill


def analyse(connection: Connection) -> None:
    connection.execute(text("ANALYZE"))


async def questions(inventory: Inventory) -> dict[str, Callable[[], Awaitable[object]]]:
    page, lines = await inventory.stock(), await inventory.history()
    return {
        "stock": inventory.stock,
        "stock, next page": lambda: inventory.stock(cursor=page.next),
        "stock as of": lambda: inventory.stock(as_of=5.0),
        "sums as of, one place": lambda: inventory.sums("l7", as_of=5.0),
        "why as of": lambda: inventory.why("i7", "l7", as_of=5.0),
        "history": inventory.history,
        "history, next page": lambda: inventory.history(cursor=lines.next),
        "history of an item": lambda: inventory.history(item="i7"),
        "history of a place": lambda: inventory.history(location="l7"),
        "history of 100 s": lambda: inventory.history(since=5_000.0, until=5_100.0),
        "lots": lambda: inventory.lots("i7"),
        "expiring": inventory.expiring,
        "forecast": lambda: inventory.forecast("i7"),
    }


async def median_ms(ask: Callable[[], Awaitable[object]]) -> float:
    await ask()
    took: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        await ask()
        took.append(1000 * (time.perf_counter() - start))
    return statistics.median(took)


async def measure(url: str, rows: int, lines: int) -> dict[str, list[float]]:
    table: dict[str, list[float]] = {}
    async with Database(url) as database:
        await migrations.upgrade(database)
        inventory = Store(database).inventory
        for statements in FILLS:
            await database.write(filling(statements, rows, lines))
        for is_analysed in (False, True):
            if is_analysed:
                await database.write(analyse)
            for name, ask in (await questions(inventory)).items():
                table.setdefault(name, []).append(await median_ms(ask))
        sheet = "item,name,code,location,count\n" + "".join(
            f"new{number},New {number},{number:013},l7,{number % 9 + 1}\n"
            for number in range(IMPORTED)
        )
        start = time.perf_counter()
        await inventory.import_items(sheet.encode())
        table[f"import of {IMPORTED:,}, s"] = [time.perf_counter() - start]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="of stock, each of one item")
    parser.add_argument("--lines", type=int, default=400_000, help="of the ledger")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_postgres() as server:
        sqlite = measure(f"sqlite:///{folder}/a.db", arguments.rows, arguments.lines)
        of_sqlite = asyncio.run(sqlite)
        postgres = measure(server.new_database(), arguments.rows, arguments.lines)
        of_postgres = asyncio.run(postgres)
    print(f"{arguments.rows:,} rows of stock, {arguments.lines:,} lines of the ledger")
    heads = ("SQLite new", "analysed", "Postgres new", "analysed")
    print(f"{'':24}" + "".join(f"{head:>14}" for head in heads))
    for name, took in of_sqlite.items():
        figures = [*took, *[""] * (2 - len(took)), *of_postgres[name]]
        cells = (f"{one:14.1f}" if isinstance(one, float) else f"{one:>14}" for one in figures)
        print(f"{name:24}" + "".join(cells))


if __name__ == "__main__":
    main()
