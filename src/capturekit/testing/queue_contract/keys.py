"""Unique keys, which keep jobs out, and concurrency keys, which make them wait their turn."""
# ruff: noqa: D102  # the name of a test is its sentence

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from capturekit.errors import UnknownJob
from capturekit.queue.base import CancelOutcome, JobState, Lease, QueueBackend
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract.jobs import (
    BOOM,
    ONCE,
    PROMPT_S,
    QueueTests,
    a_job,
    claimed,
    lose,
    start,
)

THOUSANDS = 3000


async def is_taken(queue: QueueBackend, job_id: str, **more: object) -> bool:
    """Submit a job of the unique key "k"; whether it was taken."""
    (answer,) = await queue.submit(a_job(job_id, unique_key="k", **more))
    return answer.is_new


class KeyTests(QueueTests):
    """What keys keep out, and what they make wait."""

    # Unique keys

    async def test_a_taken_unique_key_is_answered_with_the_job_that_holds_it(
        self, queue: QueueBackend
    ) -> None:
        await queue.submit(a_job("a", unique_key="k", delay_s=60))
        (answer,) = await queue.submit(a_job("b", unique_key="k", queue="other"))
        assert (answer.id, answer.is_new, answer.state) == ("a", False, JobState.SCHEDULED)
        with pytest.raises(UnknownJob):
            await queue.status("b")
        assert await queue.claim("w", queues=["other"]) == []

    @pytest.mark.parametrize("state", ["queued", "running", "scheduled"])
    async def test_a_unique_key_is_taken_until_its_job_ends(
        self, queue: QueueBackend, clock: FakeClock, state: str
    ) -> None:
        await queue.submit(a_job("a", unique_key="k", unique_for_s=5))
        clock.advance(10)
        if state != "queued":
            (lease,) = await queue.claim("w")
            if state == "scheduled":
                await queue.fail(lease, BOOM)
        (answer,) = await queue.submit(a_job("b", unique_key="k"))
        assert (answer.id, answer.is_new, answer.state) == ("a", False, state)

    @pytest.mark.parametrize("end", ["finish", "fail", "cancelled", "released", "lost"])
    async def test_a_unique_key_is_free_once_its_job_ended(
        self, queue: QueueBackend, clock: FakeClock, end: str
    ) -> None:
        lease = await start(queue, a_job("a", unique_key="k", retry=ONCE))
        if end == "released":
            await queue.cancel("a")
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "finish": lambda: queue.finish(lease),
            "fail": lambda: queue.fail(lease, BOOM),
            "cancelled": lambda: queue.cancelled(lease),
            "released": lambda: queue.release(lease),
            "lost": lambda: lose(queue, clock, lease),
        }
        assert not await is_taken(queue, "b")
        await ways[end]()
        assert await is_taken(queue, "b")
        assert not await is_taken(queue, "c")

    async def test_a_job_cancelled_before_it_started_frees_its_key(
        self, queue: QueueBackend
    ) -> None:
        await queue.submit(a_job("a", unique_key="k"))
        await queue.cancel("a")
        assert await is_taken(queue, "b")

    async def test_a_unique_key_is_taken_for_its_period_though_the_job_ended(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue, a_job("a", unique_key="k", unique_for_s=60))
        clock.advance(20)
        await queue.finish(lease)
        clock.advance(39)
        (answer,) = await queue.submit(a_job("b", unique_key="k"))
        assert (answer.id, answer.is_new, answer.state) == ("a", False, JobState.SUCCEEDED)
        clock.advance(1)
        assert await is_taken(queue, "b")

    async def test_a_job_that_outlives_its_period_frees_the_key_at_its_end(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue, a_job("a", unique_key="k", unique_for_s=5))
        clock.advance(10)
        await queue.finish(lease)
        assert await is_taken(queue, "b")

    async def test_a_job_is_not_pruned_while_it_holds_its_key(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.finish(await start(queue, a_job("a", unique_key="k", unique_for_s=60)))
        for job_id in "bc":
            await queue.finish(await start(queue, a_job(job_id)))
        clock.advance(1)
        assert await queue.prune(older_than_s=1e6, keep=2) == 1
        assert await queue.prune(older_than_s=0, keep=0) == 1
        assert [status.id for status in await queue.statuses()] == ["a"]
        (answer,) = await queue.submit(a_job("d", unique_key="k"))
        assert (answer.id, answer.is_new, answer.state) == ("a", False, JobState.SUCCEEDED)
        clock.advance(60)
        assert await queue.prune(older_than_s=0) == 1
        assert await is_taken(queue, "e")
        assert not await is_taken(queue, "f")

    async def test_many_that_hold_their_keys_do_not_hide_what_can_be_pruned(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        many = [
            a_job(f"{number}", batch="x", unique_key=f"{number}", unique_for_s=60)
            for number in range(1500)
        ]
        await queue.submit(*many, a_job("free", batch="x"))
        await queue.cancel_batch("x")
        clock.advance(1)
        assert await queue.prune(older_than_s=0) == 1
        clock.advance(60)
        assert await queue.prune(older_than_s=0) == len(many)

    async def test_of_equal_keys_in_one_submission_the_first_is_taken(
        self, queue: QueueBackend
    ) -> None:
        answers = await queue.submit(
            a_job("a", unique_key="k"), a_job("b", unique_key="k"), a_job("c", unique_key="l")
        )
        assert [(each.id, each.is_new) for each in answers] == [
            ("a", True),
            ("a", False),
            ("c", True),
        ]
        assert {status.id for status in await queue.statuses()} == {"a", "c"}

    async def test_a_known_id_is_answered_before_a_taken_key(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a"), a_job("b", unique_key="k"))
        (answer,) = await queue.submit(a_job("a", unique_key="k"))
        assert (answer.id, answer.is_new) == ("a", False)

    async def test_jobs_of_other_keys_and_of_none_are_taken(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a"), a_job("b", unique_key="k"))
        answers = await queue.submit(a_job("c"), a_job("d", unique_key="K"))
        assert [answer.is_new for answer in answers] == [True, True]

    async def test_of_many_tasks_with_one_key_one_submits(self, queue: QueueBackend) -> None:
        answers: set[str] = set()
        new: list[str] = []

        async def submit(job_id: str) -> None:
            (answer,) = await queue.submit(a_job(job_id, unique_key="k"))
            answers.add(answer.id)
            new.extend([answer.id] if answer.is_new else [])

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(submit, f"{number}")
        assert set(new) == answers
        assert len(new) == 1

    @pytest.mark.parametrize("holder", ["runs", "ended"])
    async def test_a_job_is_not_retried_while_another_holds_its_key(
        self, queue: QueueBackend, clock: FakeClock, holder: str
    ) -> None:
        await queue.fail(await start(queue, a_job("a", unique_key="k")), BOOM, is_permanent=True)
        before = await queue.status("a")
        lease = await start(queue, a_job("b", unique_key="k", unique_for_s=60))
        if holder == "ended":
            await queue.finish(lease)
        assert await queue.retry("a") == before == await queue.status("a")
        assert await queue.retry_failed() == 0
        clock.advance(60)
        if holder == "runs":
            await queue.finish(lease)
        assert (await queue.retry("a")).state is JobState.QUEUED
        assert not await is_taken(queue, "c")

    async def test_a_job_that_holds_its_own_key_is_retried(self, queue: QueueBackend) -> None:
        job = a_job("a", unique_key="k", unique_for_s=60)
        await queue.fail(await start(queue, job), BOOM, is_permanent=True)
        assert (await queue.retry("a")).state is JobState.QUEUED

    async def test_of_failed_jobs_with_one_key_one_is_retried(self, queue: QueueBackend) -> None:
        for job_id in "abc":
            job = a_job(job_id, unique_key="k")
            await queue.fail(await start(queue, job), BOOM, is_permanent=True)
        assert await queue.retry_failed() == 1
        assert (await queue.stats()).depth[JobState.QUEUED] == 1

    # Concurrency keys

    async def test_no_more_jobs_of_a_key_run_than_may(self, queue: QueueBackend) -> None:
        await queue.submit(*(a_job(each, concurrency_key="k", max_running=2) for each in "abcde"))
        first = await queue.claim("w", limit=9)
        assert [lease.job.id for lease in first] == ["a", "b"]
        assert await queue.claim("v", limit=9) == []
        await queue.finish(first[0])
        assert await claimed(queue) == ["c"]
        await queue.finish(first[1])
        assert await claimed(queue, limit=1) == ["d"]
        assert await claimed(queue) == []

    async def test_many_workers_never_run_more_of_a_key_than_may(self, queue: QueueBackend) -> None:
        keys = {"k": 3, "l": 1}
        await queue.submit(
            *(
                a_job(f"{key}{number}", concurrency_key=key, max_running=most)
                for number in range(12)
                for key, most in keys.items()
            )
        )
        running = dict.fromkeys(keys, 0)
        done: list[str] = []

        async def work(worker: str) -> None:
            while len(done) < 24:
                leases = await queue.claim(worker, limit=3)
                for lease in leases:
                    running[lease.job.id[0]] += 1
                assert all(running[key] <= most for key, most in keys.items())
                await checkpoint()
                for lease in leases:
                    running[lease.job.id[0]] -= 1
                    await queue.finish(lease)
                    done.append(lease.job.id)

        with anyio.fail_after(3 * PROMPT_S):
            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(work, f"w{number}")
        assert len(done) == len(set(done))

    async def test_the_limit_of_a_key_holds_over_all_queues(self, queue: QueueBackend) -> None:
        for name in "xy":
            await queue.submit(a_job(name, queue=name, concurrency_key="k"))
        (lease,) = await queue.claim("w", limit=9)
        assert await claimed(queue) == []
        await queue.finish(lease)
        assert len(await claimed(queue)) == 1

    async def test_others_pass_a_key_that_must_wait(self, queue: QueueBackend) -> None:
        await start(queue, a_job("a", concurrency_key="k"))
        await queue.submit(a_job("b", concurrency_key="k", priority=9))
        await queue.submit(a_job("c", concurrency_key="l"), a_job("d"))
        assert await claimed(queue) == ["c", "d"]

    async def test_a_job_that_waits_its_turn_is_queued(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await start(queue, a_job("a", concurrency_key="k", batch="x"))
        await queue.submit(*(a_job(each, concurrency_key="k", batch="x") for each in "bc"))
        clock.advance(4)
        status, stats = await queue.status("b"), await queue.stats()
        assert (status.state, status.next_retry_at) == (JobState.QUEUED, None)
        assert stats.depth[JobState.QUEUED] == 2
        assert stats.oldest_age_s == pytest.approx(4)
        assert stats.by_queue["default"][JobState.QUEUED] == 2
        assert (await queue.batch("x")).depth[JobState.QUEUED] == 2
        found = await queue.statuses(states=[JobState.QUEUED])
        assert [each.id for each in found] == ["c", "b"]
        (answer,) = await queue.submit(a_job("b"))
        assert answer.state is JobState.QUEUED

    async def test_the_next_in_turn_is_of_the_best_priority_and_oldest(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue, a_job("a", concurrency_key="k"))
        for job_id, priority in (("b", 0), ("c", 1), ("d", 0), ("e", 1)):
            clock.advance(1)
            await queue.submit(a_job(job_id, concurrency_key="k", priority=priority))
        order = []
        for _ in range(4):
            await queue.finish(lease)
            (lease,) = await queue.claim("w", limit=9)
            order.append(lease.job.id)
        assert order == ["c", "e", "b", "d"]

    async def test_a_better_job_that_comes_later_goes_first(self, queue: QueueBackend) -> None:
        # Nothing of the key runs: its turn is b's until c comes.
        await queue.submit(a_job("b", concurrency_key="k"))
        await queue.submit(a_job("c", concurrency_key="k", priority=5))
        assert await claimed(queue) == ["c"]

    async def test_a_better_job_that_comes_due_goes_first(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job("b", concurrency_key="k"))
        await queue.submit(a_job("c", concurrency_key="k", priority=5, delay_s=3))
        clock.advance(3)
        assert await claimed(queue) == ["c"]

    @pytest.mark.parametrize("way", ["finish", "fail", "cancelled", "schedule", "put off", "lose"])
    async def test_a_job_that_stops_running_frees_its_turn(
        self, queue: QueueBackend, clock: FakeClock, way: str
    ) -> None:
        lease = await start(queue, a_job("a", concurrency_key="k"))
        await queue.submit(a_job("b", concurrency_key="k"), a_job("c", concurrency_key="k"))
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "finish": lambda: queue.finish(lease),
            "fail": lambda: queue.fail(lease, BOOM, is_permanent=True),
            "cancelled": lambda: queue.cancelled(lease),
            "schedule": lambda: queue.fail(lease, BOOM),
            "put off": lambda: queue.release(lease, delay_s=1e6),
            "lose": lambda: lose(queue, clock, lease),
        }
        assert await claimed(queue) == []
        await ways[way]()
        assert await claimed(queue) == ["b"]

    async def test_a_released_job_takes_its_turn_again(self, queue: QueueBackend) -> None:
        lease = await start(queue, a_job("a", concurrency_key="k"))
        await queue.submit(a_job("b", concurrency_key="k"))
        await queue.release(lease)
        assert await claimed(queue) == ["a"]

    async def test_a_job_that_waits_for_its_time_takes_no_turn(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job("a", concurrency_key="k", delay_s=5, priority=9))
        lease = await start(queue, a_job("b", concurrency_key="k"))
        clock.advance(5)
        assert await claimed(queue) == []
        await queue.finish(lease)
        assert await claimed(queue) == ["a"]

    @pytest.mark.parametrize("before", ["none", "one"])
    async def test_a_cancelled_job_passes_its_turn_on(
        self, queue: QueueBackend, before: str
    ) -> None:
        lease: Lease | None = None
        if before == "one":
            lease = await start(queue, a_job("a", concurrency_key="k"))
        await queue.submit(a_job("b", concurrency_key="k"), a_job("c", concurrency_key="k"))
        assert await queue.cancel("b") is CancelOutcome.CANCELLED
        if lease is not None:
            assert await claimed(queue) == []
            await queue.finish(lease)
        assert await claimed(queue) == ["c"]

    async def test_a_retried_job_waits_its_turn(self, queue: QueueBackend) -> None:
        failed = await start(queue, a_job("a", concurrency_key="k"))
        await queue.fail(failed, BOOM, is_permanent=True)
        lease = await start(queue, a_job("b", concurrency_key="k"))
        await queue.retry("a")
        assert await claimed(queue) == []
        await queue.finish(lease)
        assert await claimed(queue) == ["a"]

    async def test_the_limit_of_a_key_holds_for_a_job_named_by_its_id(
        self, queue: QueueBackend
    ) -> None:
        await queue.submit(a_job("a", concurrency_key="k"), a_job("b", concurrency_key="k"))
        (lease,) = await queue.claim("w", job_id="b")
        assert await queue.claim("w", job_id="a") == []
        assert await claimed(queue) == []
        await queue.finish(lease)
        assert len(await queue.claim("w", job_id="a")) == 1

    async def test_the_limit_of_the_next_in_turn_counts(self, queue: QueueBackend) -> None:
        lease = await start(queue, a_job("a", concurrency_key="k", max_running=3))
        await queue.submit(a_job("b", concurrency_key="k", max_running=1))
        await queue.submit(a_job("c", concurrency_key="k", max_running=2))
        assert await claimed(queue) == []
        await queue.finish(lease)
        assert await claimed(queue) == ["b", "c"]

    async def test_waiting_ends_when_a_turn_comes_free(self, queue: QueueBackend) -> None:
        lease = await start(queue, a_job("a", concurrency_key="k"))
        await queue.submit(a_job("b", concurrency_key="k"))
        await self.is_woken_by(queue, lambda: queue.finish(lease))

    async def test_thousands_that_wait_their_turn_hold_up_nobody(self, queue: QueueBackend) -> None:
        await start(queue, a_job("a", concurrency_key="k"))
        await queue.submit(
            *(a_job(f"{each}", concurrency_key="k", priority=9) for each in range(THOUSANDS))
        )
        await queue.submit(a_job("b"), a_job("c", queue="other"), a_job("d", concurrency_key="l"))
        assert [lease.job.id for lease in await queue.claim("w", queues=["other"])] == ["c"]
        assert await claimed(queue) == ["b", "d"]
        assert (await queue.stats()).depth[JobState.QUEUED] == THOUSANDS
