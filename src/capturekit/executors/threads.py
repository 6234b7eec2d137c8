"""An executor of threads: no cost to speak of, and no way to stop what runs."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Self, cast

import anyio
import anyio.from_thread
from anyio.lowlevel import current_token
from pydantic import JsonValue

from capturekit.executors.base import OnProgress
from capturekit.executors.inside import Line, called


class ThreadExecutor:
    """Calls functions in threads, as many at once as are asked for.

    A call that is cancelled is given up: its answer is ignored and ``should_stop`` is true in
    it, but its thread runs on, and uses its CPU, until the function returns. The process may
    end before that: the threads are daemons, which those of ``anyio.to_thread`` are not.
    """

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
        token, is_over, has_ended = current_token(), threading.Event(), anyio.Event()
        outcome: Future[object] = Future()

        def tell(fraction: float) -> None:
            if on_progress is not None and not is_over.is_set():
                anyio.from_thread.run(on_progress, fraction, token=token)

        def work() -> None:
            try:
                outcome.set_result(called(Line(tell, is_over.is_set), function, args))
            except BaseException as error:  # noqa: BLE001  # for the caller, whatever it is
                outcome.set_exception(error)
            with suppress(anyio.RunFinishedError):
                anyio.from_thread.run_sync(has_ended.set, token=token)

        threading.Thread(target=work, name=f"executor: {function}", daemon=True).start()
        try:
            await has_ended.wait()
        finally:
            is_over.set()
        # Whoever keeps the answer checks it, as the worker does.
        return cast("JsonValue", outcome.result())
