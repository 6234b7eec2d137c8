"""The embedded queue beside huey's and beside sqlite3 by hand, and its cost as the queue grows.

All sync every commit (WAL, ``synchronous = FULL``). Rounds are interleaved, so that a busy
machine slows all; ratios are of the same round. Huey commits three times for a job: when it is
enqueued, taken and done; so does sqlite3 by hand. Ours syncs two of the three.

Huey's consumer polls. It is timed as it comes (one thread that looks every 0.1 s, and less often
the longer it finds nothing), with as many threads as there are slots, and looking every
millisecond, which costs CPU all the time.

Run: ``python tests/benchmarks/bench_queue.py``, with ``--curve`` for the cost at 0 to 1,000,000
waiting jobs as well, and ``--url postgresql://…`` with ``--most 100000`` for that on a server.
"""

import argparse
import gc
import random
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

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
PAUSE_S = (0.05, 0.15)
"""Between two jobs on an idle queue."""
IDLE_S = 1.0
ROUNDS = 5
RATE_GOAL, IDLE_GOAL = 3.0, 0.1
"""Jobs a second at least, and idle latency at most, times huey's."""
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
    """What a job took."""

    wall_ms: float
    cpu_ms: float


class Stopwatch:
    """Wall and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def per_job(self) -> Cost:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return Cost(1000 * wall / JOBS, 1000 * cpu / JOBS)


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
    begun: list[int] = []
    all_begun = threading.Event()

    @huey.task()  # type: ignore[untyped-decorator]
    def work(number: int) -> int:
        begun.append(number)
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
    consumer.stop(graceful=True)
    huey.storage.close()
    return cost


class Idle(NamedTuple):
    """A queue without jobs: how long one waits that comes, and what waiting for it costs."""

    wait_ms: float
    cpu_share: float
    """Of one core, while nothing comes."""


def huey_idle(folder: Path, workers: int = 1, look_every_s: float | None = None) -> Idle:
    """Huey's consumer, as it comes or so."""
    huey = SqliteHuey(filename=str(folder / "huey.db"), fsync=True)
    begun: dict[int, float] = {}
    one_begun = threading.Event()

    @huey.task()  # type: ignore[untyped-decorator]
    def work(number: int) -> None:
        begun[number] = time.perf_counter()
        one_begun.set()

    often = (
        {}
        if look_every_s is None
        else {"initial_delay": look_every_s, "max_delay": look_every_s, "backoff": 1.0}
    )
    consumer = huey.create_consumer(workers=workers, check_worker_health=False, **often)
    consumer.start()
    waits = []
    for number in range(PINGS):
        time.sleep(random.uniform(*PAUSE_S))
        one_begun.clear()
        asked = time.perf_counter()
        work(number)
        one_begun.wait()
        waits.append(begun[number] - asked)
    used = time.process_time()
    time.sleep(IDLE_S)
    used = time.process_time() - used
    consumer.stop(graceful=True)
    huey.storage.close()
    return Idle(1000 * statistics.median(waits), used / IDLE_S)


async def our_idle(folder: Path) -> Idle:
    """A Worker, as it comes."""
    begun: dict[str, float] = {}
    one_begun = anyio.Event()

    async def work(context: JobContext) -> None:
        begun[context.job.id] = time.perf_counter()
        one_begun.set()

    async with Database(f"sqlite:///{folder / 'queue.db'}") as database:
        queue = SqlQueue(database)
        await queue.create_tables()
        worker = Worker(queue, {"bench": work})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            waits = []
            for number in range(PINGS):
                await anyio.sleep(random.uniform(*PAUSE_S))
                one_begun = anyio.Event()
                asked = time.perf_counter()
                await queue.submit(Job(id=f"{number}", kind="bench"))
                await one_begun.wait()
                waits.append(begun[f"{number}"] - asked)
            used = time.process_time()
            await anyio.sleep(IDLE_S)
            used = time.process_time() - used
            worker.stop()
    return Idle(1000 * statistics.median(waits), used / IDLE_S)


async def by_worker(folder: Path) -> Cost:
    """SqlQueue with a Worker of as many slots: submitted one by one, run, the result kept."""

    async def work(context: JobContext) -> str:
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
            worker.stop()
    return cost


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


