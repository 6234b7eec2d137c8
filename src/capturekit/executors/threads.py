"""An executor of threads: no cost to speak of, and no way to stop what runs."""

import math
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

import anyio
import anyio.from_thread
import anyio.to_thread
from pydantic import JsonValue

from capturekit.executors.base import OnProgress
from capturekit.executors.inside import Line, called


class ThreadExecutor:
    """Calls functions in threads, as many at once as are asked for.

    A call that is cancelled is given up: its answer is ignored and ``should_stop`` is true in
    it, but its thread runs on, and uses its CPU, until the function returns.
    """

    def __init__(self) -> None:
        # Who calls bounds how many run: a worker by its concurrency. The thread of a call that
        # was given up must not take the place of another.
        self._limiter = anyio.CapacityLimiter(math.inf)

    async def __aenter__(self) -> Self:
        return self

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
        """As ``Executor.run``."""
        is_over = threading.Event()

        def tell(fraction: float) -> None:
            if on_progress is not None and not is_over.is_set():
                anyio.from_thread.run(on_progress, fraction)

        try:
            answer = await anyio.to_thread.run_sync(
                called,
                Line(tell, is_over.is_set),
                function,
                args,
                abandon_on_cancel=True,
                limiter=self._limiter,
            )
        finally:
            is_over.set()
        # Whoever keeps the answer checks it, as the worker does.
        return cast("JsonValue", answer)
