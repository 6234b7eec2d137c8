"""Takes jobs from a queue, runs their handlers and says how it ended.

The queue decides what an answer means; a worker only runs, beats and reports. Whatever
happens to a handler, a disk or the worker itself, no job is left behind.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Final, TypeAlias

import anyio
from anyio.abc import TaskGroup
from pydantic import JsonValue, TypeAdapter, ValidationError

from capturekit.errors import (
    CaptureKitError,
    ImageError,
    LeaseLost,
    MissingExtra,
    Permanent,
    RateLimited,
    StorageBusy,
    StorageError,
    StorageFull,
    StorageReadOnly,
    UnknownKind,
)
from capturekit.queue.base import (
    DEFAULT_LEASE_S,
    Beat,
    Job,
    JobError,
    JobStatus,
    Lease,
    QueueBackend,
    RetryPolicy,
    WorkerInfo,
)

log = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""How long an idle worker goes without looking for the jobs of other processes."""

GRACE_S: Final = 10.0
"""How long jobs may go on after ``stop``."""

STORAGE_PAUSE_S: Final = 5.0
"""The longest pause before storage that failed is tried again."""

MAX_REPORTS: Final = 10
"""Tries to report an outcome to storage that fails for no passing reason, or while stopping.

After that the lease runs out, and the queue counts the attempt as lost.
"""

MAX_MESSAGE: Final = 2000
"""Characters kept of an exception's text."""

_STORAGE_RETRY: Final = RetryPolicy(base_s=0.1, cap_s=STORAGE_PAUSE_S)
_PASSING: Final = (StorageFull, StorageBusy, StorageReadOnly)
_JSON: Final[TypeAdapter[JsonValue]] = TypeAdapter(JsonValue)


class _Reason(StrEnum):
    """Why a handler was told to stop."""

    CANCEL = "someone cancelled the job"
    LOST = "the lease was lost"
    TIMEOUT = "it took too long"
    STOP = "the worker stops"


class JobContext:
    """What a handler gets: its job, and the two words it may have with the worker."""

    def __init__(self, queue: QueueBackend, lease: Lease, stop: threading.Event) -> None:
        self._queue = queue
        self._lease = lease
        self._stop = stop

    @property
    def job(self) -> Job:
        """The job to run."""
        return self._lease.job

    @property
    def attempt(self) -> int:
        """The number of this attempt: the fence for what the handler writes elsewhere."""
        return self._lease.attempt

    async def progress(self, fraction: float) -> None:
        """Show how far the job is, 0 to 1. Failing storage is logged, never raised."""
        try:
            await self._queue.report(self._lease, fraction)
        except StorageError as error:
            log.warning("job %s: progress is not shown: %s", self.job.id, error)

    def should_stop(self) -> bool:
        """True when the work is no longer wanted: raise or return soon. Safe in any thread.

        Async code need not ask: it is cancelled. Work in a thread cannot be, so it asks
        between its steps; until then it keeps its slot.
        """
        return self._stop.is_set()


Handler: TypeAlias = Callable[[JobContext], Awaitable[JsonValue]]
"""Runs one kind of job; what it returns is the job's result."""


class _Run:
    """A job in this worker's hands."""

    def __init__(self, queue: QueueBackend, lease: Lease) -> None:
        self.lease = lease
        self.scope = anyio.CancelScope()
        self.reason: _Reason | None = None
        self.done = anyio.Event()
        self.is_storage_passing = True
        self.has_succeeded = False
        self._stop = threading.Event()
        self.context = JobContext(queue, lease, self._stop)

    @property
    def id(self) -> str:
        return self.lease.job.id

    def interrupt(self, reason: _Reason) -> None:
        """Stop the handler. The first reason stands, except that a lost lease trumps all."""
        if self.reason is None or reason is _Reason.LOST:
            self.reason = reason
        self._stop.set()
        self.scope.cancel()

    async def limit(self) -> None:
        await anyio.sleep(self.lease.job.timeout_s)
        self.interrupt(_Reason.TIMEOUT)


_Report: TypeAlias = Callable[[], Awaitable[object]]