RUNS: dict[str, Callable[[Path], Cost]] = {
    "sqlite3 by hand": by_hand,
    "huey": by_huey,
    "SqlQueue + Worker": lambda folder: anyio.run(by_worker, folder),
    "SqlQueue, 1 client": lambda folder: anyio.run(by_queue, folder, 1),
    "SqlQueue, 8 clients": lambda folder: anyio.run(by_queue, folder, 8),
    "SqlQueue, 50 clients": lambda folder: anyio.run(by_queue, folder, 50),
}
IDLES: dict[str, Callable[[Path], Idle]] = {
    "huey as it comes": huey_idle,
    f"huey, {CLIENTS} threads": lambda folder: huey_idle(folder, CLIENTS),
    "huey, every 1 ms": lambda folder: huey_idle(folder, 1, 0.001),
    "SqlQueue + Worker": lambda folder: anyio.run(our_idle, folder),
}
T = TypeVar("T", Cost, Idle)


def one_round(runs: dict[str, Callable[[Path], T]]) -> dict[str, T]:
    """What each found, in fresh files."""
    found = {}
    for name, run in runs.items():
        gc.collect()
        with tempfile.TemporaryDirectory() as folder:
            found[name] = run(Path(folder))
    return found


def medians(rounds: Sequence[dict[str, T]], name: str) -> list[float]:
    """Of what was found under this name."""
    return [statistics.median(each) for each in zip(*(one[name] for one in rounds), strict=True)]


def ratio(rounds: Sequence[dict[str, T]], name: str, other: str, field: int) -> float:
    """The median of what the one found over what the other did in the same round."""
    return statistics.median(one[name][field] / one[other][field] for one in rounds)


def print_costs() -> None:
    """Medians of each, and of the ratios to huey within each round."""
    rounds = [one_round(RUNS) for _ in range(ROUNDS)]
    print(f"{'a job':22}{'jobs/s':>9}{'cpu ms':>8}   times huey: {'rate':>9}{'cpu':>9}")
    for name in RUNS:
        wall, cpu = medians(rounds, name)
        rate, used = 1 / ratio(rounds, name, "huey", 0), ratio(rounds, name, "huey", 1)
        goal = f"   goal: rate at least {RATE_GOAL:g}" if "Worker" in name else ""
        print(f"{name:22}{1000 / wall:9,.0f}{cpu:8.2f}{rate:24.1f}{used:9.2f}{goal}")


def print_idles() -> None:
    """The same for a job that comes to an idle queue."""
    rounds = [one_round(IDLES) for _ in range(ROUNDS)]
    print(f"\n{'idle':22}{'wait ms':>9}{'cpu':>8}   ours by it")
    for name in IDLES:
        wait_ms, share = medians(rounds, name)
        ours = ratio(rounds, "SqlQueue + Worker", name, 0)
        goal = f"   goal: at most {IDLE_GOAL:g}" if "comes" in name else ""
        print(f"{name:22}{wait_ms:9.2f}{share:8.1%}{ours:13.3f}{goal}")


async def median_ms(work: Callable[[int], Awaitable[object]], times: int = 40) -> float:
    """How long one call takes."""
    found = []
    for number in range(times):
        begun = time.perf_counter()
        await work(number)
        found.append(time.perf_counter() - begun)
    return 1000 * statistics.median(found)


async def print_curve(url: str, most: int) -> None:
    """What operations cost beside so many waiting jobs, half of them of one busy device."""
    async with Database(url) as database:
        queue = SqlQueue(database)
        await queue.create_tables()
        print(
            f"\n{'ms, beside':>12}{'submit':>9}{'claim+finish':>14}"
            f"{'of a key':>10}{'status':>8}{'stats':>8}"
        )
        waiting = 0
        for size in (size for size in CURVE if size <= most):
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
    """Print the tables, and the curve if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curve", action="store_true", help="the cost as the queue grows, too")
    parser.add_argument("--url", help="an empty database; only the curve, in it")
    parser.add_argument("--most", type=int, default=CURVE[-1], help="where the curve ends")
    asked = parser.parse_args()
    if asked.url is not None:
        anyio.run(print_curve, asked.url, asked.most)
        return
    print_costs()
    print_idles()
    if asked.curve:
        with tempfile.TemporaryDirectory() as folder:
            anyio.run(print_curve, f"sqlite:///{folder}/queue.db", asked.most)


if __name__ == "__main__":
    main()
