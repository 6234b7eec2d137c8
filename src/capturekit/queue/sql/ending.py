"""Attempts end. A lease carries all that is needed, so each is one update and no read."""

from typing import Final

from capturekit.database.prepared import Row
from capturekit.errors import LeaseLost
from capturekit.queue.base import (
    JobError,
    JobState,
    Lease,
    RetryPolicy,
    state_after_failure,
    worker_lost,
)
from capturekit.queue.sql.rows import UNREADABLE, JobRow, line, line_of, policy, stored_state
from capturekit.queue.sql.statement import Statement
from capturekit.queue.sql.transaction import Transaction

_HELD: Final = "id = :id AND attempt = :attempt AND state = 'running'"
_LET_GO: Final = "worker = NULL, started_at = NULL, lease_until = NULL"
_KEY: Final = "held_key = CASE WHEN queued_at + unique_for_s > :now THEN held_key END"

# Texts of this module are put together; values never are.
_FINISH: Final = Statement(
    f"""
    UPDATE job SET state = 'succeeded', result = :result, progress = 1, finished_at = :now,
        attempts = attempts || :line, {_LET_GO}, {_KEY}
    WHERE {_HELD}
    """  # noqa: S608
)
_CANCELLED: Final = Statement(
    f"""
    UPDATE job SET state = 'cancelled', finished_at = :now, attempts = attempts || :line,
        {_LET_GO}, {_KEY}
    WHERE {_HELD}
    """  # noqa: S608
)
_FAIL: Final = Statement(
    f"""
    UPDATE job SET
        state = CASE WHEN is_cancel_requested THEN 'cancelled' ELSE :state END,
        finished_at = CASE WHEN is_cancel_requested THEN :now ELSE :finished_at END,
        held_key = CASE
            WHEN NOT (is_cancel_requested OR :is_final) OR queued_at + unique_for_s > :now
            THEN held_key END,
        due_at = coalesce(:due_at, due_at), tries = :tries, error = :error,
        attempts = attempts || :line, {_LET_GO}
    WHERE {_HELD} RETURNING state
    """  # noqa: S608
)
_RELEASE: Final = Statement(
    f"""
    UPDATE job SET
        state = CASE WHEN is_cancel_requested THEN 'cancelled' ELSE :state END,
        finished_at = CASE WHEN is_cancel_requested THEN :now END,
        held_key = CASE
            WHEN NOT is_cancel_requested OR queued_at + unique_for_s > :now THEN held_key END,
        attempts = CASE WHEN is_cancel_requested THEN attempts || :line ELSE attempts END,
        tries = CASE WHEN is_cancel_requested THEN tries ELSE tries - 1 END,
        progress = CASE WHEN is_cancel_requested THEN progress ELSE 0 END,
        due_at = coalesce(:due_at, due_at), {_LET_GO}
    WHERE {_HELD} RETURNING state
    """  # noqa: S608
)


def finish(change: Transaction, lease: Lease, result: str | None) -> None:
    """The job succeeded, with this JSON as its result. Raises LeaseLost."""
    values = _of(change, lease, result=result)
    if not _FINISH.count(change.connection, **values):
        raise _lost(lease)
    _left(change, lease, JobState.SUCCEEDED)


def cancelled(change: Transaction, lease: Lease) -> None:
    """The worker stopped the job. Raises LeaseLost."""
    if not _CANCELLED.count(change.connection, **_of(change, lease)):
        raise _lost(lease)
    _left(change, lease, JobState.CANCELLED)


def fail(change: Transaction, lease: Lease, error: JobError, *, is_permanent: bool) -> JobState:
    """The attempt failed. Raises LeaseLost."""
    error = error.model_copy(update={"attempt": lease.attempt})
    retry = lease.job.retry
    aim = state_after_failure(
        retry, lease.tries, is_permanent=is_permanent, is_cancel_requested=False
    )
    delay_s = retry.delay_s(lease.tries, change.uniform)
    values = _of(change, lease, tries=lease.tries) | _failed(change, aim, delay_s, error)
    values["line"] = line(lease, change.now, error)
    state = JobState(_state(_FAIL.first(change.connection, **values), lease))
    _left(change, lease, state)
    return state


def release(change: Transaction, lease: Lease, delay_s: float) -> None:
    """Hand the job back. Raises LeaseLost."""
    is_later = delay_s > 0
    aim = JobState.SCHEDULED if is_later else JobState.QUEUED
    values = _of(
        change,
        lease,
        state=stored_state(aim, lease.job.concurrency_key),
        due_at=change.now + delay_s if is_later else None,
    )
    _left(change, lease, _state(_RELEASE.first(change.connection, **values), lease))


def lose(change: Transaction, row: JobRow, *, is_forgiven: bool = False) -> None:
    """The worker of a running job died. The row is locked by this transaction."""
    error, retry, tries = worker_lost(row.worker or "", row.attempt), _policy(row), row.tries
    if is_forgiven:
        # A short pause all the same: should it be the job's doing, others go first.
        tries, delay_s = tries - 1, retry.delay_s(1, change.uniform)
        aim = JobState.SCHEDULED
    else:
        delay_s = retry.delay_s(tries, change.uniform)
        aim = state_after_failure(retry, tries, is_permanent=False, is_cancel_requested=False)
    values = _failed(change, aim, delay_s, error) | {"tries": tries, "now": change.now}
    values |= {"id": row.id, "attempt": row.attempt, "line": line_of(row, change.now, error)}
    for (state,) in _FAIL.rows(change.connection, **values):
        change.moved(row.queue, row.concurrency_key, JobState.RUNNING, state)


def _policy(row: JobRow) -> RetryPolicy:
    # It was read when the job was taken; should it be spoiled now, no claim may fail of it.
    try:
        return policy(row)
    except UNREADABLE:
        return RetryPolicy()


def _of(change: Transaction, lease: Lease, **more: object) -> dict[str, object]:
    return {
        "id": lease.job.id,
        "attempt": lease.attempt,
        "now": change.now,
        "line": line(lease, change.now),
        **more,
    }


def _failed(
    change: Transaction, state: JobState, delay_s: float, error: JobError
) -> dict[str, object]:
    return {
        "state": state.value,
        "is_final": state.is_final,
        "finished_at": change.now if state.is_final else None,
        "due_at": None if state.is_final else change.now + delay_s,
        "error": error.model_dump_json(),
    }


def _left(change: Transaction, lease: Lease, state: str) -> None:
    change.moved(lease.job.queue, lease.job.concurrency_key, JobState.RUNNING, state)


def _state(row: Row | None, lease: Lease) -> str:
    if row is None:
        raise _lost(lease)
    return str(row[0])


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"attempt {lease.attempt} of job {lease.job.id!r} is over")
