"""A job's life, from its submission to its end: one test for each sentence."""
# ruff: noqa: D102  # the name of a test is its sentence

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint
from pydantic import JsonValue

from capturekit.errors import LeaseLost, UnknownJob
from capturekit.queue.base import (
    DEFAULT_LEASE_S,
    Beat,
    CancelOutcome,
    JobError,
    JobState,
    Lease,
    QueueBackend,
    RetryPolicy,
)
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract.jobs import (
    BOOM,
    ONCE,
    PAYLOAD,
    TWICE,
    QueueTests,
    a_job,
    a_worker,
    claim_again,
    lose,
    start,
)


class LifeTests(QueueTests):
    """Submitting, claiming, ending, leases, progress, cancelling, retrying."""

    # Submitting

    async def test_submitted_jobs_are_answered_in_order(self, queue: QueueBackend) -> None:
        answers = await queue.submit(a_job("a"), a_job("b", delay_s=5), a_job("a"))
        assert [(each.id, each.is_new) for each in answers] == [
            ("a", True),
            ("b", True),
            ("a", False),
        ]
        assert [each.state for each in answers] == [
            JobState.QUEUED,
            JobState.SCHEDULED,
            JobState.QUEUED,
        ]

    async def test_submitting_nothing_is_no_error(self, queue: QueueBackend) -> None:
        assert await queue.submit() == []

    async def test_a_known_id_is_left_as_it_is(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a", payload={"first": True}))
        (answer,) = await queue.submit(a_job("a", payload={"first": False}, priority=9))
        status = await queue.status("a")
        assert (answer.is_new, answer.state) == (False, JobState.QUEUED)
        assert (status.payload, status.priority) == ({"first": True}, 0)

    async def test_a_running_job_is_not_taken_twice(self, queue: QueueBackend) -> None:
        await start(queue)
        (answer,) = await queue.submit(a_job())
        assert (answer.is_new, answer.state) == (False, JobState.RUNNING)
        assert await queue.claim("w") == []

    async def test_a_finished_job_is_not_taken_again(self, queue: QueueBackend) -> None:
        await queue.finish(await start(queue))
        (answer,) = await queue.submit(a_job())
        assert (answer.is_new, answer.state) == (False, JobState.SUCCEEDED)

    async def test_many_jobs_are_taken_at_once(self, queue: QueueBackend) -> None:
        jobs = [a_job(f"{number}") for number in range(3000)]
        assert all(answer.is_new for answer in await queue.submit(*jobs))
        assert (await queue.stats()).depth[JobState.QUEUED] == 3000

    async def test_jobs_submitted_from_many_tasks_are_each_taken_once(
        self, queue: QueueBackend
    ) -> None:
        new: list[str] = []

        async def submit() -> None:
            answers = await queue.submit(*(a_job(f"{number}") for number in range(20)))
            new.extend(answer.id for answer in answers if answer.is_new)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(submit)
        assert sorted(new) == sorted(f"{number}" for number in range(20))

    async def test_a_job_is_handed_out_as_it_was_submitted(self, queue: QueueBackend) -> None:
        job = a_job(payload=PAYLOAD, queue="q", priority=-3, retry=TWICE, timeout_s=7.5, batch="b")
        keys = {"unique_key": "u", "unique_for_s": 2.5, "concurrency_key": "c", "max_running": 3}
        job = job.model_copy(update=keys)
        assert (await start(queue, job)).job == job

    async def test_a_new_job_says_all_about_itself(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job(payload=PAYLOAD, batch="b", queue="q", priority=2))
        status = await queue.status("a")
        assert (status.id, status.kind, status.queue) == ("a", "test", "q")
        assert (status.batch, status.priority, status.payload) == ("b", 2, PAYLOAD)
        assert (status.state, status.queued_at) == (JobState.QUEUED, clock.now)
        assert (status.attempts, status.progress, status.result) == ((), 0.0, None)
        assert (status.started_at, status.finished_at, status.next_retry_at) == (None, None, None)
        assert (status.error, status.is_cancel_requested) == (None, False)

    # Unknown ids

    @pytest.mark.parametrize("method", ["status", "cancel", "retry"])
    async def test_an_unknown_id_is_an_error(self, queue: QueueBackend, method: str) -> None:
        with pytest.raises(UnknownJob) as caught:
            await getattr(queue, method)("nobody")
        assert caught.value.job_id == "nobody"

    async def test_claiming_an_unknown_id_finds_nothing(self, queue: QueueBackend) -> None:
        assert await queue.claim("w", job_id="nobody") == []

    # Listing

    async def test_jobs_are_listed_newest_first(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        for job_id in "abc":
            await queue.submit(a_job(job_id))
            clock.advance(1)
        assert [status.id for status in await queue.statuses()] == ["c", "b", "a"]
        assert [status.id for status in await queue.statuses(limit=2)] == ["c", "b"]

    async def test_jobs_are_listed_by_state_and_batch(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a", batch="x"), a_job("b", delay_s=9, batch="x"), a_job("c"))
        await queue.finish(await start(queue, a_job("d", batch="x")))
        ended_or_later = (JobState.SUCCEEDED, JobState.SCHEDULED)
        assert {status.id for status in await queue.statuses(batch="x")} == {"a", "b", "d"}
        assert {status.id for status in await queue.statuses(states=ended_or_later)} == {"b", "d"}
        found = await queue.statuses(states=[JobState.QUEUED], batch="x")
        assert [status.id for status in found] == ["a"]
        assert await queue.statuses(batch="none") == []

    async def test_a_listed_job_shows_its_attempts(self, queue: QueueBackend) -> None:
        await queue.fail(await start(queue), BOOM)
        (listed,) = await queue.statuses()
        assert listed == await queue.status("a")
        assert [attempt.error for attempt in listed.attempts] == [BOOM]

    # Order and time

    async def test_the_highest_priority_goes_first(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("low", priority=-1), a_job("high", priority=1), a_job("mid"))
        leases = await queue.claim("w", limit=3)
        assert [lease.job.id for lease in leases] == ["high", "mid", "low"]

    async def test_among_equals_the_oldest_goes_first(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        for job_id in "zay":
            await queue.submit(a_job(job_id))
            clock.advance(1)
        order = [(await queue.claim("w"))[0].job.id for _ in range(3)]
        assert order == ["z", "a", "y"]

    async def test_jobs_of_one_submission_keep_their_order(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("z"), a_job("a"), a_job("y"))
        assert [lease.job.id for lease in await queue.claim("w", limit=9)] == ["z", "a", "y"]

    async def test_a_delayed_job_waits_for_its_time(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job(delay_s=10))
        status = await queue.status("a")
        assert (status.state, status.next_retry_at) == (JobState.SCHEDULED, clock.now + 10)
        clock.advance(9.9)
        assert await queue.claim("w") == []
        assert await queue.claim("w", job_id="a") == []
        clock.advance(0.1)
        assert [lease.job.id for lease in await queue.claim("w")] == ["a"]

    async def test_a_delayed_job_is_queued_once_it_is_due(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job(delay_s=10))
        clock.advance(10)
        status = await queue.status("a")
        assert (status.state, status.next_retry_at) == (JobState.QUEUED, None)
        assert (await queue.stats()).depth[JobState.SCHEDULED] == 0
        assert [each.id for each in await queue.statuses(states=[JobState.QUEUED])] == ["a"]
        assert await queue.statuses(states=[JobState.SCHEDULED]) == []

    async def test_a_job_that_came_due_keeps_its_priority(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job("now"), a_job("urgent", delay_s=1, priority=5))
        clock.advance(1)
        assert [lease.job.id for lease in await queue.claim("w")] == ["urgent"]

    # Claiming

    async def test_a_claim_takes_no_more_than_its_limit(self, queue: QueueBackend) -> None:
        await queue.submit(*(a_job(job_id) for job_id in "abcde"))
        assert len(await queue.claim("w", limit=2)) == 2
        assert len(await queue.claim("v", limit=9)) == 3
        assert await queue.claim("w", limit=9) == []

    async def test_a_claim_of_none_takes_none(self, queue: QueueBackend) -> None:
        await queue.submit(a_job())
        assert await queue.claim("w", limit=0) == []

    async def test_concurrent_claims_never_share_a_job(self, queue: QueueBackend) -> None:
        await queue.submit(*(a_job(f"{number}") for number in range(40)))
        taken: list[str] = []

        async def work(worker: str) -> None:
            while leases := await queue.claim(worker, limit=3):
                taken.extend(lease.job.id for lease in leases)
                await checkpoint()

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(work, f"w{number}")
        assert len(taken) == len(set(taken)) == 40

    async def test_a_lease_says_who_holds_what_until_when(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job())
        (lease,) = await queue.claim("w", lease_s=30)
        assert (lease.job.id, lease.attempt, lease.worker) == ("a", 1, "w")
        assert (lease.started_at, lease.expires_at) == (clock.now, clock.now + 30)

    async def test_a_lease_counts_the_attempts_that_count(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=RetryPolicy(max_attempts=9))
        await queue.release(await start(queue, job))
        (lease,) = await queue.claim("w")
        assert (lease.attempt, lease.tries) == (2, 1)
        await queue.fail(lease, BOOM)
        lease = await claim_again(queue, clock, job)
        assert (lease.attempt, lease.tries) == (3, 2)

    async def test_a_claimed_job_is_running(self, queue: QueueBackend, clock: FakeClock) -> None:
        await start(queue)
        status = await queue.status("a")
        assert (status.state, status.started_at) == (JobState.RUNNING, clock.now)
        (attempt,) = status.attempts
        assert (attempt.number, attempt.worker, attempt.started_at) == (1, "w", clock.now)
        assert (attempt.finished_at, attempt.error) == (None, None)

    async def test_a_job_can_be_claimed_by_its_id(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a", priority=9), a_job("b"))
        assert [lease.job.id for lease in await queue.claim("w", job_id="b")] == ["b"]
        assert await queue.claim("w", job_id="b") == []

    async def test_a_claim_takes_from_the_named_queues(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a", queue="x", priority=9), a_job("b", queue="y"))
        await queue.submit(a_job("c", queue="z"), a_job("d", queue="y", priority=1))
        assert await queue.claim("w", queues=["none"]) == []
        taken = await queue.claim("w", limit=9, queues=["y", "z"])
        assert [lease.job.id for lease in taken] == ["d", "b", "c"]

    async def test_an_empty_list_of_queues_means_all(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a", queue="x"), a_job("b", queue="y"))
        assert len(await queue.claim("w", limit=9, queues=[])) == 2

    # How a job ends

    async def test_a_finished_job_has_succeeded(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue)
        clock.advance(2)
        await queue.finish(lease, PAYLOAD)
        status = await queue.status("a")
        assert (status.state, status.result, status.progress) == (JobState.SUCCEEDED, PAYLOAD, 1.0)
        assert status.finished_at == status.attempts[0].finished_at == clock.now
        assert (status.error, status.next_retry_at) == (None, None)

    @pytest.mark.parametrize("result", [None, 5, 0.1, 12345678901234567890, "5", [], False])
    async def test_any_json_is_a_result(self, queue: QueueBackend, result: JsonValue) -> None:
        await queue.finish(await start(queue), result)
        found = (await queue.status("a")).result
        assert (found, type(found)) == (result, type(result))

    async def test_a_failed_attempt_is_tried_again_after_its_backoff(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=RetryPolicy(max_attempts=4, base_s=8.0, cap_s=16.0))
        lease = await start(queue, job)
        for longest_s in (8, 16, 16):
            assert await queue.fail(lease, BOOM) is JobState.SCHEDULED
            due_at = (await queue.status("a")).next_retry_at
            assert due_at is None or clock.now <= due_at <= clock.now + longest_s
            clock.advance(longest_s)
            (lease,) = await queue.claim("w")

    async def test_an_error_is_kept_while_the_job_is_tried_again(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=TWICE)
        await queue.fail(await start(queue, job), BOOM)
        await claim_again(queue, clock, job)
        status = await queue.status("a")
        assert (status.state, status.error) == (JobState.RUNNING, BOOM)
        assert [attempt.error for attempt in status.attempts] == [BOOM, None]

    async def test_attempts_are_numbered_and_each_keeps_its_error(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=TWICE)
        await queue.fail(await start(queue, job), BOOM)
        other = JobError(type="Other", message="again", attempt=2)
        assert await queue.fail(await claim_again(queue, clock, job), other) is JobState.FAILED
        status = await queue.status("a")
        assert [(each.number, each.worker) for each in status.attempts] == [(1, "w"), (2, "next")]
        assert [each.error for each in status.attempts] == [BOOM, other]
        assert (status.error, status.finished_at) == (other, clock.now)

    async def test_a_job_fails_when_its_attempts_are_used_up(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        assert await queue.fail(await start(queue, a_job(retry=ONCE)), BOOM) is JobState.FAILED
        clock.advance(1e6)
        assert await queue.claim("w") == []

    async def test_a_permanent_error_is_not_tried_again(self, queue: QueueBackend) -> None:
        state = await queue.fail(await start(queue), BOOM, is_permanent=True)
        status = await queue.status("a")
        assert state is status.state is JobState.FAILED
        assert (status.error, len(status.attempts)) == (BOOM, 1)

    # Leases

    async def test_a_dead_workers_job_gets_another_attempt_on_an_idle_queue(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=TWICE)
        lease = await start(queue, job)
        await lose(queue, clock, lease)
        status = await queue.status("a")
        assert status.state in (JobState.SCHEDULED, JobState.QUEUED)
        assert status.error is not None
        assert (status.error.type, status.error.attempt) == ("WorkerLost", 1)
        assert (await claim_again(queue, clock, job)).attempt == 2

    async def test_a_lease_that_has_not_run_out_is_left_alone(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await start(queue)
        clock.advance(DEFAULT_LEASE_S - 0.1)
        assert await queue.claim("v", limit=9) == []
        assert (await queue.status("a")).state is JobState.RUNNING

    async def test_a_job_that_kills_its_workers_fails_in_the_end(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=TWICE)
        await lose(queue, clock, await start(queue, job))
        await lose(queue, clock, await claim_again(queue, clock, job))
        status = await queue.status("a")
        assert status.state is JobState.FAILED
        assert [each.error and each.error.type for each in status.attempts] == ["WorkerLost"] * 2
        assert all(each.finished_at is not None for each in status.attempts)
        assert status.finished_at == clock.now

    async def test_a_heartbeat_extends_the_lease(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue)
        clock.advance(DEFAULT_LEASE_S - 1)
        assert await queue.heartbeat(a_worker(), [lease]) == [Beat.HELD]
        clock.advance(DEFAULT_LEASE_S - 1)
        await queue.claim("v")
        assert (await queue.status("a")).state is JobState.RUNNING

    async def test_a_heartbeat_extends_by_what_it_says(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue)
        await queue.heartbeat(a_worker(), [lease], lease_s=100)
        clock.advance(99)
        await queue.claim("v")
        assert (await queue.status("a")).state is JobState.RUNNING

    async def test_heartbeats_are_answered_in_order(self, queue: QueueBackend) -> None:
        ended, held, asked = [await start(queue, a_job(job_id)) for job_id in "abc"]
        await queue.finish(ended)
        await queue.cancel("c")
        beats = await queue.heartbeat(a_worker(), [asked, ended, held])
        assert beats == [Beat.CANCEL, Beat.LOST, Beat.HELD]

    async def test_an_old_attempt_has_no_say(self, queue: QueueBackend, clock: FakeClock) -> None:
        job = a_job()
        old = await start(queue, job)
        await lose(queue, clock, old)
        new = await claim_again(queue, clock, job)
        await self._say_everything_in_vain(queue, old)
        status = await queue.status("a")
        assert (status.state, status.progress, status.result) == (JobState.RUNNING, 0.0, None)
        assert [each.finished_at is None for each in status.attempts] == [False, True]
        await queue.finish(new, "new")
        assert (await queue.status("a")).result == "new"

    async def test_an_old_attempt_does_not_keep_the_new_one_alive(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job()
        old = await start(queue, job)
        await lose(queue, clock, old)
        new = await claim_again(queue, clock, job)
        await queue.heartbeat(a_worker(), [old], lease_s=1e6)
        await lose(queue, clock, new)
        assert (await queue.status("a")).state is not JobState.RUNNING

    @pytest.mark.parametrize("state", ["finished", "failed", "cancelled", "released", "scheduled"])
    async def test_a_lease_that_is_given_up_has_no_say(
        self, queue: QueueBackend, state: str
    ) -> None:
        lease = await start(queue)
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "finished": lambda: queue.finish(lease),
            "failed": lambda: queue.fail(lease, BOOM, is_permanent=True),
            "cancelled": lambda: queue.cancelled(lease),
            "released": lambda: queue.release(lease),
            "scheduled": lambda: queue.fail(lease, BOOM),
        }
        await ways[state]()
        before = await queue.status("a")
        await self._say_everything_in_vain(queue, lease)
        assert await queue.status("a") == before

    async def test_a_late_answer_counts_while_nobody_else_has_the_job(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue)
        clock.advance(10 * DEFAULT_LEASE_S)
        await queue.finish(lease, "late")
        assert (await queue.status("a")).result == "late"

    async def _say_everything_in_vain(self, queue: QueueBackend, lease: Lease) -> None:
        answers = (
            lambda: queue.finish(lease, "old"),
            lambda: queue.fail(lease, BOOM),
            lambda: queue.cancelled(lease),
            lambda: queue.release(lease),
        )
        for answer in answers:
            with pytest.raises(LeaseLost):
                await answer()
        await queue.report(lease, 0.9)
        assert await queue.heartbeat(a_worker(), [lease], lease_s=1e6) == [Beat.LOST]

    # Progress

    async def test_progress_is_shown_and_starts_anew_with_an_attempt(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job()
        lease = await start(queue, job)
        await queue.report(lease, 0.25)
        assert (await queue.status("a")).progress == 0.25
        await queue.fail(lease, BOOM)
        await claim_again(queue, clock, job)
        assert (await queue.status("a")).progress == 0.0

    @pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
    async def test_progress_outside_0_to_1_is_an_error(
        self, queue: QueueBackend, progress: float
    ) -> None:
        lease = await start(queue)
        with pytest.raises(ValueError, match="from 0 to 1"):
            await queue.report(lease, progress)

    # Releasing

    async def test_a_released_job_waits_again_and_loses_no_attempt(
        self, queue: QueueBackend
    ) -> None:
        lease = await start(queue, a_job(retry=ONCE))
        await queue.report(lease, 0.5)
        await queue.release(lease)
        status = await queue.status("a")
        assert (status.state, status.attempts, status.progress) == (JobState.QUEUED, (), 0.0)
        (again,) = await queue.claim("w")
        assert again.attempt > lease.attempt
        await queue.release(again)
        (last,) = await queue.claim("w")
        assert await queue.fail(last, BOOM) is JobState.FAILED

    async def test_a_released_job_keeps_its_place(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue, a_job("first"))
        clock.advance(1)
        await queue.submit(a_job("second"))
        await queue.release(lease)
        assert [each.job.id for each in await queue.claim("w")] == ["first"]

    async def test_a_job_can_be_released_until_later(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.release(await start(queue), delay_s=20)
        status = await queue.status("a")
        assert (status.state, status.next_retry_at) == (JobState.SCHEDULED, clock.now + 20)
        assert await queue.claim("w") == []
        clock.advance(20)
        assert len(await queue.claim("w")) == 1

    async def test_a_released_attempt_does_not_lengthen_the_backoff(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=RetryPolicy(base_s=1.0))
        lease = await start(queue, job)
        for _ in range(20):
            await queue.release(lease)
            (lease,) = await queue.claim("w")
        await queue.fail(lease, BOOM)
        clock.advance(1)
        assert len(await queue.claim("w")) == 1

    # Cancelling

    @pytest.mark.parametrize("delay_s", [0, 60])
    async def test_a_job_cancelled_before_it_started_never_runs(
        self, queue: QueueBackend, clock: FakeClock, delay_s: float
    ) -> None:
        await queue.submit(a_job(delay_s=delay_s))
        assert await queue.cancel("a") is CancelOutcome.CANCELLED
        clock.advance(delay_s)
        status = await queue.status("a")
        assert (status.state, status.next_retry_at) == (JobState.CANCELLED, None)
        assert status.finished_at == clock.now - delay_s
        assert await queue.claim("w") == []
        assert await queue.claim("w", job_id="a") == []

    async def test_a_job_waiting_for_its_next_attempt_can_be_cancelled(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.fail(await start(queue), BOOM)
        assert await queue.cancel("a") is CancelOutcome.CANCELLED
        clock.advance(1e6)
        assert await queue.claim("w") == []

    async def test_the_worker_of_a_cancelled_job_is_told(self, queue: QueueBackend) -> None:
        lease = await start(queue)
        assert await queue.cancel("a") is CancelOutcome.CANCELLING
        status = await queue.status("a")
        assert (status.state, status.is_cancel_requested) == (JobState.RUNNING, True)
        assert await queue.heartbeat(a_worker(), [lease]) == [Beat.CANCEL]
        await queue.cancelled(lease)
        assert (await queue.status("a")).state is JobState.CANCELLED

    async def test_cancelling_twice_says_so_twice(self, queue: QueueBackend) -> None:
        await start(queue)
        assert await queue.cancel("a") is CancelOutcome.CANCELLING
        assert await queue.cancel("a") is CancelOutcome.CANCELLING

    @pytest.mark.parametrize("end", ["finish", "fail", "cancelled"])
    async def test_cancelling_what_is_over_changes_nothing(
        self, queue: QueueBackend, end: str
    ) -> None:
        lease = await start(queue, a_job(retry=ONCE))
        await (queue.fail(lease, BOOM) if end == "fail" else getattr(queue, end)(lease))
        before = await queue.status("a")
        assert await queue.cancel("a") is CancelOutcome.ALREADY_FINISHED
        assert await queue.status("a") == before

    async def test_a_job_that_finished_before_it_heard_has_succeeded(
        self, queue: QueueBackend
    ) -> None:
        lease = await start(queue)
        await queue.cancel("a")
        await queue.finish(lease, 1)
        assert (await queue.status("a")).state is JobState.SUCCEEDED

    async def test_a_job_that_was_asked_to_stop_and_failed_is_cancelled(
        self, queue: QueueBackend
    ) -> None:
        lease = await start(queue)
        await queue.cancel("a")
        assert await queue.fail(lease, BOOM) is JobState.CANCELLED
        status = await queue.status("a")
        assert (status.state, status.attempts[0].error) == (JobState.CANCELLED, BOOM)

    async def test_a_job_that_was_asked_to_stop_and_lost_its_worker_is_cancelled(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue)
        await queue.cancel("a")
        await lose(queue, clock, lease)
        assert (await queue.status("a")).state is JobState.CANCELLED

    async def test_a_job_that_was_asked_to_stop_and_is_handed_back_is_cancelled(
        self, queue: QueueBackend
    ) -> None:
        lease = await start(queue)
        await queue.cancel("a")
        await queue.release(lease)
        assert (await queue.status("a")).state is JobState.CANCELLED

    # Running again

    async def test_a_failed_job_can_be_tried_again_with_all_its_attempts(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=TWICE)
        await queue.fail(await start(queue, job), BOOM, is_permanent=True)
        status = await queue.retry("a")
        assert (status.state, status.finished_at) == (JobState.QUEUED, None)
        (second,) = await queue.claim("w")
        assert await queue.fail(second, BOOM) is JobState.SCHEDULED
        third = await claim_again(queue, clock, job)
        assert await queue.fail(third, BOOM) is JobState.FAILED
        assert [each.number for each in (await queue.status("a")).attempts] == [1, 2, 3]

    async def test_backoff_starts_anew_with_a_retry(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        job = a_job(retry=RetryPolicy(max_attempts=9, base_s=1.0))
        lease = await start(queue, job)
        for _ in range(7):
            await queue.fail(lease, BOOM)
            lease = await claim_again(queue, clock, job)
        await queue.fail(lease, BOOM, is_permanent=True)
        await queue.retry("a")
        (lease,) = await queue.claim("w")
        await queue.fail(lease, BOOM)
        clock.advance(1)
        assert len(await queue.claim("w")) == 1

    async def test_a_cancelled_job_can_be_run_after_all(self, queue: QueueBackend) -> None:
        await queue.submit(a_job(delay_s=60))
        await queue.cancel("a")
        status = await queue.retry("a")
        assert (status.state, status.is_cancel_requested) == (JobState.QUEUED, False)
        (lease,) = await queue.claim("w")
        assert await queue.heartbeat(a_worker(), [lease]) == [Beat.HELD]

    async def test_an_answer_from_before_the_retry_has_no_say(self, queue: QueueBackend) -> None:
        old = await start(queue)
        await queue.fail(old, BOOM, is_permanent=True)
        await queue.retry("a")
        (new,) = await queue.claim("w")
        assert new.attempt > old.attempt
        await self._say_everything_in_vain(queue, old)
        await queue.finish(new)

    @pytest.mark.parametrize("state", ["queued", "scheduled", "running", "succeeded"])
    async def test_only_what_failed_or_was_cancelled_is_retried(
        self, queue: QueueBackend, state: str
    ) -> None:
        await queue.submit(a_job(delay_s=60 if state == "scheduled" else 0))
        if state in ("running", "succeeded"):
            (lease,) = await queue.claim("w")
            if state == "succeeded":
                await queue.finish(lease)
        before = await queue.status("a")
        assert await queue.retry("a") == before == await queue.status("a")
        assert before.state == state
