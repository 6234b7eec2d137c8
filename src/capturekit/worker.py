"""Takes jobs from a queue, runs their handlers and says how it ended.

The queue decides what an answer means; a worker only runs, beats and reports. Whatever
happens to a handler, a disk or the worker itself, no job is left behind.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import partial
from itertools import count
from typing import Final, Protocol, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError

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
    NOTICE_S,
    Beat,
    Job,
    JobError,
    JobState,
    JobStatus,
    Lease,
    QueueBackend,
    RetryPolicy,
    WorkerInfo,
    checked_concurrency,
)
from capturekit.schedule import Schedule, Ticker

log = logging.getLogger(__name__)

IDLE_S: Final = 5.0
"""How long an idle worker goes without a look at the queue, should no hint reach it."""

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

_IDLE_TURNS: Final = 4
"""A worker without jobs asks for orders only every so often, once a second."""
_STORAGE_RETRY: Final = RetryPolicy(base_s=0.1, cap_s=STORAGE_PAUSE_S)
_PASSING: Final = (StorageFull, StorageBusy, StorageReadOnly)
_JSON: Final[TypeAdapter[JsonValue]] = TypeAdapter(
    JsonValue, config=ConfigDict(allow_inf_nan=False)
)


class _Reason(StrEnum):
    """Why a handler was told to stop."""

    CANCEL = "someone cancelled the job"
    LOST = "the lease was lost"
    TIMEOUT = "it took too long"
    STOP = "the worker stops"


class StopSign(Protocol):
    """Says whether work should end, as ``threading.Event`` does."""

    def is_set(self) -> bool:
        """True from when it should end. Safe in any thread."""
        ...


class JobContext:
    """What a handler gets: its job, and the two words it may have with the worker."""

    __slots__ = ("_lease", "_queue", "_stop")

    def __init__(self, queue: QueueBackend, lease: Lease, stop: StopSign) -> None:
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
        between its steps; until then it keeps its slot, unless the thread was given up as
        those of a ``ThreadExecutor`` are.
        """
        return self._stop.is_set()


Handler: TypeAlias = Callable[[JobContext], Awaitable[JsonValue]]
"""Runs one kind of job; what it returns is the job's result."""

_Model = TypeVar("_Model", bound=BaseModel)


def typed(
    model: type[_Model], function: Callable[[JobContext, _Model], Awaitable[JsonValue]]
) -> Handler:
    """A handler that calls ``function(context, payload)`` with the payload as this model.

    A payload that is none fails for good, and the job's error says what is wrong with it.
    """

    async def handle(context: JobContext) -> JsonValue:
        try:
            payload = model.model_validate(context.job.payload)
        except ValidationError as error:
            raise WrongPayload(model, error) from error
        return await function(context, payload)

    return handle


class WrongPayload(Permanent):
    """A job's payload is not what its handler takes."""

    def __init__(self, model: type[BaseModel], error: ValidationError) -> None:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}"
            for each in error.errors(include_url=False, include_input=False)
        )
        super().__init__(f"the payload is no {model.__name__}: {wrong}")


class _Run:
    """A job in this worker's hands; also the sign that tells its handler to stop."""

    __slots__ = ("context", "has_succeeded", "is_storage_passing", "lease", "reason", "scope")

    def __init__(self, queue: QueueBackend, lease: Lease) -> None:
        self.lease = lease
        self.scope = anyio.CancelScope()
        self.reason: _Reason | None = None
        self.is_storage_passing = True
        self.has_succeeded = False
        self.context = JobContext(queue, lease, self)

    @property
    def id(self) -> str:
        return self.lease.job.id

    @property
    def key(self) -> tuple[str, int]:
        # A worker that stood still for longer than its lease may be given its own job again.
        return self.lease.job.id, self.lease.attempt

    def begin(self) -> None:
        self.scope.deadline = anyio.current_time() + self.lease.job.timeout_s

    def interrupt(self, reason: _Reason) -> None:
        """Stop the handler. The first reason stands, except that a lost lease trumps all."""
        if self.stopped() is None or reason is _Reason.LOST:
            self.reason = reason
        self.scope.cancel()

    def stopped(self) -> _Reason | None:
        """Why the handler was told to stop; None when it was not."""
        if self.reason is None and self.scope.cancel_called:
            self.reason = _Reason.TIMEOUT
        return self.reason

    def is_set(self) -> bool:
        return self.scope.cancel_called


_Held: TypeAlias = dict[tuple[str, int], _Run]


