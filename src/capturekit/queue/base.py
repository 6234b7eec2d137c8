"""Jobs, and what every queue promises about them. Pure: no I/O, no backend.

A job's life belongs to the queue. It carries ids and small values, never pictures.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Annotated, Protocol, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

DEFAULT_LEASE_S = 15.0
"""A worker that has not been heard of for this long is taken for dead."""

RATE_WINDOWS_S = (60.0, 300.0, 900.0)
"""As the load averages of Unix."""

WORKER_MEMORY_S = 3 * DEFAULT_LEASE_S
"""A worker silent for longer is no longer listed."""

NOTICE_S = 0.25
"""Within this time a process notices what another did: a job, a cancel, a new concurrency."""

MAX_CONCURRENCY = 1000
"""Jobs that one worker, or one concurrency key, may run at once."""

JOB_VERSION = 1
"""Of the form in which durable backends keep a job. A job of another is set aside."""

_STRICT_JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False)

JsonT = TypeVar("JsonT", bound=JsonValue)


def checked_json(value: JsonT) -> JsonT:
    """The value, if JSON in UTF-8 can hold it.

    Raises ValueError for NaN, infinities and lone surrogates, which pydantic lets pass.
    """
    _STRICT_JSON.encode(value).encode()
    return value


_ID = Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")
_NAME = Field(min_length=1, max_length=100, pattern=r"^[^\x00]+$")
"""Text of every backend; that of Postgres holds no NUL."""

MAX_PRIORITY = 2**31 - 1


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    SCHEDULED = "scheduled"
    """Waits for its time: a delay, or the pause before another attempt."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True when the job will not run again unless someone asks for it."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class CancelOutcome(StrEnum):
    """What a cancel really did."""

    CANCELLED = "cancelled"
    """It had not started and never will."""
    CANCELLING = "cancelling"
    """It runs; its worker was told. The status says how it ended."""
    ALREADY_FINISHED = "already_finished"
    """It ended before; nothing changed."""


class Beat(StrEnum):
    """The answer to a heartbeat."""

    HELD = "held"
    CANCEL = "cancel"
    """Still held, and someone asked for it to stop."""
    LOST = "lost"
    """Given to another attempt, or ended: stop, the answer has no effect."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class RetryPolicy(_Value):
    """How often a job is tried and how long it waits in between."""

    max_attempts: Annotated[int, Field(ge=1)] = 3
    """Attempts in all, those that killed their worker included."""
    base_s: Annotated[float, Field(gt=0)] = 1.0
    cap_s: Annotated[float, Field(gt=0)] = 300.0

    def delay_s(self, attempt: int, uniform: Callable[[], float] = random.random) -> float:
        """Seconds to wait after attempt number ``attempt`` (1, 2, …) failed.

        Exponential backoff with full jitter, U(0, min(cap, base * 2^(attempt-1))): of the
        jitters compared by Brooker (AWS Architecture Blog, 2015) it needs the least work.
        """
        # 2.0 ** 1023 is the largest a float holds; the cap is reached long before.
        return uniform() * min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 1000))


class Job(_Value):
    """One unit of work, as it is submitted."""

    id: Annotated[str, _ID]
    """Chosen by the caller; the same id is taken once, so submitting again is harmless."""
    kind: Annotated[str, _NAME]
    """Names the handler that runs it."""
    payload: Annotated[dict[str, JsonValue], AfterValidator(checked_json)] = {}
    queue: Annotated[str, _NAME] = "default"
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    """Higher runs first; among equals, the one that waits longest."""
    delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds from submission before it may run."""
    retry: RetryPolicy = RetryPolicy()
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    batch: Annotated[str, _ID] | None = None
    """Jobs submitted for one purpose share this name."""
    unique_key: Annotated[str, _ID] | None = None
    """While a job of this key has not ended, another is not taken."""
    unique_for_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds from its submission for which the key is taken even if the job has ended."""
    concurrency_key: Annotated[str, _ID] | None = None
    """Of jobs with the same key at most ``max_running`` run at once; the rest wait their turn
    and hold up nobody else. A device's id, so that one device cannot fill all workers."""
    max_running: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)] = 1
    """Where jobs of one key differ, that of the job which is next in turn counts."""

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.unique_for_s is not None and self.unique_key is None:
            raise ValueError("unique_for_s is given without a unique_key")
        return self


