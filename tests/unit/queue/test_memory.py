"""What only the memory queue does: it has an end."""

import pytest

from capturekit.errors import QueueFull, UnknownJob
from capturekit.queue.base import Job, JobState
from capturekit.queue.memory import MemoryQueue

pytestmark = pytest.mark.anyio


def jobs(ids: str) -> list[Job]:
    return [Job(id=job_id, kind="test") for job_id in ids]


async def test_a_full_queue_takes_all_or_none() -> None:
    queue = MemoryQueue(max_jobs=3)
    await queue.submit(*jobs("ab"))
    with pytest.raises(QueueFull, match="3 unfinished jobs"):
        await queue.submit(*jobs("cd"))
    with pytest.raises(UnknownJob):
        await queue.status("c")
    await queue.submit(*jobs("c"))


async def test_known_jobs_need_no_room() -> None:
    queue = MemoryQueue(max_jobs=2)
    await queue.submit(*jobs("ab"))
    answers = await queue.submit(*jobs("abab"))
    assert [answer.is_new for answer in answers] == [False] * 4


async def test_finished_jobs_leave_room() -> None:
    queue = MemoryQueue(max_jobs=1)
    for job_id in "abc":
        await queue.submit(*jobs(job_id))
        (lease,) = await queue.claim("w")
        await queue.finish(lease)
    assert (await queue.stats()).depth[JobState.SUCCEEDED] == 1


async def test_the_job_that_finished_first_is_forgotten_first() -> None:
    queue = MemoryQueue(max_jobs=2)
    for job_id in "abc":
        await queue.submit(*jobs(job_id))
        await queue.cancel(job_id)
    with pytest.raises(UnknownJob):
        await queue.status("a")
    assert [status.id for status in await queue.statuses()] == ["c", "b"]
