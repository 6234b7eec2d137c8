"""Jobs by the clock: a cron line, and the times it names.

A time is part of its job's id, so of all workers that see it come only one is heard.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import anyio
from cronsim import CronSim, CronSimError
from pydantic import JsonValue

from capturekit.queue.base import Job, QueueBackend

LOOK_S: Final = 1.0
"""The longest time without a look at the clock, which may be set."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Submits a job of this kind at each time that ``cron`` names, in UTC.

    ``cron`` has the five fields of Debian's cron, or six with the seconds first. Raises
    ValueError for one that is wrong or names no time within 50 years.

    Each time is submitted once, by whichever worker comes first, and passed over while the job
    of an earlier one has not ended. When no worker ran, the newest time that was missed is
    made up for by the next to start; so is the one before the very first start. Should the
    queue have pruned that job by then, it runs again: keep ended jobs for as long as the
    schedule's period, or let the work be harmless.
    """

    name: str
    """Unique among schedules; part of the id of each job."""
    cron: str
    kind: str
    payload: dict[str, JsonValue] = field(default_factory=dict)
    queue: str = "maintenance"
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        self.next_at(0.0)
        self.job(0.0)

    def last_at(self, now: float) -> float:
        """The newest time named that is not after ``now``, in seconds since 1970."""
        # The second after: a time that is now counts.
        return self._named(int(now) + 1, reverse=True)

    def next_at(self, now: float) -> float:
        """The first time named after ``now``, in seconds since 1970."""
        return self._named(int(now), reverse=False)

    def _named(self, since: int, *, reverse: bool) -> float:
        start = datetime.fromtimestamp(since, UTC)
        try:
            return next(CronSim(self.cron, start, reverse=reverse)).timestamp()
        except CronSimError as error:
            raise ValueError(
                f"schedule {self.name!r}: {self.cron!r} is no cron: {error}"
            ) from error
        except StopIteration:
            message = f"schedule {self.name!r}: {self.cron!r} names no time within 50 years"
            raise ValueError(message) from None

    def job(self, at: float) -> Job:
        """The job of this time."""
        return Job(
            id=f"{self.name}@{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}",
            kind=self.kind,
            payload=self.payload,
            queue=self.queue,
            timeout_s=self.timeout_s,
            unique_key=f"schedule:{self.name}",
        )


class Ticker:
    """Submits the jobs of schedules as their times come.

    A clock that is set back repeats no time that the queue still knows, and one that is set
    forward skips all but the newest.
    """

    def __init__(
        self,
        queue: QueueBackend,
        schedules: Sequence[Schedule],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        names = [schedule.name for schedule in schedules]
        if len(set(names)) < len(names):
            raise ValueError(f"schedules of one name: {', '.join(sorted(names))}")
        self._queue = queue
        self._schedules = schedules
        self._clock = clock
        self._last: dict[str, float] = {}
        self._looked_at = self._due_at = float("-inf")

    async def run(self, complain: Callable[[Exception], None]) -> None:
        """Until cancelled; what cannot be submitted is told, and tried again."""
        while self._schedules:
            try:
                await self.tick()
            except Exception as error:  # noqa: BLE001  # the loop must live on
                complain(error)
            await anyio.sleep(min(max(self._due_at - self._clock(), 0.0), LOOK_S))

    async def tick(self) -> None:
        """Submit what is due and was not submitted."""
        now = self._clock()
        if self._looked_at <= now < self._due_at:
            return
        # Should something fail: not before the next look, but then for certain.
        self._due_at = float("inf")
        self._looked_at = float("inf")
        for schedule in self._schedules:
            at = schedule.last_at(now)
            if at != self._last.get(schedule.name):
                await self._queue.submit(schedule.job(at))
                self._last[schedule.name] = at
        self._looked_at = now
        self._due_at = min(schedule.next_at(now) for schedule in self._schedules)