class JobError(_Value):
    """Why an attempt failed."""

    type: str
    message: str
    step: str | None = None
    attempt: int


class Attempt(_Value):
    """One try of a job. Times are seconds since 1970, UTC."""

    number: int
    worker: str
    started_at: float
    finished_at: float | None = None
    error: JobError | None = None


class JobStatus(_Value):
    """All that is known about a job. Times are seconds since 1970, UTC."""

    id: str
    kind: str
    queue: str
    state: JobState
    priority: int
    payload: dict[str, JsonValue]
    batch: str | None = None
    progress: Annotated[float, Field(ge=0, le=1)] = 0.0
    attempts: tuple[Attempt, ...] = ()
    queued_at: float
    started_at: float | None = None
    """Start of the newest attempt."""
    finished_at: float | None = None
    next_retry_at: float | None = None
    """When a scheduled job is due."""
    result: JsonValue = None
    error: JobError | None = None
    """Of the newest attempt that failed; kept while it is tried again."""
    is_cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of one submitted job."""

    id: str
    """Of the job that stands: the one submitted, or the one that holds its unique key."""
    is_new: bool
    """False when the id or the unique key was known: the earlier job stands, this was dropped."""
    state: JobState
    """Of the job that stands."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job until ``expires_at``, extended by heartbeats.

    ``attempt`` is the fence: an answer under an older attempt has no effect.
    """

    job: Job
    attempt: int
    worker: str
    expires_at: float
    started_at: float
    tries: int
    """Attempts that count, this one included."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker should know between two heartbeats."""

    beats: tuple[Beat, ...]
    """For each lease, in the order asked; nothing is extended."""
    concurrency: int | None
    """What ``resize`` asked for; None when nobody did."""


class WorkerInfo(_Value):
    """A worker as the queue last heard of it."""

    id: str
    host: str
    pid: int
    concurrency: int
    started_at: float
    heartbeat_at: float
    jobs: tuple[str, ...] = ()
    """Ids of the jobs it holds."""


class QueueRate(_Value):
    """What came in and went out lately."""

    window_s: float
    """The time looked back on, in seconds."""
    in_per_minute: float
    """Jobs submitted."""
    out_per_minute: float
    """Jobs that ended, however they did."""


class BatchStatus(_Value):
    """How far a batch is. Counts jobs that are still known."""

    id: str
    depth: dict[JobState, int]
    """Jobs by state; every state is present."""

    @property
    def total(self) -> int:
        """Jobs in all."""
        return sum(self.depth.values())

    @property
    def ended(self) -> int:
        """Jobs that will not run again unless someone asks for it."""
        return sum(count for state, count in self.depth.items() if state.is_final)

    @property
    def progress(self) -> float:
        """The part that has ended, 0 to 1."""
        return self.ended / self.total


class QueueStats(_Value):
    """How much waits and how old it is."""

    depth: dict[JobState, int]
    """Jobs by state; every state is present."""
    by_queue: dict[str, dict[JobState, int]]
    """The same for each queue that has jobs."""
    oldest_age_s: float | None
    """Age of the oldest job that is queued, since it came due; None when there is none."""
    is_paused: bool
    """Whether all queues are."""
    paused: tuple[str, ...]
    """Names of queues that were paused by themselves, sorted."""
    rates: tuple[QueueRate, ...]
    """Over 1, 5 and 15 minutes; jobs that were pruned since are counted, too."""


