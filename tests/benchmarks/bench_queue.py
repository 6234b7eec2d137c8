"""A job's whole life, submit + claim + finish, beside bare sqlite3 doing the same.

Both sync every commit (``synchronous = FULL``, WAL). sqlite3 commits each of the three steps
by itself in one thread, as a queue written by hand does. Rounds are interleaved, so that a
busy machine slows both. Run: ``python tests/benchmarks/bench_queue.py``.
"""

import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import anyio

from capturekit.database import Database
from capturekit.queue.base import Job
from capturekit.queue.sql import SqlQueue

JOBS = 512
ROUNDS = 5
CLIENTS = (1, 8, 64)

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


def by_hand(folder: Path) -> float:
    """Jobs a second with sqlite3 alone."""
    connection = sqlite3.connect(folder / "hand.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(SCHEMA)
    begun = time.perf_counter()
    for number in range(JOBS):
        now = time.time()
        connection.execute(SUBMIT, (f"{number}", "queued", 0, now, "{}"))
        job_id, attempt = connection.execute(CLAIM, (now + 15,)).fetchone()
        connection.execute(FINISH, ("{}", job_id, attempt))
    seconds = time.perf_counter() - begun
    connection.close()
    return JOBS / seconds


async def by_queue(folder: Path, clients: int) -> float:
    """Jobs a second with SqlQueue and this many tasks at a time."""
    async with Database(f"sqlite:///{folder / 'queue.db'}") as database:
        queue = SqlQueue(database)
        await queue.create_tables()

        async def client(number: int) -> None:
            for index in range(JOBS // clients):
                await queue.submit(Job(id=f"{number}-{index}", kind="bench"))
                (lease,) = await queue.claim(f"w{number}")
                await queue.finish(lease, {})

        begun = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(clients):
                tasks.start_soon(client, number)
        return JOBS / (time.perf_counter() - begun)


def one_round() -> dict[str, float]:
    """Jobs a second of each, in fresh databases."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"sqlite3, one commit each": by_hand(Path(folder))}
    for clients in CLIENTS:
        with tempfile.TemporaryDirectory() as folder:
            found[f"SqlQueue, {clients} clients"] = anyio.run(by_queue, Path(folder), clients)
    return found


def main() -> None:
    """Print the medians, and what they are of the first."""
    rounds = [one_round() for _ in range(ROUNDS)]
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    first = next(iter(medians.values()))
    for name, rate in medians.items():
        print(f"{name:26} {rate:8,.0f} jobs/s {rate / first:6.2f} x")


if __name__ == "__main__":
    main()
