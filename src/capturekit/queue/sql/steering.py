"""Jobs and queues are told what to do: cancel, retry, pause, forget."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from capturekit.errors import UnknownJob
from capturekit.queue.base import CancelOutcome, JobState, JobStatus
from capturekit.queue.sql import tally
from capturekit.queue.sql.claiming import MAX_PER_WRITE
from capturekit.queue.sql.ending import lose
from capturekit.queue.sql.locks import LockKind, lock_names
from capturekit.queue.sql.rows import COLUMNS, JobRow, as_status, stored_state
from capturekit.queue.sql.statement import Statement, several
from capturekit.queue.sql.submitting import free_lapsed_keys, holder
from capturekit.queue.sql.tables import ALL_QUEUES
from capturekit.queue.sql.transaction import Transaction

_JOB: Final = Statement(f"SELECT {COLUMNS} FROM job WHERE id = :id")  # noqa: S608
_JOB_TO_CHANGE: Final = Statement(
    f"SELECT {COLUMNS} FROM job WHERE id = :id {{FOR_UPDATE}}"  # noqa: S608
)
_OF_BATCH: Final = Statement(
    """
    SELECT seq, queue, concurrency_key, state FROM job
    WHERE batch = :batch AND batch IS NOT NULL AND seq > :after
    ORDER BY seq LIMIT :limit {FOR_UPDATE}
    """
)
_CANCEL: Final = Statement(
    """
    UPDATE job SET state = 'cancelled', is_cancel_requested = TRUE, finished_at = :now,
        held_key = CASE WHEN queued_at + unique_for_s > :now THEN held_key END
    WHERE seq {AMONG:seqs}
    """
)
_ASK_TO_STOP: Final = Statement("UPDATE job SET is_cancel_requested = TRUE WHERE seq {AMONG:seqs}")
_RETRY: Final = Statement(
    """
    UPDATE job SET state = :state, due_at = :now, finished_at = NULL, tries = 0, progress = 0,
        is_cancel_requested = FALSE, held_key = unique_key
    WHERE seq = :seq
    """
)
_FAILED: Final = Statement(
    f"""
    SELECT {COLUMNS} FROM job {{BY:ix_job_state}} WHERE state = 'failed' AND seq > :after
    AND queue = coalesce(:queue, queue)
    AND (batch = :batch OR CAST(:batch AS text) IS NULL)
    ORDER BY seq LIMIT :limit {{FOR_UPDATE}}
    """  # noqa: S608
)
_HELD_BY: Final = Statement(
    # Not LIKE, which does not tell upper case from lower case on SQLite.
    f"""
    SELECT {COLUMNS} FROM job {{BY:ix_job_state}}
    WHERE state = 'running' AND substr(worker, 1, :length) = :prefix {{SKIP_LOCKED}}
    """  # noqa: S608
)
_FORGET_WORKERS: Final = Statement("DELETE FROM worker WHERE substr(id, 1, :length) = :prefix")
_PAUSE: Final = Statement(
    "INSERT INTO queue_control (queue, is_paused) VALUES (:queue, TRUE) ON CONFLICT DO NOTHING"
)
_RESUME: Final = Statement("DELETE FROM queue_control WHERE queue = coalesce(:queue, queue)")
_PRUNE: Final = Statement(
    """
    DELETE FROM job WHERE seq IN (
        SELECT seq FROM job {BY:ix_job_finished_at}
        WHERE finished_at < :before AND finished_at IS NOT NULL
        AND NOT coalesce(held_key IS NOT NULL AND queued_at + unique_for_s > :now, FALSE)
        ORDER BY finished_at, seq LIMIT :limit {SKIP_LOCKED}
    )
    RETURNING queue, state
    """
)
_WAITING: Final = ("queued", "blocked", "scheduled")


def cancel(change: Transaction, job_id: str) -> CancelOutcome:
    """As ``QueueBackend.cancel``."""
    row = _known(change.connection, job_id, _JOB_TO_CHANGE)
    return _cancel(change, [(row.seq, row.queue, row.concurrency_key, row.state)])[0]


def cancel_some(
    change: Transaction, batch: str, after: int
) -> tuple[list[CancelOutcome], int | None]:
    """Cancel the jobs of the batch that were submitted after job number ``after``.

    Some of them: what happened to each, and how far it came; None at the end.
    """
    rows = _OF_BATCH.rows(change.connection, batch=batch, after=after, limit=MAX_PER_WRITE)
    outcomes = _cancel(change, [(row[0], row[1], row[2], row[3]) for row in rows])
    return outcomes, rows[-1][0] if len(rows) == MAX_PER_WRITE else None


def _cancel(
    change: Transaction, jobs: Sequence[tuple[int, str, str | None, str]]
) -> list[CancelOutcome]:
    connection = change.connection
    waiting = [seq for seq, _, _, state in jobs if state in _WAITING]
    if waiting:
        _CANCEL.count(connection, seqs=several(connection, waiting), now=change.now)
    running = [seq for seq, _, _, state in jobs if state == JobState.RUNNING]
    if running:
        _ASK_TO_STOP.count(connection, seqs=several(connection, running))
    for _, queue, key, state in jobs:
        if state in _WAITING:
            change.moved(queue, key, state, JobState.CANCELLED)
    return [_outcome(state) for _, _, _, state in jobs]


def _outcome(state: str) -> CancelOutcome:
    if state in _WAITING:
        return CancelOutcome.CANCELLED
    is_running = state == JobState.RUNNING
    return CancelOutcome.CANCELLING if is_running else CancelOutcome.ALREADY_FINISHED


def retry(change: Transaction, job_id: str) -> JobStatus:
    """As ``QueueBackend.retry``."""
    row = _known(change.connection, job_id)
    if row.unique_key is not None:
        free_lapsed_keys(change, {row.unique_key})
    row = _known(change.connection, job_id, _JOB_TO_CHANGE)
    if row.state in (JobState.FAILED, JobState.CANCELLED):
        _retry(change, row)
    return as_status(_known(change.connection, job_id), change.now)


def retry_some(
    change: Transaction, queue: str | None, batch: str | None, after: int
) -> tuple[int, int | None]:
    """Retry failed jobs that were submitted after job number ``after``.

    Some of them: how many, and how far it came; None at the end.
    """
    found = _FAILED.rows(
        change.connection, queue=queue, batch=batch, after=after, limit=MAX_PER_WRITE
    )
    rows = [JobRow._make(row) for row in found]
    free_lapsed_keys(change, {row.unique_key for row in rows if row.unique_key is not None})
    count = sum(_retry(change, row) for row in rows)
    return count, rows[-1].seq if len(rows) == MAX_PER_WRITE else None


def _retry(change: Transaction, row: JobRow) -> bool:
    if row.unique_key is not None and holder(change, row.unique_key) not in (None, row.id):
        return False
    state = stored_state(JobState.QUEUED, row.concurrency_key)
    _RETRY.count(change.connection, seq=row.seq, state=state, now=change.now)
    change.moved(row.queue, row.concurrency_key, row.state, state)
    return True


def expire_leases(change: Transaction, worker_prefix: str, forgiven: int) -> int:
    """As ``SqlQueue.expire_leases``."""
    prefix = {"prefix": worker_prefix, "length": len(worker_prefix)}
    rows = [JobRow._make(row) for row in _HELD_BY.rows(change.connection, **prefix)]
    for row in rows:
        lose(change, row, is_forgiven=row.attempt - row.tries < forgiven)
    _FORGET_WORKERS.count(change.connection, **prefix)
    return len(rows)


def pause(connection: Connection, queue: str | None) -> None:
    """Hand out nothing, or nothing from this queue."""
    _PAUSE.count(connection, queue=ALL_QUEUES if queue is None else queue)


def resume(connection: Connection, queue: str | None) -> None:
    """Hand out jobs again: of this queue, or of all."""
    _RESUME.count(connection, queue=queue)


def prune(change: Transaction, older_than_s: float, keep: int | None) -> int:
    """Forget up to ``MAX_PER_WRITE`` jobs that ended, and say how many."""
    # Two who count at once would each forget what is beyond ``keep``.
    lock_names(change.connection, LockKind.PRUNE, ["prune"])
    connection, now = change.connection, change.now
    gone = _PRUNE.rows(connection, before=now - older_than_s, now=now, limit=MAX_PER_WRITE)
    if keep is not None and len(gone) < MAX_PER_WRITE:
        beyond = tally.ended(connection) - len(gone) - keep
        limit = min(beyond, MAX_PER_WRITE - len(gone))
        if limit > 0:
            gone += _PRUNE.rows(connection, before=float("inf"), now=now, limit=limit)
    for queue, state in gone:
        change.change.forgotten(queue, state)
    return len(gone)


def _known(connection: Connection, job_id: str, statement: Statement = _JOB) -> JobRow:
    row = statement.first(connection, id=job_id)
    if row is None:
        raise UnknownJob(job_id)
    return JobRow._make(row)
