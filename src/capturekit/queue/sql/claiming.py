"""Jobs are handed out: those that came due are made ready, and the best are taken."""

import heapq
import math
from collections.abc import Sequence
from itertools import islice
from typing import Final

from sqlalchemy import Connection

from capturekit.queue.base import JobState, Lease, unreadable
from capturekit.queue.sql.ending import lose
from capturekit.queue.sql.rows import COLUMNS, UNREADABLE, JobRow, as_lease, number
from capturekit.queue.sql.statement import Statement, several
from capturekit.queue.sql.tables import ALL_QUEUES
from capturekit.queue.sql.transaction import Transaction
from capturekit.queue.sql.turns import give_back

MAX_PER_WRITE: Final = 1000
"""Jobs that one transaction moves or prunes at most, so that no write takes long.

A claim makes that many scheduled jobs ready; should more come due at one moment, the
priorities of the rest count from the next claim on.
"""

_PROBE: Final = Statement(
    """
    SELECT (SELECT min(lease_until) FROM job WHERE lease_until IS NOT NULL),
        (
            SELECT min(due_at) FROM job {BY:ix_job_scheduled}
            WHERE state = 'scheduled' {IF_NUMBER:due_at}
        ),
        EXISTS (SELECT 1 FROM queue_control WHERE is_paused)
    """
)
_PAUSED: Final = Statement("SELECT queue FROM queue_control WHERE is_paused ORDER BY queue")
_READY_QUEUES: Final = Statement(
    # Walks from queue to queue along the index.
    """
    WITH RECURSIVE known (queue) AS (
        SELECT min(queue) FROM job {BY:ix_job_ready_queue} WHERE state = 'queued'
        UNION ALL
        SELECT (
            SELECT min(queue) FROM job {BY:ix_job_ready_queue}
            WHERE state = 'queued' AND queue > known.queue
        ) FROM known WHERE known.queue IS NOT NULL
    )
    SELECT queue FROM known WHERE queue IS NOT NULL
    """
)
_OVERDUE: Final = Statement(
    f"""
    SELECT {COLUMNS} FROM job {{BY:ix_job_lease_until}}
    WHERE lease_until <= :now AND lease_until IS NOT NULL
    ORDER BY lease_until LIMIT :limit {{SKIP_LOCKED}}
    """  # noqa: S608  # names of columns
)
_PROMOTE: Final = Statement(
    """
    UPDATE job SET state = CASE WHEN concurrency_key IS NULL THEN 'queued' ELSE 'blocked' END
    WHERE seq IN (
        SELECT seq FROM job {BY:ix_job_scheduled}
        WHERE state = 'scheduled' AND due_at <= :now
        ORDER BY due_at LIMIT :limit {SKIP_LOCKED}
    )
    RETURNING queue, concurrency_key, state
    """
)
_BEST_OF_QUEUE: Final = Statement(
    """
    SELECT -priority, due_at + 0, seq FROM job {BY:ix_job_ready_queue}
    WHERE state = 'queued' AND queue = :queue
    ORDER BY priority DESC, due_at, seq LIMIT :limit {SKIP_LOCKED}
    """
)
_SET_ASIDE: Final = Statement(
    """
    UPDATE job SET state = 'failed', finished_at = :now, error = :error, tries = tries - 1,
        worker = NULL, started_at = NULL, lease_until = NULL,
        held_key = CASE WHEN queued_at + unique_for_s > :now THEN held_key END
    WHERE seq = :seq
    """
)


def _take(chosen: str) -> Statement:
    return Statement(
        # Chosen once, before the update: Postgres may run a subquery again for every row.
        f"""
        WITH chosen AS MATERIALIZED ({chosen})
        UPDATE job SET state = 'running', attempt = attempt + 1, tries = tries + 1,
            worker = :worker, started_at = :now, lease_until = :until, progress = 0
        WHERE seq IN (SELECT seq FROM chosen)
        RETURNING {COLUMNS}
        """  # noqa: S608  # texts of this module
    )


_TAKE: Final = _take(
    """
    SELECT seq FROM job {BY:ix_job_ready} WHERE state = 'queued'
    ORDER BY priority DESC, due_at, seq LIMIT :limit {SKIP_LOCKED}
    """
)
_TAKE_OF_QUEUE: Final = _take(
    """
    SELECT seq FROM job {BY:ix_job_ready_queue} WHERE state = 'queued' AND queue = :queue
    ORDER BY priority DESC, due_at, seq LIMIT :limit {SKIP_LOCKED}
    """
)
_TAKE_THESE: Final = _take("SELECT seq FROM job WHERE seq {AMONG:seqs} AND state || '' = 'queued'")
_TAKE_BY_ID: Final = _take(
    "SELECT seq FROM job WHERE id = :id AND state IN ('queued', 'blocked') {SKIP_LOCKED}"
)
_ANY_READY: Final = Statement(
    # In order, so that Postgres walks the index and does not read all of it into a bitmap.
    """
    SELECT 1 FROM job {BY:ix_job_ready} WHERE state = 'queued'
    ORDER BY priority DESC, due_at, seq LIMIT 1
    """
)
_ANY_OF_QUEUE: Final = Statement(
    """
    SELECT 1 FROM job {BY:ix_job_ready_queue} WHERE state = 'queued' AND queue = :queue
    ORDER BY priority DESC, due_at, seq LIMIT 1
    """
)
_QUEUE_OF: Final = Statement("SELECT queue FROM job WHERE id = :id")