def worker_lost(worker: str, attempt: int) -> JobError:
    """The error of an attempt whose worker was not heard of before its lease ran out."""
    message = f"worker {worker!r} died or hung: its lease ran out"
    return JobError(type="WorkerLost", message=message, attempt=attempt)


def unreadable(why: str, text: str) -> JobError:
    """The error of a job that cannot be read as version ``JOB_VERSION``; keeps what was there."""
    return JobError(type="UnreadableJob", message=f"{why}: {text[:500]}", attempt=0)


def first_state(job: Job) -> JobState:
    """What a job is when it was just submitted."""
    return JobState.SCHEDULED if job.delay_s > 0 else JobState.QUEUED


def checked_progress(progress: float) -> float:
    """The progress, if it is one. Raises ValueError outside 0 to 1."""
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}; give a fraction from 0 to 1")
    return progress


def state_after_failure(
    policy: RetryPolicy, tries: int, *, is_permanent: bool, is_cancel_requested: bool
) -> JobState:
    """What a job becomes when its ``tries``-th counted attempt failed."""
    if is_cancel_requested:
        return JobState.CANCELLED
    if is_permanent or tries >= policy.max_attempts:
        return JobState.FAILED
    return JobState.SCHEDULED


def empty_depth() -> dict[JobState, int]:
    """Every state, and none of it."""
    return dict.fromkeys(JobState, 0)


def checked_concurrency(concurrency: int) -> int:
    """The concurrency, if it is one. Raises ValueError outside 1 to MAX_CONCURRENCY."""
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise ValueError(f"concurrency is {concurrency}; give 1 to {MAX_CONCURRENCY}")
    return concurrency


