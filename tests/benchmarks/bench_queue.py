"""The embedded queue beside huey's and beside sqlite3 by hand, and its cost as the queue grows.

All sync every commit (WAL, ``synchronous = FULL``). Rounds are interleaved, so that a busy
machine slows all; ratios are of the same round. Run: ``python tests/benchmarks/bench_queue.py``,
with ``--curve`` for the cost at 0 to 1,000,000 waiting jobs as well.
"""

import argparse
import gc
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import anyio
from huey import SqliteHuey  # type: ignore[import-untyped]  # it has no types

from capturekit.database import Database
from capturekit.queue.base import Job, JobState
from capturekit.queue.sql import SqlQueue
from capturekit.worker import JobContext, Worker

JOBS = 400
CLIENTS = 8
"""Threads or tasks that submit, and as many that work."""
PINGS = 20
ROUNDS = 3
CURVE = (0, 1_000, 10_000, 100_000, 1_000_000)

SCHEMA = """
CREATE TABLE job (
    seq INTEGER PRIMARY KEY, id TEXT UNIQUE, state TEXT, priority INTEGER, due_at REAL,
    payload TEXT, attempt INTEGER DEFAULT 0, worker TEXT, lease_until REAL, result TEXT
);
CREATE INDEX by_turn ON job (state, priority DESC, due_at);
"""
SUBMIT = "INSERT OR IGNORE INTO job (id, state, priority, due_at, payload) VALUES (?,?,?,?,?)"
CLAIM = """
UPDATE job SET state = 'running', attempt = attempt + 1, worker = 'w', lease_until = ?
WHERE seq = (
    SELECT seq FROM job WHERE state = 'queued' ORDER BY priority DESC, due_at LIMIT 1
) RETURNING id, attempt
"""
FINISH = """
UPDATE job SET state = 'succeeded', result = ?
WHERE id = ? AND attempt = ? AND state = 'running'
"""


class Cost(NamedTuple):
    """What a job took, and how long one waits on an idle queue."""

    wall_ms: float
    cpu_ms: float
    idle_ms: float


