"""Waits until someone says that there may be work.

A script that made work pushes marks into lists, as many as there are jobs; each mark wakes one
idle worker. A mark may be lost with who took it: everybody looks again after ``NOTICE_S``.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from capturekit.queue.base import NOTICE_S
from capturekit.queue.redis.link import Link, as_ours
from capturekit.queue.redis.wire import Question, Refused, Wire, packed

_BLOCK_S: Final = b"%g" % NOTICE_S


class Waking:
    """Connections of their own for those who wait: one for each who does so at a time."""

    def __init__(self, link: Link, base: str, deadline_s: float) -> None:
        self._link = link
        self._base = base
        self._deadline_s = deadline_s
        self._idle: defaultdict[tuple[str, ...], list[_Ear]] = defaultdict(list)
        self._ears: set[_Ear] = set()

    async def wait(
        self, timeout_s: float, queues: Sequence[str], quiet_s: Callable[[], Awaitable[float]]
    ) -> None:
        """Return at a mark, after ``timeout_s``, or when the quiet time is over."""
        names = tuple(f"wake:{name}" for name in queues) or ("wake",)
        time = asyncio.get_running_loop().time
        ends_at = time() + timeout_s
        ear = self._idle_ear(names)
        try:
            while True:
                if ear is not None:
                    ear.forget()
                quiet = await quiet_s()
                ends_at = min(ends_at, time() + quiet)
                left_s = ends_at - time()
                if left_s <= 0:
                    return
                # Not before: in a Cluster the question also finds out whom to listen to.
                ear = ear or await self._new_ear(names)
                if await ear.hears(min(left_s, NOTICE_S)):
                    return
        finally:
            if ear is not None and ear.wire.is_open:
                self._idle[names].append(ear)
            elif ear is not None:
                self._ears.discard(ear)

    def close(self) -> None:
        """Close all connections."""
        for ear in self._ears:
            ear.wire.close()
        self._ears.clear()
        self._idle.clear()

    def _idle_ear(self, names: tuple[str, ...]) -> "_Ear | None":
        idle = self._idle[names]
        while idle:
            ear = idle.pop()
            if ear.wire.is_open:
                return ear
            self._ears.discard(ear)
        return None

    async def _new_ear(self, names: tuple[str, ...]) -> "_Ear":
        wire = await self._link.fresh()
        lists = [self._base + name for name in names]
        ear = _Ear(wire, packed(("BLPOP", *lists, _BLOCK_S)), NOTICE_S + self._deadline_s)
        self._ears.add(ear)
        return ear


class _Ear:
    """Listens to some lists, over a connection of its own."""

    def __init__(self, wire: Wire, command: bytes, within_s: float) -> None:
        self.wire = wire
        self._command = command
        self._within_s = within_s
        self._asked: Question | None = None

    def forget(self) -> None:
        """What was heard until now is old."""
        if self._asked is not None and self._asked.answer.done():
            self._asked.answer.exception()
            self._asked = None

    async def hears(self, patience_s: float) -> bool:
        """Whether there is a mark within this time. Raises StorageError.

        The server goes on listening for a moment when the time is over: it is told how long
        only to a tenth of a second.
        """
        if self._asked is None:
            self._asked = self.wire.ask(self._command, self._within_s)
        try:
            # Awaited itself, not by asyncio.wait or shield: those cost two turns of the loop.
            async with asyncio.timeout(patience_s):
                mark = await self._asked.answer
        except TimeoutError:
            return False
        except Refused as error:
            self.wire.close()
            raise as_ours(error) from error
        finally:
            if self._asked.answer.cancelled():
                self._asked.answer = asyncio.get_running_loop().create_future()
        self._asked = None
        return mark is not None
