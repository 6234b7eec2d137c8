"""What the tests of a queue are made of: jobs, workers, and a queue to try."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
import pytest
from pydantic import JsonValue

from capturekit.queue.base import (
    Job,
    JobError,
    Lease,
    QueueBackend,
    RetryPolicy,
    WorkerInfo,
)
from capturekit.testing.clock import FakeClock

PROMPT_S: Final = 10.0
"""What should happen at once may take this long on a busy machine."""

BOOM: Final = JobError(type="Boom", message="it broke", step="codes", attempt=1)
ONCE: Final = RetryPolicy(max_attempts=1)
TWICE: Final = RetryPolicy(max_attempts=2, base_s=4.0)
PAYLOAD: Final[dict[str, JsonValue]] = {
    "text": "ä\u2028\u0000 end",
    "big": 12345678901234567890,
    "number": 0.1,
    "nested": [{"none": None}, True, []],
}


def a_job(job_id: str = "a", **more: object) -> Job:
    """A job of kind "test"; ``more`` are fields of ``Job``."""
    return Job.model_validate({"id": job_id, "kind": "test", **more})


def a_worker(worker_id: str = "w", *, jobs: tuple[str, ...] = ()) -> WorkerInfo:
    """A worker as it introduces itself."""
    return WorkerInfo(
        id=worker_id,
        host="shed",
        pid=7,
        concurrency=2,
        started_at=1.0,
        heartbeat_at=1.0,
        jobs=jobs,
    )


async def start(queue: QueueBackend, job: Job | None = None) -> Lease:
    """Submit a job and claim it."""
    job = job or a_job()
    await queue.submit(job)
    return (await queue.claim("w", job_id=job.id))[0]


async def lose(queue: QueueBackend, clock: FakeClock, lease: Lease) -> None:
    """The worker of this lease dies, and the queue notices."""
    clock.advance(lease.expires_at - clock.now)
    await queue.claim("undertaker", limit=0)


async def claim_again(queue: QueueBackend, clock: FakeClock, job: Job) -> Lease:
    """The next attempt, as soon as every backoff is over."""
    clock.advance(job.retry.cap_s)
    return (await queue.claim("next", job_id=job.id))[0]


async def claimed(queue: QueueBackend, limit: int = 9) -> list[str]:
    """Claim, and the ids of what was handed out."""
    return [lease.job.id for lease in await queue.claim("w", limit=limit)]


class QueueTests:
    """The queue under test and its time."""

    pytestmark = pytest.mark.anyio

    def make_queue(
        self, clock: Callable[[], float], *, max_waiting: int | None = None
    ) -> AbstractAsyncContextManager[QueueBackend]:
        """An empty queue that tells the time by ``clock``; so many jobs may wait in it."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The time of the test."""
        return FakeClock()

    @pytest.fixture
    async def queue(self, clock: FakeClock) -> AsyncIterator[QueueBackend]:
        """The queue under test."""
        async with self.make_queue(clock) as queue:
            yield queue

    async def is_woken_by(
        self,
        queue: QueueBackend,
        cause: Callable[[], Awaitable[object]],
        *,
        within_s: float = PROMPT_S,
    ) -> None:
        """Fail unless someone who waits for work waits until the cause, and no longer."""
        woken = anyio.Event()

        async def wait() -> None:
            await queue.wait(60)
            woken.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not woken.is_set()
            await cause()
            with anyio.fail_after(within_s):
                await woken.wait()
