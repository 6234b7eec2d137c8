"""A queue inside one process, for tests and for work that may be lost with it."""

import bisect
import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from pydantic import JsonValue

from capturekit.errors import LeaseLost, QueueFull, UnknownJob
from capturekit.queue.base import (
    DEFAULT_LEASE_S,
    RATE_WINDOWS_S,
    WORKER_MEMORY_S,
    Attempt,
    Beat,
    CancelOutcome,
    Job,
    JobError,
    JobState,
    JobStatus,
    Lease,
    QueueRate,
    QueueStats,
    Submission,
    WorkerInfo,
    checked_progress,
    state_after_failure,
    worker_lost,
)
from capturekit.queue.bell import Bell

MAX_JOBS: Final = 10_000
"""Unfinished jobs held by default, and finished ones remembered: some 20 MB in all."""


@dataclass(slots=True, eq=False)
class _Record:
    job: Job
    seq: int
    queued_at: float
    due_at: float
    state: JobState = JobState.SCHEDULED
    lease: Lease | None = None
    attempt: int = 0
    tries: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    progress: float = 0.0
    result: JsonValue = None
    error: JobError | None = None
    finished_at: float | None = None
    is_cancel_requested: bool = False

    @property
    def turn(self) -> tuple[int, float, int]:
        """Sorts waiting jobs into the order in which they are handed out."""
        return (-self.job.priority, self.due_at, self.seq)

    def status(self) -> JobStatus:
        job, is_scheduled = self.job, self.state is JobState.SCHEDULED
        return JobStatus(
            id=job.id,
            kind=job.kind,
            queue=job.queue,
            state=self.state,
            priority=job.priority,
            payload=job.payload,
            batch=job.batch,
            progress=self.progress,
            attempts=tuple(self.attempts),
            queued_at=self.queued_at,
            started_at=self.attempts[-1].started_at if self.attempts else None,
            finished_at=self.finished_at,
            next_retry_at=self.due_at if is_scheduled else None,
            result=self.result,
            error=self.error,
            is_cancel_requested=self.is_cancel_requested,
        )


