"""Wakes those who wait for work in this process."""

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

    async def wait(self, timeout_s: float, quiet_s: Callable[[], Awaitable[float]]) -> None:
        """Return at the next ring, after ``timeout_s`` or when the quiet time is over.

        ``quiet_s`` is asked after listening began, so no ring falls between the two.
        """
        rung = self._rung
        with anyio.move_on_after(min(timeout_s, await quiet_s())):
            await rung.wait()