class _Signal:
    """Wakes those who wait for it at that moment. Costs nothing while nobody does."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def give(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


_Report: TypeAlias = Callable[[], Awaitable[object]]


class Worker:
    """Runs the jobs of a queue, ``concurrency`` at a time.

    ``handlers`` maps a job's kind to what runs it. A handler that raises ``Permanent`` or
    an ``ImageError`` fails for good; ``RateLimited`` puts the job off and a full, busy or
    read-only disk hands it back, both without counting the attempt; every other exception
    counts, and is tried again while attempts are left. A handler that blocks the event loop
    stops the heartbeats of all: such work belongs in an executor.

    ``lease_s`` is how long the queue waits for a worker that is not heard of; a third of it
    passes between two heartbeats. That a running job was cancelled is noticed within half a
    second. ``schedules`` are jobs to submit by the clock. ``after_failure`` gets the status of
    a job whose attempt did not succeed, once the queue knows of it.
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
        schedules: Sequence[Schedule] = (),
        clock: Callable[[], float] = time.time,
        after_failure: Callable[[JobStatus], Awaitable[None]] | None = None,
    ) -> None:
        self._queue = queue
        self._handlers = handlers
        self._concurrency = checked_concurrency(concurrency)
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._queues = queues
        self._ticker = Ticker(queue, schedules, clock=clock)
        self._clock = clock
        self._after_failure = after_failure
        self._host = socket.gethostname()
        self._id = f"{name}-{self._host}-{os.getpid()}-{secrets.token_hex(3)}"
        self._started_at = clock()
        self._runs: _Held = {}
        self._inline: _Held = {}
        self._telling = 0
        self._ordered: int | None = None
        self._until_empty = False
        self._is_stopping = False
        self._troubles = 0
        self._idle = anyio.CancelScope()
        self._job_ended = _Signal()

    @property
    def id(self) -> str:
        """Unique; begins with the worker's name and a dash."""
        return self._id

    @property
    def active(self) -> tuple[str, ...]:
        """Ids of the jobs that run in this worker now."""
        return tuple(run.id for run in (*self._runs.values(), *self._inline.values()))

    @property
    def concurrency(self) -> int:
        """Jobs that may run at once."""
        return self._concurrency

    def resize(self, concurrency: int) -> None:
        """Run so many jobs at once from now on; those that run end in their own time.

        ``QueueBackend.resize`` asks a worker for the same from anywhere. Raises ValueError
        outside 1 to MAX_CONCURRENCY.
        """
        self._concurrency = checked_concurrency(concurrency)
        self._job_ended.give()
        self._idle.cancel()

    async def run(self, *, until_empty: bool = False) -> None:
        """Work until ``stop``. Cancelling it is a stop without grace.

        With ``until_empty`` also return when none of its queues has a job that is due and none
        runs here. What is scheduled for later, another attempt for instance, is not waited
        for. Storage that fails is logged once and tried again; it never ends the worker.
        """
        self._until_empty = until_empty
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._beat_forever, self._runs)
                tasks.start_soon(self._heed_forever, self._runs)
                tasks.start_soon(self._ticker.run, self._complain)
                async with _shielded_group(tasks) as jobs:
                    await self._work_and_drain(jobs)
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
        is_here = job_id in self.active
        with anyio.move_on_after(timeout_s):
            while not is_here or job_id in self.active:
                await self._job_ended.wait()

    async def _run_inline(self, lease: Lease) -> None:
        run = _Run(self._queue, lease)
        self._inline[run.key] = run
        held = {run.key: run}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._beat_forever, held)
            tasks.start_soon(self._heed_forever, held)
            report: _Report = partial(self._queue.release, lease)
            try:
                report = await self._attempt(run)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._end(run, report, self._inline)
            tasks.cancel_scope.cancel()

    async def _work_and_drain(self, jobs: TaskGroup) -> None:
        try:
            while not self._is_stopping and await self._work_on(jobs):
                pass
            with anyio.move_on_after(self._grace_s):
                await self._all_done()
        except anyio.get_cancelled_exc_class():
            self._is_stopping = True
            raise
        finally:
            for run in self._runs.values():
                run.interrupt(_Reason.STOP)
            with anyio.CancelScope(shield=True):
                await self._all_done()

    async def _all_done(self) -> None:
        while self._runs:
            await self._job_ended.wait()

    async def _work_on(self, jobs: TaskGroup) -> bool:
        """One round; False when there is nothing left to do."""
        try:
            return await self._work(jobs)
        except Exception as error:  # noqa: BLE001  # the loop must live on
            self._complain(error)
            await self._until_stop(self._pause)
        return True

    async def _work(self, jobs: TaskGroup) -> bool:
        """Claim what there is room for, then wait for the next reason to look again."""
        free = self._free()
        if free <= 0:
            await self._until_stop(self._job_ended.wait)
            return True
        leases = await self._claim(free, queues=self._queues)
        self._troubles = 0
        for lease in leases:
            run = _Run(self._queue, lease)
            self._runs[run.key] = run
            jobs.start_soon(self._execute, run)
        if leases:
            # They start now, and not behind the next look at the queue.
            await anyio.lowlevel.checkpoint()
        if len(leases) < free:
            if self._until_empty and await self._is_empty():
                return False
            await self._until_stop(partial(self._queue.wait, IDLE_S, queues=self._queues))
        return True

    def _free(self) -> int:
        """Jobs to take now. While an outcome is told, its slot is free already.

        So the next job is claimed while the disk writes what became of the last. Storage that
        fails is not given more than twice as many jobs.
        """
        held = len(self._runs)
        return self._concurrency - max(held - self._telling, held - self._concurrency)

    async def _is_empty(self) -> bool:
        if self._runs:
            return False
        by_queue = (await self._queue.stats()).by_queue
        names = self._queues or by_queue
        return not any(by_queue[name][JobState.QUEUED] for name in names if name in by_queue)

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
        """Wait, but no longer than until ``stop`` or another reason to look again at once."""
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

    async def _leave(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self._queue.forget_worker(self._id)
            except StorageError as error:
                log.warning("worker %s stays on the list for a while: %s", self._id, error)

    # Heartbeats and orders

    async def _beat_forever(self, held: _Held) -> None:
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
        _obey(runs, await self._queue.heartbeat(worker, leases, lease_s=self._lease_s))

    async def _heed_forever(self, held: _Held) -> None:
        for turn in count():
            before = anyio.current_time()
            await anyio.sleep(NOTICE_S)
            self._check_pulse(anyio.current_time() - before - NOTICE_S, held)
            if not held and turn % _IDLE_TURNS:
                continue
            try:
                await self._heed(list(held.values()))
            except StorageError as error:
                # The next heartbeat says it too, and complains if it cannot.
                log.debug("worker %s: no orders: %s", self._id, error)
            except Exception as error:  # noqa: BLE001  # the loop must live on
                self._complain(error)

    async def _heed(self, runs: Sequence[_Run]) -> None:
        orders = await self._queue.orders(self._id, [run.lease for run in runs])
        _obey(runs, orders.beats)
        if orders.concurrency is not None and orders.concurrency != self._ordered:
            self._ordered = orders.concurrency
            self.resize(orders.concurrency)
            # So that whoever asked sees it.
            await self._beat(runs)

    def _check_pulse(self, late_s: float, held: _Held) -> None:
        if held and late_s > self._lease_s / 3:
            kinds = sorted({run.lease.job.kind for run in held.values()})
            log.warning(
                "no heartbeat for %.1f s: the event loop stood still; should a handler have "
                "blocked it (one of: %s), run it in an executor",
                late_s,
                ", ".join(kinds),
            )

    # Running a job

    async def _execute(self, run: _Run) -> None:
        report = await self._attempt(run)
        self._telling += 1
        self._job_ended.give()
        try:
            await self._end(run, report, self._runs)
        finally:
            self._telling -= 1

    async def _end(self, run: _Run, report: _Report, held: _Held) -> None:
        try:
            await self._settle(run, report)
            if not run.has_succeeded:
                await self._tell_of(run)
        finally:
            del held[run.key]
            self._job_ended.give()
            if self._until_empty:
                self._idle.cancel()

    async def _tell_of(self, run: _Run) -> None:
        if self._after_failure is None:
            return
        try:
            await self._after_failure(await self._queue.status(run.id))
        except Exception:
            log.exception("job %s: what should follow its end failed", run.id)

    async def _attempt(self, run: _Run) -> _Report:
        """Run the handler within its time; what to tell the queue."""
        failure: Exception | None = None
        result: JsonValue = None
        has_ended = False
        try:
            handler = self._handler(run.lease.job.kind)
            run.begin()
            with run.scope:
                result = as_json(await handler(run.context))
                has_ended = True
        except Exception as error:  # noqa: BLE001  # a handler may raise anything
            failure = _bare(error)
        reason = run.stopped()
        if has_ended and reason is not _Reason.TIMEOUT:
            run.has_succeeded = True
            return partial(self._queue.finish, run.lease, result)
        if failure is not None and reason is None:
            return self._failure(run, failure)
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


@asynccontextmanager
async def _shielded_group(tasks: TaskGroup) -> AsyncIterator[TaskGroup]:
    """A group whose tasks are not cancelled with those of ``tasks``, and end within the with."""
    group = anyio.create_task_group()
    is_open, is_over = anyio.Event(), anyio.Event()

    async def hold() -> None:
        async with group:
            group.cancel_scope.shield = True
            is_open.set()
            await is_over.wait()

    tasks.start_soon(hold)
    try:
        # Should all be cancelled by now, it opens nevertheless, and someone must close it.
        with anyio.CancelScope(shield=True):
            await is_open.wait()
        yield group
    finally:
        is_over.set()


def _obey(runs: Sequence[_Run], beats: Sequence[Beat]) -> None:
    for run, beat in zip(runs, beats, strict=True):
        if beat is Beat.CANCEL:
            run.interrupt(_Reason.CANCEL)
        elif beat is Beat.LOST:
            run.interrupt(_Reason.LOST)


async def _say_nothing() -> None: ...


def _bare(error: Exception) -> Exception:
    """The exception itself when a task group wrapped it alone."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def as_json(value: object) -> JsonValue:
    """The value, if it is JSON; raises Permanent otherwise."""
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
