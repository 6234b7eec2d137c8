"""What it costs to apply a run, by the number of facts that its key has already.

usage: bench_ledger.py [--large]

Medians in milliseconds, of the work inside the transaction, commit excluded. The line must be
flat: a fold over all facts of a key took 41 ms at 5,000. ``--large`` adds 100,000 facts.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Final

from sqlalchemy import Connection

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import NewCapture, RunRecord, Store, migrations, runs
from capturekit.store.fold import Cause, Key, refold
from capturekit.store.schema import capture, live_count, observation, run

SIZES: Final = (10, 1_000, 10_000)
ROUNDS: Final = 60


def _seen(confidence: float = 1.0) -> Observation:
    return Observation(analyser="codes", code="tea", quantity=3, confidence=confidence)


def fill(connection: Connection, first: int, last: int, confidence: float) -> None:
    """Captures that were processed already, with what the ledger keeps about them."""
    numbers = range(first, last)
    is_live = confidence >= 0.5
    connection.execute(capture.insert(), [_capture_row(number) for number in numbers])
    connection.execute(run.insert(), [_run_row(number) for number in numbers])
    rows = [_observation_row(number, confidence) for number in numbers]
    connection.execute(observation.insert(), rows)
    if is_live:
        connection.execute(live_count.insert(), [_count_row(number) for number in numbers])
    refold(connection, [Key("tea", "cam")], Cause("run", "fill", 0.0))


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


class Bench:
    """One database that is filled further and further."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = Store(database, clock=lambda: 1e9)
        self.names: Iterator[int] = count()

    async def measure(self, taken_at: Callable[[int], float]) -> float:
        """Median milliseconds to record and apply a run of one observation."""
        spent = [await self._apply(taken_at(number)) for number in range(ROUNDS)]
        return statistics.median(spent) * 1000

    async def _apply(self, at: float) -> float:
        name = f"new{next(self.names)}"
        new = NewCapture("cam", name, "00" * 32, 1, "image/jpeg", 1, 1, captured_at=at)
        recorded, _ = await self.store.captures.record(new, lambda _connection, _capture: None)

        def apply(connection: Connection) -> float:
            began = time.perf_counter()
            record = RunRecord("v1", 0.0, 0.0, {}, [_seen()])
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


async def curve(sizes: Sequence[int], *, is_doubtful: bool) -> None:
    """Print a line for every size.

    Doubtful facts come from a camera that sees all: nothing counts, and yet nothing is
    absent. That is the one case in which the fold must step over facts.
    """
    with tempfile.TemporaryDirectory() as folder:
        async with Database(f"sqlite:///{folder}/bench.db") as database:
            await migrations.upgrade(database)
            bench = Bench(database)
            await bench.store.devices.add("cam")
            await bench.store.inventory.add_item("tea", "Tea")
            await bench.store.inventory.assign_code("tea", "tea")
            present = 0
            for size in sizes:
                confidence = 0.1 if is_doubtful else 1.0
                await database.write(partial(fill, first=present, last=size, confidence=confidence))
                present = size
                newest = await bench.measure(lambda number: 1e6 + number)
                late = await bench.measure(lambda number: number / 1000)
                fold = await bench.measure_fold()
                print(f"{size:>9,}  {newest:>10.3f}  {late:>10.3f}  {fold:>10.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="100,000 facts as well")
    sizes = (*SIZES, 100_000) if parser.parse_args().large else SIZES
    print(f"{'facts':>9}  {'newest ms':>10}  {'late ms':>10}  {'fold ms':>10}")
    asyncio.run(curve(sizes, is_doubtful=False))


if __name__ == "__main__":
    main()
