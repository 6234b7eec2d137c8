"""Whose turn it is: an order that can be left, and what concurrency keys make of it."""

import heapq
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from capturekit.queue.base import Job

Turn: TypeAlias = tuple[int, float, int]
"""Less of the priority, when it came due, and its number: the least goes first."""

T = TypeVar("T", bound=tuple[Any, ...])  # Any: tuples of any kind can be ordered

SPARE: Final = 16
"""Left places that a line keeps before it is made anew."""


class Line(Generic[T]):
    """Least first; each may leave from anywhere. All costs the logarithm of its length."""

    def __init__(self) -> None:
        self._heap: list[T] = []
        self._present: set[T] = set()

    def __len__(self) -> int:
        return len(self._present)

    def add(self, item: T) -> None:
        """Stand in line."""
        heapq.heappush(self._heap, item)
        self._present.add(item)

    def leave(self, item: T) -> None:
        """Leave the line, if in it. The place is given up later."""
        self._present.discard(item)
        if len(self._heap) > 2 * len(self._present) + SPARE:
            self._heap = sorted(self._present)

    def first(self) -> T | None:
        """The least; None when the line is empty."""
        while self._heap and self._heap[0] not in self._present:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def pop_until(self, last: T) -> Iterator[T]:
        """Take out all that are not greater, least first."""
        while (item := self.first()) is not None and item <= last:
            self.leave(item)
            yield item


class Turns:
    """The jobs that are due, and who of them may start.

    Jobs with a concurrency key stand in a lane for each key and queue. Only the first of a lane
    stands among those that may start, and only while fewer of the key run than it allows. So
    those behind it cost nobody anything.
    """

    def __init__(self) -> None:
        self._open: dict[str, Line[Turn]] = {}
        self._lanes: dict[str, dict[str, Line[Turn]]] = {}
        self._opened: dict[tuple[str, str], Turn] = {}
        self._jobs: dict[Turn, Job] = {}
        self._running: Counter[str] = Counter()

    def add(self, turn: Turn, job: Job) -> None:
        """The job is due."""
        self._jobs[turn] = job
        key = job.concurrency_key
        if key is None:
            self._may_start(turn, job.queue)
        else:
            lanes = self._lanes.setdefault(key, {})
            lanes.setdefault(job.queue, Line()).add(turn)
            self._settle(key)

    def leave(self, turn: Turn) -> None:
        """The job does not wait any more."""
        job = self._jobs.pop(turn)
        key = job.concurrency_key
        if key is None:
            self._may_not_start(turn, job.queue)
        else:
            self._lanes[key][job.queue].leave(turn)
            self._settle(key)

    def started(self, job: Job) -> None:
        """One more of the job's key runs."""
        if job.concurrency_key is not None:
            self._running[job.concurrency_key] += 1
            self._settle(job.concurrency_key)

    def stopped(self, job: Job) -> None:
        """One less of the job's key runs."""
        key = job.concurrency_key
        if key is not None:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]
            self._settle(key)

    def is_free(self, job: Job) -> bool:
        """Whether the job's key lets it start, were it the next in turn."""
        return job.concurrency_key is None or self._running[job.concurrency_key] < job.max_running

    def first(self, queues: Sequence[str], paused: Container[str]) -> Turn | None:
        """Who goes first of those that may start: of these queues, or of all when empty."""
        names = [name for name in queues if name in self._open] if queues else self._open
        firsts = (self._open[name].first() for name in names if name not in paused)
        return min((turn for turn in firsts if turn is not None), default=None)

    def _settle(self, key: str) -> None:
        lanes = self._lanes.get(key, {})
        for queue, lane in list(lanes.items()):
            turn = lane.first()
            if turn is None:
                del lanes[queue]
            self._open_to(turn if turn and self.is_free(self._jobs[turn]) else None, key, queue)
        if not lanes:
            self._lanes.pop(key, None)

    def _open_to(self, turn: Turn | None, key: str, queue: str) -> None:
        """Let this one of the key start, or none, in place of who might until now."""
        before = self._opened.get((key, queue))
        if before == turn:
            return
        if before is not None:
            del self._opened[key, queue]
            self._may_not_start(before, queue)
        if turn is not None:
            self._opened[key, queue] = turn
            self._may_start(turn, queue)

    def _may_start(self, turn: Turn, queue: str) -> None:
        self._open.setdefault(queue, Line()).add(turn)

    def _may_not_start(self, turn: Turn, queue: str) -> None:
        self._open[queue].leave(turn)
        if not self._open[queue]:
            del self._open[queue]
