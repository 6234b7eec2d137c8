"""Results as taskiq asks for them: what the queue knows of its jobs. There is no second place."""

import builtins
from collections.abc import Awaitable, Callable
from typing import Any, Final

from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress, TaskState

from capturekit import errors
from capturekit.errors import CaptureKitError, JobCancelled
from capturekit.queue.base import JobState, JobStatus
from capturekit.queue.broker.hands import Hands
from capturekit.queue.broker.message import bare_message

_TASK_STATES: Final = {
    JobState.QUEUED: TaskState.RETRY,
    JobState.SCHEDULED: TaskState.RETRY,
    JobState.RUNNING: TaskState.STARTED,
    JobState.SUCCEEDED: TaskState.SUCCESS,
    JobState.FAILED: TaskState.FAILURE,
    JobState.CANCELLED: TaskState.FAILURE,
}


class QueueResults(AsyncResultBackend[Any]):
    """Tells the queue how a task ended, and the caller what the queue then knows."""

    def __init__(
        self, status: Callable[[str], Awaitable[JobStatus]], hands: Callable[[], Hands]
    ) -> None:
        self._status = status
        self._hands = hands

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """End the job of the current task, or let it be tried again. Raises LeaseLost."""
        del task_id
        await self._hands().settle(result)

    async def is_result_ready(self, task_id: str) -> bool:
        """Whether the job has ended for good. Raises UnknownJob."""
        return (await self._status(task_id)).state.is_final

    async def get_result(
        self,
        task_id: str,
        with_logs: bool = False,  # noqa: FBT001, FBT002  # taskiq's form
    ) -> TaskiqResult[Any]:
        """The result of a job that has ended. Raises UnknownJob, LookupError before its end."""
        del with_logs
        status = await self._status(task_id)
        if not status.state.is_final:
            raise LookupError(f"job {task_id!r} is {status.state}: it has no result yet")
        is_err = status.state is not JobState.SUCCEEDED
        took_s = (status.finished_at or 0) - status.started_at if status.started_at else 0
        return TaskiqResult(
            is_err=is_err,
            return_value=status.result,
            execution_time=max(0.0, took_s),
            labels=_labels(status),
            error=_error(status) if is_err else None,
        )

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        """Show how far the current task is: ``meta`` is a fraction, the state is the queue's.

        Raises TypeError or ValueError for another ``meta``.
        """
        del task_id
        await self._hands().progress(float(progress.meta or 0.0))

    async def get_progress(self, task_id: str) -> TaskProgress[Any] | None:
        """How far the job is, a fraction; None before it was tried. Raises UnknownJob."""
        status = await self._status(task_id)
        if not status.attempts:
            return None
        return TaskProgress(state=_TASK_STATES[status.state], meta=status.progress)


def _labels(status: JobStatus) -> dict[str, Any]:
    try:
        message = bare_message(status.id, status.kind, status.payload)
        message.parse_labels()
    except ValueError:
        return {}
    return message.labels


def _error(status: JobStatus) -> Exception:
    """What a caller of ``raise_for_error`` gets: ours and Python's by their own class."""
    if status.state is JobState.CANCELLED:
        return JobCancelled(f"job {status.id} was cancelled")
    if status.error is None:
        return CaptureKitError(f"job {status.id} failed")
    told = status.error
    try:
        # Not called: many want other arguments than their message.
        kind = _class(told.type)
        error: Exception = kind.__new__(kind, told.message)
    except (TypeError, ValueError):
        return CaptureKitError(f"{told.type}: {told.message}")
    return error


def _class(name: str) -> type[Exception]:
    known = getattr(errors, name, None) or getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception):
        return known
    return type(name, (Exception,), {"__doc__": "Raised by a task."})
