"""What a queue tells about its jobs and workers. Reads only."""

from collections.abc import Sequence
from functools import cache
from typing import Final

from sqlalchemy import Connection

from capturekit.errors import UnknownBatch, UnknownJob
from capturekit.queue.base import (
    RATE_WINDOWS_S,
    BatchStatus,
    JobState,
    JobStatus,
    QueueStats,
    empty_depth,
)
from capturekit.queue.sql import tally
from capturekit.queue.sql.claiming import paused_queues
from capturekit.queue.sql.rows import BLOCKED, COLUMNS, JobRow, as_status, state_of
from capturekit.queue.sql.statement import Statement
from capturekit.queue.sql.tables import ALL_QUEUES

_JOB: Final = Statement(f"SELECT {COLUMNS} FROM job WHERE id = :id")  # noqa: S608
_BATCH: Final = Statement(
    """
    SELECT state, due_at <= :now, count(*) FROM job
    WHERE batch = :batch AND batch IS NOT NULL GROUP BY 1, 2
    """
)
_OLDEST: Final = Statement(
    """
    SELECT (
        SELECT min(due_at) FROM job {BY:ix_job_waiting}
        WHERE state IN ('queued', 'blocked') {IF_NUMBER:due_at}
    ), (
        SELECT min(due_at) FROM job {BY:ix_job_scheduled}
        WHERE state = 'scheduled' {IF_NUMBER:due_at}
    )
    """
)
_DUE: Final = Statement(
    """
    SELECT queue, count(*) FROM job {BY:ix_job_scheduled}
    WHERE state = 'scheduled' AND due_at <= :now GROUP BY queue
    """
)


def status(connection: Connection, job_id: str, now: float) -> JobStatus:
    """As ``QueueBackend.status``."""
    row = _JOB.first(connection, id=job_id)
    if row is None:
        raise UnknownJob(job_id)
    return as_status(JobRow._make(row), now)


def statuses(
    connection: Connection, states: Sequence[JobState], batch: str | None, limit: int, now: float
) -> list[JobStatus]:
    """As ``QueueBackend.statuses``. Each stored state is walked along an index by itself."""
    found: list[JobRow] = []
    for where, index in _conditions(states).items():
        statement = _newest(where, index if batch is None else "ix_job_batch")
        rows = statement.rows(connection, batch=batch, limit=limit, now=now)
        found += map(JobRow._make, rows)
    newest = sorted(found, key=lambda row: row.seq, reverse=True)[:limit]
    return [as_status(row, now) for row in newest]


def _conditions(states: Sequence[JobState]) -> dict[str, str]:
    """Of jobs in these states as callers see them, and the index to walk for each."""
    if not states:
        return {"TRUE": ""}
    stored = set(states) - {JobState.SCHEDULED}
    wanted = {f"state = '{state}'": "ix_job_state" for state in sorted(stored)}
    if JobState.QUEUED in states:
        wanted[f"state = '{BLOCKED}'"] = "ix_job_state"
        # Came due and not claimed since: few.
        wanted["state = 'scheduled' AND due_at <= :now"] = "ix_job_scheduled"
    if JobState.SCHEDULED in states:
        wanted["state = 'scheduled' AND due_at > :now"] = "ix_job_state"
    return wanted


@cache
def _newest(where: str, index: str) -> Statement:
    by = f"{{BY:{index}}}" if index else ""
    of_batch = "batch = :batch AND batch IS NOT NULL AND" if index == "ix_job_batch" else ""
    return Statement(
        # Texts of this module.
        f"SELECT {COLUMNS} FROM job {by} WHERE {of_batch} {where} ORDER BY seq DESC LIMIT :limit"  # noqa: S608
    )


def batch(connection: Connection, batch_id: str, now: float) -> BatchStatus:
    """As ``QueueBackend.batch``."""
    depth = empty_depth()
    for stored, is_due, count in _BATCH.rows(connection, batch=batch_id, now=now):
        depth[state_of(stored, now if is_due else now + 1, now)] += count
    if not any(depth.values()):
        raise UnknownBatch(batch_id)
    return BatchStatus(id=batch_id, depth=depth)


def stats(connection: Connection, now: float) -> QueueStats:
    """As ``QueueBackend.stats``. Costs the same however many jobs there are.

    Only jobs that came due while nobody claimed are counted one by one.
    """
    by_queue = tally.depth_by_queue(connection)
    for queue, due in _DUE.rows(connection, now=now):
        depth = by_queue.setdefault(queue, empty_depth())
        depth[JobState.SCHEDULED] -= due
        depth[JobState.QUEUED] += due
    total = empty_depth()
    for depth in by_queue.values():
        for state, count in depth.items():
            total[state] += count
    waiting, scheduled = _OLDEST.rows(connection)[0]
    times = [at for at in (waiting, scheduled) if at is not None and at <= now]
    # Those who wait for a turn are due as of then, so the clock may have been set back.
    oldest = min(times, default=None if waiting is None else now)
    paused = paused_queues(connection)
    return QueueStats(
        depth=total,
        by_queue=by_queue,
        oldest_age_s=None if oldest is None else now - oldest,
        is_paused=ALL_QUEUES in paused,
        paused=tuple(sorted(queue for queue in paused if queue != ALL_QUEUES)),
        rates=tuple(tally.rate(connection, now, window) for window in RATE_WINDOWS_S),
    )
