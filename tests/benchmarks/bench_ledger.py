"""What it costs to apply a run, by the number of facts that its key has already.

usage: bench_ledger.py [--large] [--total OBSERVATIONS]

Medians in milliseconds, of the work inside the transaction, commit excluded. The line must be
flat: a fold over all facts of a key took 41 ms at 5,000. ``--large`` adds 100,000 facts.
``--total`` fills a ledger of 100 items, ten times as large at each step, up to so many
observations, such as 10000000, which takes some minutes and 5 GB.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Final

from sqlalchemy import Connection, text

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import NewCapture, RunRecord, Store, migrations, runs
from capturekit.store.changes import Cause, Key
from capturekit.store.fold import refold
from capturekit.store.schema import capture, live_count, live_scope, movement, observation, run

SIZES: Final = (10, 1_000, 10_000)
ROUNDS: Final = 60


def _seen(confidence: float = 1.0) -> Observation:
    return Observation(analyser="codes", code="tea", quantity=3, confidence=confidence)


def _seen_large() -> list[Observation]:
    return [
        Observation(analyser="codes", code=f"i{number}", quantity=4, confidence=1.0)
        for number in range(SEEN_EACH)
    ]


def fill(connection: Connection, first: int, last: int, confidence: float) -> None:
    """Captures that were processed already, with what the ledger keeps about them."""
    numbers = range(first, last)
    connection.execute(capture.insert(), [_capture_row(number) for number in numbers])
    connection.execute(run.insert(), [_run_row(number) for number in numbers])
    rows = [_observation_row(number, confidence) for number in numbers]
    connection.execute(observation.insert(), rows)
    if confidence >= 0.5:
        connection.execute(live_count.insert(), [_count_row(number) for number in numbers])
    else:
        connection.execute(live_scope.insert(), [_scope_row(number) for number in numbers])
    refold(connection, [Key("tea", "cam")], Cause("run", "fill", 0.0))


def receive(connection: Connection, times: int) -> None:
    """Movements into a place that nobody counted."""
    connection.execute(movement.insert(), [_movement_row(number) for number in range(times)])
    refold(connection, [Key("tea", "cam")], Cause("movement", "fill", 0.0))


def _capture_row(number: int) -> dict[str, object]:
    return {
        "id": f"old{number:09}",
        "device_id": "cam",
        "key": f"old{number:09}",
        "sha256": "00" * 32,
        "size_bytes": 1,
        "media_type": "image/jpeg",
        "width": 1,
        "height": 1,
        "flags": [],
        "captured_at": float(number),
        "received_at": float(number),
        "metadata": {},
        "state": "completed",
        "series": 0,
        "attempt": 1,
        "current_run_id": f"run{number:09}",
    }


def _run_row(number: int) -> dict[str, object]:
    return {
        "id": f"run{number:09}",
        "capture_id": f"old{number:09}",
        "fingerprint": "v1",
        "started_at": 0.0,
        "finished_at": 0.0,
        "result": {},
    }


def _observation_row(number: int, confidence: float) -> dict[str, object]:
    return {
        "run_id": f"run{number:09}",
        "analyser": "codes",
        "location_id": "cam",
        "code": "tea",
        "quantity": 3,
        "confidence": confidence,
        "is_confident": confidence >= 0.5,
        "item_id": "tea",
        "units": 3,
    }


def _count_row(number: int) -> dict[str, object]:
    return {
        "item_id": "tea",
        "location_id": "cam",
        "counted_at": float(number),
        "source": "cam",
        "key": f"old{number:09}",
        "quantity": 3,
        "confidence": 1.0,
        "capture_id": f"old{number:09}",
        "run_id": f"run{number:09}",
    }


def _scope_row(number: int) -> dict[str, object]:
    return {
        "location_id": "cam",
        "counted_at": float(number),
        "source": "cam",
        "key": f"old{number:09}",
        "capture_id": f"old{number:09}",
        "run_id": f"run{number:09}",
    }


def _movement_row(number: int) -> dict[str, object]:
    return {
        "id": f"in{number}",
        "key": f"in{number}",
        "kind": "receive",
        "item": "tea",
        "amount": 1,
        "from_id": "~supplier",
        "to_id": "cam",
        "moved_at": float(number),
        "by": "",
        "recorded_at": 0.0,
        "item_id": "tea",
        "units": 1,
    }


class Bench:
    """One database that is filled further and further."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = Store(database, clock=lambda: 1e9)
        self.names: Iterator[int] = count()

    async def measure(
        self, taken_at: Callable[[int], float], seen: Sequence[Observation] = ()
    ) -> float:
        """Median milliseconds to record and apply a run; of one observation unless given."""
        seen = seen or [_seen()]
        spent = [await self._apply(taken_at(number), seen) for number in range(ROUNDS)]
        return statistics.median(spent) * 1000

    async def _apply(self, at: float, seen: Sequence[Observation]) -> float:
        name = f"new{next(self.names)}"
        new = NewCapture("cam", name, "00" * 32, 1, "image/jpeg", 1, 1, captured_at=at)
        recorded, _ = await self.store.captures.record(new, lambda _connection, _capture: None)

        def apply(connection: Connection) -> float:
            began = time.perf_counter()
            record = RunRecord("v1", 0.0, 0.0, {}, seen)
            run_id = runs.record(connection, recorded.id, record, threshold=0.5)
            runs.choose(connection, recorded.id, run_id, Cause("run", run_id, 0.0))
            return time.perf_counter() - began

        return await self.database.write(apply)

    async def measure_fold(self) -> float:
        """Median milliseconds of the fold of the one key."""

        def fold(connection: Connection) -> float:
            began = time.perf_counter()
            refold(connection, [Key("tea", "cam")], Cause("run", "again", 0.0))
            return time.perf_counter() - began

        spent = [await self.database.write(fold) for _ in range(ROUNDS)]
        return statistics.median(spent) * 1000


