"""Pictures from cheap cameras to a stock ledger one can trust.

The names below are loaded when they are first used: ``import capturekit`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from capturekit.errors import CaptureKitError, MissingExtra

if TYPE_CHECKING:
    from capturekit.blobs import Blobs, FileBlobs
    from capturekit.executors import ProcessExecutor, ThreadExecutor
    from capturekit.frame import Frame, Observation
    from capturekit.kit import CaptureKit
    from capturekit.pipeline import ProcessingPipeline, Result, Step
    from capturekit.queue.base import Job, JobState, JobStatus, QueueBackend, RetryPolicy
    from capturekit.queue.memory import MemoryQueue
    from capturekit.queue.redis import RedisQueue
    from capturekit.queue.sql import SqlQueue
    from capturekit.ratelimit import Decision, RateLimiter, RateLimitMiddleware
    from capturekit.schedule import Schedule
    from capturekit.settings import Settings
    from capturekit.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "Blobs",
    "CaptureKit",
    "CaptureKitError",
    "Decision",
    "FileBlobs",
    "Frame",
    "Job",
    "JobState",
    "JobStatus",
    "MemoryQueue",
    "Observation",
    "ProcessExecutor",
    "ProcessingPipeline",
    "QueueBackend",
    "RateLimitMiddleware",
    "RateLimiter",
    "RedisQueue",
    "Result",
    "RetryPolicy",
    "Schedule",
    "Settings",
    "SqlQueue",
    "Step",
    "ThreadExecutor",
    "Worker",
    "__version__",
]

_HOMES = {
    "capturekit.blobs": ("Blobs", "FileBlobs"),
    "capturekit.executors": ("ProcessExecutor", "ThreadExecutor"),
    "capturekit.frame": ("Frame", "Observation"),
    "capturekit.kit": ("CaptureKit",),
    "capturekit.pipeline": ("ProcessingPipeline", "Result", "Step"),
    "capturekit.queue.base": ("Job", "JobState", "JobStatus", "QueueBackend", "RetryPolicy"),
    "capturekit.queue.memory": ("MemoryQueue",),
    "capturekit.queue.redis": ("RedisQueue",),
    "capturekit.queue.sql": ("SqlQueue",),
    "capturekit.ratelimit": ("Decision", "RateLimitMiddleware", "RateLimiter"),
    "capturekit.schedule": ("Schedule",),
    "capturekit.settings": ("Settings",),
    "capturekit.worker": ("Worker",),
}


_EXTRAS = {"RedisQueue": "redis"}
"""Of the names that need another extra than ``server``."""


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return _load(home, name)
    raise AttributeError(f"module 'capturekit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _load(home: str, name: str) -> object:
    try:
        found: object = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("capturekit"):
            raise
        raise MissingExtra(f"capturekit.{name}", _EXTRAS.get(name, "server")) from error
    globals()[name] = found
    return found
