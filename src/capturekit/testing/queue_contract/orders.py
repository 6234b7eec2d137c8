"""What is asked of workers, and of many jobs at once: orders, batches, failed jobs."""
# ruff: noqa: D102  # the name of a test is its sentence

import pytest

from capturekit.errors import UnknownBatch, UnknownWorker
from capturekit.queue.base import (
    DEFAULT_LEASE_S,
    MAX_CONCURRENCY,
    WORKER_MEMORY_S,
    Beat,
    CancelOutcome,
    JobState,
    Orders,
    QueueBackend,
)
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract.jobs import (
    BOOM,
    ONCE,
    TWICE,
    QueueTests,
    a_job,
    a_worker,
    claim_again,
    start,
)

MANY = 1200


async def fail(backend: QueueBackend, job_id: str, **more: object) -> None:
    """Submit a job that fails for good."""
    await backend.fail(await start(backend, a_job(job_id, **more)), BOOM, is_permanent=True)


class OrderTests(QueueTests):
    """Orders, resizing, batches, and retrying what failed."""

    # Orders

    async def test_orders_tell_what_became_of_each_lease(self, queue: QueueBackend) -> None:
        ended, held, asked = [await start(queue, a_job(job_id)) for job_id in "abc"]
        await queue.finish(ended)
        await queue.cancel("c")
        orders = await queue.orders("w", [asked, ended, held, asked])
        assert orders.beats == (Beat.CANCEL, Beat.LOST, Beat.HELD, Beat.CANCEL)

    async def test_orders_of_an_older_attempt_are_to_stop(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=TWICE)
        old = await start(queue, job)
        await queue.fail(old, BOOM)
        assert (await queue.orders("w", [old])).beats == (Beat.LOST,)
        new = await claim_again(queue, clock, job)
        assert (await queue.orders("w", [old, new])).beats == (Beat.LOST, Beat.HELD)

    async def test_orders_extend_nothing(self, queue: QueueBackend, clock: FakeClock) -> None:
        lease = await start(queue)
        clock.advance(DEFAULT_LEASE_S - 1)
        assert (await queue.orders("w", [lease])).beats == (Beat.HELD,)
        clock.advance(1)
        await queue.claim("v", limit=0)
        assert (await queue.status("a")).state is not JobState.RUNNING

    async def test_asking_for_orders_makes_no_worker_known(self, queue: QueueBackend) -> None:
        assert await queue.orders("stranger", []) == Orders(beats=(), concurrency=None)
        assert await queue.workers() == []

    async def test_asking_for_orders_keeps_no_worker_listed(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.heartbeat(a_worker(), [])
        clock.advance(WORKER_MEMORY_S)
        await queue.orders("w", [])
        clock.advance(0.1)
        assert await queue.workers() == []

    # Resizing

    async def test_a_worker_learns_its_new_concurrency(self, queue: QueueBackend) -> None:
        lease = await start(queue)
        await queue.heartbeat(a_worker(), [lease])
        await queue.heartbeat(a_worker("other"), [])
        assert (await queue.orders("w", [])).concurrency is None
        await queue.resize("w", 7)
        assert await queue.orders("w", [lease]) == Orders(beats=(Beat.HELD,), concurrency=7)
        assert (await queue.orders("other", [])).concurrency is None
        await queue.resize("w", MAX_CONCURRENCY)
        await queue.heartbeat(a_worker(), [lease])
        assert (await queue.orders("w", [])).concurrency == MAX_CONCURRENCY

    async def test_a_worker_that_is_not_listed_cannot_be_resized(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        with pytest.raises(UnknownWorker) as caught:
            await queue.resize("stranger", 2)
        assert caught.value.worker_id == "stranger"
        await queue.heartbeat(a_worker(), [])
        clock.advance(WORKER_MEMORY_S + 0.1)
        with pytest.raises(UnknownWorker):
            await queue.resize("w", 2)

    @pytest.mark.parametrize("concurrency", [-1, 0, MAX_CONCURRENCY + 1])
    async def test_a_worker_runs_from_1_to_its_most_jobs(
        self, queue: QueueBackend, concurrency: int
    ) -> None:
        await queue.heartbeat(a_worker(), [])
        with pytest.raises(ValueError, match="concurrency"):
            await queue.resize("w", concurrency)
        assert (await queue.orders("w", [])).concurrency is None

    async def test_what_was_asked_of_a_worker_goes_with_it(self, queue: QueueBackend) -> None:
        await queue.heartbeat(a_worker(), [])
        await queue.resize("w", 5)
        await queue.forget_worker("w")
        await queue.heartbeat(a_worker(), [])
        assert (await queue.orders("w", [])).concurrency is None

    # Batches

    async def test_a_batch_counts_its_jobs_by_state(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.finish(await start(queue, a_job("a", batch="x")))
        await start(queue, a_job("b", batch="x"))
        await queue.submit(a_job("c", batch="x", delay_s=5), a_job("d", batch="x", delay_s=60))
        await queue.submit(a_job("e"), a_job("f", batch="y"))
        clock.advance(5)
        batch = await queue.batch("x")
        some = (JobState.SUCCEEDED, JobState.RUNNING, JobState.QUEUED, JobState.SCHEDULED)
        assert batch.depth == dict.fromkeys(JobState, 0) | dict.fromkeys(some, 1)
        assert (batch.id, batch.total, batch.ended, batch.progress) == ("x", 4, 1, 0.25)

    @pytest.mark.parametrize("method", ["batch", "cancel_batch"])
    async def test_an_unknown_batch_is_an_error(self, queue: QueueBackend, method: str) -> None:
        await queue.submit(a_job(batch="x"))
        with pytest.raises(UnknownBatch) as caught:
            await getattr(queue, method)("nobody")
        assert caught.value.batch_id == "nobody"

    async def test_a_batch_counts_only_what_is_still_known(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.finish(await start(queue, a_job("a", batch="x")))
        lease = await start(queue, a_job("b", batch="x"))
        clock.advance(1)
        await queue.prune(older_than_s=0)
        assert (await queue.batch("x")).total == 1
        await queue.finish(lease)
        clock.advance(1)
        await queue.prune(older_than_s=0)
        with pytest.raises(UnknownBatch):
            await queue.batch("x")

    async def test_a_batch_is_cancelled_and_the_outcomes_counted(self, queue: QueueBackend) -> None:
        await queue.finish(await start(queue, a_job("ended", batch="x")))
        lease = await start(queue, a_job("running", batch="x"))
        await queue.submit(a_job("queued", batch="x"), a_job("later", batch="x", delay_s=9))
        await queue.submit(a_job("other", batch="y"), a_job("none"))
        assert await queue.cancel_batch("x") == {
            CancelOutcome.CANCELLED: 2,
            CancelOutcome.CANCELLING: 1,
            CancelOutcome.ALREADY_FINISHED: 1,
        }
        assert (await queue.orders("w", [lease])).beats == (Beat.CANCEL,)
        taken = await queue.claim("w", limit=9)
        assert [each.job.id for each in taken] == ["other", "none"]

    async def test_every_outcome_of_a_cancelled_batch_is_present(self, queue: QueueBackend) -> None:
        await queue.submit(a_job(batch="x"))
        outcomes = await queue.cancel_batch("x")
        assert outcomes == dict.fromkeys(CancelOutcome, 0) | {CancelOutcome.CANCELLED: 1}

    async def test_a_big_batch_is_cancelled_as_a_whole(self, queue: QueueBackend) -> None:
        await queue.submit(*(a_job(f"{number}", batch="x") for number in range(MANY)))
        assert (await queue.cancel_batch("x"))[CancelOutcome.CANCELLED] == MANY
        assert (await queue.batch("x")).progress == 1.0
        assert await queue.claim("w") == []

    # Retrying what failed

    async def test_all_that_failed_is_retried(self, queue: QueueBackend) -> None:
        await fail(queue, "a")
        await fail(queue, "b", queue="q")
        await queue.submit(a_job("c"), a_job("d", delay_s=9))
        await queue.cancel("c")
        assert await queue.retry_failed() == 2
        assert {lease.job.id for lease in await queue.claim("w", limit=9)} == {"a", "b"}
        assert await queue.retry_failed() == 0

    async def test_what_failed_is_retried_by_queue_and_batch(self, queue: QueueBackend) -> None:
        await fail(queue, "a", queue="q", batch="x")
        await fail(queue, "b", queue="q")
        await fail(queue, "c", batch="x")
        await fail(queue, "d", batch="x")
        assert await queue.retry_failed(queue="none") == 0
        assert await queue.retry_failed(queue="q", batch="x") == 1
        assert (await queue.status("a")).state is JobState.QUEUED
        assert await queue.retry_failed(batch="x") == 2
        assert await queue.retry_failed(queue="q") == 1

    async def test_what_is_retried_has_all_its_attempts_again(self, queue: QueueBackend) -> None:
        await fail(queue, "a", retry=TWICE)
        await queue.retry_failed()
        (second,) = await queue.claim("w")
        assert (second.attempt, second.tries) == (2, 1)
        assert await queue.fail(second, BOOM) is JobState.SCHEDULED

    async def test_many_that_failed_are_retried(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(*(a_job(f"{number}", retry=ONCE) for number in range(MANY)))
        while await queue.claim("w", limit=MANY):
            pass
        clock.advance(DEFAULT_LEASE_S)
        while (await queue.stats()).depth[JobState.RUNNING]:
            await queue.claim("undertaker", limit=0)
        assert await queue.retry_failed() == MANY
        assert (await queue.stats()).depth[JobState.QUEUED] == MANY

    async def test_waiting_ends_when_what_failed_is_retried(self, queue: QueueBackend) -> None:
        await fail(queue, "a")
        await self.is_woken_by(queue, queue.retry_failed)
