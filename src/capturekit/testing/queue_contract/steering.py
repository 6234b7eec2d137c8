"""What steers and counts: pausing, statistics, workers, pruning, waiting."""
# ruff: noqa: D102  # the name of a test is its sentence

from collections.abc import Awaitable, Callable

import anyio
import pytest

from capturekit.errors import UnknownJob
from capturekit.queue.base import (
    WORKER_MEMORY_S,
    Beat,
    JobState,
    QueueBackend,
)
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract.jobs import (
    BOOM,
    ONCE,
    PROMPT_S,
    QueueTests,
    a_job,
    a_worker,
    claimed,
    lose,
    start,
)


class SteeringTests(QueueTests):
    """Pausing, counting, workers, pruning, waiting."""

    # Pausing

    async def test_a_paused_queue_hands_out_only_what_is_asked_for_by_name(
        self, queue: QueueBackend
    ) -> None:
        await queue.submit(a_job("a"), a_job("b"))
        await queue.pause()
        assert await queue.claim("w", limit=9) == []
        assert await queue.claim("w", limit=9, queues=["default"]) == []
        assert [lease.job.id for lease in await queue.claim("w", job_id="b")] == ["b"]
        assert (await queue.stats()).is_paused

    async def test_running_jobs_go_on_while_the_queue_is_paused(self, queue: QueueBackend) -> None:
        lease = await start(queue)
        await queue.pause()
        assert await queue.heartbeat(a_worker(), [lease]) == [Beat.HELD]
        await queue.finish(lease)
        assert (await queue.status("a")).state is JobState.SUCCEEDED

    async def test_a_resumed_queue_hands_out_jobs_again(self, queue: QueueBackend) -> None:
        await queue.submit(a_job())
        await queue.pause()
        await queue.pause()
        await queue.resume()
        assert len(await queue.claim("w")) == 1
        assert not (await queue.stats()).is_paused

    async def test_a_paused_queue_still_notices_dead_workers(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue, a_job(retry=ONCE))
        await queue.pause()
        await lose(queue, clock, lease)
        assert (await queue.status("a")).state is JobState.FAILED

    async def test_a_queue_is_paused_by_its_name(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a", queue="x", priority=9), a_job("b", queue="y"), a_job("c"))
        await queue.pause("x")
        assert await queue.claim("w", limit=9, queues=["x"]) == []
        assert await claimed(queue) == ["b", "c"]
        assert [lease.job.id for lease in await queue.claim("w", job_id="a")] == ["a"]

    async def test_a_queue_paused_by_its_name_is_resumed_by_it(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a", queue="x"), a_job("b", queue="y"))
        for name in "xyx":
            await queue.pause(name)
        await queue.resume("x")
        await queue.resume("never paused")
        assert await claimed(queue) == ["a"]

    async def test_resuming_all_also_resumes_those_paused_by_name(
        self, queue: QueueBackend
    ) -> None:
        await queue.submit(a_job("a", queue="x"), a_job("b", queue="y"))
        await queue.pause("x")
        await queue.pause()
        await queue.resume()
        assert await claimed(queue) == ["a", "b"]
        stats = await queue.stats()
        assert (stats.is_paused, stats.paused) == (False, ())

    async def test_resuming_one_queue_does_not_resume_all(self, queue: QueueBackend) -> None:
        await queue.submit(a_job("a", queue="x"))
        await queue.pause("x")
        await queue.pause()
        await queue.resume("x")
        assert await claimed(queue) == []
        assert (await queue.stats()).is_paused

    async def test_a_running_job_of_a_paused_queue_goes_on(self, queue: QueueBackend) -> None:
        lease = await start(queue, a_job(queue="x"))
        await queue.pause("x")
        assert await queue.heartbeat(a_worker(), [lease]) == [Beat.HELD]
        await queue.finish(lease)
        assert (await queue.status("a")).state is JobState.SUCCEEDED

    async def test_what_is_paused_is_told(self, queue: QueueBackend) -> None:
        for name in ("y", "x", "y"):
            await queue.pause(name)
        stats = await queue.stats()
        assert (stats.is_paused, stats.paused) == (False, ("x", "y"))
        await queue.resume("y")
        assert (await queue.stats()).paused == ("x",)

    # Counting

    async def test_an_empty_queue_counts_every_state_as_none(self, queue: QueueBackend) -> None:
        stats = await queue.stats()
        assert stats.depth == dict.fromkeys(JobState, 0)
        assert (stats.oldest_age_s, stats.is_paused) == (None, False)
        assert (stats.by_queue, stats.paused) == ({}, ())

    async def test_every_state_is_counted(self, queue: QueueBackend) -> None:
        leases = [await start(queue, a_job(job_id)) for job_id in "abcd"]
        await queue.finish(leases[0])
        await queue.fail(leases[1], BOOM, is_permanent=True)
        await queue.cancelled(leases[2])
        await queue.submit(a_job("e"), a_job("f", delay_s=60))
        assert (await queue.stats()).depth == dict.fromkeys(JobState, 1)

    async def test_every_queue_that_has_jobs_is_counted(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.finish(await start(queue, a_job("a", queue="gone")))
        clock.advance(1)
        await queue.prune(older_than_s=0)
        await start(queue, a_job("b", queue="x"))
        await queue.submit(a_job("c", queue="x"), a_job("d", queue="y", delay_s=5))
        clock.advance(5)
        none = dict.fromkeys(JobState, 0)
        assert (await queue.stats()).by_queue == {
            "x": none | {JobState.RUNNING: 1, JobState.QUEUED: 1},
            "y": none | {JobState.QUEUED: 1},
        }

    async def test_rates_tell_what_came_and_went_lately(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job("early"))
        clock.advance(400)
        await queue.submit(a_job("late"))
        (lease,) = await queue.claim("w", job_id="late")
        await queue.finish(lease)
        rates = {rate.window_s: rate for rate in (await queue.stats()).rates}
        assert (rates[60].in_per_minute, rates[60].out_per_minute) == (1, 1)
        assert (rates[300].in_per_minute, rates[300].out_per_minute) == (1 / 5, 1 / 5)
        assert (rates[900].in_per_minute, rates[900].out_per_minute) == (2 / 15, 1 / 15)

    async def test_rates_count_what_was_pruned_since(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.finish(await start(queue, a_job("a")))
        clock.advance(1)
        assert await queue.prune(older_than_s=0) == 1
        rate = (await queue.stats()).rates[0]
        assert (rate.in_per_minute, rate.out_per_minute) == (1, 1)

    async def test_the_oldest_age_is_of_what_could_run_now(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await start(queue, a_job("running"))
        clock.advance(5)
        await queue.submit(a_job("later", delay_s=60))
        assert (await queue.stats()).oldest_age_s is None
        await queue.submit(a_job("now"))
        clock.advance(3)
        await queue.submit(a_job("newer", priority=5))
        assert (await queue.stats()).oldest_age_s == pytest.approx(3)

    async def test_a_delayed_job_ages_from_when_it_is_due(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.submit(a_job(delay_s=60))
        clock.advance(64)
        assert (await queue.stats()).oldest_age_s == pytest.approx(4)

    # Workers

    async def test_a_worker_is_listed_with_the_jobs_it_holds(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        lease = await start(queue)
        clock.advance(1)
        await queue.heartbeat(a_worker("w"), [lease])
        await queue.heartbeat(a_worker("idle"), [])
        idle, busy = sorted(await queue.workers(), key=lambda worker: worker.id)
        assert (busy.id, busy.host, busy.pid, busy.concurrency) == ("w", "shed", 7, 2)
        assert (busy.started_at, busy.heartbeat_at, busy.jobs) == (1.0, clock.now, ("a",))
        assert (idle.id, idle.jobs) == ("idle", ())

    async def test_a_worker_is_listed_once_and_not_as_it_was(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.heartbeat(a_worker(), [])
        clock.advance(5)
        await queue.heartbeat(a_worker().model_copy(update={"concurrency": 9}), [])
        (worker,) = await queue.workers()
        assert (worker.concurrency, worker.heartbeat_at) == (9, clock.now)

    async def test_a_silent_worker_disappears(self, queue: QueueBackend, clock: FakeClock) -> None:
        await queue.heartbeat(a_worker(), [])
        clock.advance(WORKER_MEMORY_S)
        assert len(await queue.workers()) == 1
        clock.advance(0.1)
        assert await queue.workers() == []

    async def test_a_worker_that_leaves_is_struck_off_and_keeps_its_leases(
        self, queue: QueueBackend
    ) -> None:
        lease = await start(queue)
        await queue.heartbeat(a_worker(), [lease])
        await queue.forget_worker("w")
        assert await queue.workers() == []
        await queue.finish(lease)

    async def test_forgetting_a_stranger_is_no_error(self, queue: QueueBackend) -> None:
        await queue.forget_worker("stranger")

    # Pruning

    async def test_only_what_ended_long_ago_is_pruned(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.finish(await start(queue, a_job("old")))
        await queue.fail(await start(queue, a_job("failed")), BOOM, is_permanent=True)
        await start(queue, a_job("running"))
        await queue.submit(a_job("queued"), a_job("later", delay_s=1e6))
        clock.advance(10)
        await queue.finish(await start(queue, a_job("new")))
        clock.advance(1)
        assert await queue.prune(older_than_s=10) == 2
        left = {status.id for status in await queue.statuses()}
        assert left == {"running", "queued", "later", "new"}

    async def test_the_oldest_beyond_a_number_are_pruned(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        leases = {job_id: await start(queue, a_job(job_id)) for job_id in "abcde"}
        for job_id in "cadbe":
            await queue.finish(leases[job_id])
            clock.advance(1)
        await queue.submit(a_job("queued"))
        assert await queue.prune(older_than_s=1e9, keep=5) == 0
        assert await queue.prune(older_than_s=1e9, keep=3) == 2
        left = {status.id for status in await queue.statuses(states=[JobState.SUCCEEDED])}
        assert left == {"d", "b", "e"}
        assert await queue.prune(older_than_s=1e9, keep=0) == 3
        assert [status.id for status in await queue.statuses()] == ["queued"]

    async def test_what_ended_long_ago_is_pruned_though_it_might_be_kept(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        for job_id in "abc":
            await queue.finish(await start(queue, a_job(job_id)))
            clock.advance(10)
        assert await queue.prune(older_than_s=25, keep=2) == 1
        assert await queue.prune(older_than_s=15, keep=2) == 1
        assert [status.id for status in await queue.statuses()] == ["c"]

    async def test_a_pruned_job_is_unknown_and_its_id_free(
        self, queue: QueueBackend, clock: FakeClock
    ) -> None:
        await queue.finish(await start(queue))
        clock.advance(1)
        await queue.prune(older_than_s=0)
        with pytest.raises(UnknownJob):
            await queue.status("a")
        lease = await start(queue)
        assert (lease.attempt, len((await queue.status("a")).attempts)) == (1, 1)

    # Waiting

    async def test_waiting_ends_at_its_timeout(self, queue: QueueBackend) -> None:
        with anyio.fail_after(PROMPT_S):
            await queue.wait(0.01)

    @pytest.mark.parametrize("queues", [(), ("default",), ("other", "default")])
    async def test_waiting_ends_at_once_when_there_is_work(
        self, queue: QueueBackend, queues: tuple[str, ...]
    ) -> None:
        await queue.submit(a_job())
        with anyio.fail_after(PROMPT_S):
            await queue.wait(60, queues=queues)

    @pytest.mark.parametrize("cause", ["submit", "release", "retry", "resume", "by name"])
    async def test_waiting_ends_when_work_comes(self, queue: QueueBackend, cause: str) -> None:
        lease = await start(queue)
        await queue.submit(a_job("failed"), a_job("paused"))
        (failed,) = await queue.claim("w", job_id="failed")
        await queue.fail(failed, BOOM, is_permanent=True)
        await queue.pause("default" if cause == "by name" else None)
        if cause not in ("resume", "by name"):
            await queue.cancel("paused")
            await queue.resume()
        causes: dict[str, Callable[[], Awaitable[object]]] = {
            "submit": lambda: queue.submit(a_job("new")),
            "release": lambda: queue.release(lease),
            "retry": lambda: queue.retry("failed"),
            "resume": queue.resume,
            "by name": lambda: queue.resume("default"),
        }
        await self.is_woken_by(queue, causes[cause])

    async def test_waiting_ends_when_a_scheduled_job_is_due(self, queue: QueueBackend) -> None:
        await queue.submit(a_job(delay_s=0.05))
        with anyio.fail_after(PROMPT_S):
            await queue.wait(60)

    async def test_waiting_ends_when_a_lease_runs_out(self, queue: QueueBackend) -> None:
        await queue.submit(a_job())
        await queue.claim("w", lease_s=0.05)
        with anyio.fail_after(PROMPT_S):
            await queue.wait(60)

    @pytest.mark.parametrize("reason", ["all is paused", "paused", "another queue", "its turn"])
    async def test_what_may_not_be_taken_is_no_reason_to_wake(
        self, queue: QueueBackend, reason: str
    ) -> None:
        await start(queue, a_job("running", concurrency_key="k"))
        await queue.submit(
            a_job(queue="other", concurrency_key="k" if reason == "its turn" else None)
        )
        if "paused" in reason:
            await queue.pause(None if reason == "all is paused" else "other")
        queues = ("default",) if reason == "another queue" else ()
        with anyio.move_on_after(0.05) as patience:
            await queue.wait(60, queues=queues)
        assert patience.cancelled_caught
