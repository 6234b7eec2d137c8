"""Rows of the job table as the values that callers know, and back."""

import json
import math
from typing import Final, NamedTuple

from pydantic import JsonValue

from capturekit.database.prepared import Row
from capturekit.queue.base import (
    JOB_VERSION,
    Attempt,
    Job,
    JobError,
    JobState,
    JobStatus,
    Lease,
    RetryPolicy,
    first_state,
    unreadable,
)

UNREADABLE: Final = (ValueError, TypeError, RecursionError)
"""What reading a row may raise that somebody else wrote; the last for JSON that is too deep."""

BLOCKED: Final = "blocked"
"""The stored state of a queued job whose concurrency key has no turn left for it."""


class JobRow(NamedTuple):
    """A row of the job table; ``COLUMNS`` selects it."""

    seq: int
    id: str
    kind: str
    queue: str
    batch: str | None
    payload: str
    priority: int
    delay_s: float
    timeout_s: float
    max_attempts: int
    backoff_base_s: float
    backoff_cap_s: float
    state: str
    due_at: float
    queued_at: float
    finished_at: float | None
    attempt: int
    tries: int
    worker: str | None
    started_at: float | None
    lease_until: float | None
    progress: float
    result: str | None
    error: str | None
    is_cancel_requested: bool
    version: int
    attempts: str
    unique_key: str | None
    unique_for_s: float | None
    concurrency_key: str | None
    max_running: int


COLUMNS: Final = ", ".join(JobRow._fields)

_STATES: Final = frozenset(JobState)

NEW_COLUMNS: Final = (
    *("id", "kind", "queue", "batch", "payload", "priority", "delay_s", "timeout_s"),
    *("max_attempts", "backoff_base_s", "backoff_cap_s", "state", "due_at", "queued_at"),
    *("version", "unique_key", "unique_for_s", "held_key", "concurrency_key", "max_running"),
)
"""Of a job that was just submitted; the rest have defaults."""


def new_row(job: Job, now: float) -> Row:
    """The values of ``NEW_COLUMNS``."""
    retry = job.retry
    return (
        *(job.id, job.kind, job.queue, job.batch, dumped(job.payload), job.priority),
        *(job.delay_s, job.timeout_s, retry.max_attempts, retry.base_s, retry.cap_s),
        *(stored_state(first_state(job), job.concurrency_key), now + job.delay_s, now),
        *(JOB_VERSION, job.unique_key, job.unique_for_s, job.unique_key),
        *(job.concurrency_key, job.max_running),
    )


def stored_state(state: JobState, concurrency_key: str | None) -> str:
    """As what a job is stored that enters this state: with a key it waits for its turn."""
    is_blocked = state is JobState.QUEUED and concurrency_key is not None
    return BLOCKED if is_blocked else state.value


def dumped(value: JsonValue) -> str | None:
    """The value as JSON; None as NULL."""
    return None if value is None else json.dumps(value, separators=(",", ":"))


def line(lease: Lease, now: float, error: JobError | None = None) -> str:
    """The lease's attempt, over now, as a line of ``attempts``."""
    return _line(lease.attempt, lease.worker, lease.started_at, now, error)


def line_of(row: JobRow, now: float, error: JobError) -> str:
    """The row's newest attempt, over now, as a line of ``attempts``."""
    return _line(row.attempt, row.worker or "", row.started_at or now, now, error)


def _line(number: int, worker: str, started_at: float, now: float, error: JobError | None) -> str:
    attempt = Attempt(
        number=number, worker=worker, started_at=started_at, finished_at=now, error=error
    )
    return attempt.model_dump_json() + "\n"


def policy(row: JobRow) -> RetryPolicy:
    """How often the job is tried. Raises one of ``UNREADABLE``."""
    return RetryPolicy(
        max_attempts=row.max_attempts, base_s=row.backoff_base_s, cap_s=row.backoff_cap_s
    )


def as_lease(row: JobRow) -> Lease:
    """The lease of a job that was just taken. Raises one of ``UNREADABLE``."""
    if row.version != JOB_VERSION:
        raise ValueError(f"it is of version {row.version}, and this one knows {JOB_VERSION}")
    job = Job(
        id=row.id,
        kind=row.kind,
        payload=json.loads(row.payload),
        queue=row.queue,
        priority=row.priority,
        delay_s=row.delay_s,
        retry=policy(row),
        timeout_s=row.timeout_s,
        batch=row.batch,
        unique_key=row.unique_key,
        unique_for_s=row.unique_for_s,
        concurrency_key=row.concurrency_key,
        max_running=row.max_running,
    )
    worker, started_at, until = row.worker or "", row.started_at or 0.0, row.lease_until or 0.0
    return Lease(job, row.attempt, worker, until, started_at, row.tries)


def number(value: object, default: float = 0.0) -> float:
    """The number in a column of numbers, in which SQLite keeps any text that it is given."""
    return value if isinstance(value, (int, float)) else default


def state_of(stored: str, due_at: float, now: float) -> JobState:
    """The state that callers see: scheduled jobs come due by themselves.

    One that is unknown is over: nobody will ever be handed the job.
    """
    is_due = stored == JobState.SCHEDULED and number(due_at, math.inf) <= now
    if is_due or stored == BLOCKED:
        return JobState.QUEUED
    return JobState(stored) if stored in _STATES else JobState.FAILED


def as_status(row: JobRow, now: float) -> JobStatus:
    """All that is known about the job; what cannot be read is left out, and said as its error."""
    try:
        return _as_status(row, now)
    except UNREADABLE as error:
        return JobStatus(
            id=str(row.id),
            kind=str(row.kind),
            queue=str(row.queue),
            state=state_of(row.state, row.due_at, now),
            priority=int(number(row.priority)),
            payload=_payload(row.payload),
            queued_at=number(row.queued_at),
            error=unreadable(str(error), row.payload),
        )


def _as_status(row: JobRow, now: float) -> JobStatus:
    state, attempts = state_of(row.state, row.due_at, now), _attempts(row)
    return JobStatus(
        id=row.id,
        kind=row.kind,
        queue=row.queue,
        state=state,
        priority=row.priority,
        payload=_payload(row.payload),
        batch=row.batch,
        progress=row.progress,
        attempts=attempts,
        queued_at=row.queued_at,
        started_at=attempts[-1].started_at if attempts else None,
        finished_at=row.finished_at,
        next_retry_at=row.due_at if state is JobState.SCHEDULED else None,
        result=None if row.result is None else json.loads(row.result),
        error=None if row.error is None else JobError.model_validate_json(row.error),
        is_cancel_requested=bool(row.is_cancel_requested),
    )


def _attempts(row: JobRow) -> tuple[Attempt, ...]:
    ended = [Attempt.model_validate_json(each) for each in row.attempts.split("\n") if each]
    if row.started_at is not None:
        worker = row.worker or ""
        ended.append(Attempt(number=row.attempt, worker=worker, started_at=row.started_at))
    return tuple(ended)


def _payload(text: str) -> dict[str, JsonValue]:
    """The payload; nothing of one that cannot be read, which is told by the job's error."""
    try:
        payload = json.loads(text)
    except UNREADABLE:
        return {}
    return payload if isinstance(payload, dict) else {}