@asynccontextmanager
async def opened(*, is_exhaustive: bool = False) -> AsyncIterator[Bench]:
    """A bench on a new database with one camera and one item."""
    with tempfile.TemporaryDirectory() as folder:
        async with Database(f"sqlite:///{folder}/bench.db") as database:
            await migrations.upgrade(database)
            bench = Bench(database)
            await bench.store.devices.add("cam", is_exhaustive=is_exhaustive)
            await bench.store.inventory.add_item("tea", "Tea")
            await bench.store.inventory.assign_code("tea", "tea")
            yield bench


async def curve(sizes: Sequence[int]) -> None:
    """Print a line for every size."""
    async with opened() as bench:
        present = 0
        for size in sizes:
            await bench.database.write(partial(fill, first=present, last=size, confidence=1.0))
            present = size
            newest = await bench.measure(lambda number: 1e6 + number)
            late = await bench.measure(lambda number: number / 1000)
            fold = await bench.measure_fold()
            print(f"{size:>9,}  {newest:>10.3f}  {late:>10.3f}  {fold:>10.3f}")


async def stepped_over(sizes: Sequence[int]) -> None:
    """Print what it costs where nothing was ever counted.

    A camera that sees all has reported the item doubtfully every time, and does so again: nothing
    counts, and yet it is never absent. Or people moved it: the fold of that.
    """
    doubts = [_seen(0.1)]
    for size in sizes:
        async with opened(is_exhaustive=True) as bench:
            await bench.database.write(partial(fill, first=0, last=size, confidence=0.1))
            doubtful = await bench.measure(lambda number: 1e6 + number, doubts)
        async with opened() as bench:
            await bench.database.write(partial(receive, times=size))
            moved = await bench.measure_fold()
        print(f"{size:>9,}  {doubtful:>10.3f}  {moved:>10.3f}")


