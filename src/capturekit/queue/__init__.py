"""Background work that survives: jobs, and the backends that keep them.

``capturekit.queue.memory`` and ``capturekit.queue.sql`` are imported when asked for.
"""

from capturekit.queue.base import (
    Attempt,
    BatchStatus,
    Beat,
    CancelOutcome,
    Job,
    JobError,
    JobState,
    JobStatus,
    Lease,
    Orders,
    QueueBackend,
    QueueRate,
    QueueStats,
    RetryPolicy,
    Submission,
    WorkerInfo,
)

__all__ = [
    "Attempt",
    "BatchStatus",
    "Beat",
    "CancelOutcome",
    "Job",
    "JobError",
    "JobState",
    "JobStatus",
    "Lease",
    "Orders",
    "QueueBackend",
    "QueueRate",
    "QueueStats",
    "RetryPolicy",
    "Submission",
    "WorkerInfo",
]
