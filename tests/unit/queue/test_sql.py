"""What only the SQL queue does: one transaction with others, many processes, no forgetting."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import Connection, func, select, text

from capturekit.database import Database
from capturekit.errors import StorageError, UnknownJob
from capturekit.queue.base import CancelOutcome, Job, JobError, JobState, RetryPolicy, WorkerInfo
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


BOOM = JobError(type="Boom", message="it broke", attempt=1)


def a_job(job_id: str = "a", *, max_attempts: int = 3, **more: object) -> Job:
    retry = RetryPolicy(max_attempts=max_attempts)
    return Job.model_validate({"id": job_id, "kind": "test", "retry": retry, **more})


# What others wrote


SPOILED = {
    "state": "odd",
    "payload": "[" * 100_000,
    "result": "{",
    "error": "{}",
    "attempts": "odd\n",
    "progress": 7,
    "priority": "odd",
    "queued_at": "odd",
    "due_at": "odd",
    "max_attempts": 0,
    "version": "odd",
}


@pytest.mark.parametrize("column", SPOILED)
@pytest.mark.parametrize("delay_s", [0.0, 60.0])
async def test_no_spoiled_row_hides_a_job_or_others(
    database: Database, queue: SqlQueue, clock: FakeClock, column: str, delay_s: float
) -> None:
    await queue.submit(a_job("bad", batch="x", delay_s=delay_s), a_job("good", batch="x"))
    spoil = text(f"UPDATE job SET {column} = :value WHERE id = 'bad'")  # noqa: S608
    await database.write(lambda c: c.execute(spoil, {"value": SPOILED[column]}))
    assert (await queue.status("bad")).id == "bad"
    assert [status.id for status in await queue.statuses()] == ["good", "bad"]
    assert (await queue.batch("x")).total == 2
    assert not (await queue.submit(a_job("bad")))[0].is_new
    assert (await queue.stats()).depth[JobState.FAILED] == 0
    clock.advance(60)
    leases = await queue.claim("w", limit=2, queues=["default", "other"])
    assert "good" in [lease.job.id for lease in leases]
    assert (await queue.status("bad")).id == "bad"
    await queue.wait(0)
    await queue.retry_failed()
    await queue.prune(older_than_s=0)


async def test_a_spoiled_row_of_a_dead_worker_ends_no_claim(
    database: Database, queue: SqlQueue, clock: FakeClock
) -> None:
    await queue.submit(a_job("bad"))
    await queue.claim("w")
    await database.write(lambda c: c.execute(text("UPDATE job SET max_attempts = 0")))
    clock.advance(60)
    await queue.submit(a_job("good"))
    assert [lease.job.id for lease in await queue.claim("w")] == ["good"]
    assert (await queue.status("bad")).state is JobState.SCHEDULED


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
    clock.advance(1000)
    await queue.prune(older_than_s=0)
    assert await database.read(rows_of_every_table) == 0


async def test_more_jobs_of_a_batch_than_one_write_changes_are_cancelled_and_retried(
    queue: SqlQueue,
) -> None:
    count = MAX_PER_WRITE + 5
    await queue.submit(*(a_job(f"{number}", batch="b") for number in range(count)))
    assert (await queue.cancel_batch("b"))[CancelOutcome.CANCELLED] == count
    for number in range(count):
        await queue.retry(f"{number}")
    for lease in await queue.claim("w", limit=count):
        await queue.fail(lease, BOOM, is_permanent=True)
    assert await queue.retry_failed(batch="b") == count
    assert (await queue.batch("b")).depth[JobState.QUEUED] == count


class Steps:
    """Counts the steps of SQLite's machine: what work costs, on a busy machine as well."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._count = 0

    async def of(self, work: Callable[[], Awaitable[object]]) -> int:
        await self._database.write(self._watch)
        await self._database.read(self._watch)
        self._count = 0
        await work()
        return self._count

    def _watch(self, connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(self._step, 10)

    def _step(self) -> None:
        self._count += 1


async def a_life(queue: SqlQueue, name: str) -> None:
    """One job comes, runs and ends, and everything is looked at meanwhile."""
    await queue.submit(a_job(name, priority=1))
    await queue.wait(0)
    (lease,) = await queue.claim("w", queues=["default", "other"])
    assert lease.job.id == name
    await queue.heartbeat(a_worker("w"), [lease])
    await queue.orders("w", [lease])
    await queue.finish(lease)
    await queue.status(name)
    await queue.statuses(limit=5)
    for state in JobState:
        await queue.statuses(states=[state], limit=5)
    await queue.stats()
    await queue.workers()
    await queue.prune(older_than_s=0, keep=5)


async def a_turn(queue: SqlQueue, name: str) -> None:
    """A job of the busy device comes, waits for its turn, runs, fails and is cancelled."""
    await queue.submit(a_job(name, priority=2, concurrency_key="device"))
    (lease,) = await queue.claim("w")
    assert lease.job.id == name
    assert await queue.claim("w", job_id="many-1") == []
    await queue.fail(lease, BOOM)
    await queue.cancel(name)


@pytest.mark.parametrize("life", [a_life, a_turn])
async def test_what_a_job_costs_does_not_grow_with_the_jobs_that_wait(
    life: Callable[[SqlQueue, str], Awaitable[None]],
    database: Database,
    queue: SqlQueue,
    clock: FakeClock,
) -> None:
    steps = Steps(database)

    async def fill(name: str, count: int) -> None:
        for queue_name in ("default", "other"):
            jobs = [a_job(f"{name}-{queue_name}-{each}", queue=queue_name) for each in range(count)]
            await queue.submit(*jobs)
        await queue.submit(
            *(a_job(f"{name}-{each}", concurrency_key="device") for each in range(count)),
            *(a_job(f"{name}-later-{each}", delay_s=1e6) for each in range(count)),
        )

    await fill("few", 20)
    await life(queue, "first")
    among_few = await steps.of(lambda: life(queue, "second"))
    clock.advance(1)
    await fill("many", 3000)
    assert await steps.of(lambda: life(queue, "third")) < 1.5 * among_few


async def test_everything_returns_to_its_baseline(
    queue: SqlQueue, database: Database, clock: FakeClock
) -> None:
    await queue.submit(
        *(
            a_job(f"{each}", concurrency_key=f"{each % 3}", unique_key=f"{each}")
            for each in range(9)
        )
    )
    await queue.pause("default")
    await queue.resume()
    for _ in range(3):
        for lease in await queue.claim("w", limit=9):
            await queue.heartbeat(a_worker("w"), [lease])
            await queue.finish(lease, "done")
    await queue.forget_worker("w")
    clock.advance(1000)
    assert await queue.prune(older_than_s=0) == 9
    assert await database.read(rows_of_every_table) == 0


def rows_of_every_table(connection: Connection) -> int:
    return sum(
        connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in metadata.tables.values()
    )
