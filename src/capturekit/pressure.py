"""How busy this server is, and what follows from that: lower limits, and who is let in.

One object a server, fed from its queue twice a second. ``scale`` goes into the limits on
uploads, ``admission`` in front of them.
"""

import time
from collections.abc import Callable, Collection
from typing import Final, TypedDict

import anyio

from capturekit.queue.base import JobState, QueueBackend
from capturekit.ratelimit import (
    Admission,
    AdmissionStats,
    EventLoopLag,
    MemoryLoad,
    PressureLoad,
    QueueLoad,
    QueueMeter,
    QueueNumbers,
    Scaling,
    ScalingStats,
    Signal,
    watch,
)

COLD_DEPTH: Final = 1_000
"""Jobs that may wait before it is known how fast they go. A server that leaves all work to
workers must take pictures before the first of them has started."""


SIGNALS: Final = ("queue", "event_loop", "memory", "pressure")
"""What load may be told by."""


class PressureStats(TypedDict):
    """How busy the server is, ready for JSON."""

    scaling: ScalingStats
    admission: AdmissionStats


class Pressure:
    """Load of one server, watched while ``run`` runs.

    Args:
        queue: Asked for its numbers about twice a second.
        target_wait_s: Longest that a picture should wait for its turn. At that wait uploads are
            refused with 503; limits fall to a half on the way there.
        signals: Of SIGNALS, those whose highest load scales the limits.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        queue: QueueBackend,
        target_wait_s: float,
        *,
        signals: Collection[str] = ("queue",),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._meter = QueueMeter(clock)
        self._load = QueueLoad(target_wait_s)
        self._lag = EventLoopLag()
        self._clock = clock
        known: tuple[Signal, ...] = (self._load, self._lag, MemoryLoad(), PressureLoad())
        asked = [signal for signal in known if signal.name in signals]
        self.scaling = Scaling(asked, clock=clock)
        """The factor on limits: 1 without load, 0.5 under full load."""
        self.admission = Admission(target_wait_s, cold_depth=COLD_DEPTH, clock=clock)
        """Whether one more picture would wait too long."""

    async def run(self) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._lag.run)
            tasks.start_soon(self._watch)

    def describe(self) -> PressureStats:
        """Where it stands, for stats and metrics."""
        return PressureStats(scaling=self.scaling.describe(), admission=self.admission.describe())

    async def _watch(self) -> None:
        await watch(self._numbers, self._load.observe, self.admission.observe, clock=self._clock)

    async def _numbers(self) -> QueueNumbers:
        stats = await self._queue.stats()
        at_once = sum(worker.concurrency for worker in await self._queue.workers())
        return self._meter.read(
            waiting=stats.depth[JobState.QUEUED],
            running=stats.depth[JobState.RUNNING],
            ended=stats.depth[JobState.SUCCEEDED] + stats.depth[JobState.FAILED],
            workers=0 if stats.is_paused else at_once,
            oldest_age_s=stats.oldest_age_s,
        )
