"""What only the memory queue does: it has an end."""

import pytest

from capturekit.errors import QueueFull, UnknownJob
from capturekit.queue.base import WORKER_MEMORY_S, Job
from capturekit.queue.memory import MAX_JOBS, MemoryQueue
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract import a_worker

pytestmark = pytest.mark.anyio


def jobs(ids: str) -> list[Job]:
    return [Job(id=job_id, kind="test") for job_id in ids]


async def test_only_so_many_may_wait_unless_the_bound_is_lifted() -> None:
    many = [Job(id=f"{number}", kind="test") for number in range(MAX_JOBS + 1)]
    with pytest.raises(QueueFull):
        await MemoryQueue().submit(*many)
    assert len(await MemoryQueue(max_waiting=None).submit(*many)) == len(many)


async def test_the_job_that_finished_first_is_forgotten_first() -> None:
    queue = MemoryQueue(max_ended=2)
    for job_id in "abc":
        await queue.submit(*jobs(job_id))
        await queue.cancel(job_id)
    with pytest.raises(UnknownJob):
        await queue.status("a")
    assert [status.id for status in await queue.statuses()] == ["c", "b"]


async def test_a_silent_worker_is_forgotten_with_what_was_asked_of_it() -> None:
    clock = FakeClock()
    queue = MemoryQueue(clock=clock)
    await queue.heartbeat(a_worker("silent"), [])
    await queue.resize("silent", 5)
    clock.advance(WORKER_MEMORY_S + 1)
    await queue.heartbeat(a_worker("other"), [])
    assert (await queue.orders("silent", [])).concurrency is None