class Stopwatch:
    """Wall and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def per_job(self, idle_ms: float = float("nan")) -> Cost:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return Cost(1000 * wall / JOBS, 1000 * cpu / JOBS, idle_ms)


def by_hand(folder: Path) -> Cost:
    """sqlite3 alone: one thread, a commit for each of the three steps."""
    connection = sqlite3.connect(folder / "hand.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(SCHEMA)
    watch = Stopwatch()
    for number in range(JOBS):
        now = time.time()
        connection.execute(SUBMIT, (f"{number}", "queued", 0, now, "{}"))
        job_id, attempt = connection.execute(CLAIM, (now + 15,)).fetchone()
        connection.execute(FINISH, ("{}", job_id, attempt))
    cost = watch.per_job()
    connection.close()
    return cost


def by_huey(folder: Path) -> Cost:
    """Huey with as many worker threads: each job is enqueued, run, and its result kept."""
    huey = SqliteHuey(filename=str(folder / "huey.db"), fsync=True)
    begun: dict[int, float] = {}
    all_begun, one_begun = threading.Event(), threading.Event()

    @huey.task()  # type: ignore[untyped-decorator]
    def work(number: int) -> int:
        begun[number] = time.perf_counter()
        one_begun.set()
        if len(begun) == JOBS:
            all_begun.set()
        return number

    consumer = huey.create_consumer(workers=CLIENTS, check_worker_health=False)
    consumer.start()
    watch = Stopwatch()
    with ThreadPoolExecutor(CLIENTS) as clients:
        results = list(clients.map(work, range(JOBS)))
        all_begun.wait()
        list(clients.map(lambda result: result.get(blocking=True, preserve=True), results))
    cost = watch.per_job()
    waits = []
    for number in range(JOBS, JOBS + PINGS):
        time.sleep(0.05)
        one_begun.clear()
        asked = time.perf_counter()
        work(number)
        one_begun.wait()
        waits.append(begun[number] - asked)
    consumer.stop(graceful=True)
    huey.storage.close()
    return cost._replace(idle_ms=1000 * statistics.median(waits))


async def by_worker(folder: Path) -> Cost:
    """SqlQueue with a Worker of as many slots: submitted one by one, run, the result kept."""
    begun: dict[str, float] = {}
    one_begun = anyio.Event()

    async def work(context: JobContext) -> str:
        begun[context.job.id] = time.perf_counter()
        one_begun.set()
        return context.job.id

    async def submit(queue: SqlQueue, client: int) -> None:
        for number in range(client, JOBS, CLIENTS):
            await queue.submit(Job(id=f"{number}", kind="bench"))

    async with Database(f"sqlite:///{folder / 'queue.db'}") as database:
        queue = SqlQueue(database)
        await queue.create_tables()
        worker = Worker(queue, {"bench": work}, concurrency=CLIENTS)
        watch = Stopwatch()
        async with anyio.create_task_group() as clients:
            clients.start_soon(worker.run)
            async with anyio.create_task_group() as submitting:
                for client in range(CLIENTS):
                    submitting.start_soon(submit, queue, client)
            # As huey's results are, these are asked for; the last one ends the clock.
            while (await queue.stats()).depth[JobState.SUCCEEDED] < JOBS:  # noqa: ASYNC110
                await anyio.sleep(0.002)
            cost = watch.per_job()
            waits = []
            for number in range(PINGS):
                await anyio.sleep(0.05)
                one_begun = anyio.Event()
                asked = time.perf_counter()
                await queue.submit(Job(id=f"ping-{number}", kind="bench"))
                await one_begun.wait()
                waits.append(begun[f"ping-{number}"] - asked)
            worker.stop()
    return cost._replace(idle_ms=1000 * statistics.median(waits))


async def by_queue(folder: Path, clients: int) -> Cost:
    """SqlQueue without a worker: this many tasks, each submit + claim + finish."""
    async with Database(f"sqlite:///{folder / 'queue.db'}") as database:
        queue = SqlQueue(database)
        await queue.create_tables()

        async def client(number: int) -> None:
            for index in range(JOBS // clients):
                await queue.submit(Job(id=f"{number}-{index}", kind="bench"))
                (lease,) = await queue.claim(f"w{number}")
                await queue.finish(lease, {})

        watch = Stopwatch()
        async with anyio.create_task_group() as tasks:
            for number in range(clients):
                tasks.start_soon(client, number)
        return watch.per_job()


def one_round() -> dict[str, Cost]:
    """What a job costs with each, in fresh files."""
    runs: dict[str, Callable[[Path], Cost]] = {
        "sqlite3 by hand": by_hand,
        "huey": by_huey,
        "SqlQueue + Worker": lambda folder: anyio.run(by_worker, folder),
        "SqlQueue, 1 client": lambda folder: anyio.run(by_queue, folder, 1),
        "SqlQueue, 8 clients": lambda folder: anyio.run(by_queue, folder, 8),
        "SqlQueue, 50 clients": lambda folder: anyio.run(by_queue, folder, 50),
    }
    found = {}
    for name, run in runs.items():
        gc.collect()
        with tempfile.TemporaryDirectory() as folder:
            found[name] = run(Path(folder))
    return found


def print_rounds() -> None:
    """Medians of each, and of the ratios to huey within each round."""
    rounds = [one_round() for _ in range(ROUNDS)]
    print(f"{'a job':22}{'jobs/s':>9}{'cpu ms':>8}{'idle ms':>9}   against huey: rate, cpu, idle")
    for name in rounds[0]:
        costs = [each[name] for each in rounds]
        wall, cpu, idle = (statistics.median(column) for column in zip(*costs, strict=True))
        ratios = [
            (each["huey"].wall_ms / cost.wall_ms, cost.cpu_ms / each["huey"].cpu_ms)
            for each, cost in zip(rounds, costs, strict=True)
        ]
        rate, used = (statistics.median(column) for column in zip(*ratios, strict=True))
        late = statistics.median(
            c.idle_ms / r["huey"].idle_ms for r, c in zip(rounds, costs, strict=True)
        )
        print(
            f"{name:22}{1000 / wall:9,.0f}{cpu:8.2f}{idle:9.2f}"
            f"{rate:21.1f} x{used:6.2f} x{late:8.3f} x"
        )


async def median_ms(work: Callable[[int], Awaitable[object]], times: int = 40) -> float:
    """How long one call takes."""
    found = []
    for number in range(times):
        begun = time.perf_counter()
        await work(number)
        found.append(time.perf_counter() - begun)
    return 1000 * statistics.median(found)


async def print_curve(folder: Path) -> None:
    """What operations cost beside so many waiting jobs, half of them of one busy device."""
    async with Database(f"sqlite:///{folder / 'queue.db'}") as database:
        queue = SqlQueue(database)
        await queue.create_tables()
        print(
            f"\n{'ms, beside':>12}{'submit':>9}{'claim+finish':>14}"
            f"{'of a key':>10}{'status':>8}{'stats':>8}"
        )
        waiting = 0
        for size in CURVE:
            while waiting < size:
                step = min(5000, size - waiting)
                await queue.submit(
                    *(
                        Job(
                            id=f"{number}",
                            kind="bench",
                            priority=-1,
                            concurrency_key="device" if number % 2 else None,
                        )
                        for number in range(waiting, waiting + step)
                    )
                )
                waiting += step

            async def submit(number: int, size: int = size) -> None:
                await queue.submit(Job(id=f"at-{size}-{number}", kind="bench"))

            async def run(_: int) -> None:
                (lease,) = await queue.claim("w")
                await queue.finish(lease)

            async def turn(number: int, size: int = size) -> None:
                job = Job(
                    id=f"key-{size}-{number}", kind="bench", concurrency_key="device", priority=1
                )
                await queue.submit(job)
                await run(0)

            async def status(number: int, size: int = size) -> None:
                await queue.status(f"at-{size}-{number}")

            costs = [await median_ms(work) for work in (submit, run, turn, status)]
            costs.append(await median_ms(lambda _: queue.stats()))
            submitted, ran, turned, looked, counted = costs
            print(f"{size:12,}{submitted:9.2f}{ran:14.2f}{turned:10.2f}{looked:8.2f}{counted:8.2f}")


def main() -> None:
    """Print the table, and the curve if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curve", action="store_true")
    has_curve = parser.parse_args().curve
    print_rounds()
    if has_curve:
        with tempfile.TemporaryDirectory() as folder:
            anyio.run(print_curve, Path(folder))


if __name__ == "__main__":
    main()
