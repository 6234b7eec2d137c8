"""What only the SQL queue does: one transaction with others, many processes, no forgetting."""

import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import Connection, select, text

from capturekit.database import Database
from capturekit.errors import StorageError, UnknownJob
from capturekit.queue.base import Job, JobState, RetryPolicy, WorkerInfo
from capturekit.queue.sql import MAX_PER_WRITE, SqlQueue, metadata
from capturekit.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

PROMPT_S = 20.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'queue.db'}"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with Database(url) as database:
        yield database


@pytest.fixture
async def queue(database: Database, clock: FakeClock) -> SqlQueue:
    queue = SqlQueue(database, clock=clock)
    await queue.create_tables()
    return queue


def a_job(job_id: str = "a", *, max_attempts: int = 3, delay_s: float = 0) -> Job:
    retry = RetryPolicy(max_attempts=max_attempts)
    return Job(id=job_id, kind="test", retry=retry, delay_s=delay_s)


# With others


async def test_a_job_is_submitted_with_what_it_is_about(
    database: Database, queue: SqlQueue
) -> None:
    def work(connection: Connection) -> bool:
        connection.execute(text("CREATE TABLE capture (id TEXT)"))
        return queue.submit_within(connection, [a_job()])[0].is_new

    assert await database.write(work)
    assert (await queue.status("a")).state is JobState.QUEUED


async def test_a_job_is_not_submitted_without_what_it_is_about(
    database: Database, queue: SqlQueue
) -> None:
    def work(connection: Connection) -> None:
        queue.submit_within(connection, [a_job()])
        raise ValueError("no capture after all")

    with pytest.raises(ValueError, match="after all"):
        await database.write(work)
    with pytest.raises(UnknownJob):
        await queue.status("a")


async def test_notify_wakes_who_waits(database: Database, queue: SqlQueue) -> None:
    with anyio.fail_after(PROMPT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.wait, 60)
            await anyio.wait_all_tasks_blocked()
            await database.write(lambda connection: queue.submit_within(connection, [a_job()]))
            queue.notify()


async def test_jobs_survive_the_process(url: str) -> None:
    async with Database(url) as database:
        queue = SqlQueue(database)
        await queue.create_tables()
        await queue.submit(a_job())
    async with Database(url) as database:
        assert len(await SqlQueue(database).claim("w")) == 1


async def test_making_the_tables_again_changes_nothing(queue: SqlQueue) -> None:
    await queue.submit(a_job())
    await queue.create_tables()
    assert (await queue.status("a")).state is JobState.QUEUED


async def test_a_database_without_tables_is_storage_trouble(database: Database) -> None:
    with pytest.raises(StorageError, match="no such table"):
        await SqlQueue(database).submit(a_job())


def test_every_constraint_and_index_has_a_name() -> None:
    for table in metadata.tables.values():
        assert all(constraint.name for constraint in table.constraints)
        assert all(index.name for index in table.indexes)


# Many processes


async def test_two_connections_never_hand_out_one_job(
    url: str, queue: SqlQueue, clock: FakeClock
) -> None:
    await queue.submit(*(a_job(f"{number}") for number in range(60)))
    taken: list[str] = []

    async def work(one: SqlQueue, worker: str) -> None:
        while leases := await one.claim(worker, limit=2):
            taken.extend(lease.job.id for lease in leases)

    async with Database(url) as other, anyio.create_task_group() as tasks:
        for worker in "abcd":
            tasks.start_soon(work, queue, worker)
            tasks.start_soon(work, SqlQueue(other, clock=clock), f"other-{worker}")
    assert len(taken) == len(set(taken)) == 60


async def test_a_pause_holds_for_every_process(url: str, queue: SqlQueue) -> None:
    await queue.submit(a_job())
    async with Database(url) as other:
        await SqlQueue(other).pause()
        assert await queue.claim("w") == []
        await SqlQueue(other).resume()
    assert len(await queue.claim("w")) == 1


