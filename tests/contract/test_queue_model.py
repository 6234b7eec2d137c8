"""Random histories: no job is ever held twice, tried too often, or changed once it ended."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from capturekit.database import Database
from capturekit.errors import LeaseLost
from capturekit.queue.base import (
    Beat,
    CancelOutcome,
    Job,
    JobError,
    JobState,
    Lease,
    QueueBackend,
    RetryPolicy,
)
from capturekit.queue.memory import MemoryQueue
from capturekit.queue.sql import SqlQueue
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract import a_worker

T = TypeVar("T")

MakeQueue = Callable[[FakeClock], AbstractAsyncContextManager[QueueBackend]]
IDS = st.sampled_from(["a", "b", "c", "d"])
LEASE_S = 10.0
WAITING = (JobState.QUEUED, JobState.SCHEDULED)
BOOM = JobError(type="Boom", message="it broke", attempt=1)


@dataclass
class Expected:
    """What we think a job is, in the fewest words."""

    max_attempts: int
    state: JobState = JobState.QUEUED
    tries: int = 0
    lease: Lease | None = None
    expires_at: float = 0.0
    last_attempt: int = 0
    is_asked_to_stop: bool = False

    def fails(self, *, is_permanent: bool = False) -> None:
        self.lease = None
        if self.is_asked_to_stop:
            self.state = JobState.CANCELLED
        elif is_permanent or self.tries >= self.max_attempts:
            self.state = JobState.FAILED
        else:
            self.state = JobState.QUEUED


class QueueModel(RuleBasedStateMachine):
    make_queue: MakeQueue
    leases: Bundle[Lease] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.jobs: dict[str, Expected] = {}
        self.is_paused = False
        self._stack = ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal("asyncio"))
        opened = self._portal.wrap_async_context_manager(type(self).make_queue(self.clock))
        self.queue = self._stack.enter_context(opened)

    def teardown(self) -> None:
        self._stack.close()

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        return self._portal.call(work)

    @rule(job_id=IDS, max_attempts=st.integers(1, 3), delay_s=st.sampled_from([0, 5]))
    def submit(self, job_id: str, max_attempts: int, delay_s: float) -> None:
        retry = RetryPolicy(max_attempts=max_attempts, cap_s=8)
        job = Job(id=job_id, kind="test", retry=retry, delay_s=delay_s)
        (answer,) = self.do(lambda: self.queue.submit(job))
        assert answer.is_new == (job_id not in self.jobs)
        self.jobs.setdefault(job_id, Expected(max_attempts))

    @rule(target=leases, limit=st.integers(1, 3))
    def claim(self, limit: int) -> MultipleResults[Lease]:
        for job in self.jobs.values():
            if job.lease and job.expires_at <= self.clock.now:
                job.fails()
        leases = self.do(lambda: self.queue.claim("w", limit=limit, lease_s=LEASE_S))
        assert len(leases) <= (0 if self.is_paused else limit)
        for lease in leases:
            self._is_handed_out(self.jobs[lease.job.id], lease)
        return multiple(*leases)

    def _is_handed_out(self, job: Expected, lease: Lease) -> None:
        assert job.state in WAITING, "held twice, or run again after its end"
        assert lease.attempt > job.last_attempt
        assert job.tries < job.max_attempts
        job.state, job.lease, job.expires_at = JobState.RUNNING, lease, lease.expires_at
        job.last_attempt, job.tries = lease.attempt, job.tries + 1

    def _answer(self, lease: Lease, answer: Callable[[], Awaitable[object]]) -> Expected | None:
        """Give the answer; the job if the answer must count."""
        job = self.jobs[lease.job.id]
        is_held = job.lease is not None and job.lease.attempt == lease.attempt
        if is_held:
            self.do(answer)
            return job
        with pytest.raises(LeaseLost):
            self.do(answer)
        return None

    @rule(lease=leases)
    def finish(self, lease: Lease) -> None:
        if job := self._answer(lease, lambda: self.queue.finish(lease)):
            job.lease, job.state = None, JobState.SUCCEEDED

    @rule(lease=leases, is_permanent=st.booleans())
    def fail(self, lease: Lease, is_permanent: bool) -> None:  # noqa: FBT001  # drawn by name
        answer = self._answer(
            lease, lambda: self.queue.fail(lease, BOOM, is_permanent=is_permanent)
        )
        if answer:
            answer.fails(is_permanent=is_permanent)

    @rule(lease=leases)
    def was_cancelled(self, lease: Lease) -> None:
        if job := self._answer(lease, lambda: self.queue.cancelled(lease)):
            job.lease, job.state = None, JobState.CANCELLED

    @rule(lease=leases, delay_s=st.sampled_from([0, 3]))
    def release(self, lease: Lease, delay_s: float) -> None:
        if job := self._answer(lease, lambda: self.queue.release(lease, delay_s=delay_s)):
            job.lease, job.tries = None, job.tries - 1
            job.state = JobState.CANCELLED if job.is_asked_to_stop else JobState.QUEUED

    @rule(lease=leases)
    def heartbeat(self, lease: Lease) -> None:
        job = self.jobs[lease.job.id]
        (beat,) = self.do(lambda: self.queue.heartbeat(a_worker(), [lease], lease_s=LEASE_S))
        if job.lease is None or job.lease.attempt != lease.attempt:
            assert beat is Beat.LOST
        else:
            assert beat is (Beat.CANCEL if job.is_asked_to_stop else Beat.HELD)
            job.expires_at = self.clock.now + LEASE_S

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        job, outcome = self.jobs[job_id], self.do(lambda: self.queue.cancel(job_id))
        if job.state.is_final:
            assert outcome is CancelOutcome.ALREADY_FINISHED
        elif job.state is JobState.RUNNING:
            assert outcome is CancelOutcome.CANCELLING
            job.is_asked_to_stop = True
        else:
            assert outcome is CancelOutcome.CANCELLED
            job.state = JobState.CANCELLED

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        self.do(lambda: self.queue.retry(job_id))
        job = self.jobs[job_id]
        if job.state in (JobState.FAILED, JobState.CANCELLED):
            job.state, job.tries, job.is_asked_to_stop = JobState.QUEUED, 0, False

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def pause_or_resume(self) -> None:
        self.do(self.queue.resume if self.is_paused else self.queue.pause)
        self.is_paused = not self.is_paused

    @invariant()
    def every_job_is_what_we_think(self) -> None:
        found = {status.id: status for status in self.do(self.queue.statuses)}
        assert found.keys() == self.jobs.keys()
        for job_id, job in self.jobs.items():
            state = JobState.QUEUED if found[job_id].state in WAITING else found[job_id].state
            assert state is job.state, job_id

    @invariant()
    def the_counts_add_up(self) -> None:
        assert sum(self.do(self.queue.stats).depth.values()) == len(self.jobs)


def memory_queue(clock: FakeClock) -> AbstractAsyncContextManager[QueueBackend]:
    return MemoryQueue(clock=clock)


@asynccontextmanager
async def sql_queue(clock: FakeClock) -> AsyncIterator[QueueBackend]:
    with TemporaryDirectory() as folder:
        async with Database(f"sqlite:///{Path(folder) / 'queue.db'}") as database:
            queue = SqlQueue(database, clock=clock)
            await queue.create_tables()
            yield queue


@pytest.mark.parametrize(("make_queue", "examples"), [(memory_queue, 60), (sql_queue, 15)])
def test_random_histories_keep_the_promises(make_queue: MakeQueue, examples: int) -> None:
    machine = type("Machine", (QueueModel,), {"make_queue": staticmethod(make_queue)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
