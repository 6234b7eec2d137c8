"""Tasks, and the queue that they wait in."""

from typing import Literal, TypeAlias

from pydantic import ConfigDict, Field, JsonValue

from capturekit.wire.base import Answer, Moment

TaskState: TypeAlias = Literal["queued", "scheduled", "running", "succeeded", "failed", "cancelled"]
"""``queue.JobState``, without the queue."""


class Queued(Answer):
    """A capture waits to be processed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "capture_id": "01k9x3v5d0w4f6m8q2r7t1y3z5",
                    "task_id": "01k9x3v6aa0b1c2d3e4f5g6h7j",
                    "status": "queued",
                    "sync": False,
                }
            ]
        }
    )

    capture_id: str
    task_id: str
    """The same while it lives, however often it is asked for."""
    status: Literal["queued"] = "queued"
    sync: Literal[False] = False


class Processed(Answer):
    """A capture was processed before the answer."""

    capture_id: str
    task_id: str
    observation_ids: list[int]
    status: Literal["completed"] = "completed"
    sync: Literal[True] = True


class PendingBatch(Answer):
    """What became of the captures that waited."""

    batch_id: str
    task_ids: list[str]
    pending_count: int
    skipped: int
    """Those that were queued or running already."""
    message: str
    sync: bool


class TaskError(Answer):
    """Why an attempt failed."""

    type: str
    message: str
    step: str | None = None
    attempt: int


class TaskAttempt(Answer):
    """One try."""

    number: int
    worker: str
    started_at: Moment
    finished_at: Moment | None
    error: TaskError | None


class Task(Answer):
    """All that is known about a task."""

    task_id: str
    state: TaskState
    ready: bool
    """Whether it has ended."""
    successful: bool
    progress: float = Field(ge=0, le=1)
    attempts: list[TaskAttempt]
    queued_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    next_retry_at: Moment | None
    result: JsonValue
    error: TaskError | None


class Cancelled(Answer):
    """What a cancel did."""

    task_id: str
    status: Literal["cancelled", "cancelling"]


class WorkerRow(Answer):
    """A worker as it was last heard of."""

    id: str
    host: str
    pid: int
    concurrency: int
    started_at: Moment
    heartbeat_at: Moment
    jobs: list[str]


class TasksByWorker(Answer):
    """Tasks, and who holds which."""

    tasks: list[Task]
    by_worker: dict[str, list[str]]


class Rate(Answer):
    """What came and went lately."""

    window_s: float
    in_per_minute: float
    out_per_minute: float


class QueueInfo(Answer):
    """What runs where, and what waits."""

    active: TasksByWorker
    reserved: TasksByWorker
    """Always empty: workers take only what they have room for."""
    workers: list[WorkerRow]
    pool_size: int
    depth: dict[TaskState, int]
    oldest_age_s: float | None
    is_paused: bool
    rates: list[Rate]


class QueueState(Answer):
    """Whether tasks are handed out, and how many there are."""

    is_paused: bool
    """Whether all queues are."""
    paused: list[str]
    """Queues that were paused by themselves."""
    is_drained: bool
    """Nothing runs."""
    depth: dict[TaskState, int]


class Retried(Answer):
    """How many tasks wait again."""

    retried: int


class Resized(Answer):
    """What a worker was asked for; it learns so in a moment."""

    worker_id: str
    concurrency: int
