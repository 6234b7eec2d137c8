"""What every executor promises, and how a job's work gets into one."""

import inspect
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from pydantic import JsonValue

from capturekit.worker import Handler, JobContext

OnProgress: TypeAlias = Callable[[float], Coroutine[Any, Any, None]]
"""Any: what a coroutine is sent, which is the event loop's business."""


class Executor(Protocol):
    """Runs functions that block, off the event loop. Use it as an async context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def run(
        self,
        function: Callable[..., JsonValue],
        *args: object,
        on_progress: OnProgress | None = None,
    ) -> JsonValue:
        """Call the function and return its answer, or raise what it raises.

        ``on_progress`` gets what it tells by ``progress``, in order; some may be left out when
        there is much. A cancelled call returns at once. For the ``except`` of a caller an error
        is a ``Permanent``, ``RateLimited``, ``ImageError`` and so on as it was where it was
        raised, and its class has the same name.
        """
        ...


def in_executor(executor: Executor, function: Callable[..., JsonValue]) -> Handler:
    """A worker's handler that calls ``function(payload)`` in the executor.

    The progress of the function is the job's. Raises TypeError for an async function: as a
    handler it needs no executor.
    """
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{function!r} is async; an executor runs functions that block")

    async def handle(context: JobContext) -> JsonValue:
        return await executor.run(function, context.job.payload, on_progress=context.progress)

    return handle