class QueueBackend(Protocol):
    """Keeps jobs and hands them out.

    Every sentence here has a test in ``capturekit.testing.queue_contract``, which runs over
    every backend. All methods may be called from many tasks, and those of a shared
    backend from many processes. Use it as an async context manager. Storage trouble is a
    ``StorageError``.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def submit(self, *jobs: Job) -> list[Submission]:
        """Take the jobs, all or none of the new ones; answers are in their order.

        A known id, whatever its state, is left as it is and told as not new; so is a unique
        key that is taken, and the answer then names the job that holds it. Submitted
        means kept: on a durable backend a job survives the process. Raises QueueFull when
        more would wait than the backend was told to hold, and takes none.
        """
        ...

    async def status(self, job_id: str) -> JobStatus:
        """All that is known about the job. Raises UnknownJob."""
        ...

    async def statuses(
        self,
        *,
        states: Sequence[JobState] = (),
        batch: str | None = None,
        limit: int = 100,
    ) -> list[JobStatus]:
        """Jobs in any of ``states`` (all when empty) and of ``batch``, newest first."""
        ...

    async def batch(self, batch_id: str) -> BatchStatus:
        """How far the batch is. Raises UnknownBatch when no job of it is known."""
        ...

    async def cancel(self, job_id: str) -> CancelOutcome:
        """Stop the job and say what really happened. Raises UnknownJob.

        A queued or scheduled job is cancelled and never runs. The worker of a running one is
        told by ``orders`` and by its next heartbeat.
        """
        ...

    async def cancel_batch(self, batch_id: str) -> dict[CancelOutcome, int]:
        """Cancel every job of the batch, and count the outcomes; each is present.

        Jobs that are submitted to the batch while it is cancelled may be missed. Raises
        UnknownBatch.
        """
        ...

    async def retry(self, job_id: str) -> JobStatus:
        """Queue a failed or cancelled job again, with its attempts counted from zero.

        Attempt numbers go on, so that old answers stay fenced off. A job in another state
        is left as it is, and so is one whose unique key another job holds. Raises UnknownJob.
        """
        ...

    async def retry_failed(self, *, queue: str | None = None, batch: str | None = None) -> int:
        """``retry`` for every failed job, of this queue and batch if given; says how many."""
        ...

    async def claim(
        self,
        worker: str,
        *,
        limit: int = 1,
        lease_s: float = DEFAULT_LEASE_S,
        queues: Sequence[str] = (),
        job_id: str | None = None,
    ) -> list[Lease]:
        """Take up to ``limit`` jobs that are due, best priority and oldest first.

        Nothing is handed out from a paused queue, except the one named by ``job_id``, nor
        above the limit of a concurrency key. A job whose lease ran out is first put back to
        wait its backoff, or is ``failed`` with error type ``WorkerLost`` when its attempts are
        used up. A job that cannot be read is set aside as ``failed`` with error type
        ``UnreadableJob`` and its text. ``queues`` names the queues to take from; empty means
        all.
        """
        ...

    async def heartbeat(
        self, worker: WorkerInfo, leases: Sequence[Lease], *, lease_s: float = DEFAULT_LEASE_S
    ) -> list[Beat]:
        """Extend the leases, and make the worker known; answers are in their order."""
        ...

    async def orders(self, worker_id: str, leases: Sequence[Lease]) -> Orders:
        """What was asked of the worker meanwhile. Reads only, and cheaply: ask often."""
        ...

    async def resize(self, worker_id: str, concurrency: int) -> None:
        """Ask a worker to run so many jobs at once; it learns so from ``orders``.

        Raises UnknownWorker when it is not listed, ValueError outside 1 to MAX_CONCURRENCY.
        """
        ...

    async def report(self, lease: Lease, progress: float) -> None:
        """Set the job's progress, 0 to 1. Without effect when the lease is lost."""
        ...

    async def finish(self, lease: Lease, result: JsonValue = None) -> None:
        """The job succeeded. Raises LeaseLost when it was given away or ended.

        A result that is no JSON (``checked_json``) raises ValueError, and the job stays held.
        """
        ...

    async def fail(self, lease: Lease, error: JobError, *, is_permanent: bool = False) -> JobState:
        """The attempt failed: schedule the next one, or end as ``failed``.

        It ends when the error is permanent, attempts are used up, or a cancel was asked
        for (then as ``cancelled``). Returns the job's new state. Raises LeaseLost.
        """
        ...

    async def cancelled(self, lease: Lease) -> None:
        """The worker stopped the job because it was asked to. Raises LeaseLost."""
        ...

    async def release(self, lease: Lease, *, delay_s: float = 0.0) -> None:
        """Hand the job back unfinished; the attempt does not count. Raises LeaseLost.

        For a worker that must stop, and for work that may not be done yet. The attempt
        leaves the history too. A job that was asked to stop ends as cancelled instead.
        """
        ...

    async def forget_worker(self, worker_id: str) -> None:
        """Strike a worker that leaves off the list. Its leases are not touched."""
        ...

    async def workers(self) -> list[WorkerInfo]:
        """Workers heard of within three default leases."""
        ...

    async def stats(self) -> QueueStats:
        """Depth by state and queue, oldest age, what is paused, rates of coming and going."""
        ...

    async def pause(self, queue: str | None = None) -> None:
        """Hand out nothing, or nothing from this queue, until ``resume``; running jobs go on."""
        ...

    async def resume(self, queue: str | None = None) -> None:
        """Hand out jobs again: of this queue, or of all, those paused by name included."""
        ...

    async def prune(self, *, older_than_s: float, keep: int | None = None) -> int:
        """Forget jobs that ended longer ago than this, and say how many.

        With ``keep``, also the oldest of those that ended beyond so many. A job whose unique
        key is taken by it still, for ``unique_for_s``, is not forgotten before that is over.
        """
        ...

    async def wait(self, timeout_s: float, *, queues: Sequence[str] = ()) -> None:
        """Return when there may be work, at the latest after ``timeout_s`` seconds.

        A hint: it may return early. Jobs submitted or released in this process, scheduled
        ones that come due, leases that run out and turns of a concurrency key are noticed at
        once, and so is work that waits already; what other processes do, within ``NOTICE_S``.
        ``queues`` as for ``claim``.
        """
        ...
