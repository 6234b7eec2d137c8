"""What else is true where processes share a queue: what one does, the others notice."""
# ruff: noqa: D102  # the name of a test is its sentence

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
import pytest
from anyio.lowlevel import checkpoint

from capturekit.errors import QueueFull
from capturekit.queue.base import (
    JOB_VERSION,
    NOTICE_S,
    Beat,
    Job,
    JobState,
    JobStatus,
    QueueBackend,
)
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract.jobs import (
    BOOM,
    PROMPT_S,
    QueueTests,
    a_job,
    a_worker,
    start,
)

NOTICED_S: Final = 8 * NOTICE_S
"""``NOTICE_S`` on a busy machine."""


class SharedTests(QueueTests):
    """Two handles on one queue, as two processes have them, and what one cannot read."""

    def open_again(self, queue: QueueBackend) -> AbstractAsyncContextManager[QueueBackend]:
        """Another handle on what ``queue`` keeps, with its clock and limits."""
        raise NotImplementedError

    async def spoil(self, queue: QueueBackend, job_id: str, text: str) -> None:
        """Put the text where the payload of a job that waits is kept."""
        raise NotImplementedError

    async def set_version(self, queue: QueueBackend, job_id: str, version: int) -> None:
        """Mark a job that waits as kept in the form of this version."""
        raise NotImplementedError

    @pytest.fixture
    async def other(self, queue: QueueBackend) -> AsyncIterator[QueueBackend]:
        """The queue under test, as another process has it."""
        async with self.open_again(queue) as other:
            yield other

    # What one does, the other sees

    async def test_a_job_outlives_the_process_that_submitted_it(self, queue: QueueBackend) -> None:
        async with self.open_again(queue) as other:
            await other.submit(a_job(payload={"kept": True}))
        (lease,) = await queue.claim("w")
        assert lease.job.payload == {"kept": True}

    async def test_a_job_started_here_is_ended_there(
        self, queue: QueueBackend, other: QueueBackend
    ) -> None:
        lease = await start(queue)
        assert await other.claim("v", limit=9) == []
        await other.finish(lease, "there")
        assert (await queue.status("a")).result == "there"

    @pytest.mark.parametrize("method", ["orders", "heartbeat"])
    async def test_a_cancel_is_noticed(
        self, queue: QueueBackend, other: QueueBackend, method: str
    ) -> None:
        lease = await start(queue)
        await other.cancel("a")

        async def is_told() -> bool:
            if method == "heartbeat":
                return await queue.heartbeat(a_worker(), [lease]) == [Beat.CANCEL]
            return (await queue.orders("w", [lease])).beats == (Beat.CANCEL,)

        await self._soon(is_told)

    async def test_a_new_concurrency_is_noticed(
        self, queue: QueueBackend, other: QueueBackend
    ) -> None:
        await queue.heartbeat(a_worker(), [])
        await other.resize("w", 5)

        async def is_told() -> bool:
            return (await queue.orders("w", [])).concurrency == 5

        await self._soon(is_told)

    async def test_what_is_paused_there_is_not_handed_out_here(
        self, queue: QueueBackend, other: QueueBackend
    ) -> None:
        await queue.submit(a_job("a", queue="x"), a_job("b", queue="y"))
        await other.pause("x")
        assert [lease.job.id for lease in await queue.claim("w", limit=9)] == ["b"]
        await queue.resume("x")
        await other.pause()
        assert await queue.claim("w", limit=9) == []
        assert (await queue.stats()).is_paused

    @pytest.mark.parametrize(
        "cause",
        [*("submit", "release", "retry", "retry_failed"), *("resume", "resume by name", "turn")],
    )
    async def test_waiting_ends_when_another_process_makes_work(
        self, queue: QueueBackend, other: QueueBackend, cause: str
    ) -> None:
        lease = await start(queue, a_job(concurrency_key="k"))
        await queue.fail(await start(queue, a_job("failed")), BOOM, is_permanent=True)
        causes: dict[str, Callable[[], Awaitable[object]]] = {
            "submit": lambda: other.submit(a_job("new")),
            "release": lambda: other.release(lease),
            "retry": lambda: other.retry("failed"),
            "retry_failed": other.retry_failed,
            "resume": other.resume,
            "resume by name": lambda: other.resume("x"),
            "turn": lambda: other.finish(lease),
        }
        if cause.startswith("resume"):
            await other.pause("x" if "name" in cause else None)
            await queue.submit(a_job("paused", queue="x"))
        if cause == "turn":
            await queue.submit(a_job("next", concurrency_key="k"))
        await self.is_woken_by(queue, causes[cause], within_s=NOTICED_S)

    async def test_waiting_ends_when_a_job_submitted_elsewhere_comes_due(
        self, queue: QueueBackend, other: QueueBackend, clock: FakeClock
    ) -> None:
        async def cause() -> None:
            await other.submit(a_job(delay_s=5))
            clock.advance(5)

        await self.is_woken_by(queue, cause, within_s=NOTICED_S)

    async def _soon(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        with anyio.fail_after(NOTICED_S):
            while not await is_so():
                await checkpoint()

    # Both at once

    async def test_no_job_is_handed_out_by_both(
        self, queue: QueueBackend, other: QueueBackend
    ) -> None:
        await queue.submit(*(a_job(f"{number}") for number in range(40)))
        taken: list[str] = []

        async def work(handle: QueueBackend, worker: str) -> None:
            while leases := await handle.claim(worker, limit=3):
                taken.extend(lease.job.id for lease in leases)

        async with anyio.create_task_group() as tasks:
            for number in range(2):
                tasks.start_soon(work, queue, f"here {number}")
                tasks.start_soon(work, other, f"there {number}")
        assert len(taken) == len(set(taken)) == 40

    @pytest.mark.parametrize("sameness", ["id", "unique key"])
    async def test_of_equal_jobs_submitted_to_both_one_is_taken(
        self, queue: QueueBackend, other: QueueBackend, sameness: str
    ) -> None:
        new: list[str] = []

        async def submit(handle: QueueBackend, name: str) -> None:
            for number in range(10):
                same = f"{number}"
                keyed = a_job(name + same, unique_key=same)
                job = a_job(same) if sameness == "id" else keyed
                (answer,) = await handle.submit(job)
                new.extend([same] if answer.is_new else [])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit, queue, "here")
            tasks.start_soon(submit, other, "there")
        assert sorted(new) == [f"{number}" for number in range(10)]

    async def test_both_together_run_no_more_of_a_key_than_may(
        self, queue: QueueBackend, other: QueueBackend
    ) -> None:
        await queue.submit(
            *(a_job(f"{number}", concurrency_key="k", max_running=2) for number in range(12))
        )
        running: set[str] = set()
        done: list[str] = []

        async def work(handle: QueueBackend, worker: str) -> None:
            while len(done) < 12:
                for lease in await handle.claim(worker, limit=2):
                    running.add(lease.job.id)
                    assert len(running) <= 2
                    await checkpoint()
                    running.remove(lease.job.id)
                    await handle.finish(lease)
                    done.append(lease.job.id)

        with anyio.fail_after(3 * PROMPT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work, queue, "here")
                tasks.start_soon(work, other, "there")

    async def test_both_together_take_no_more_than_may_wait(self, clock: FakeClock) -> None:
        refused: list[str] = []

        async def submit(handle: QueueBackend, name: str) -> None:
            for number in range(8):
                try:
                    await handle.submit(a_job(f"{name} {number}"))
                except QueueFull:
                    refused.append(name)

        async with self.make_queue(clock, max_waiting=10) as queue:
            async with self.open_again(queue) as other, anyio.create_task_group() as tasks:
                tasks.start_soon(submit, queue, "here")
                tasks.start_soon(submit, other, "there")
            assert (await queue.stats()).depth[JobState.QUEUED] == 10
        assert len(refused) == 6

    # What cannot be read

    @pytest.mark.parametrize("text", ["{not json", "[1]", '{"x": "\\ud800"}', ""])
    async def test_a_job_that_cannot_be_read_is_set_aside_with_its_text(
        self, queue: QueueBackend, clock: FakeClock, text: str
    ) -> None:
        await queue.submit(a_job("bad"), a_job("good"))
        await self.spoil(queue, "bad", text)
        assert await self._claimed_next(queue) == "good"
        status = await self._set_aside(queue, "bad")
        assert status.error is not None
        assert text in status.error.message
        assert status.finished_at == clock.now

    @pytest.mark.parametrize("version", [0, JOB_VERSION + 1])
    async def test_a_job_of_another_version_is_set_aside(
        self, queue: QueueBackend, version: int
    ) -> None:
        await queue.submit(a_job("bad", payload={"found": "again"}), a_job("good"))
        await self.set_version(queue, "bad", version)
        assert await self._claimed_next(queue) == "good"
        status = await self._set_aside(queue, "bad")
        assert status.error is not None
        assert "again" in status.error.message

    async def test_a_job_that_cannot_be_read_is_not_handed_out_by_its_id(
        self, queue: QueueBackend
    ) -> None:
        await queue.submit(a_job("bad"))
        await self.spoil(queue, "bad", "{")
        assert await queue.claim("w", job_id="bad") == []
        await self._set_aside(queue, "bad")

    async def test_a_job_that_cannot_be_read_frees_its_keys_and_counts(
        self, queue: QueueBackend
    ) -> None:
        keys = {"unique_key": "u", "concurrency_key": "k", "batch": "x"}
        await queue.submit(a_job("bad", **keys), a_job("good", concurrency_key="k"))
        await self.spoil(queue, "bad", "{")
        assert await self._claimed_next(queue) == "good"
        (answer,) = await queue.submit(a_job("new", unique_key="u"))
        assert answer.is_new
        assert (await queue.batch("x")).depth[JobState.FAILED] == 1
        depth = (await queue.stats()).depth
        assert (depth[JobState.FAILED], depth[JobState.QUEUED]) == (1, 1)

    async def test_a_job_that_cannot_be_read_can_be_pruned(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job("bad"))
        await self.spoil(queue, "bad", "{")
        await queue.claim("w")
        clock.advance(1)
        assert await queue.prune(older_than_s=0) == 1
        await self._may_be_submitted(queue, a_job("bad"))

    async def _claimed_next(self, queue: QueueBackend) -> str:
        """What is handed out, at the latest by the third claim."""
        for _ in range(3):
            for lease in await queue.claim("w"):
                return lease.job.id
        return "nothing"

    async def _set_aside(self, queue: QueueBackend, job_id: str) -> JobStatus:
        status = await queue.status(job_id)
        assert (status.state, status.attempts) == (JobState.FAILED, ())
        assert status.error is not None
        assert status.error.type == "UnreadableJob"
        assert status in await queue.statuses(states=[JobState.FAILED])
        return status

    async def _may_be_submitted(self, queue: QueueBackend, job: Job) -> None:
        (answer,) = await queue.submit(job)
        assert answer.is_new
