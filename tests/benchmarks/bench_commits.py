"""Durable inserts of many clients: the group commit of ``Database`` beside aiosqlite.

Both insert the same row into the same table with synchronous FULL in WAL mode, and answer a client
when its row is on the disk. aiosqlite has one connection for all clients, as its users have, and a
commit for each. By turns within one run; ratios are of the same round.

Run: ``python tests/benchmarks/bench_commits.py``, with ``--folder`` for another disk.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aiosqlite
import anyio
from sqlalchemy import Column, Connection, Float, Integer, MetaData, Table, Text, bindparam

from capturekit.database import Database
from capturekit.database.prepared import Prepared

CLIENTS: Final = (1, 8, 64)
INSERTS: Final = 1280
"""In a round, by all clients together."""
ROUNDS: Final = 5
GOAL: Final = 5.0

thing = Table(
    "thing",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("at", Float, nullable=False),
)
INSERT: Final = Prepared(
    thing.insert().values({column: bindparam(column.name) for column in thing.c})
)
numbers = itertools.count()


async def per_s(insert: Callable[[], Awaitable[object]], clients: int) -> float:
    """Rows a second."""

    async def client() -> None:
        for _ in range(INSERTS // clients):
            await insert()

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(client)
    return INSERTS / (time.perf_counter() - began)


async def main(folder: Path) -> None:
    url, other = f"sqlite:///{folder}/ours.db", folder / "aiosqlite.db"
    async with Database(url) as ours, aiosqlite.connect(other, isolation_level=None) as theirs:

        def row() -> dict[str, object]:
            number = next(numbers)
            return {"id": number, "name": f"thing {number}", "at": time.time()}

        def work(connection: Connection) -> int:
            return INSERT.count(connection, **row())

        async def by_aiosqlite() -> None:
            values = row()
            # One statement is a transaction of its own: nobody else's can get in between.
            await theirs.execute(
                "INSERT INTO thing (id, name, at) VALUES (:id, :name, :at)", values
            )

        await ours.write(thing.metadata.create_all)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            await theirs.execute(f"PRAGMA {pragma}")
        await theirs.execute("CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT, at FLOAT)")
        print(f"{'clients':>7}{'ours':>12}{'aiosqlite':>12}   ours by aiosqlite")
        for clients in CLIENTS:
            rounds = [
                (await per_s(lambda: ours.write(work), clients), await per_s(by_aiosqlite, clients))
                for _ in range(ROUNDS + 1)
            ][1:]
            mine, other_rate = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratio = statistics.median(one / two for one, two in rounds)
            goal = f" (goal {GOAL:g})" if clients == CLIENTS[-1] else ""
            print(f"{clients:7}{mine:10.0f}/s{other_rate:10.0f}/s   {ratio:.2f}{goal}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path)
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as name:
        anyio.run(main, Path(name))
