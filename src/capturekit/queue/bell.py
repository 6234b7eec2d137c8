"""Wakes those who wait for work in this process."""

import math
from collections.abc import Awaitable, Callable

import anyio


class Bell:
    """Rings for everyone who listens at that moment."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        """Wake all who wait. Call it in the event loop's thread."""
        self._rung.set()
        self._rung = anyio.Event()

    async def wait(
        self,
        timeout_s: float,
        quiet_s: Callable[[], Awaitable[float]],
        *,
        ask_every_s: float = math.inf,
    ) -> None:
        """Return at the next ring, after ``timeout_s`` or when the quiet time is over.

        ``quiet_s`` is asked after listening began, so no ring falls between the two, and again
        after every ``ask_every_s``, for what happens without a ring.
        """
        rung, ends_at = self._rung, anyio.current_time() + timeout_s
        is_over = False
        while not is_over:
            quiet = await quiet_s()
            ends_at = min(ends_at, anyio.current_time() + quiet)
            left_s = ends_at - anyio.current_time()
            is_over = left_s <= ask_every_s
            with anyio.move_on_after(min(left_s, ask_every_s)):
                await rung.wait()
                return
