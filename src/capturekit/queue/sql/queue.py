"""``SqlQueue``: each method is one transaction, given to the database's threads."""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from pydantic import JsonValue
from sqlalchemy import Connection

from capturekit.database import Database
from capturekit.errors import UnknownBatch
from capturekit.queue.base import (
    DEFAULT_LEASE_S,
    NOTICE_S,
    BatchStatus,
    Beat,
    CancelOutcome,
    Job,
    JobError,
    JobState,
    JobStatus,
    Lease,
    Orders,
    QueueStats,
    Submission,
    WorkerInfo,
    checked_concurrency,
    checked_json,
    checked_progress,
)
from capturekit.queue.bell import Bell
from capturekit.queue.sql import claiming, ending, looking, steering, submitting, working
from capturekit.queue.sql.claiming import MAX_PER_WRITE
from capturekit.queue.sql.locks import LockKind, lock_names
from capturekit.queue.sql.rows import dumped
from capturekit.queue.sql.tables import metadata
from capturekit.queue.sql.tally import Tally
from capturekit.queue.sql.transaction import Transaction
from capturekit.queue.sql.turns import settle_stuck

__all__ = ["MAX_PER_WRITE", "SqlQueue"]

T = TypeVar("T")


class SqlQueue:
    """A ``QueueBackend`` in a database; the tables are ``metadata``.

    The database is opened and closed by the caller. Its schema comes from
    ``capturekit db upgrade``, or from ``create_tables`` for a queue that stands alone. At most
    ``max_waiting`` jobs are queued or scheduled at a time.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        uniform: Callable[[], float] = random.random,
        max_waiting: int | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._uniform = uniform
        self._max_waiting = max_waiting
        self._tally = Tally()
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
        """Make the queue's tables where they are missing. Many may do so at once."""

        def work(connection: Connection) -> None:
            lock_names(connection, LockKind.TABLES, [""])
            metadata.create_all(connection)

        await self._database.write(work)

    def submit_within(self, connection: Connection, jobs: Sequence[Job]) -> list[Submission]:
        """As ``submit``, as part of the caller's transaction.

        For work given to ``Database.write``. Call ``notify`` when that has returned.
        """
        change = Transaction(connection, self._clock(), self._uniform)
        answers = submitting.submit(change, jobs, self._max_waiting)
        change.close(self._tally)
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
        return await self._change(
            lambda change: steering.expire_leases(change, worker_prefix, forgiven)
        )

    async def submit(self, *jobs: Job) -> list[Submission]:
        """As ``QueueBackend.submit``."""
        if not jobs:
            return []
        return await self._change(lambda change: submitting.submit(change, jobs, self._max_waiting))

    async def status(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.status``."""
        return await self._database.read(lambda c: looking.status(c, job_id, self._clock()))

    async def statuses(
        self, *, states: Sequence[JobState] = (), batch: str | None = None, limit: int = 100
    ) -> list[JobStatus]:
        """As ``QueueBackend.statuses``."""
        return await self._database.read(
            lambda c: looking.statuses(c, states, batch, limit, self._clock())
        )

    async def batch(self, batch_id: str) -> BatchStatus:
        """As ``QueueBackend.batch``. Reads all of the batch's jobs."""
        return await self._database.read(lambda c: looking.batch(c, batch_id, self._clock()))

    async def cancel(self, job_id: str) -> CancelOutcome:
        """As ``QueueBackend.cancel``."""
        return await self._change(lambda change: steering.cancel(change, job_id))

    async def cancel_batch(self, batch_id: str) -> dict[CancelOutcome, int]:
        """As ``QueueBackend.cancel_batch``, in transactions of ``MAX_PER_WRITE`` jobs."""
        counts = dict.fromkeys(CancelOutcome, 0)
        after: int | None = -1
        while after is not None:
            cancel_some = partial(steering.cancel_some, batch=batch_id, after=after)
            outcomes, after = await self._change(cancel_some)
            for outcome in outcomes:
                counts[outcome] += 1
        if not any(counts.values()):
            raise UnknownBatch(batch_id)
        return counts

    async def retry(self, job_id: str) -> JobStatus:
        """As ``QueueBackend.retry``."""
        return await self._change(lambda change: steering.retry(change, job_id))

    async def retry_failed(self, *, queue: str | None = None, batch: str | None = None) -> int:
        """As ``QueueBackend.retry_failed``, in transactions of ``MAX_PER_WRITE`` jobs."""
        total = 0
        after: int | None = -1
        while after is not None:
            retry_some = partial(steering.retry_some, queue=queue, batch=batch, after=after)
            count, after = await self._change(retry_some)
            total += count
        return total

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

        def work(change: Transaction, *, is_tended: bool = False) -> list[Lease] | None:
            return claiming.claim(
                change,
                worker,
                limit=limit,
                lease_s=lease_s,
                queues=queues,
                job_id=job_id,
                is_tended=is_tended,
            )

        # A claim that a power cut undoes leaves the job as it was; no worker lives on with it.
        leases = await self._change(work, is_quiet=True, is_synced=False)
        if leases is None:
            await self._change(claiming.tend)
            again = partial(work, is_tended=True)
            leases = await self._change(again, is_quiet=True, is_synced=False)
        return leases or []

    async def heartbeat(
        self, worker: WorkerInfo, leases: Sequence[Lease], *, lease_s: float = DEFAULT_LEASE_S
    ) -> list[Beat]:
        """As ``QueueBackend.heartbeat``, in one transaction for all leases."""

        def work(connection: Connection) -> list[Beat]:
            now = self._clock()
            working.introduce(connection, worker, now)
            return working.extend(connection, leases, now + lease_s)

        return await self._database.write(work, is_synced=False)

    async def orders(self, worker_id: str, leases: Sequence[Lease]) -> Orders:
        """As ``QueueBackend.orders``."""
        return await self._database.read(lambda c: working.orders(c, worker_id, leases))

    async def resize(self, worker_id: str, concurrency: int) -> None:
        """As ``QueueBackend.resize``."""
        wanted = checked_concurrency(concurrency)
        await self._database.write(lambda c: working.resize(c, worker_id, wanted, self._clock()))

    async def report(self, lease: Lease, progress: float) -> None:
        """As ``QueueBackend.report``. Raises ValueError outside 0 to 1."""
        done = checked_progress(progress)
        await self._database.write(lambda c: working.report(c, lease, done), is_synced=False)

    async def finish(self, lease: Lease, result: JsonValue = None) -> None:
        """As ``QueueBackend.finish``. Raises ValueError for a result that is no JSON."""
        text = dumped(checked_json(result))
        await self._end(lease, lambda change: ending.finish(change, lease, text))

    async def fail(self, lease: Lease, error: JobError, *, is_permanent: bool = False) -> JobState:
        """As ``QueueBackend.fail``."""
        return await self._change(
            lambda change: ending.fail(change, lease, error, is_permanent=is_permanent)
        )

    async def cancelled(self, lease: Lease) -> None:
        """As ``QueueBackend.cancelled``."""
        await self._end(lease, lambda change: ending.cancelled(change, lease))

    async def release(self, lease: Lease, *, delay_s: float = 0.0) -> None:
        """As ``QueueBackend.release``."""
        await self._change(lambda change: ending.release(change, lease, delay_s))

    async def forget_worker(self, worker_id: str) -> None:
        """As ``QueueBackend.forget_worker``."""
        await self._database.write(lambda c: working.forget(c, worker_id))

    async def workers(self) -> list[WorkerInfo]:
        """As ``QueueBackend.workers``."""
        return await self._database.read(lambda c: working.workers(c, self._clock()))

    async def stats(self) -> QueueStats:
        """As ``QueueBackend.stats``. Costs the same however many jobs there are.

        Only jobs that came due while nobody claimed are counted one by one.
        """
        return await self._database.read(lambda c: looking.stats(c, self._clock()))

    async def pause(self, queue: str | None = None) -> None:
        """As ``QueueBackend.pause``."""
        await self._database.write(lambda c: steering.pause(c, queue))

    async def resume(self, queue: str | None = None) -> None:
        """As ``QueueBackend.resume``."""
        await self._change(lambda change: steering.resume(change.connection, queue))

    async def prune(self, *, older_than_s: float, keep: int | None = None) -> int:
        """As ``QueueBackend.prune``, in transactions of ``MAX_PER_WRITE`` jobs."""
        total, count = 0, 1
        while count:
            count = await self._change(lambda change: steering.prune(change, older_than_s, keep))
            total += count
        await self._change(self._tidy)
        return total

    async def wait(self, timeout_s: float, *, queues: Sequence[str] = ()) -> None:
        """As ``QueueBackend.wait``. Looks for what other processes did every ``NOTICE_S``."""

        async def quiet_s() -> float:
            return await self._database.read(lambda c: claiming.quiet_s(c, queues, self._clock()))

        await self._bell.wait(timeout_s, quiet_s, ask_every_s=NOTICE_S)

    async def _end(self, lease: Lease, work: Callable[[Transaction], None]) -> None:
        # The end of a job makes work only where others wait for its turn.
        await self._change(work, is_quiet=lease.job.concurrency_key is None)

    async def _change(
        self,
        work: Callable[[Transaction], T],
        *,
        is_quiet: bool = False,
        is_synced: bool = True,
    ) -> T:
        """Do the work in a transaction; wake those who wait unless it makes no work."""

        def write(connection: Connection) -> T:
            change = Transaction(connection, self._clock(), self._uniform)
            answer = work(change)
            change.close(self._tally)
            return answer

        answer = await self._database.write(write, is_synced=is_synced)
        if not is_quiet:
            self.notify()
        return answer

    def _tidy(self, change: Transaction) -> None:
        settle_stuck(change.connection)
        self._tally.fold(change.connection, change.now)