ITEMS: Final = 100
SEEN_EACH: Final = 10
"""Observations of a capture in the large ledger, each of another item."""

_NUMBERS: Final = (
    "WITH RECURSIVE g(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM g WHERE n < {last})"
)
_FILL: Final = (
    (
        "INSERT INTO capture (id, device_id, key, sha256, size_bytes, media_type, width, height,"
        " flags, captured_at, received_at, metadata, state, series, attempt, current_run_id)"
        " {captures} SELECT printf('c%09d', n), 'cam', printf('c%09d', n), 'ab', 1, 'image/jpeg',"
        " 1, 1, '[]', n, n, '{{}}', 'completed', 0, 1, printf('r%09d', n) FROM g"
    ),
    (
        "INSERT INTO run (id, capture_id, fingerprint, started_at, finished_at, result, digest)"
        " {captures} SELECT printf('r%09d', n), printf('c%09d', n), 'v1', 0, 0, '{{}}', '' FROM g"
    ),
    (
        "INSERT INTO observation (run_id, analyser, location_id, code, quantity, confidence,"
        " is_confident, item_id, units) {seen} SELECT printf('r%09d', n / {each}), 'codes', 'cam',"
        " 'i' || (n % {items}), 3, 1.0, 1, 'i' || (n % {items}), 3 FROM g"
    ),
    (
        "INSERT INTO live_count (item_id, location_id, counted_at, source, key, quantity,"
        " confidence, capture_id, run_id) {seen} SELECT 'i' || (n % {items}), 'cam', n / {each},"
        " 'cam', printf('c%09d', n / {each}), 3, 1.0, printf('c%09d', n / {each}),"
        " printf('r%09d', n / {each}) FROM g"
    ),
)


def fill_large(connection: Connection, first: int, last: int) -> None:
    """Observations from ``first`` on, below ``last``, with their captures and counts."""
    words = {
        "captures": _NUMBERS.format(first=first // SEEN_EACH, last=last // SEEN_EACH - 1),
        "seen": _NUMBERS.format(first=first, last=last - 1),
        "each": SEEN_EACH,
        "items": ITEMS,
    }
    for statement in _FILL:
        connection.execute(text(statement.format(**words)))


async def large_curve(total: int) -> None:
    """Print a line for every tenfold size of the whole ledger."""
    async with opened() as bench:
        for number in range(ITEMS):
            await bench.store.inventory.add_item(f"i{number}", f"Item {number}")
            await bench.store.inventory.assign_code(f"i{number}", f"i{number}")
        present, size = 0, 1_000
        while size <= total:
            for first in range(present, size, 1_000_000):
                last = min(first + 1_000_000, size)
                await bench.database.write(partial(fill_large, first=first, last=last))
            present, size = size, 10 * size
            newest = await bench.measure(lambda number: 1e8 + number, _seen_large())
            late = await bench.measure(lambda number: number / 1000, _seen_large())
            taken = await bench.database.size_bytes()
            print(f"{present:>12,}  {newest:>10.3f}  {late:>10.3f}  {taken / 2**30:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="100,000 facts as well")
    parser.add_argument("--total", type=int, default=0, help="observations in all")
    arguments = parser.parse_args()
    if arguments.total:
        print(f"{'observations':>12}  {'newest ms':>10}  {'late ms':>10}  {'GB':>8}")
        asyncio.run(large_curve(arguments.total))
        return
    sizes = (*SIZES, 100_000) if arguments.large else SIZES
    print(f"{'facts':>9}  {'newest ms':>10}  {'late ms':>10}  {'fold ms':>10}")
    asyncio.run(curve(sizes))
    print(
        f"{'facts':>9}  {'doubtful':>10}  {'movements':>10}   "
        "(nothing counted: ms of a doubtful run, of a fold)"
    )
    asyncio.run(stepped_over(sizes))


if __name__ == "__main__":
    main()
