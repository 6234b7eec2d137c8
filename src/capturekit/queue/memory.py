"""A queue inside one process, for tests and for work that may be lost with it.

Looking at all jobs is left to ``stats``, ``statuses`` by state and ``prune``; what else is
called costs the logarithm of their number at most.
"""

import dataclasses
import math
import random
import time
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Final, Self, TypeAlias

from pydantic import JsonValue

from capturekit.errors import LeaseLost, QueueFull, UnknownBatch, UnknownJob, UnknownWorker
from capturekit.queue.base import (
    DEFAULT_LEASE_S,
    RATE_WINDOWS_S,
    WORKER_MEMORY_S,
    Attempt,
    BatchStatus,
    Beat,
    CancelOutcome,
    Job,
    JobError,
    JobState,
    JobStatus,
    Lease,
    Orders,
    QueueRate,
    QueueStats,
    Submission,
    WorkerInfo,
    checked_concurrency,
    checked_json,
    checked_progress,
    empty_depth,
    first_state,
    state_after_failure,
    worker_lost,
)
from capturekit.queue.bell import Bell
from capturekit.queue.turns import Line, Turn, Turns

MAX_JOBS: Final = 10_000
"""Jobs that may wait by default, and ended ones remembered: some 20 MB in all."""


Moment: TypeAlias = tuple[float, int]
"""When something is due, and the number of the job."""


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
    def turn(self) -> Turn:
        """Sorts waiting jobs into the order in which they are handed out."""
        return (-self.job.priority, self.due_at, self.seq)

    def holds_key(self, now: float) -> bool:
        """Whether its unique key is taken by this job."""
        period_s = self.job.unique_for_s
        # Without a period, no clock that is set back gives it one.
        return not self.state.is_final or bool(period_s and now < self.queued_at + period_s)

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


class _Flow:
    """How many came, or went, in each second of the longest time that is looked back on."""

    def __init__(self) -> None:
        self._by_second: dict[int, int] = {}

    def add(self, now: float) -> None:
        self._by_second[int(now)] = self._by_second.get(int(now), 0) + 1
        while (oldest := next(iter(self._by_second))) < now - max(RATE_WINDOWS_S) - 1:
            del self._by_second[oldest]

    def since(self, moment: float) -> int:
        return sum(count for second, count in self._by_second.items() if second > moment - 1)


