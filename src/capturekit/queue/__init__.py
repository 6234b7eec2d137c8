"""Background work that survives: jobs, and the backends that keep them.

The backends ``capturekit.queue.memory``, ``.sql`` and ``.redis`` are imported when asked for,
by name or by URL (``capturekit.queue.urls``); ``.broker`` speaks taskiq over any of them.
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