class Worker:
    """Runs the jobs of a queue, ``concurrency`` at a time.

    ``handlers`` maps a job's kind to what runs it. A handler that raises ``Permanent`` or
    an ``ImageError`` fails for good; ``RateLimited`` puts the job off and a full, busy or
    read-only disk hands it back, both without counting the attempt; every other exception
    counts, and is tried again while attempts are left. ``lease_s`` is how long the queue
    waits for a worker that is not heard of; a third of it passes between two heartbeats,
    and so at most before a running job learns that it was cancelled. ``after_failure`` gets
    the status of a job whose attempt did not succeed, once the queue knows of it.
    """

    def __init__(  # noqa: PLR0913  # by name, each with a default
        self,
        queue: QueueBackend,
        handlers: Mapping[str, Handler],
        *,
        concurrency: int = 2,
        lease_s: float = DEFAULT_LEASE_S,
        grace_s: float = GRACE_S,
        name: str = "worker",
        queues: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        after_failure: Callable[[JobStatus], Awaitable[None]] | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; a worker needs at least 1")
        self._queue = queue
        self._handlers = handlers
        self._concurrency = concurrency
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._queues = queues
        self._clock = clock
        self._after_failure = after_failure
        self._host = socket.gethostname()
        self._id = f"{name}-{self._host}-{os.getpid()}-{secrets.token_hex(3)}"
        self._started_at = clock()
        self._runs: dict[str, _Run] = {}
        self._inline: dict[str, _Run] = {}
        self._is_stopping = False
        self._troubles = 0
        self._idle = anyio.CancelScope()
        self._slot_freed = anyio.Event()

    @property
    def id(self) -> str:
        """Unique; begins with the worker's name and a dash."""
        return self._id

    @property
    def active(self) -> tuple[str, ...]:
        """Ids of the jobs that run in this worker now."""
        return (*self._runs, *self._inline)

    async def run(self) -> None:
        """Work until ``stop``. Cancelling it is a stop without grace.

        Storage that fails is logged once and tried again; it never ends the worker.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._beat_forever, self._runs)
                while not self._is_stopping:
                    await self._work_on(tasks)
                await self._drain()
                tasks.cancel_scope.cancel()
        finally:
            await self._leave()

    def stop(self) -> None:
        """Take no more jobs; let ``run`` return when those that run have ended.

        What still runs after ``grace_s`` is stopped and handed back, and loses no attempt.
        """
        self._is_stopping = True
        self._idle.cancel()

    async def run_job(self, job_id: str, *, timeout_s: float = 300.0) -> JobStatus:
        """Run a queued job in the caller's task, and return how it stands in the end.

        A job that runs elsewhere or waits for another attempt is waited for. When
        ``timeout_s`` seconds are over, the status is returned as it is. Raises UnknownJob.
        """
        pause_s = 0.02
        give_up_at = anyio.current_time() + timeout_s
        while True:
            for lease in await self._claim(1, job_id=job_id):
                await self._run_inline(lease)
            status = await self._queue.status(job_id)
            left_s = give_up_at - anyio.current_time()
            if status.state.is_final or left_s <= 0:
                return status
            pause_s = min(1.5 * pause_s, 0.5, left_s)
            await self._wait_for(job_id, pause_s)

    async def _wait_for(self, job_id: str, timeout_s: float) -> None:
        run = self._runs.get(job_id) or self._inline.get(job_id)
        with anyio.move_on_after(timeout_s):
            await (run.done.wait() if run else anyio.sleep_forever())

    async def _run_inline(self, lease: Lease) -> None:
        run = self._hold(lease, self._inline)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._beat_forever, {run.id: run})
            await self._execute(run, self._inline)
            tasks.cancel_scope.cancel()

    async def _work(self, tasks: TaskGroup) -> None:
        """Claim what there is room for, then wait for the next reason to look again."""
        free = self._concurrency - len(self._runs)
        if free == 0:
            await self._until_stop(self._slot_freed.wait)
            return
        leases = await self._claim(free, queues=self._queues)
        self._troubles = 0
        for lease in leases:
            tasks.start_soon(self._execute, self._hold(lease, self._runs), self._runs)
        if len(leases) < free:
            await self._until_stop(partial(self._queue.wait, POLL_S, queues=self._queues))

    async def _work_on(self, tasks: TaskGroup) -> None:
        try:
            await self._work(tasks)
        except Exception as error:  # noqa: BLE001  # the loop must live on
            self._complain(error)
            await self._until_stop(self._pause)

    async def _claim(
        self, limit: int, *, queues: Sequence[str] = (), job_id: str | None = None
    ) -> list[Lease]:
        # Shielded: a claim that is cut off may have taken jobs that nobody would run.
        with anyio.CancelScope(shield=True):
            leases = await self._queue.claim(
                self._id, limit=limit, lease_s=self._lease_s, queues=queues, job_id=job_id
            )
        return leases  # noqa: RET504  # to mypy a scope may swallow what it holds

    async def _until_stop(self, wait: Callable[[], Awaitable[object]]) -> None:
        with anyio.CancelScope() as self._idle:
            if not self._is_stopping:
                await wait()

    def _complain(self, error: Exception) -> None:
        self._troubles += 1
        if self._troubles == 1:
            is_ours = isinstance(error, CaptureKitError)
            log.error(
                "the queue fails; worker %s tries again until it works: %s",
                self._id,
                error,
                exc_info=None if is_ours else error,
            )

    async def _pause(self) -> None:
        await anyio.sleep(_STORAGE_RETRY.delay_s(self._troubles))

    async def _drain(self) -> None:
        with anyio.move_on_after(self._grace_s):
            await self._all_done()
        for run in self._runs.values():
            run.interrupt(_Reason.STOP)
        await self._all_done()

    async def _all_done(self) -> None:
        while self._runs:
            await self._slot_freed.wait()

    async def _leave(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self._queue.forget_worker(self._id)
            except StorageError as error:
                log.warning("worker %s stays on the list for a while: %s", self._id, error)

    async def _beat_forever(self, held: Mapping[str, _Run]) -> None:
        while True:
            try:
                await self._beat(list(held.values()))
            except Exception as error:  # noqa: BLE001  # the loop must live on
                self._complain(error)
            await anyio.sleep(self._lease_s / 3)

    async def _beat(self, runs: Sequence[_Run]) -> None:
        worker = WorkerInfo(
            id=self._id,
            host=self._host,
            pid=os.getpid(),
            concurrency=self._concurrency,
            started_at=self._started_at,
            heartbeat_at=self._clock(),
        )
        leases = [run.lease for run in runs]
        beats = await self._queue.heartbeat(worker, leases, lease_s=self._lease_s)
        for run, beat in zip(runs, beats, strict=True):
            if beat is Beat.CANCEL:
                run.interrupt(_Reason.CANCEL)
            elif beat is Beat.LOST:
                run.interrupt(_Reason.LOST)

    def _hold(self, lease: Lease, held: dict[str, _Run]) -> _Run:
        run = held[lease.job.id] = _Run(self._queue, lease)
        return run

    async def _execute(self, run: _Run, held: dict[str, _Run]) -> None:
        try:
            report = await self._attempt(run)
        except anyio.get_cancelled_exc_class():
            await self._settle(run, partial(self._queue.release, run.lease))
            raise
        else:
            await self._settle(run, report)
            if not run.has_succeeded:
                await self._tell_of(run)
        finally:
            del held[run.id]
            run.done.set()
            self._slot_freed.set()
            self._slot_freed = anyio.Event()

    async def _tell_of(self, run: _Run) -> None:
        if self._after_failure is None:
            return
        with anyio.CancelScope(shield=True):
            try:
                await self._after_failure(await self._queue.status(run.id))
            except Exception:
                log.exception("job %s: what should follow its end failed", run.id)

    async def _attempt(self, run: _Run) -> _Report:
        """Run the handler within its time; what to tell the queue."""
        async with anyio.create_task_group() as watch:
            watch.start_soon(run.limit)
            report = await self._handle(run)
            watch.cancel_scope.cancel()
        return report

    async def _handle(self, run: _Run) -> _Report:
        try:
            handler = self._handler(run.lease.job.kind)
            with run.scope:
                result = _json(await handler(run.context))
                if run.reason is not _Reason.TIMEOUT:
                    run.has_succeeded = True
                    return partial(self._queue.finish, run.lease, result)
        except Exception as error:  # noqa: BLE001  # a handler may raise anything
            if run.reason is None:
                return self._failure(run, _bare(error))
        return self._interrupted(run)

    def _handler(self, kind: str) -> Handler:
        if kind not in self._handlers:
            raise UnknownKind(kind, sorted(self._handlers))
        return self._handlers[kind]

    def _interrupted(self, run: _Run) -> _Report:
        log.info("job %s: attempt %d stopped: %s", run.id, run.lease.attempt, run.reason)
        if run.reason is _Reason.LOST:
            return _say_nothing
        if run.reason is _Reason.CANCEL:
            return partial(self._queue.cancelled, run.lease)
        if run.reason is _Reason.STOP:
            return partial(self._queue.release, run.lease)
        message = f"took longer than {run.lease.job.timeout_s:g} s"
        error = JobError(type="JobTimeout", message=message, attempt=run.lease.attempt)
        return partial(self._queue.fail, run.lease, error)

    def _failure(self, run: _Run, error: Exception) -> _Report:
        is_ours = isinstance(error, CaptureKitError)
        log.log(
            logging.WARNING if is_ours else logging.ERROR,
            "job %s: attempt %d: %s: %s",
            run.id,
            run.lease.attempt,
            type(error).__name__,
            error,
            exc_info=None if is_ours else error,
        )
        if isinstance(error, RateLimited):
            return partial(self._queue.release, run.lease, delay_s=max(0.0, error.retry_after_s))
        if isinstance(error, _PASSING):
            return partial(self._queue.release, run.lease, delay_s=STORAGE_PAUSE_S)
        is_permanent = isinstance(error, (Permanent, ImageError))
        told = _job_error(error, run.lease.attempt)
        return partial(self._queue.fail, run.lease, told, is_permanent=is_permanent)

    async def _settle(self, run: _Run, report: _Report) -> None:
        """Tell the queue how it ended, however often it takes."""
        tries = 0
        with anyio.CancelScope(shield=True):
            while run.reason is not _Reason.LOST and not await self._is_told(run, report):
                tries += 1
                if tries >= MAX_REPORTS and (self._is_stopping or not run.is_storage_passing):
                    log.error("job %s: gave up reporting; its lease will run out", run.id)
                    return
                await self._pause()

    async def _is_told(self, run: _Run, report: _Report) -> bool:
        """Whether there is nothing more to say."""
        try:
            await report()
        except LeaseLost as error:
            log.warning("job %s: the answer came too late: %s", run.id, error)
        except StorageError as error:
            run.is_storage_passing = isinstance(error, _PASSING)
            self._complain(error)
            return False
        except Exception:
            log.exception("job %s: its outcome cannot be told; its lease will run out", run.id)
        return True


def __getattr__(name: str) -> object:
    """``capturekit.worker:broker``, for ``taskiq worker``; made when it is asked for."""
    if name != "broker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from capturekit.taskiq import make_broker
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("capturekit"):
            raise
        raise MissingExtra("a worker of taskiq", "server,redis") from error
    return globals().setdefault("broker", make_broker())


async def _say_nothing() -> None: ...


def _bare(error: Exception) -> Exception:
    """The exception itself when a task group wrapped it alone."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _json(value: JsonValue) -> JsonValue:
    try:
        return _JSON.validate_python(value)
    except ValidationError as error:
        message = f"the handler returned a {type(value).__name__} that is not JSON"
        raise Permanent(message) from error


def _job_error(error: Exception, attempt: int) -> JobError:
    # Half a character, as in the name of a badly encoded file, has no place in JSON.
    message = str(error)[:MAX_MESSAGE].encode(errors="replace").decode()
    step = getattr(error, "step", None)
    return JobError(
        type=type(error).__name__,
        message=message,
        step=step if isinstance(step, str) else None,
        attempt=attempt,
    )
