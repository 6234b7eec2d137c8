"""How many jobs are in each state, without counting them.

Every transaction appends what it changed; sums are the depth. Nobody waits for anybody: on
Postgres one row of counts would be a lock that all workers want. Now and then the rows are
folded into fewer.
"""

from collections import defaultdict
from typing import Final

from sqlalchemy import Connection

from capturekit.queue.base import RATE_WINDOWS_S, JobState, QueueRate, empty_depth
from capturekit.queue.sql.rows import BLOCKED
from capturekit.queue.sql.statement import Statement

BUCKET_S: Final = 5.0
"""Rates know when a job came or went to within this."""

FOLD_EVERY: Final = 500
"""Rows that a process appends before it folds. More make sums slow, fewer cost writes."""

FOLD_MOST: Final = 5000
"""Rows folded at once, for the case that many processes were killed before they folded."""

_COUNTS: Final = (*(state.value for state in JobState), "came", "went")
_CAME: Final = len(JobState)
_WENT: Final = _CAME + 1
_FINAL: Final = frozenset(state.value for state in JobState if state.is_final)
_PLACES: Final = {name: place for place, name in enumerate(_COUNTS[:_CAME])} | {
    BLOCKED: _COUNTS.index(JobState.QUEUED)
}
"""Of stored states among the counts: who waits for a turn is queued."""

_COLUMNS: Final = ", ".join(("queue", "at", *_COUNTS))
_SUMS: Final = ", ".join(f"sum({name})" for name in _COUNTS)
_VALUES: Final = ", ".join(f":{name}" for name in ("queue", "at", *_COUNTS))

_APPEND: Final = Statement(f"INSERT INTO job_tally ({_COLUMNS}) VALUES ({_VALUES})")  # noqa: S608
_DEPTH: Final = Statement(f"SELECT queue, {_SUMS} FROM job_tally GROUP BY queue")  # noqa: S608
_WAITING: Final = Statement("SELECT coalesce(sum(queued + scheduled), 0) FROM job_tally")
_ENDED: Final = Statement("SELECT coalesce(sum(succeeded + failed + cancelled), 0) FROM job_tally")
_RATE: Final = Statement(
    "SELECT coalesce(sum(came), 0), coalesce(sum(went), 0) FROM job_tally WHERE at > :since"
)
_TAKE_OUT: Final = Statement(
    # Only names of columns are put into the text.
    f"""
    DELETE FROM job_tally
    WHERE seq IN (SELECT seq FROM job_tally ORDER BY seq LIMIT :limit {{SKIP_LOCKED}})
    RETURNING {_COLUMNS}
    """  # noqa: S608
)


class Change:
    """What one transaction changed in the numbers of jobs."""

    def __init__(self) -> None:
        self.by_queue: defaultdict[str, list[int]] = defaultdict(_nothing)
        """In the order of ``_COUNTS``. Lists, because this is done for each step of each job."""

    def came(self, queue: str, state: str) -> None:
        """A job was submitted."""
        counts = self.by_queue[queue]
        counts[_CAME] += 1
        counts[_PLACES[state]] += 1

    def moved(self, queue: str, old: str, new: str) -> None:
        """A job went from one stored state to another."""
        counts = self.by_queue[queue]
        counts[_PLACES[old]] -= 1
        counts[_PLACES[new]] += 1
        if new in _FINAL:
            counts[_WENT] += 1

    def forgotten(self, queue: str, state: str) -> None:
        """A job was pruned."""
        self.by_queue[queue][_PLACES[state]] -= 1


class Tally:
    """The table ``job_tally``, as one process uses it."""

    def __init__(self) -> None:
        self._appended = 0

    def add(self, connection: Connection, change: Change, now: float) -> None:
        """Append what the transaction changed; now and then fold what is there."""
        at = now // BUCKET_S * BUCKET_S
        for queue, counts in change.by_queue.items():
            _append(connection, queue, at, counts)
        self._appended += len(change.by_queue)
        if self._appended >= FOLD_EVERY:
            self.fold(connection, now)

    def fold(self, connection: Connection, now: float) -> None:
        """Replace rows by their sums: one of each queue, and one for each time of its rates."""
        self._appended = 0
        oldest = now - max(RATE_WINDOWS_S) - BUCKET_S
        sums: defaultdict[tuple[str, float], list[int]] = defaultdict(_nothing)
        for queue, at, *counts in _TAKE_OUT.rows(connection, limit=FOLD_MOST):
            total, lately = sums[queue, 0.0], sums[queue, at]
            for place in range(_CAME):
                total[place] += counts[place]
            if at > oldest:
                lately[_CAME] += counts[_CAME]
                lately[_WENT] += counts[_WENT]
        for (queue, at), total in sums.items():
            if any(total):
                _append(connection, queue, at, total)


def _append(connection: Connection, queue: str, at: float, counts: list[int]) -> None:
    _APPEND.count(connection, queue=queue, at=at, **dict(zip(_COUNTS, counts, strict=True)))


def _nothing() -> list[int]:
    return [0] * len(_COUNTS)


def depth_by_queue(connection: Connection) -> dict[str, dict[JobState, int]]:
    """Jobs by queue and state, of queues that have any. Those that came due are scheduled."""
    found: dict[str, dict[JobState, int]] = {}
    for queue, *counts in _DEPTH.rows(connection):
        depth = empty_depth() | dict(zip(JobState, map(int, counts), strict=False))
        if any(depth.values()):
            found[queue] = depth
    return found


def rate(connection: Connection, now: float, window_s: float) -> QueueRate:
    """What came and went in the time before now."""
    # A bucket counts as long as any of it is inside the window.
    came, went = _RATE.rows(connection, since=now - window_s - BUCKET_S)[0]
    minutes = window_s / 60
    return QueueRate(
        window_s=window_s, in_per_minute=int(came) / minutes, out_per_minute=int(went) / minutes
    )


def waiting(connection: Connection) -> int:
    """Jobs that are queued or scheduled."""
    return int(_WAITING.rows(connection)[0][0])


def ended(connection: Connection) -> int:
    """Jobs that will not run again unless someone asks for it."""
    return int(_ENDED.rows(connection)[0][0])