def paused_queues(connection: Connection) -> list[str]:
    """Names of queues that are paused, with ``ALL_QUEUES`` among them if all are."""
    return [queue for (queue,) in _PAUSED.rows(connection)]


def open_queues(
    connection: Connection, queues: Sequence[str], *, has_pauses: bool
) -> Sequence[str] | None:
    """Queues to take from, the paused left out; None for all, whatever they are called."""
    if not has_pauses:
        return list(dict.fromkeys(queues)) or None
    paused = paused_queues(connection)
    if ALL_QUEUES in paused:
        return []
    known = queues or [queue for (queue,) in _READY_QUEUES.rows(connection)]
    return [queue for queue in dict.fromkeys(known) if queue not in paused]


def claim(
    change: Transaction,
    worker: str,
    *,
    limit: int,
    lease_s: float,
    queues: Sequence[str],
    job_id: str | None,
    is_tended: bool,
) -> list[Lease] | None:
    """As ``QueueBackend.claim``. None when ``tend`` is needed first and was not done."""
    lease_until, due_at, has_pauses = _PROBE.rows(change.connection)[0]
    if not is_tended and min(lease_until or math.inf, due_at or math.inf) <= change.now:
        return None
    held = {"worker": worker, "now": change.now, "until": change.now + lease_s}
    if job_id is not None:
        return _keep(change, _take_by_id(change, job_id, queues, held))
    sources = open_queues(change.connection, queues, has_pauses=bool(has_pauses))
    leases: list[Lease] = []
    while len(leases) < limit:
        rows = _take_best(change, sources, limit - len(leases), held)
        kept = _keep(change, rows)
        leases += kept
        # All that were found are kept, so there are no more; else others may take their place.
        if len(kept) == len(rows):
            break
    return leases


def tend(change: Transaction) -> None:
    """Put back jobs whose lease ran out, and make ready those that came due."""
    for row in _OVERDUE.rows(change.connection, now=change.now, limit=MAX_PER_WRITE):
        lose(change, JobRow._make(row))
    for queue, key, state in _PROMOTE.rows(change.connection, now=change.now, limit=MAX_PER_WRITE):
        change.moved(queue, key, JobState.SCHEDULED, state)


def quiet_s(connection: Connection, queues: Sequence[str], now: float) -> float:
    """Seconds until a claim may find something, as far as the database knows now."""
    lease_until, due_at, has_pauses = _PROBE.rows(connection)[0]
    sources = open_queues(connection, queues, has_pauses=bool(has_pauses))
    if _is_ready(connection, sources):
        return 0.0
    if has_pauses and ALL_QUEUES in paused_queues(connection):
        due_at = None
    times = [each for each in (lease_until, due_at) if each is not None]
    return max(0.0, min(times, default=math.inf) - now)


def _is_ready(connection: Connection, sources: Sequence[str] | None) -> bool:
    if sources is None:
        return _ANY_READY.first(connection) is not None
    return any(_ANY_OF_QUEUE.first(connection, queue=queue) for queue in sources)


def _take_by_id(
    change: Transaction, job_id: str, queues: Sequence[str], held: dict[str, object]
) -> list[JobRow]:
    if queues:
        found = _QUEUE_OF.first(change.connection, id=job_id)
        if found is None or found[0] not in queues:
            return []
    return [JobRow._make(row) for row in _TAKE_BY_ID.rows(change.connection, id=job_id, **held)]


def _take_best(
    change: Transaction, sources: Sequence[str] | None, limit: int, held: dict[str, object]
) -> list[JobRow]:
    """The best of these queues, taken, best first. Every step walks an index."""
    connection = change.connection
    if sources is None:
        rows = _TAKE.rows(connection, limit=limit, **held)
    elif len(sources) == 1:
        rows = _TAKE_OF_QUEUE.rows(connection, queue=sources[0], limit=limit, **held)
    else:
        parts = (_BEST_OF_QUEUE.rows(connection, queue=queue, limit=limit) for queue in sources)
        best = [seq for _, _, seq in islice(heapq.merge(*parts), limit)]
        rows = _TAKE_THESE.rows(connection, seqs=several(connection, best), **held) if best else []
    taken = [JobRow._make(row) for row in rows]
    return sorted(taken, key=_turn)


def _turn(row: JobRow) -> tuple[float, float, int]:
    return -number(row.priority), number(row.due_at), row.seq


def _keep(change: Transaction, rows: Sequence[JobRow]) -> list[Lease]:
    """Leases of the jobs taken, without those too many for their key and the unreadable."""
    keyed = [(row.concurrency_key, row.seq, row.max_running) for row in rows if row.concurrency_key]
    back = give_back(change.connection, keyed) if keyed else set()
    leases = []
    for row in rows:
        if row.seq in back:
            continue
        try:
            leases.append(as_lease(row))
        except UNREADABLE as error:
            _set_aside(change, row, str(error))
        else:
            change.change.moved(row.queue, JobState.QUEUED, JobState.RUNNING)
    return leases


def _set_aside(change: Transaction, row: JobRow, why: str) -> None:
    error = unreadable(why, row.payload).model_dump_json()
    _SET_ASIDE.count(change.connection, seq=row.seq, now=change.now, error=error)
    change.moved(row.queue, row.concurrency_key, JobState.QUEUED, JobState.FAILED)
