"""A durable queue in the application's own database.

A job can be submitted in the transaction that stores what it is about, so there is never
a capture without its job. Any number of processes may share the database.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

from pydantic import JsonValue
from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    tuple_,
    union_all,
    update,
)

from capturekit.database import Database
from capturekit.errors import LeaseLost, UnknownJob
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
    RetryPolicy,
    Submission,
    WorkerInfo,
    checked_progress,
    state_after_failure,
    worker_lost,
)
from capturekit.queue.bell import Bell

T = TypeVar("T")
# A table of SQLAlchemy Core does not tell the types of its columns. In quotes, because
# version 2.0 spells these two otherwise than 2.1.
_Row: TypeAlias = "Row[*tuple[Any, ...]]"
_Seqs: TypeAlias = "Select[*tuple[Any, ...]]"

MAX_PER_WRITE: Final = 1000
"""Jobs that one transaction moves or prunes at most, so that no write takes long.

A claim makes that many scheduled jobs ready; should more come due at one moment, the
priorities of the rest count from the next claim on.
"""

ALL_QUEUES: Final = "*"
"""The row of ``queue_control`` that counts for every queue."""

metadata: Final = MetaData()
"""The queue's tables. Times are seconds since 1970, UTC."""

_job: Final = Table(
    "job",
    metadata,
    # Order of submission; the id is the caller's.
    Column("seq", Integer, nullable=False),
    Column("id", String(200), nullable=False),
    Column("kind", String(100), nullable=False),
    Column("queue", String(100), nullable=False),
    Column("batch", String(200)),
    # JSON as text: SQLite would turn a bare number in a JSON column into a float.
    Column("payload", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("delay_s", Float, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("backoff_base_s", Float, nullable=False),
    Column("backoff_cap_s", Float, nullable=False),
    Column("state", String(20), nullable=False),
    # May run from then on; what it waits for while scheduled.
    Column("due_at", Float, nullable=False),
    Column("queued_at", Float, nullable=False),
    Column("finished_at", Float),
    # Number of the newest attempt, never reused: the fence.
    Column("attempt", Integer, nullable=False),
    # Attempts that count against max_attempts.
    Column("tries", Integer, nullable=False),
    # Both are set while it runs, and only then.
    Column("worker", String(200)),
    Column("lease_until", Float),
    Column("progress", Float, nullable=False),
    Column("result", Text),
    Column("error", Text),
    Column("is_cancel_requested", Boolean, nullable=False),
    PrimaryKeyConstraint("seq", name="pk_job"),
    UniqueConstraint("id", name="uq_job_id"),
)
Index("ix_job_claim", _job.c.state, _job.c.priority.desc(), _job.c.due_at)
Index("ix_job_claim_queue", _job.c.state, _job.c.queue, _job.c.priority.desc(), _job.c.due_at)
Index("ix_job_due", _job.c.state, _job.c.due_at)
Index("ix_job_lease_until", _job.c.lease_until)
Index("ix_job_finished_at", _job.c.finished_at)
Index("ix_job_queued_at", _job.c.queued_at)
Index("ix_job_batch", _job.c.batch)

_attempt: Final = Table(
    "job_attempt",
    metadata,
    Column("job_id", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("worker", String(200), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("error", Text),
    PrimaryKeyConstraint("job_id", "number", name="pk_job_attempt"),
    ForeignKeyConstraint(
        ["job_id"], ["job.id"], name="fk_job_attempt_job_id_job", ondelete="CASCADE"
    ),
)

_worker: Final = Table(
    "worker",
    metadata,
    Column("id", String(200), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("heartbeat_at", Float, nullable=False),
    PrimaryKeyConstraint("id", name="pk_worker"),
)

_control: Final = Table(
    "queue_control",
    metadata,
    Column("queue", String(100), nullable=False),
    Column("is_paused", Boolean, nullable=False),
    PrimaryKeyConstraint("queue", name="pk_queue_control"),
)


class SqlQueue:
    """A ``QueueBackend`` in a database; the tables are ``metadata``.

    The database is opened and closed by the caller. Its schema comes from
    ``capturekit db upgrade``, or from ``create_tables`` for a queue that stands alone.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._clock = clock
        self._uniform = uniform
        self._bell = Bell()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def create_tables(self) -> None:
        """Make the queue's tables where they are missing."""
        await self._database.write(metadata.create_all)

    def submit_within(self, connection: Connection, jobs: Sequence[Job]) -> list[Submission]:
        """As ``submit``, as part of the caller's transaction.

        For work given to ``Database.write``. Call ``notify`` when that has returned.
        """
        now = self._clock()
        states = _states(connection, [job.id for job in jobs], now)
        rows: list[dict[str, object]] = []
        answers: list[Submission] = []
        for job in jobs:
            is_new = job.id not in states
            if is_new:
                rows.append(_new_row(job, now))
                states[job.id] = _first_state(job)
            answers.append(Submission(job.id, is_new, states[job.id]))
        if rows:
            connection.execute(insert(_job), rows)
        return answers

    def notify(self) -> None:
        """Wake those who wait for work in this process."""
        self._bell.ring()

    async def expire_leases(self, worker_prefix: str, *, forgiven: int = 0) -> int:
        """End the leases of workers that are known to be dead, and say how many.

        For the one process that may run workers of that name, when it starts: their jobs
        then wait their backoff and not the rest of the lease. Each gets the error
        ``WorkerLost``; the first ``forgiven`` such ends of a job do not count against its
        attempts, for a process that is more likely stopped from outside than by its job.
        """

        def work(connection: Connection) -> int:
            held = connection.execute(
                select(_job).where(_is_running, _starts_with(_job.c.worker, worker_prefix))
            ).all()
            for row in held:
                is_forgiven = row.attempt - row.tries < forgiven
                self._lose(connection, row, is_forgiven=is_forgiven)
            connection.execute(delete(_worker).where(_starts_with(_worker.c.id, worker_prefix)))
            return len(held)

        return await self._write_and_notify(work)

    async def submit(self, *jobs: Job) -> list[Submission]:
        """As ``QueueBackend.submit``."""
        return await self._write_and_notify(lambda connection: self.submit_within(connection, jobs))

    async def status(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.status``."""

        def work(connection: Connection) -> JobStatus:
            row = _known(connection, job_id)
            return _statuses(connection, [row], self._clock())[0]

        return await self._database.read(work)

    async def statuses(
        self, *, states: Sequence[JobState] = (), batch: str | None = None, limit: int = 100
    ) -> list[JobStatus]:
        """As ``QueueBackend.statuses``."""

        def work(connection: Connection) -> list[JobStatus]:
            now = self._clock()
            query = select(_job).order_by(_job.c.seq.desc()).limit(limit)
            if states:
                query = query.where(or_(*(_is_in(state, now) for state in states)))
            if batch is not None:
                query = query.where(_job.c.batch == batch)
            return _statuses(connection, connection.execute(query).all(), now)

        return await self._database.read(work)

    async def cancel(self, job_id: str) -> CancelOutcome:
        """As ``QueueBackend.cancel``."""

        def work(connection: Connection) -> CancelOutcome:
            row = _known(connection, job_id, will_change=True)
            state = JobState(row.state)
            if state.is_final:
                return CancelOutcome.ALREADY_FINISHED
            if state is JobState.RUNNING:
                _change(connection, row, is_cancel_requested=True)
                return CancelOutcome.CANCELLING
            self._end(connection, row, JobState.CANCELLED, is_cancel_requested=True)
            return CancelOutcome.CANCELLED

        return await self._database.write(work)

    async def retry(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.retry``."""

        def work(connection: Connection) -> JobStatus:
            row, now = _known(connection, job_id, will_change=True), self._clock()
            if row.state in (JobState.FAILED, JobState.CANCELLED):
                _change(
                    connection,
                    row,
                    state=JobState.QUEUED,
                    due_at=now,
                    finished_at=None,
                    tries=0,
                    progress=0.0,
                    is_cancel_requested=False,
                )
            return _statuses(connection, [_known(connection, job_id)], now)[0]

        return await self._write_and_notify(work)

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
        chosen = _chosen(limit, queues) if job_id is None else _chosen_by_id(job_id, queues)

        def work(connection: Connection) -> list[Lease]:
            now = self._clock()
            self._recover(connection, now)
            _promote(connection, now)
            return _take(connection, chosen, worker, now, now + lease_s)

        return await self._database.write(work)

    async def heartbeat(
        self, worker: WorkerInfo, leases: Sequence[Lease], *, lease_s: float = DEFAULT_LEASE_S
    ) -> list[Beat]:
        """As ``QueueBackend.heartbeat``, in one transaction for all leases."""

        def work(connection: Connection) -> list[Beat]:
            now = self._clock()
            _introduce(connection, worker, now)
            held = _extend(connection, leases, now + lease_s)
            return [held.get((lease.job.id, lease.attempt), Beat.LOST) for lease in leases]

        return await self._database.write(work)

    async def report(self, lease: Lease, progress: float) -> None:
        """As ``QueueBackend.report``. Raises ValueError outside 0 to 1."""
        change = update(_job).where(_is_held(lease)).values(progress=checked_progress(progress))
        await self._database.write(lambda connection: connection.execute(change).rowcount)

    async def finish(self, lease: Lease, result: JsonValue = None) -> None:
        """As ``QueueBackend.finish``."""
        text = _dumped(result)

        def work(connection: Connection) -> None:
            row = _held(connection, lease)
            _end_attempt(connection, row, self._clock())
            self._end(connection, row, JobState.SUCCEEDED, result=text, progress=1.0)

        await self._database.write(work)

    async def fail(self, lease: Lease, error: JobError, *, is_permanent: bool = False) -> JobState:
        """As ``QueueBackend.fail``."""

        def work(connection: Connection) -> JobState:
            row = _held(connection, lease)
            return self._fail(connection, row, error, is_permanent=is_permanent)

        return await self._write_and_notify(work)

    async def cancelled(self, lease: Lease) -> None:
        """As ``QueueBackend.cancelled``."""

        def work(connection: Connection) -> None:
            row = _held(connection, lease)
            _end_attempt(connection, row, self._clock())
            self._end(connection, row, JobState.CANCELLED)

        await self._database.write(work)

    async def release(self, lease: Lease, *, delay_s: float = 0.0) -> None:
        """As ``QueueBackend.release``."""

        def work(connection: Connection) -> None:
            row = _held(connection, lease)
            if row.is_cancel_requested:
                _end_attempt(connection, row, self._clock())
                self._end(connection, row, JobState.CANCELLED)
            else:
                self._hand_back(connection, row, delay_s)

        await self._write_and_notify(work)

    async def forget_worker(self, worker_id: str) -> None:
        """As ``QueueBackend.forget_worker``."""
        gone = delete(_worker).where(_worker.c.id == worker_id)
        await self._database.write(lambda connection: connection.execute(gone).rowcount)

    async def workers(self) -> list[WorkerInfo]:
        """As ``QueueBackend.workers``."""
        oldest = self._clock() - WORKER_MEMORY_S

        def work(connection: Connection) -> list[WorkerInfo]:
            known = connection.execute(
                select(_worker).where(_worker.c.heartbeat_at >= oldest).order_by(_worker.c.id)
            ).all()
            held: dict[str, list[str]] = {}
            for row in connection.execute(select(_job.c.id, _job.c.worker).where(_is_running)):
                held.setdefault(row.worker, []).append(row.id)
            return [_as_worker(row, tuple(held.get(row.id, ()))) for row in known]

        return await self._database.read(work)

    async def stats(self) -> QueueStats:
        """As ``QueueBackend.stats``. Reads an index from end to end: 0.1 s at 1,000,000 jobs."""

        def work(connection: Connection) -> QueueStats:
            now = self._clock()
            ready = _is_in(JobState.QUEUED, now)
            oldest = connection.scalar(select(func.min(_job.c.due_at)).where(ready))
            return QueueStats(
                depth=_depth(connection, now),
                oldest_age_s=None if oldest is None else max(0.0, now - oldest),
                by_queue={},
                paused=(),
                is_paused=bool(connection.scalar(select(_is_paused))),
                rates=tuple(_rate(connection, now, window_s) for window_s in RATE_WINDOWS_S),
            )

        return await self._database.read(work)

    async def pause(self) -> None:
        """As ``QueueBackend.pause``, for all processes."""
        await self._write_and_notify(lambda connection: _set_paused(connection, is_paused=True))

    async def resume(self) -> None:
        """As ``QueueBackend.resume``, for all processes."""
        await self._write_and_notify(lambda connection: _set_paused(connection, is_paused=False))

    async def prune(self, *, older_than_s: float) -> int:
        """As ``QueueBackend.prune``, in transactions of ``MAX_PER_WRITE`` jobs."""
        before = self._clock() - older_than_s
        old = select(_job.c.seq).where(_job.c.finished_at < before).limit(MAX_PER_WRITE)
        gone = delete(_job).where(_job.c.seq.in_(old.scalar_subquery()))
        total = 0
        while count := await self._database.write(lambda c: c.execute(gone).rowcount):
            total += count
        return total

    async def wait(self, timeout_s: float, *, queues: Sequence[str] = ()) -> None:
        """As ``QueueBackend.wait``."""

        async def quiet_s() -> float:
            return await self._database.read(lambda c: _quiet_s(c, queues, self._clock()))

        await self._bell.wait(timeout_s, quiet_s)

    async def _write_and_notify(self, work: Callable[[Connection], T]) -> T:
        answer = await self._database.write(work)
        self.notify()
        return answer

    def _recover(self, connection: Connection, now: float) -> None:
        over = select(_job).where(_job.c.lease_until <= now).limit(MAX_PER_WRITE)
        for row in connection.execute(over).all():
            self._lose(connection, row)

    def _lose(self, connection: Connection, row: _Row, *, is_forgiven: bool = False) -> None:
        error = worker_lost(row.worker, row.attempt)
        if not is_forgiven or row.is_cancel_requested:
            self._fail(connection, row, error, is_permanent=False)
            return
        now, text = self._clock(), error.model_dump_json()
        _end_attempt(connection, row, now, text)
        # A short pause all the same: should it be the job's doing, others go first.
        due_at = now + _policy(row).delay_s(1, self._uniform)
        _place(connection, row, JobState.SCHEDULED, due_at, tries=row.tries - 1, error=text)

    def _fail(
        self, connection: Connection, row: _Row, error: JobError, *, is_permanent: bool
    ) -> JobState:
        policy, now = _policy(row), self._clock()
        text = error.model_copy(update={"attempt": row.attempt}).model_dump_json()
        _end_attempt(connection, row, now, text)
        state = state_after_failure(
            policy,
            row.tries,
            is_permanent=is_permanent,
            is_cancel_requested=row.is_cancel_requested,
        )
        if state.is_final:
            self._end(connection, row, state, error=text)
        else:
            due_at = now + policy.delay_s(row.tries, self._uniform)
            _place(connection, row, state, due_at, error=text)
        return state

    def _hand_back(self, connection: Connection, row: _Row, delay_s: float) -> None:
        number = _attempt.c.number == row.attempt
        connection.execute(delete(_attempt).where(_attempt.c.job_id == row.id, number))
        is_later = delay_s > 0
        due_at = self._clock() + delay_s if is_later else row.due_at
        state = JobState.SCHEDULED if is_later else JobState.QUEUED
        _place(connection, row, state, due_at, tries=row.tries - 1, progress=0.0)

    def _end(self, connection: Connection, row: _Row, state: JobState, **values: object) -> None:
        _place(connection, row, state, row.due_at, finished_at=self._clock(), **values)


def _rate(connection: Connection, now: float, window_s: float) -> QueueRate:
    count = select(func.count()).select_from(_job)
    came = connection.scalar(count.where(_job.c.queued_at > now - window_s)) or 0
    went = connection.scalar(count.where(_job.c.finished_at > now - window_s)) or 0
    minutes = window_s / 60
    return QueueRate(window_s=window_s, in_per_minute=came / minutes, out_per_minute=went / minutes)


_is_running: Final = _job.c.state == JobState.RUNNING
_is_paused: Final = exists().where(_control.c.is_paused)


def _is_held(lease: Lease) -> ColumnElement[bool]:
    return and_(_job.c.id == lease.job.id, _job.c.attempt == lease.attempt, _is_running)


def _is_in(state: JobState, now: float) -> ColumnElement[bool]:
    """Whether a job is in the state that callers see: scheduled ones come due by themselves."""
    is_stored = _job.c.state == state
    is_scheduled = _job.c.state == JobState.SCHEDULED
    if state is JobState.QUEUED:
        return or_(is_stored, and_(is_scheduled, _job.c.due_at <= now))
    if state is JobState.SCHEDULED:
        return and_(is_scheduled, _job.c.due_at > now)
    return is_stored


def _state(row: _Row, now: float) -> JobState:
    is_due = row.state == JobState.SCHEDULED and row.due_at <= now
    return JobState.QUEUED if is_due else JobState(row.state)


def _starts_with(column: Column[str], prefix: str) -> ColumnElement[bool]:
    # Not LIKE, which does not tell upper case from lower case on SQLite.
    return func.substr(column, 1, len(prefix)) == prefix


def _dumped(value: JsonValue) -> str | None:
    return None if value is None else json.dumps(value, separators=(",", ":"))


def _loaded(text: str | None) -> JsonValue:
    value: JsonValue = None if text is None else json.loads(text)
    return value


def _error(text: str | None) -> JobError | None:
    return None if text is None else JobError.model_validate_json(text)


def _first_state(job: Job) -> JobState:
    return JobState.SCHEDULED if job.delay_s > 0 else JobState.QUEUED


def _new_row(job: Job, now: float) -> dict[str, object]:
    return {
        "id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "batch": job.batch,
        "payload": _dumped(job.payload),
        "priority": job.priority,
        "delay_s": job.delay_s,
        "timeout_s": job.timeout_s,
        "max_attempts": job.retry.max_attempts,
        "backoff_base_s": job.retry.base_s,
        "backoff_cap_s": job.retry.cap_s,
        "state": _first_state(job),
        "due_at": now + job.delay_s,
        "queued_at": now,
        "attempt": 0,
        "tries": 0,
        "progress": 0.0,
        "is_cancel_requested": False,
    }


def _policy(row: _Row) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=row.max_attempts, base_s=row.backoff_base_s, cap_s=row.backoff_cap_s
    )


def _as_job(row: _Row) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        payload=json.loads(row.payload),
        queue=row.queue,
        priority=row.priority,
        delay_s=row.delay_s,
        retry=_policy(row),
        timeout_s=row.timeout_s,
        batch=row.batch,
    )


def _as_status(row: _Row, attempts: tuple[Attempt, ...], now: float) -> JobStatus:
    state = _state(row, now)
    return JobStatus(
        id=row.id,
        kind=row.kind,
        queue=row.queue,
        state=state,
        priority=row.priority,
        payload=json.loads(row.payload),
        batch=row.batch,
        progress=row.progress,
        attempts=attempts,
        queued_at=row.queued_at,
        started_at=attempts[-1].started_at if attempts else None,
        finished_at=row.finished_at,
        next_retry_at=row.due_at if state is JobState.SCHEDULED else None,
        result=_loaded(row.result),
        error=_error(row.error),
        is_cancel_requested=row.is_cancel_requested,
    )


def _as_attempt(row: _Row) -> Attempt:
    return Attempt(
        number=row.number,
        worker=row.worker,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=_error(row.error),
    )


def _as_worker(row: _Row, jobs: tuple[str, ...]) -> WorkerInfo:
    return WorkerInfo(
        id=row.id,
        host=row.host,
        pid=row.pid,
        concurrency=row.concurrency,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        jobs=jobs,
    )


def _in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The ids in parts that fit the number of parameters a statement may have."""
    for start in range(0, len(ids), MAX_PER_WRITE):
        yield ids[start : start + MAX_PER_WRITE]


def _states(connection: Connection, ids: Sequence[str], now: float) -> dict[str, JobState]:
    query = select(_job.c.id, _job.c.state, _job.c.due_at)
    return {
        row.id: _state(row, now)
        for part in _in_parts(ids)
        for row in connection.execute(query.where(_job.c.id.in_(part)))
    }


def _statuses(connection: Connection, rows: Sequence[_Row], now: float) -> list[JobStatus]:
    attempts: dict[str, list[Attempt]] = {row.id: [] for row in rows}
    query = select(_attempt).order_by(_attempt.c.job_id, _attempt.c.number)
    for part in _in_parts(list(attempts)):
        for each in connection.execute(query.where(_attempt.c.job_id.in_(part))):
            attempts[each.job_id].append(_as_attempt(each))
    return [_as_status(row, tuple(attempts[row.id]), now) for row in rows]


def _known(connection: Connection, job_id: str, *, will_change: bool = False) -> _Row:
    query = select(_job).where(_job.c.id == job_id)
    row = connection.execute(query.with_for_update() if will_change else query).first()
    if row is None:
        raise UnknownJob(job_id)
    return row


def _held(connection: Connection, lease: Lease) -> _Row:
    row = connection.execute(select(_job).where(_is_held(lease)).with_for_update()).first()
    if row is None:
        raise LeaseLost(f"attempt {lease.attempt} of job {lease.job.id!r} is over")
    return row


def _change(connection: Connection, row: _Row, **values: object) -> None:
    connection.execute(update(_job).where(_job.c.seq == row.seq).values(values))


def _place(
    connection: Connection, row: _Row, state: JobState, due_at: float, **values: object
) -> None:
    """The job is in ``state`` from now on, and nobody holds it."""
    _change(connection, row, state=state, due_at=due_at, worker=None, lease_until=None, **values)


def _end_attempt(connection: Connection, row: _Row, now: float, error: str | None = None) -> None:
    newest = and_(_attempt.c.job_id == row.id, _attempt.c.number == row.attempt)
    connection.execute(update(_attempt).where(newest).values(finished_at=now, error=error))


def _ready(limit: int) -> _Seqs:
    """Queued jobs in the order in which they are handed out."""
    return (
        select(_job.c.seq, _job.c.priority, _job.c.due_at)
        .where(_job.c.state == JobState.QUEUED)
        .order_by(_job.c.priority.desc(), _job.c.due_at, _job.c.seq)
        .limit(limit)
    )


def _chosen(limit: int, queues: Sequence[str]) -> _Seqs:
    # The best of each queue, then the best of those: every part walks an index, and so
    # costs the same at a thousand jobs and at a million.
    ready = _ready(limit).where(~_is_paused)
    parts = [ready.where(_job.c.queue == name) for name in queues] or [ready]
    pool = union_all(*(select(part.subquery()) for part in parts)).subquery()
    best = (pool.c.priority.desc(), pool.c.due_at, pool.c.seq)
    return select(pool.c.seq).order_by(*best).limit(limit)


def _chosen_by_id(job_id: str, queues: Sequence[str]) -> _Seqs:
    chosen = select(_job.c.seq).where(_job.c.id == job_id, _job.c.state == JobState.QUEUED)
    return chosen.where(_job.c.queue.in_(queues)) if queues else chosen


def _promote(connection: Connection, now: float) -> None:
    due = (
        select(_job.c.seq)
        .where(_job.c.state == JobState.SCHEDULED, _job.c.due_at <= now)
        .order_by(_job.c.due_at)
        .limit(MAX_PER_WRITE)
    )
    ready = update(_job).where(_job.c.seq.in_(due.scalar_subquery()))
    connection.execute(ready.values(state=JobState.QUEUED))


def _take(
    connection: Connection, chosen: _Seqs, worker: str, now: float, until: float
) -> list[Lease]:
    taken = (
        update(_job)
        .where(_job.c.seq.in_(chosen.scalar_subquery()))
        .values(
            state=JobState.RUNNING,
            attempt=_job.c.attempt + 1,
            tries=_job.c.tries + 1,
            worker=worker,
            lease_until=until,
            progress=0.0,
        )
        .returning(_job)
    )
    rows = sorted(
        connection.execute(taken).all(), key=lambda row: (-row.priority, row.due_at, row.seq)
    )
    attempts = [
        {"job_id": row.id, "number": row.attempt, "worker": worker, "started_at": now}
        for row in rows
    ]
    if attempts:
        connection.execute(insert(_attempt), attempts)
    return [Lease(_as_job(row), row.attempt, worker, until, now, row.tries) for row in rows]


def _introduce(connection: Connection, worker: WorkerInfo, now: float) -> None:
    values = worker.model_dump(exclude={"jobs"}) | {"heartbeat_at": now}
    known = update(_worker).where(_worker.c.id == worker.id).values(values)
    if connection.execute(known).rowcount == 0:
        connection.execute(insert(_worker).values(values))
        oldest = now - WORKER_MEMORY_S
        connection.execute(delete(_worker).where(_worker.c.heartbeat_at < oldest))


def _extend(
    connection: Connection, leases: Sequence[Lease], until: float
) -> dict[tuple[str, int], Beat]:
    if not leases:
        return {}
    keys = [(lease.job.id, lease.attempt) for lease in leases]
    held = and_(tuple_(_job.c.id, _job.c.attempt).in_(keys), _is_running)
    rows = connection.execute(
        update(_job)
        .where(held)
        .values(lease_until=until)
        .returning(_job.c.id, _job.c.attempt, _job.c.is_cancel_requested)
    )
    return {
        (row.id, row.attempt): Beat.CANCEL if row.is_cancel_requested else Beat.HELD for row in rows
    }


def _set_paused(connection: Connection, *, is_paused: bool) -> None:
    known = update(_control).where(_control.c.queue == ALL_QUEUES).values(is_paused=is_paused)
    if connection.execute(known).rowcount == 0:
        row = insert(_control).values(queue=ALL_QUEUES, is_paused=is_paused)
        connection.execute(row)


def _depth(connection: Connection, now: float) -> dict[JobState, int]:
    depth = dict.fromkeys(JobState, 0)
    # Two counts along an index: grouping by the state as callers see it would sort all jobs.
    for row in connection.execute(select(_job.c.state, func.count()).group_by(_job.c.state)):
        depth[JobState(row[0])] = row[1]
    is_due = and_(_job.c.state == JobState.SCHEDULED, _job.c.due_at <= now)
    due = connection.scalar(select(func.count()).where(is_due)) or 0
    depth[JobState.SCHEDULED] -= due
    depth[JobState.QUEUED] += due
    return depth


def _quiet_s(connection: Connection, queues: Sequence[str], now: float) -> float:
    """Seconds until a claim may find something, as far as the database knows now."""
    times = [connection.scalar(select(func.min(_job.c.lease_until)))]
    if not connection.scalar(select(_is_paused)):
        if connection.execute(_chosen(1, queues)).first():
            return 0.0
        is_wanted = [_job.c.queue.in_(queues)] if queues else []
        is_scheduled = _job.c.state == JobState.SCHEDULED
        times.append(
            connection.scalar(select(func.min(_job.c.due_at)).where(is_scheduled, *is_wanted))
        )
    return max(0.0, min((each for each in times if each is not None), default=math.inf) - now)