class MemoryQueue:
    """A ``QueueBackend`` that lives and dies with its process.

    ``max_waiting`` bounds the jobs that wait; None lifts the bound. So many ended jobs as
    ``max_ended`` are remembered: beyond that the oldest is forgotten, but for its unique key.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        max_waiting: int | None = MAX_JOBS,
        max_ended: int = MAX_JOBS,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._max_waiting = max_waiting
        self._max_ended = max_ended
        self._uniform = uniform
        self._records: dict[str, _Record] = {}
        self._by_seq: dict[int, _Record] = {}
        self._batches: dict[str, dict[int, _Record]] = {}
        self._last_seq = 0
        self._turns = Turns()
        self._scheduled: Line[Moment] = Line()
        self._leases: Line[Moment] = Line()
        self._running: dict[int, _Record] = {}
        self._ended: dict[int, _Record] = {}
        self._holders: dict[str, _Record] = {}
        self._lapsing: Line[tuple[float, str]] = Line()
        self._came, self._went = _Flow(), _Flow()
        self._workers: dict[str, WorkerInfo] = {}
        self._asked: dict[str, int] = {}
        self._is_paused = False
        self._paused: set[str] = set()
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
        """As ``QueueBackend.submit``."""
        self._promote()
        records = ChainMap({}, self._records)
        holders = ChainMap({}, self._holders)
        answers: list[tuple[_Record, bool]] = []
        for job in jobs:
            standing = self._standing(job, records, holders)
            is_new = standing is None
            if standing is None:
                standing = records[job.id] = self._record(job)
                if job.unique_key is not None:
                    holders[job.unique_key] = standing
            answers.append((standing, is_new))
        new = [record for record, is_new in answers if is_new]
        waiting = len(self._records) - len(self._running) - len(self._ended)
        if self._max_waiting is not None and new and waiting + len(new) > self._max_waiting:
            raise QueueFull(self._max_waiting)
        for record in new:
            self._add(record)
        self._bell.ring()
        return [Submission(record.job.id, is_new, record.state) for record, is_new in answers]

    async def status(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.status``."""
        return self._known(job_id).status()

    async def statuses(
        self, *, states: Sequence[JobState] = (), batch: str | None = None, limit: int = 100
    ) -> list[JobStatus]:
        """As ``QueueBackend.statuses``."""
        self._promote()
        records = self._by_seq if batch is None else self._batches.get(batch, {})
        found = (each for each in reversed(records.values()) if not states or each.state in states)
        return [record.status() for record in islice(found, limit)]

    async def batch(self, batch_id: str) -> BatchStatus:
        """As ``QueueBackend.batch``."""
        depth = empty_depth()
        for record in self._of_batch(batch_id):
            depth[record.state] += 1
        return BatchStatus(id=batch_id, depth=depth)

    async def cancel(self, job_id: str) -> CancelOutcome:
        """As ``QueueBackend.cancel``."""
        return self._cancel(self._known(job_id))

    async def cancel_batch(self, batch_id: str) -> dict[CancelOutcome, int]:
        """As ``QueueBackend.cancel_batch``."""
        outcomes = dict.fromkeys(CancelOutcome, 0)
        for record in self._of_batch(batch_id):
            outcomes[self._cancel(record)] += 1
        return outcomes

    async def retry(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.retry``."""
        record = self._known(job_id)
        if record.state in (JobState.FAILED, JobState.CANCELLED):
            self._retry(record)
        return record.status()

    async def retry_failed(self, *, queue: str | None = None, batch: str | None = None) -> int:
        """As ``QueueBackend.retry_failed``."""
        failed = [
            record
            for record in self._ended.values()
            if record.state is JobState.FAILED
            and queue in (None, record.job.queue)
            and batch in (None, record.job.batch)
        ]
        return sum(self._retry(record) for record in failed)

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
        chosen = self._next(limit, queues) if job_id is None else self._named(job_id, queues)
        return [self._lease(record, worker, lease_s) for record in chosen]

    async def heartbeat(
        self, worker: WorkerInfo, leases: Sequence[Lease], *, lease_s: float = DEFAULT_LEASE_S
    ) -> list[Beat]:
        """As ``QueueBackend.heartbeat``."""
        now = self._clock()
        self._workers[worker.id] = worker.model_copy(update={"heartbeat_at": now})
        for known in list(self._workers.values()):
            if known.heartbeat_at < now - WORKER_MEMORY_S:
                await self.forget_worker(known.id)
        return [self._beat(lease, now + lease_s) for lease in leases]

    async def orders(self, worker_id: str, leases: Sequence[Lease]) -> Orders:
        """As ``QueueBackend.orders``."""
        beats = tuple(self._beat(lease) for lease in leases)
        return Orders(beats, self._asked.get(worker_id))

    async def resize(self, worker_id: str, concurrency: int) -> None:
        """As ``QueueBackend.resize``."""
        asked = checked_concurrency(concurrency)
        if worker_id not in {worker.id for worker in await self.workers()}:
            raise UnknownWorker(worker_id)
        self._asked[worker_id] = asked

    async def report(self, lease: Lease, progress: float) -> None:
        """As ``QueueBackend.report``. Raises ValueError outside 0 to 1."""
        fraction = checked_progress(progress)
        if record := self._holding(lease):
            record.progress = fraction

    async def finish(self, lease: Lease, result: JsonValue = None) -> None:
        """As ``QueueBackend.finish``. Raises ValueError for a result that is no JSON."""
        record = self._held(lease)
        record.result, record.progress = checked_json(result), 1.0
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
        self._asked.pop(worker_id, None)

    async def workers(self) -> list[WorkerInfo]:
        """As ``QueueBackend.workers``."""
        oldest = self._clock() - WORKER_MEMORY_S
        known = [worker for worker in self._workers.values() if worker.heartbeat_at >= oldest]
        return [worker.model_copy(update={"jobs": self._jobs_of(worker.id)}) for worker in known]

    async def stats(self) -> QueueStats:
        """As ``QueueBackend.stats``."""
        self._promote()
        by_queue: defaultdict[str, dict[JobState, int]] = defaultdict(empty_depth)
        for record in self._records.values():
            by_queue[record.job.queue][record.state] += 1
        records = self._records.values()
        since = min(
            (each.due_at for each in records if each.state is JobState.QUEUED), default=None
        )
        return QueueStats(
            depth={state: sum(depth[state] for depth in by_queue.values()) for state in JobState},
            by_queue=dict(by_queue),
            oldest_age_s=None if since is None else max(0.0, self._clock() - since),
            is_paused=self._is_paused,
            paused=tuple(sorted(self._paused)),
            rates=tuple(map(self._rate, RATE_WINDOWS_S)),
        )

    def _rate(self, window_s: float) -> QueueRate:
        since = self._clock() - window_s
        minutes = window_s / 60
        return QueueRate(
            window_s=window_s,
            in_per_minute=self._came.since(since) / minutes,
            out_per_minute=self._went.since(since) / minutes,
        )

    async def pause(self, queue: str | None = None) -> None:
        """As ``QueueBackend.pause``."""
        if queue is None:
            self._is_paused = True
        else:
            self._paused.add(queue)

    async def resume(self, queue: str | None = None) -> None:
        """As ``QueueBackend.resume``."""
        if queue is None:
            self._is_paused = False
            self._paused.clear()
        else:
            self._paused.discard(queue)
        self._bell.ring()

    async def prune(self, *, older_than_s: float, keep: int | None = None) -> int:
        """As ``QueueBackend.prune``."""
        now = self._clock()
        beyond = 0 if keep is None else len(self._ended) - keep
        free = (record for record in self._ended.values() if not record.holds_key(now))
        ended = sorted(free, key=lambda record: record.finished_at or 0.0)
        old = [
            record
            for place, record in enumerate(ended)
            if place < beyond or (record.finished_at or 0.0) < now - older_than_s
        ]
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
        firsts = [self._leases.first()]
        if not self._is_paused:
            if self._turns.first(queues, self._paused) is not None:
                return 0.0
            firsts.append(self._scheduled.first())
        times = (moment[0] for moment in firsts if moment is not None)
        return max(0.0, min(times, default=math.inf) - self._clock())

    def _standing(
        self, job: Job, records: Mapping[str, _Record], holders: Mapping[str, _Record]
    ) -> _Record | None:
        """The job that keeps this one out."""
        if job.id in records:
            return records[job.id]
        holder = None if job.unique_key is None else holders.get(job.unique_key)
        return holder if holder is not None and holder.holds_key(self._clock()) else None

    def _record(self, job: Job) -> _Record:
        self._last_seq += 1
        now = self._clock()
        return _Record(job, self._last_seq, queued_at=now, due_at=now + job.delay_s)

    def _add(self, record: _Record) -> None:
        job = record.job
        self._records[job.id] = self._by_seq[record.seq] = record
        if job.batch is not None:
            self._batches.setdefault(job.batch, {})[record.seq] = record
        if job.unique_key is not None:
            self._holders[job.unique_key] = record
        self._came.add(record.queued_at)
        self._put(record, first_state(job))

    def _of_batch(self, batch_id: str) -> Iterable[_Record]:
        self._promote()
        if batch_id not in self._batches:
            raise UnknownBatch(batch_id)
        return self._batches[batch_id].values()

    def _cancel(self, record: _Record) -> CancelOutcome:
        if record.state.is_final:
            return CancelOutcome.ALREADY_FINISHED
        record.is_cancel_requested = True
        if record.state is JobState.RUNNING:
            return CancelOutcome.CANCELLING
        self._move(record, JobState.CANCELLED)
        return CancelOutcome.CANCELLED

    def _retry(self, record: _Record) -> bool:
        """Whether the job that failed or was cancelled is queued again."""
        key, now = record.job.unique_key, self._clock()
        if key is not None:
            holder = self._holders.get(key, record)
            if holder is not record and holder.holds_key(now):
                return False
            self._holders[key] = record
        record.tries, record.progress, record.is_cancel_requested = 0, 0.0, False
        self._move(record, JobState.QUEUED, due_at=now)
        self._bell.ring()
        return True

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

    def _beat(self, lease: Lease, expires_at: float | None = None) -> Beat:
        record = self._holding(lease)
        if record is None or record.lease is None:
            return Beat.LOST
        if expires_at is not None:
            self._leases.leave((record.lease.expires_at, record.seq))
            self._leases.add((expires_at, record.seq))
            record.lease = dataclasses.replace(lease, expires_at=expires_at)
        return Beat.CANCEL if record.is_cancel_requested else Beat.HELD

    def _jobs_of(self, worker_id: str) -> tuple[str, ...]:
        held = (r for r in self._running.values() if r.lease and r.lease.worker == worker_id)
        return tuple(record.job.id for record in held)

    def _recover(self) -> None:
        for _, seq in self._leases.pop_until((self._clock(), self._last_seq)):
            record = self._by_seq[seq]
            if record.lease is not None:
                error = worker_lost(record.lease.worker, record.attempt)
                self._fail(record, error, is_permanent=False)

    def _promote(self) -> None:
        now = self._clock()
        for _, seq in self._scheduled.pop_until((now, self._last_seq)):
            self._move(self._by_seq[seq], JobState.QUEUED)
        for _, key in self._lapsing.pop_until((now, "\U0010ffff")):
            if not self._holders[key].holds_key(now):
                del self._holders[key]

    def _named(self, job_id: str, queues: Sequence[str]) -> Iterator[_Record]:
        record = self._records.get(job_id)
        if record is None or record.state is not JobState.QUEUED:
            return
        if (not queues or record.job.queue in queues) and self._turns.is_free(record.job):
            yield record

    def _next(self, limit: int, queues: Sequence[str]) -> Iterator[_Record]:
        # A generator: each one taken leaves its list before the next is looked for.
        for _ in range(0 if self._is_paused else limit):
            turn = self._turns.first(queues, self._paused)
            if turn is None:
                return
            yield self._by_seq[turn[-1]]

    def _lease(self, record: _Record, worker: str, lease_s: float) -> Lease:
        now = self._clock()
        record.attempt += 1
        record.tries += 1
        record.progress = 0.0
        record.attempts.append(Attempt(number=record.attempt, worker=worker, started_at=now))
        self._move(record, JobState.RUNNING)
        record.lease = Lease(record.job, record.attempt, worker, now + lease_s, now, record.tries)
        self._leases.add((record.lease.expires_at, record.seq))
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
            self._turns.leave(record.turn)
        elif record.state is JobState.SCHEDULED:
            self._scheduled.leave((record.due_at, record.seq))
        elif record.state is JobState.RUNNING:
            del self._running[record.seq]
            if record.lease is not None:
                self._leases.leave((record.lease.expires_at, record.seq))
            self._turns.stopped(record.job)
            self._bell.ring()
        else:
            del self._ended[record.seq]

    def _put(self, record: _Record, state: JobState) -> None:
        record.state, record.lease, record.finished_at = state, None, None
        if state is JobState.QUEUED:
            self._turns.add(record.turn, record.job)
        elif state is JobState.SCHEDULED:
            self._scheduled.add((record.due_at, record.seq))
        elif state is JobState.RUNNING:
            self._running[record.seq] = record
            self._turns.started(record.job)
        else:
            self._end(record)

    def _end(self, record: _Record) -> None:
        record.finished_at = self._clock()
        self._went.add(record.finished_at)
        self._ended[record.seq] = record
        if len(self._ended) > self._max_ended:
            self._forget(next(iter(self._ended.values())))

    def _forget(self, record: _Record) -> None:
        job = record.job
        del self._ended[record.seq], self._by_seq[record.seq], self._records[job.id]
        if job.batch is not None:
            del self._batches[job.batch][record.seq]
            if not self._batches[job.batch]:
                del self._batches[job.batch]
        key = job.unique_key
        if key is not None and self._holders.get(key) is record:
            # The key outlives the job, until its period is over.
            self._lapsing.add((record.queued_at + (job.unique_for_s or 0.0), key))
