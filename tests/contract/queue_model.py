"""Random histories: what a queue does is what a few lines of Python say it must do."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import ClassVar, Protocol, TypeVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, settings
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

from capturekit.errors import LeaseLost, QueueFull
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
from capturekit.testing.clock import FakeClock
from capturekit.testing.queue_contract import a_worker

T = TypeVar("T")

LEASE_S = 10.0
MAX_WAITING = 4
BOOM = JobError(type="Boom", message="it broke", attempt=1)
QUEUES = ("x", "y")
MAX_RUNNING = {"one": 1, "two": 2}
"""Of the concurrency keys. Each has its jobs in a queue of its own."""

JOBS = st.builds(
    lambda letter, priority, delay_s, attempts, unique, lane: Job(
        id=letter,
        kind="test",
        queue={"one": "x", "two": "y"}.get(lane, QUEUES[ord(letter) % 2]),
        priority=priority,
        delay_s=delay_s,
        retry=RetryPolicy(max_attempts=attempts, cap_s=8),
        batch="batch" if letter < "e" else None,
        unique_key=unique[0],
        unique_for_s=unique[1],
        concurrency_key=lane or None,
        max_running=MAX_RUNNING.get(lane, 1),
    ),
    st.sampled_from("abcdefgh"),
    st.sampled_from([0, 0, 1]),
    st.sampled_from([0, 0, 5]),
    st.integers(1, 3),
    st.sampled_from([(None, None), (None, None), ("u", None), ("u", 6.0)]),
    st.sampled_from(["", "one", "one", "two"]),
)


class MakeQueue(Protocol):
    """As ``QueueContract.make_queue``."""

    def __call__(
        self, clock: Callable[[], float], *, max_waiting: int | None = None
    ) -> AbstractAsyncContextManager[QueueBackend]: ...


@dataclass
class Expected:
    """What we think a job is, in the fewest words."""

    job: Job
    queued_at: float
    due_at: float
    end: JobState | None = None
    finished_at: float = 0.0
    tries: int = 0
    lease: Lease | None = None
    expires_at: float = 0.0
    last_attempt: int = 0
    is_asked_to_stop: bool = False

    def state(self, now: float) -> JobState:
        if self.end:
            return self.end
        if self.lease:
            return JobState.RUNNING
        return JobState.QUEUED if self.due_at <= now else JobState.SCHEDULED

    def holds(self, unique_key: str | None, now: float) -> bool:
        is_taken = self.end is None or now < self.queued_at + (self.job.unique_for_s or 0)
        return self.job.unique_key == unique_key and is_taken

    def ends(self, state: JobState, now: float) -> None:
        self.lease, self.end, self.finished_at = None, state, now

    def fails(self, now: float, *, is_permanent: bool = False) -> None:
        if self.is_asked_to_stop:
            self.ends(JobState.CANCELLED, now)
        elif is_permanent or self.tries >= self.job.retry.max_attempts:
            self.ends(JobState.FAILED, now)
        else:
            # Its backoff is drawn by the queue, and found out afterwards.
            self.lease, self.due_at = None, inf


class QueueModel(RuleBasedStateMachine):
    make_queue: ClassVar[MakeQueue]
    leases: Bundle[Lease] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.jobs: dict[str, Expected] = {}
        self.paused: set[str | None] = set()
        self._stack = ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal("asyncio"))
        opened = type(self).make_queue(self.clock, max_waiting=MAX_WAITING)
        self.queue = self._stack.enter_context(self._portal.wrap_async_context_manager(opened))

    def teardown(self) -> None:
        self._stack.close()

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        return self._portal.call(work)

    def of_state(self, *states: JobState) -> list[Expected]:
        return [job for job in self.jobs.values() if job.state(self.clock.now) in states]

    # Coming

    @rule(jobs=st.lists(JOBS, min_size=1, max_size=4))
    def submit(self, jobs: list[Job]) -> None:
        before, expected = dict(self.jobs), [self._submitted(job) for job in jobs]
        waiting = len(self.of_state(JobState.QUEUED, JobState.SCHEDULED))
        if waiting > MAX_WAITING and self.jobs != before:
            self.jobs = before
            with pytest.raises(QueueFull):
                self.do(lambda: self.queue.submit(*jobs))
            return
        answers = self.do(lambda: self.queue.submit(*jobs))
        assert [(answer.id, answer.is_new) for answer in answers] == expected

    def _submitted(self, job: Job) -> tuple[str, bool]:
        if job.id in self.jobs:
            return job.id, False
        if holder := self._holder(job.unique_key):
            return holder.job.id, False
        now = self.clock.now
        self.jobs[job.id] = Expected(job, queued_at=now, due_at=now + job.delay_s)
        return job.id, True

    def _holder(self, unique_key: str | None) -> Expected | None:
        if unique_key is None:
            return None
        holds = (job for job in self.jobs.values() if job.holds(unique_key, self.clock.now))
        return next(holds, None)

    # Being handed out

    @rule(target=leases, limit=st.integers(1, 3), queues=st.sampled_from([(), ("x",), QUEUES]))
    def claim(self, limit: int, queues: tuple[str, ...]) -> MultipleResults[Lease]:
        self._lose()
        leases = self.do(lambda: self.queue.claim("w", limit=limit, lease_s=LEASE_S, queues=queues))
        for lease in leases:
            may = self._may_start(queues)
            assert lease.job.id in {job.job.id for job in may}, "it must not start"
            assert self._turn(self.jobs[lease.job.id]) == min(map(self._turn, may)), "not first"
            self._is_handed_out(lease)
        assert len(leases) == limit or (len(leases) < limit and not self._may_start(queues))
        self._find_backoffs()
        return multiple(*leases)

    @precondition(lambda self: self.jobs)
    @rule(target=leases, data=st.data())
    def claim_by_id(self, data: st.DataObject) -> MultipleResults[Lease]:
        self._lose()
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        leases = self.do(lambda: self.queue.claim("v", job_id=job_id, lease_s=LEASE_S))
        job = self.jobs[job_id]
        is_due = job in self.of_state(JobState.QUEUED)
        assert len(leases) == (is_due and self._has_room(job))
        for lease in leases:
            self._is_handed_out(lease)
        self._find_backoffs()
        return multiple(*leases)

    def _turn(self, job: Expected) -> tuple[int, float]:
        return (-job.job.priority, job.due_at)

    def _may_start(self, queues: tuple[str, ...]) -> list[Expected]:
        if None in self.paused:
            return []
        return [
            job
            for job in self.of_state(JobState.QUEUED)
            if (not queues or job.job.queue in queues)
            and job.job.queue not in self.paused
            and self._has_room(job)
        ]

    def _has_room(self, job: Expected) -> bool:
        running = Counter(each.job.concurrency_key for each in self.of_state(JobState.RUNNING))
        key = job.job.concurrency_key
        return key is None or running[key] < MAX_RUNNING[key]

    def _is_handed_out(self, lease: Lease) -> None:
        job = self.jobs[lease.job.id]
        assert lease.job == job.job
        assert lease.attempt > job.last_attempt
        job.lease, job.expires_at = lease, lease.expires_at
        job.last_attempt, job.tries = lease.attempt, job.tries + 1
        assert (lease.tries, lease.started_at) == (job.tries, self.clock.now)
        assert job.tries <= job.job.retry.max_attempts

    def _lose(self) -> None:
        for job in self.of_state(JobState.RUNNING):
            if job.expires_at <= self.clock.now:
                job.fails(self.clock.now)

    def _find_backoffs(self) -> None:
        for job_id, job in self.jobs.items():
            if job.due_at == inf and job.end is None:
                due_at = self.do(partial(self.queue.status, job_id)).next_retry_at
                longest_s = min(8.0, 2.0 ** (job.tries - 1))
                assert due_at is not None
                assert self.clock.now <= due_at <= self.clock.now + longest_s
                job.due_at = due_at

    # Ending

    def _is_held(self, lease: Lease) -> bool:
        job = self.jobs.get(lease.job.id)
        return job is not None and job.lease is not None and job.lease.attempt == lease.attempt

    @rule(
        lease=leases,
        way=st.sampled_from(["finish", "fail", "fail", "give up", "cancelled", "release"]),
        delay_s=st.sampled_from([0, 3]),
    )
    def answer(self, lease: Lease, way: str, delay_s: float) -> None:
        queue, now = self.queue, self.clock.now
        answers: dict[str, Callable[[], Awaitable[object]]] = {
            "finish": lambda: queue.finish(lease),
            "fail": lambda: queue.fail(lease, BOOM),
            "give up": lambda: queue.fail(lease, BOOM, is_permanent=True),
            "cancelled": lambda: queue.cancelled(lease),
            "release": lambda: queue.release(lease, delay_s=delay_s),
        }
        if not self._is_held(lease):
            with pytest.raises(LeaseLost):
                self.do(answers[way])
            return
        self.do(answers[way])
        job = self.jobs[lease.job.id]
        if way == "finish":
            job.ends(JobState.SUCCEEDED, now)
        elif way == "cancelled" or (way == "release" and job.is_asked_to_stop):
            job.ends(JobState.CANCELLED, now)
        elif way == "release":
            job.lease, job.tries = None, job.tries - 1
            job.due_at = now + delay_s if delay_s else job.due_at
        else:
            job.fails(now, is_permanent=way == "give up")
            self._find_backoffs()

    @rule(lease=leases, method=st.sampled_from(["heartbeat", "orders"]))
    def ask(self, lease: Lease, method: str) -> None:
        if method == "orders":
            (beat,) = self.do(lambda: self.queue.orders("w", [lease])).beats
        else:
            (beat,) = self.do(lambda: self.queue.heartbeat(a_worker(), [lease], lease_s=LEASE_S))
        if not self._is_held(lease):
            assert beat is Beat.LOST
            return
        job = self.jobs[lease.job.id]
        assert beat is (Beat.CANCEL if job.is_asked_to_stop else Beat.HELD)
        if method == "heartbeat":
            job.expires_at = self.clock.now + LEASE_S

    # Steering

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), is_retry=st.booleans())
    def cancel_or_retry(self, data: st.DataObject, is_retry: bool) -> None:  # noqa: FBT001
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        job = self.jobs[job_id]
        if not is_retry:
            outcome = self.do(lambda: self.queue.cancel(job_id))
            assert outcome is self._is_cancelled(job)
        else:
            self.do(lambda: self.queue.retry(job_id))
            self._is_retried(job, JobState.FAILED, JobState.CANCELLED)

    @rule(data=st.data(), what=st.sampled_from(["pause", "resume", "prune", "batch", "failed"]))
    def steer(self, data: st.DataObject, what: str) -> None:
        queue = data.draw(st.sampled_from([None, *QUEUES]))
        if what == "pause":
            self.do(lambda: self.queue.pause(queue))
            self.paused.add(queue)
        elif what == "resume":
            self.do(lambda: self.queue.resume(queue))
            self.paused -= {queue} if queue else set(self.paused)
        elif what == "prune":
            older_than_s = data.draw(st.sampled_from([0.0, 5.0, 1e6]))
            self._prune(older_than_s, data.draw(st.sampled_from([None, 0, 1, 2])))
        elif what == "failed":
            self._retry_failed(queue)
        elif self._batch():
            outcomes = self.do(lambda: self.queue.cancel_batch("batch"))
            expected = Counter(self._is_cancelled(job) for job in self._batch())
            assert outcomes == {outcome: expected[outcome] for outcome in CancelOutcome}

    def _batch(self) -> list[Expected]:
        return [job for job in self.jobs.values() if job.job.batch]

    def _is_cancelled(self, job: Expected) -> CancelOutcome:
        if job.end:
            return CancelOutcome.ALREADY_FINISHED
        if job.lease:
            job.is_asked_to_stop = True
            return CancelOutcome.CANCELLING
        job.ends(JobState.CANCELLED, self.clock.now)
        return CancelOutcome.CANCELLED

    def _retry_failed(self, queue: str | None) -> None:
        chosen = [job for job in self.of_state(JobState.FAILED) if queue in (None, job.job.queue)]
        # Which of several with one key comes first is the queue's choice.
        keys = Counter(job.job.unique_key for job in chosen if job.job.unique_key)
        if max(keys.values(), default=0) > 1:
            return
        count = self.do(lambda: self.queue.retry_failed(queue=queue))
        assert count == sum(self._is_retried(job, JobState.FAILED) for job in chosen)

    def _is_retried(self, job: Expected, *states: JobState) -> bool:
        holder = self._holder(job.job.unique_key)
        if job.end not in states or (holder is not None and holder is not job):
            return False
        job.end, job.tries, job.is_asked_to_stop = None, 0, False
        job.due_at = self.clock.now
        return True

    def _prune(self, older_than_s: float, keep: int | None) -> None:
        now = self.clock.now
        ended = sorted(
            (job for job in self.jobs.values() if job.end), key=lambda job: job.finished_at
        )
        free = [job for job in ended if not job.holds(job.job.unique_key, now)]
        old = sum(job.finished_at < now - older_than_s for job in free)
        beyond = 0 if keep is None else min(len(ended) - keep, len(free))
        count = self.do(lambda: self.queue.prune(older_than_s=older_than_s, keep=keep))
        assert count == max(old, beyond)
        left = {status.id for status in self.do(self.queue.statuses)}
        gone = [self.jobs.pop(job.job.id) for job in ended if job.job.id not in left]
        # Of those that ended at the same time any may go.
        assert [job.finished_at for job in gone] == [job.finished_at for job in free[:count]]

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # What is always so

    @invariant()
    def every_job_is_what_we_think(self) -> None:
        found = {status.id: status for status in self.do(self.queue.statuses)}
        now = self.clock.now
        assert {job_id: status.state for job_id, status in found.items()} == {
            job_id: job.state(now) for job_id, job in self.jobs.items()
        }

    @invariant()
    def all_is_counted(self) -> None:
        stats = self.do(self.queue.stats)
        jobs = self.jobs.values()
        assert stats.depth == self._counted(jobs)
        assert stats.by_queue == {
            name: self._counted(job for job in jobs if job.job.queue == name)
            for name in {job.job.queue for job in jobs}
        }
        due = [job.due_at for job in self.of_state(JobState.QUEUED)]
        assert stats.oldest_age_s == (pytest.approx(self.clock.now - min(due)) if due else None)
        assert stats.is_paused == (None in self.paused)
        assert stats.paused == tuple(sorted(name for name in self.paused if name))
        if self._batch():
            assert self.do(lambda: self.queue.batch("batch")).depth == self._counted(self._batch())

    def _counted(self, jobs: Iterable[Expected]) -> dict[JobState, int]:
        count = Counter(job.state(self.clock.now) for job in jobs)
        return {state: count[state] for state in JobState}


def try_random_histories(make_queue: MakeQueue, examples: int, *, is_drill: bool = False) -> None:
    """Fail for the shortest history found in which the queue breaks a promise.

    In a drill the queue is known to break one: the first history will do, and none is kept.
    """
    machine = type("Machine", (QueueModel,), {"make_queue": staticmethod(make_queue)})
    run = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    if is_drill:
        run = settings(run, phases=[Phase.generate], database=None)
    run_state_machine_as_test(machine, settings=run)
