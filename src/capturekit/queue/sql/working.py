"""Workers tell that they live, and hear what was asked of them."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from capturekit.database.prepared import Row
from capturekit.errors import UnknownWorker
from capturekit.queue.base import (
    WORKER_MEMORY_S,
    Beat,
    Lease,
    Orders,
    WorkerInfo,
    checked_concurrency,
)
from capturekit.queue.sql.statement import Statement, pairs

_INTRODUCE: Final = Statement(
    """
    INSERT INTO worker (id, host, pid, concurrency, started_at, heartbeat_at)
    VALUES (:id, :host, :pid, :concurrency, :started_at, :heartbeat_at)
    ON CONFLICT (id) DO UPDATE SET host = excluded.host, pid = excluded.pid,
        concurrency = excluded.concurrency, started_at = excluded.started_at,
        heartbeat_at = excluded.heartbeat_at
    """
)
_FORGET_SILENT: Final = Statement("DELETE FROM worker WHERE heartbeat_at < :oldest")
_FORGET: Final = Statement("DELETE FROM worker WHERE id = :id")
_RESIZE: Final = Statement(
    "UPDATE worker SET wanted = :wanted WHERE id = :id AND heartbeat_at >= :oldest"
)
_WORKERS: Final = Statement(
    """
    SELECT id, host, pid, concurrency, started_at, heartbeat_at FROM worker
    WHERE heartbeat_at >= :oldest ORDER BY id
    """
)
_HELD: Final = Statement(
    "SELECT worker, id FROM job {BY:ix_job_state} WHERE state = 'running' ORDER BY seq"
)
_WANTED: Final = Statement("SELECT wanted FROM worker WHERE id = :id")
_BEATS: Final = Statement(
    """
    SELECT id, attempt, is_cancel_requested FROM job
    WHERE (id, attempt) IN ({PAIRS:held}) AND state = 'running'
    """
)
_EXTEND: Final = Statement(
    """
    UPDATE job SET lease_until = :until
    WHERE (id, attempt) IN ({PAIRS:held}) AND state = 'running'
    RETURNING id, attempt, is_cancel_requested
    """
)
_REPORT: Final = Statement(
    """
    UPDATE job SET progress = :progress
    WHERE id = :id AND attempt = :attempt AND state = 'running'
    """
)


def introduce(connection: Connection, worker: WorkerInfo, now: float) -> None:
    """Make the worker known as of now, and forget those silent for long."""
    values = worker.model_dump(exclude={"jobs"}) | {"heartbeat_at": now}
    _INTRODUCE.count(connection, **values)
    _FORGET_SILENT.count(connection, oldest=now - WORKER_MEMORY_S)


def forget(connection: Connection, worker_id: str) -> None:
    """Strike the worker off the list."""
    _FORGET.count(connection, id=worker_id)


def resize(connection: Connection, worker_id: str, concurrency: int, now: float) -> None:
    """As ``QueueBackend.resize``."""
    wanted, oldest = checked_concurrency(concurrency), now - WORKER_MEMORY_S
    if not _RESIZE.count(connection, id=worker_id, wanted=wanted, oldest=oldest):
        raise UnknownWorker(worker_id)


def workers(connection: Connection, now: float) -> list[WorkerInfo]:
    """As ``QueueBackend.workers``."""
    known = _WORKERS.rows(connection, oldest=now - WORKER_MEMORY_S)
    held: dict[str, list[str]] = {}
    for worker, job_id in _HELD.rows(connection):
        held.setdefault(worker, []).append(job_id)
    names = ("id", "host", "pid", "concurrency", "started_at", "heartbeat_at")
    return [
        WorkerInfo(**dict(zip(names, row, strict=True)), jobs=tuple(held.get(row[0], ())))
        for row in known
    ]


def orders(connection: Connection, worker_id: str, leases: Sequence[Lease]) -> Orders:
    """As ``QueueBackend.orders``."""
    wanted = _WANTED.first(connection, id=worker_id)
    rows = _BEATS.rows(connection, held=_pairs(leases)) if leases else []
    return Orders(tuple(_beats(rows, leases)), None if wanted is None else wanted[0])


def extend(connection: Connection, leases: Sequence[Lease], until: float) -> list[Beat]:
    """Extend the leases that are still held; the answer for each, in order."""
    rows = _EXTEND.rows(connection, held=_pairs(leases), until=until) if leases else []
    return _beats(rows, leases)


def report(connection: Connection, lease: Lease, progress: float) -> None:
    """As ``QueueBackend.report``."""
    _REPORT.count(connection, id=lease.job.id, attempt=lease.attempt, progress=progress)


def _pairs(leases: Sequence[Lease]) -> str:
    return pairs((lease.job.id, lease.attempt) for lease in leases)


def _beats(rows: Sequence[Row], leases: Sequence[Lease]) -> list[Beat]:
    found = {
        (job_id, attempt): Beat.CANCEL if is_cancel_requested else Beat.HELD
        for job_id, attempt, is_cancel_requested in rows
    }
    return [found.get((lease.job.id, lease.attempt), Beat.LOST) for lease in leases]
