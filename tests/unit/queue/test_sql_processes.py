"""Several processes share one queue, on SQLite and on Postgres."""

import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from capturekit.database import Database
from capturekit.queue.base import NOTICE_S, Job, JobState
from capturekit.queue.sql import SqlQueue

pytestmark = pytest.mark.anyio

PROMPT_S = 60.0
PROCESSES = 4
JOBS = 2000

WORKER = """
import sys, anyio
from capturekit.database import Database
from capturekit.queue.sql import SqlQueue

async def main(url, name):
    async with Database(url, is_checkpointing=False) as database:
        queue = SqlQueue(database)
        taken = []
        while leases := await queue.claim(name, limit=7, lease_s=600):
            taken += [lease.job.id for lease in leases]
            async with anyio.create_task_group() as tasks:
                for lease in leases:
                    tasks.start_soon(queue.finish, lease)
        print(*taken)

anyio.run(main, *sys.argv[1:])
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.db'}"
    found: str = request.getfixturevalue("postgres").new_database()
    return found


@pytest.fixture
async def queue(url: str) -> AsyncIterator[SqlQueue]:
    async with Database(url) as database:
        queue = SqlQueue(database)
        await queue.create_tables()
        yield queue


def run_workers(url: str) -> list[list[str]]:
    """The ids that each of the processes took."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url, f"w{number}"], stdout=subprocess.PIPE, text=True
        )
        for number in range(PROCESSES)
    ]
    try:
        return [process.communicate(timeout=PROMPT_S)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def test_many_processes_take_every_job_once(url: str, queue: SqlQueue) -> None:
    await queue.submit(*(Job(id=f"{number}", kind="test") for number in range(JOBS)))
    taken = await anyio.to_thread.run_sync(run_workers, url)
    counts = Counter(job_id for ids in taken for job_id in ids)
    assert len(counts) == JOBS
    assert set(counts.values()) == {1}
    assert (await queue.stats()).depth[JobState.SUCCEEDED] == JOBS


async def test_many_processes_keep_the_limit_of_a_key(url: str, queue: SqlQueue) -> None:
    jobs = (
        Job(id=f"{key}-{number}", kind="test", concurrency_key=f"device-{key}", max_running=2)
        for key in range(3)
        for number in range(60)
    )
    await queue.submit(*jobs)
    most: Counter[str] = Counter()
    running: Counter[str] = Counter()

    async def work(queue: SqlQueue, name: str) -> None:
        while True:
            leases = await queue.claim(name, limit=3)
            for lease in leases:
                key = lease.job.concurrency_key or ""
                running[key] += 1
                most[key] = max(most[key], running[key])
            for lease in leases:
                running[lease.job.concurrency_key or ""] -= 1
                await queue.finish(lease)
            if not leases and not (await queue.stats()).depth[JobState.QUEUED]:
                return

    async with Database(url) as other_database, anyio.create_task_group() as tasks:
        other = SqlQueue(other_database)
        with anyio.fail_after(PROMPT_S):
            async with anyio.create_task_group() as workers:
                for number in range(4):
                    workers.start_soon(work, queue, f"w{number}")
                    workers.start_soon(work, other, f"other-{number}")
        tasks.cancel_scope.cancel()
    assert max(most.values()) <= 2
    assert (await queue.stats()).depth[JobState.SUCCEEDED] == 180


async def test_submitters_race_for_a_unique_key_and_one_wins(url: str, queue: SqlQueue) -> None:
    async with Database(url) as database:
        other, answers = SqlQueue(database), []

        async def submit(one: SqlQueue, number: int) -> None:
            job = Job(id=f"{number}", kind="test", unique_key=f"key-{number % 5}")
            answers.extend(await one.submit(job))

        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(submit, other if number % 2 else queue, number)
    assert sum(answer.is_new for answer in answers) == 5
    assert len({answer.id for answer in answers}) == 5


async def test_what_another_process_submits_is_noticed(url: str, queue: SqlQueue) -> None:
    async with Database(url) as database:
        with anyio.fail_after(NOTICE_S + PROMPT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.wait, 600)
                await anyio.wait_all_tasks_blocked()
                await SqlQueue(database).submit(Job(id="a", kind="test"))
    assert len(await queue.claim("w")) == 1
