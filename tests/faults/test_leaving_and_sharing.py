"""Workers as processes of their own, on every backend: they share, and leave when asked to."""

from collections import Counter
from dataclasses import replace

import pytest

from capturekit.queue.base import Job, JobState, RetryPolicy
from capturekit.queue.urls import open_queue
from tests.faults.actors import WorkerPlan
from tests.faults.crew import Crew
from tests.faults.looking import ended, started, until
from tests.faults.worlds import World

pytestmark = pytest.mark.anyio

WORK_S = 0.6


def a_worker(world: World) -> WorkerPlan:
    return WorkerPlan(world.url, str(world.folder), concurrency=2, lease_s=10.0)


async def test_two_workers_split_equal_jobs(world: World, crew: Crew) -> None:
    async with open_queue(world.url) as queue:
        for _ in range(2):
            crew.start(a_worker(world))

        async def both_listed() -> bool:
            return len(await queue.workers()) == 2

        await until(both_listed, "both are at work")
        jobs = [Job(id=f"{n}", kind="effect", payload={"work_s": WORK_S}) for n in range(12)]
        await queue.submit(*jobs)
        run_by = Counter([(await ended(queue, job.id)).attempts[-1].worker for job in jobs])
    assert sorted(run_by.values()) in ([6, 6], [5, 7])


async def test_a_worker_told_to_end_finishes_what_it_can_and_hands_back_the_rest(
    world: World, crew: Crew
) -> None:
    once = RetryPolicy(max_attempts=1)
    async with open_queue(world.url) as queue:
        short = Job(id="short", kind="effect", payload={"work_s": WORK_S}, retry=once)
        await queue.submit(short, Job(id="long", kind="hang", retry=once))
        worker = crew.start(replace(a_worker(world), grace_s=2 * WORK_S))
        for job_id in ("short", "long"):
            await started(world.folder, job_id)
        assert crew.stop(worker) == 0
        assert (await queue.status("short")).state is JobState.SUCCEEDED
        long = await queue.status("long")
        assert (long.state, long.attempts) == (JobState.QUEUED, ())
        (lease,) = await queue.claim("another")
        assert (lease.job.id, lease.tries) == ("long", 1)
        assert await queue.workers() == []
