"""What to tell the queue about a task that ended, however it did."""

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeAlias

from pydantic import JsonValue, TypeAdapter
from pydantic_core import to_jsonable_python
from taskiq import TaskiqResult
from taskiq.exceptions import NoResultError

from capturekit.errors import (
    CaptureKitError,
    ImageError,
    Permanent,
    RateLimited,
    StorageBusy,
    StorageFull,
    StorageReadOnly,
)
from capturekit.queue.base import JobError, Lease, QueueBackend, unreadable

log = logging.getLogger(__name__)

STORAGE_PAUSE_S: Final = 5.0
"""The longest pause before storage that failed is tried again."""

MAX_MESSAGE: Final = 2000
"""Characters kept of an exception's text."""

_PASSING: Final = (StorageFull, StorageBusy, StorageReadOnly)
_JSON: Final[TypeAdapter[JsonValue]] = TypeAdapter(JsonValue)

Report: TypeAlias = Callable[[], Awaitable[object]]
"""Tells the queue; may be called again when storage failed."""


class Reason(StrEnum):
    """Why a task was told to stop."""

    CANCEL = "someone cancelled the job"
    LOST = "the lease was lost"
    TIMEOUT = "it took too long"
    STOP = "the worker stops"


class Wish(StrEnum):
    """What a task, or a middleware on its behalf, asked for by sending its own message again."""

    RETRY = "another attempt"
    REQUEUE = "the same attempt, later"


class Delivery:
    """A job in the hands of this worker."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.stop = threading.Event()
        """Set when the work is no longer wanted. Threads cannot be cancelled: they ask."""
        self.reason: Reason | None = None
        self.wish: Wish | None = None
        self.error: BaseException | None = None
        self.result: TaskiqResult[Any] | None = None
        self.has_succeeded = False
        self.task: asyncio.Task[object] | None = None
        self.ending: asyncio.Task[bool] | None = None

    @property
    def id(self) -> str:
        """Of the job."""
        return self.lease.job.id


async def say_nothing() -> None:
    """The report about a job that is no longer ours."""


class Answers:
    """Turns endings into reports to the queue."""

    def __init__(self, queue: QueueBackend) -> None:
        self._queue = queue

    def ended(
        self, delivery: Delivery, error: BaseException | None, value: object = None
    ) -> Report:
        """For a task that returned a value, or raised; why it was stopped comes first."""
        lease = delivery.lease
        if delivery.reason is Reason.LOST:
            return say_nothing
        if delivery.reason is Reason.TIMEOUT:
            message = f"took longer than {lease.job.timeout_s:g} s"
            late = JobError(type="JobTimeout", message=message, attempt=lease.attempt)
            return partial(self._queue.fail, lease, late)
        if error is None:
            return self._returned(delivery, value)
        if delivery.reason is Reason.CANCEL:
            return partial(self._queue.cancelled, lease)
        return self.raised(delivery, error)

    def raised(self, delivery: Delivery, error: BaseException) -> Report:
        """For a task that ended with this, of itself."""
        lease = delivery.lease
        if isinstance(error, asyncio.CancelledError) or delivery.wish is Wish.REQUEUE:
            return partial(self._queue.release, lease)
        if isinstance(error, NoResultError):
            return partial(self._queue.finish, lease, None)
        log.warning("job %s: attempt %d: %r", delivery.id, lease.attempt, error)
        if isinstance(error, RateLimited):
            return partial(self._queue.release, lease, delay_s=max(0.0, error.retry_after_s))
        if isinstance(error, _PASSING):
            return partial(self._queue.release, lease, delay_s=STORAGE_PAUSE_S)
        is_permanent = isinstance(error, (Permanent, ImageError))
        told = _job_error(error, lease.attempt)
        return partial(self._queue.fail, lease, told, is_permanent=is_permanent)

    def unreadable(self, delivery: Delivery, why: str) -> Report:
        """For a job that is no task."""
        text = _JSON.dump_json(delivery.lease.job.payload).decode()
        error = unreadable(why, text)
        return partial(self._queue.fail, delivery.lease, error, is_permanent=True)

    def release(self, lease: Lease) -> Report:
        """For a job that nobody began."""
        return partial(self._queue.release, lease)

    def _returned(self, delivery: Delivery, value: object) -> Report:
        try:
            result = _JSON.validate_python(to_jsonable_python(value))
            # Not a number, or half a character: Python calls it JSON, and nobody else does.
            json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
        except Exception:  # noqa: BLE001  # a task may return anything
            what = type(value).__name__
            error = Permanent(f"the task returned a {what} that JSON cannot hold")
            return self.raised(delivery, error)
        delivery.has_succeeded = True
        return partial(self._queue.finish, delivery.lease, result)


def _job_error(error: BaseException, attempt: int) -> JobError:
    step = getattr(error, "step", None)
    return JobError(
        type=type(error).__name__,
        # Half a character, as in the name of a badly encoded file, has no place in JSON.
        message=str(error)[:MAX_MESSAGE].encode(errors="replace").decode(),
        step=step if isinstance(error, CaptureKitError) and isinstance(step, str) else None,
        attempt=attempt,
    )