WORKER = """
import sys, anyio
from capturekit.database import Database
from capturekit.queue.sql import SqlQueue

async def main():
    async with Database(sys.argv[1], is_checkpointing=False) as database:
        leases = await SqlQueue(database).claim("victim", lease_s=1.0)
        print(leases[0].job.id, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_the_job_of_a_killed_process_is_recovered_on_an_idle_queue(
    url: str, database: Database
) -> None:
    queue = SqlQueue(database, uniform=lambda: 0.0)
    await queue.create_tables()
    await queue.submit(a_job())

    def claim_and_die() -> str:
        command = [sys.executable, "-c", WORKER, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            taken = process.stdout.readline().strip()
            process.send_signal(signal.SIGKILL)
        return taken

    assert await anyio.to_thread.run_sync(claim_and_die) == "a"
    with anyio.fail_after(PROMPT_S):
        while not (leases := await queue.claim("heir")):
            await queue.wait(60)
    assert leases[0].attempt == 2
    first, second = (await queue.status("a")).attempts
    assert first.error is not None
    assert (first.worker, first.error.type, second.worker) == ("victim", "WorkerLost", "heir")
    assert second.started_at - first.started_at < 1.0 + PROMPT_S / 2


# After a restart


def a_worker(worker_id: str) -> WorkerInfo:
    return WorkerInfo(
        id=worker_id, host="h", pid=1, concurrency=1, started_at=0.0, heartbeat_at=0.0
    )


async def test_leases_of_the_dead_end_now(queue: SqlQueue, clock: FakeClock) -> None:
    await queue.submit(a_job())
    (lease,) = await queue.claim("server-1", lease_s=900)
    await queue.heartbeat(a_worker("server-1"), [lease], lease_s=900)
    assert await queue.expire_leases("server-") == 1
    status = await queue.status("a")
    assert status.error is not None
    assert (status.state, status.error.type) == (JobState.SCHEDULED, "WorkerLost")
    assert await queue.workers() == []
    clock.advance(1)
    assert [each.attempt for each in await queue.claim("server-2")] == [2]


async def test_leases_of_others_stay(queue: SqlQueue) -> None:
    await queue.submit(a_job("a"), a_job("b"))
    leases = [(await queue.claim(worker))[0] for worker in ("Server-1", "worker-server-2")]
    assert await queue.expire_leases("server-") == 0
    for lease in leases:
        await queue.finish(lease)


async def test_a_job_that_kills_every_server_fails_in_the_end(
    queue: SqlQueue, clock: FakeClock
) -> None:
    await queue.submit(a_job(max_attempts=2))
    for number in range(2):
        await queue.claim(f"server-{number}")
        await queue.expire_leases("server-")
        clock.advance(10)
    assert (await queue.status("a")).state is JobState.FAILED


async def test_the_first_ends_of_a_server_are_forgiven(queue: SqlQueue, clock: FakeClock) -> None:
    await queue.submit(a_job(max_attempts=2))
    for number in range(5):
        (lease,) = await queue.claim(f"server-{number}")
        assert lease.attempt == number + 1
        await queue.expire_leases("server-", forgiven=4)
        clock.advance(10)
    status = await queue.status("a")
    assert status.state is not JobState.FAILED
    assert [attempt.error and attempt.error.type for attempt in status.attempts] == [
        "WorkerLost"
    ] * 5
    await queue.claim("server-5")
    await queue.expire_leases("server-", forgiven=4)
    assert (await queue.status("a")).state is JobState.FAILED


# Many jobs


async def test_more_jobs_come_due_at_once_than_one_write_moves(
    queue: SqlQueue, clock: FakeClock
) -> None:
    count = MAX_PER_WRITE + 5
    await queue.submit(*(a_job(f"{number}", delay_s=1) for number in range(count)))
    clock.advance(1)
    taken = 0
    while leases := await queue.claim("w", limit=400):
        taken += len(leases)
    assert taken == count


async def test_more_leases_run_out_at_once_than_one_write_moves(
    queue: SqlQueue, clock: FakeClock
) -> None:
    count = MAX_PER_WRITE + 5
    await queue.submit(*(a_job(f"{number}", max_attempts=1) for number in range(count)))
    await queue.claim("w", limit=count)
    clock.advance(100)
    for _ in range(2):
        await queue.claim("v")
    assert (await queue.stats()).depth[JobState.FAILED] == count


async def test_more_jobs_are_pruned_than_one_write_deletes(
    queue: SqlQueue, clock: FakeClock, database: Database
) -> None:
    count = MAX_PER_WRITE + 5
    await queue.submit(*(a_job(f"{number}") for number in range(count)))
    for lease in await queue.claim("w", limit=count):
        await queue.cancelled(lease)
    clock.advance(1)
    assert await queue.prune(older_than_s=0) == count
    attempts = select(metadata.tables["job_attempt"])
    assert await database.read(lambda connection: connection.execute(attempts).all()) == []


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ("state = 'queued' ORDER BY priority DESC, due_at, seq LIMIT 1", "ix_job_claim"),
        (
            "state = 'queued' AND queue = 'q' ORDER BY priority DESC, due_at, seq LIMIT 1",
            "ix_job_claim_queue",
        ),
        ("state = 'scheduled' AND due_at <= 1 ORDER BY due_at LIMIT 1", "ix_job_due"),
        ("lease_until <= 1", "ix_job_lease_until"),
        ("finished_at < 1", "ix_job_finished_at"),
    ],
)
async def test_what_a_claim_asks_walks_an_index(
    database: Database, queue: SqlQueue, where: str, index: str
) -> None:
    await queue.submit(a_job())
    plan = await database.read(
        lambda connection: connection.execute(
            text(f"EXPLAIN QUERY PLAN SELECT seq FROM job WHERE {where}")  # noqa: S608  # fixed
        ).all()
    )
    assert len(plan) == 1, "a second step would sort"
    assert f"INDEX {index} " in plan[0].detail


async def test_a_claim_is_quick_among_many_jobs(queue: SqlQueue, clock: FakeClock) -> None:
    async def seconds() -> float:
        times = []
        for _ in range(20):
            begun = time.perf_counter()
            assert len(await queue.claim("w")) == 1
            times.append(time.perf_counter() - begun)
        return sorted(times)[10]

    await queue.submit(*(a_job(f"few-{number}") for number in range(20)))
    among_few = await seconds()
    clock.advance(1)
    await queue.submit(*(a_job(f"many-{number}") for number in range(20_000)))
    # Measured 1.0; a claim that sorts or scans is 10 times slower at this size.
    assert await seconds() < 4 * among_few