class MemoryQueue:
    """A ``QueueBackend`` that lives and dies with its process.

    ``max_jobs`` bounds the unfinished jobs: one more raises QueueFull. As many finished
    ones are remembered; beyond that the oldest is forgotten, as if it had been pruned.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        max_jobs: int = MAX_JOBS,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._max_jobs = max_jobs
        self._uniform = uniform
        self._records: dict[str, _Record] = {}
        self._by_seq: dict[int, _Record] = {}
        self._last_seq = 0
        self._ready: dict[str, list[tuple[int, float, int]]] = {}
        self._scheduled: list[tuple[float, int]] = []
        self._running: dict[int, _Record] = {}
        self._finished: dict[int, _Record] = {}
        self._workers: dict[str, WorkerInfo] = {}
        self._is_paused = False
        self._bell = Bell()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def submit(self, *jobs: Job) -> list[Submission]:
        """As ``QueueBackend.submit``. Raises QueueFull, and then none of the jobs is taken."""
        self._promote()
        new = {job.id: job for job in reversed(jobs) if job.id not in self._records}
        if len(self._records) - len(self._finished) + len(new) > self._max_jobs:
            raise QueueFull(self._max_jobs)
        answers = []
        for job in jobs:
            is_new = job.id not in self._records
            if is_new:
                self._add(job)
            answers.append(Submission(job.id, is_new, self._records[job.id].state))
        self._bell.ring()
        return answers

    async def status(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.status``."""
        return self._known(job_id).status()

    async def statuses(
        self, *, states: Sequence[JobState] = (), batch: str | None = None, limit: int = 100
    ) -> list[JobStatus]:
        """As ``QueueBackend.statuses``."""
        self._promote()
        found = [
            record
            for record in self._records.values()
            if (not states or record.state in states) and batch in (None, record.job.batch)
        ]
        found.sort(key=lambda record: -record.seq)
        return [record.status() for record in found[:limit]]

    async def cancel(self, job_id: str) -> CancelOutcome:
        """As ``QueueBackend.cancel``."""
        record = self._known(job_id)
        if record.state.is_final:
            return CancelOutcome.ALREADY_FINISHED
        record.is_cancel_requested = True
        if record.state is JobState.RUNNING:
            return CancelOutcome.CANCELLING
        self._move(record, JobState.CANCELLED)
        return CancelOutcome.CANCELLED

    async def retry(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.retry``."""
        record = self._known(job_id)
        if record.state in (JobState.FAILED, JobState.CANCELLED):
            record.tries, record.progress, record.is_cancel_requested = 0, 0.0, False
            self._move(record, JobState.QUEUED, due_at=self._clock())
            self._bell.ring()
        return record.status()

    async def claim(
        self,
        worker: str,
        *,
        limit: int = 1,
        lease_s: float = DEFAULT_LEASE_S,
        queues: Sequence[str] = (),
        job_id: str | None = None,
    ) -> list[Lease]:
        """As ``QueueBackend.claim``."""
        self._recover()
        self._promote()
        if job_id is not None:
            chosen = self._named(job_id, queues)
        else:
            chosen = iter(()) if self._is_paused else self._next(limit, queues)
        return [self._lease(record, worker, lease_s) for record in chosen]

    async def heartbeat(
        self, worker: WorkerInfo, leases: Sequence[Lease], *, lease_s: float = DEFAULT_LEASE_S
    ) -> list[Beat]:
        """As ``QueueBackend.heartbeat``."""
        now = self._clock()
        self._workers[worker.id] = worker.model_copy(update={"heartbeat_at": now})
        oldest = now - WORKER_MEMORY_S
        self._workers = {k: v for k, v in self._workers.items() if v.heartbeat_at >= oldest}
        return [self._beat(lease, now + lease_s) for lease in leases]

    async def report(self, lease: Lease, progress: float) -> None:
        """As ``QueueBackend.report``. Raises ValueError outside 0 to 1."""
        fraction = checked_progress(progress)
        if record := self._holding(lease):
            record.progress = fraction

    async def finish(self, lease: Lease, result: JsonValue = None) -> None:
        """As ``QueueBackend.finish``."""
        record = self._held(lease)
        record.result, record.progress = result, 1.0
        self._end_attempt(record, None)
        self._move(record, JobState.SUCCEEDED)

    async def fail(self, lease: Lease, error: JobError, *, is_permanent: bool = False) -> JobState:
        """As ``QueueBackend.fail``."""
        return self._fail(self._held(lease), error, is_permanent=is_permanent)

    async def cancelled(self, lease: Lease) -> None:
        """As ``QueueBackend.cancelled``."""
        record = self._held(lease)
        self._end_attempt(record, None)
        self._move(record, JobState.CANCELLED)

    async def release(self, lease: Lease, *, delay_s: float = 0.0) -> None:
        """As ``QueueBackend.release``."""
        record = self._held(lease)
        if record.is_cancel_requested:
            await self.cancelled(lease)
            return
        record.attempts.pop()
        record.tries -= 1
        record.progress = 0.0
        due_at = self._clock() + delay_s if delay_s > 0 else record.due_at
        self._move(record, JobState.SCHEDULED if delay_s > 0 else JobState.QUEUED, due_at=due_at)
        self._bell.ring()

    async def forget_worker(self, worker_id: str) -> None:
        """As ``QueueBackend.forget_worker``."""
        self._workers.pop(worker_id, None)

    async def workers(self) -> list[WorkerInfo]:
        """As ``QueueBackend.workers``."""
        oldest = self._clock() - WORKER_MEMORY_S
        known = [worker for worker in self._workers.values() if worker.heartbeat_at >= oldest]
        return [worker.model_copy(update={"jobs": self._jobs_of(worker.id)}) for worker in known]

    async def stats(self) -> QueueStats:
        """As ``QueueBackend.stats``."""
        self._promote()
        depth = dict.fromkeys(JobState, 0)
        for record in self._records.values():
            depth[record.state] += 1
        ready = (self._by_seq[seq] for turns in self._ready.values() for *_, seq in turns)
        oldest = min((record.due_at for record in ready), default=None)
        age_s = None if oldest is None else max(0.0, self._clock() - oldest)
        return QueueStats(
            depth=depth,
            oldest_age_s=age_s,
            by_queue={},
            paused=(),
            is_paused=self._is_paused,
            rates=tuple(map(self._rate, RATE_WINDOWS_S)),
        )

    def _rate(self, window_s: float) -> QueueRate:
        since = self._clock() - window_s
        records = self._records.values()
        came = sum(record.queued_at > since for record in records)
        went = sum((record.finished_at or since) > since for record in records)
        minutes = window_s / 60
        return QueueRate(
            window_s=window_s, in_per_minute=came / minutes, out_per_minute=went / minutes
        )

    async def pause(self) -> None:
        """As ``QueueBackend.pause``."""
        self._is_paused = True

    async def resume(self) -> None:
        """As ``QueueBackend.resume``."""
        self._is_paused = False
        self._bell.ring()

    async def prune(self, *, older_than_s: float) -> int:
        """As ``QueueBackend.prune``."""
        before = self._clock() - older_than_s
        old = [r for r in self._finished.values() if (r.finished_at or 0.0) < before]
        for record in old:
            self._forget(record)
        return len(old)

    async def wait(self, timeout_s: float, *, queues: Sequence[str] = ()) -> None:
        """As ``QueueBackend.wait``."""

        async def quiet_s() -> float:
            return self._quiet_s(queues)

        await self._bell.wait(timeout_s, quiet_s)

    def _quiet_s(self, queues: Sequence[str]) -> float:
        self._promote()
        times = [record.lease.expires_at for record in self._running.values() if record.lease]
        if not self._is_paused:
            if any(not queues or name in queues for name in self._ready):
                return 0.0
            times += [due_at for due_at, _ in self._scheduled[:1]]
        return max(0.0, min(times, default=float("inf")) - self._clock())

    def _add(self, job: Job) -> None:
        self._last_seq += 1
        now = self._clock()
        record = _Record(job, self._last_seq, queued_at=now, due_at=now + job.delay_s)
        self._records[job.id] = self._by_seq[record.seq] = record
        self._put(record, JobState.SCHEDULED if job.delay_s > 0 else JobState.QUEUED)

    def _known(self, job_id: str) -> _Record:
        self._promote()
        if job_id not in self._records:
            raise UnknownJob(job_id)
        return self._records[job_id]

    def _holding(self, lease: Lease) -> _Record | None:
        record = self._records.get(lease.job.id)
        is_held = record is not None and record.lease and record.attempt == lease.attempt
        return record if is_held else None

    def _held(self, lease: Lease) -> _Record:
        record = self._holding(lease)
        if record is None:
            raise LeaseLost(f"attempt {lease.attempt} of job {lease.job.id!r} is over")
        return record

    def _beat(self, lease: Lease, expires_at: float) -> Beat:
        record = self._holding(lease)
        if record is None:
            return Beat.LOST
        record.lease = dataclasses.replace(lease, expires_at=expires_at)
        return Beat.CANCEL if record.is_cancel_requested else Beat.HELD

    def _jobs_of(self, worker_id: str) -> tuple[str, ...]:
        held = (r for r in self._running.values() if r.lease and r.lease.worker == worker_id)
        return tuple(record.job.id for record in held)

    def _recover(self) -> None:
        now = self._clock()
        for record in list(self._running.values()):
            if record.lease and record.lease.expires_at <= now:
                error = worker_lost(record.lease.worker, record.attempt)
                self._fail(record, error, is_permanent=False)

    def _promote(self) -> None:
        now = self._clock()
        while self._scheduled and self._scheduled[0][0] <= now:
            self._move(self._by_seq[self._scheduled[0][1]], JobState.QUEUED)

    def _named(self, job_id: str, queues: Sequence[str]) -> Iterator[_Record]:
        record = self._records.get(job_id)
        if record is None or record.state is not JobState.QUEUED:
            return
        if not queues or record.job.queue in queues:
            yield record

    def _next(self, limit: int, queues: Sequence[str]) -> Iterator[_Record]:
        # A generator: each one taken leaves its list before the next is looked for.
        for _ in range(limit):
            names = [name for name in queues if name in self._ready] if queues else self._ready
            first = min((self._ready[name][0] for name in names), default=None)
            if first is None:
                return
            yield self._by_seq[first[-1]]

    def _lease(self, record: _Record, worker: str, lease_s: float) -> Lease:
        now = self._clock()
        record.attempt += 1
        record.tries += 1
        record.progress = 0.0
        record.attempts.append(Attempt(number=record.attempt, worker=worker, started_at=now))
        self._move(record, JobState.RUNNING)
        record.lease = Lease(record.job, record.attempt, worker, now + lease_s, now, record.tries)
        return record.lease

    def _end_attempt(self, record: _Record, error: JobError | None) -> None:
        update = {"finished_at": self._clock(), "error": error}
        record.attempts[-1] = record.attempts[-1].model_copy(update=update)

    def _fail(self, record: _Record, error: JobError, *, is_permanent: bool) -> JobState:
        record.error = error.model_copy(update={"attempt": record.attempt})
        self._end_attempt(record, record.error)
        policy = record.job.retry
        state = state_after_failure(
            policy,
            record.tries,
            is_permanent=is_permanent,
            is_cancel_requested=record.is_cancel_requested,
        )
        due_at = self._clock() + policy.delay_s(record.tries, self._uniform)
        self._move(record, state, due_at=due_at)
        self._bell.ring()
        return record.state

    def _move(self, record: _Record, state: JobState, *, due_at: float | None = None) -> None:
        self._take(record)
        if due_at is not None:
            record.due_at = due_at
        self._put(record, state)

    def _take(self, record: _Record) -> None:
        if record.state is JobState.QUEUED:
            turns = self._ready[record.job.queue]
            del turns[bisect.bisect_left(turns, record.turn)]
            if not turns:
                del self._ready[record.job.queue]
        elif record.state is JobState.SCHEDULED:
            del self._scheduled[bisect.bisect_left(self._scheduled, (record.due_at, record.seq))]
        else:
            self._running.pop(record.seq, None)
            self._finished.pop(record.seq, None)

    def _put(self, record: _Record, state: JobState) -> None:
        record.state, record.lease, record.finished_at = state, None, None
        if state is JobState.QUEUED:
            bisect.insort(self._ready.setdefault(record.job.queue, []), record.turn)
        elif state is JobState.SCHEDULED:
            bisect.insort(self._scheduled, (record.due_at, record.seq))
        elif state is JobState.RUNNING:
            self._running[record.seq] = record
        else:
            self._end(record)

    def _end(self, record: _Record) -> None:
        record.finished_at = self._clock()
        self._finished[record.seq] = record
        if len(self._finished) > self._max_jobs:
            self._forget(next(iter(self._finished.values())))

    def _forget(self, record: _Record) -> None:
        del self._finished[record.seq], self._by_seq[record.seq], self._records[record.job.id]
