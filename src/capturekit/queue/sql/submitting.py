"""Jobs come in: each id once, each unique key once, and no more than may wait."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Final

from capturekit.database.prepared import Row
from capturekit.errors import QueueFull
from capturekit.queue.base import Job, JobState, Submission, first_state
from capturekit.queue.sql import tally
from capturekit.queue.sql.locks import LockKind, lock_names
from capturekit.queue.sql.rows import NEW_COLUMNS, new_row, state_of, stored_state
from capturekit.queue.sql.statement import Statement, several
from capturekit.queue.sql.transaction import Transaction

AT_ONCE: Final = (100, 10, 1)
"""Jobs that one statement inserts; few sizes, so that each is prepared once."""

_FREE_LAPSED: Final = Statement(
    """
    UPDATE job SET held_key = NULL
    WHERE held_key {AMONG:keys} AND held_key IS NOT NULL
    AND finished_at IS NOT NULL AND NOT coalesce(queued_at + unique_for_s > :now, FALSE)
    """
)
_BY_ID: Final = Statement("SELECT id, id, state, due_at FROM job WHERE id {AMONG:names}")
_BY_KEY: Final = Statement(
    """
    SELECT held_key, id, state, due_at FROM job
    WHERE held_key {AMONG:names} AND held_key IS NOT NULL
    """
)
_TAKE_BACK: Final = Statement("DELETE FROM job WHERE id {AMONG:ids}")


@cache
def _names(count: int) -> tuple[str, ...]:
    """Of the values of so many rows of ``NEW_COLUMNS``."""
    return tuple(f"{name}{number}" for number in range(count) for name in NEW_COLUMNS)


@cache
def _insert(count: int) -> Statement:
    width = len(NEW_COLUMNS)
    names = [f":{name}" for name in _names(count)]
    rows = (", ".join(names[start : start + width]) for start in range(0, len(names), width))
    return Statement(
        # Only names of columns and of values are put into the text.
        f"INSERT INTO job ({', '.join(NEW_COLUMNS)}) VALUES ({'), ('.join(rows)})"  # noqa: S608
        " ON CONFLICT DO NOTHING RETURNING id"
    )


def submit(change: Transaction, jobs: Sequence[Job], max_waiting: int | None) -> list[Submission]:
    """As ``QueueBackend.submit``."""
    if max_waiting is not None:
        # Sums do not show what others submit at this moment, so on Postgres they go one by one.
        lock_names(change.connection, LockKind.ROOM, ["room"])
    free_lapsed_keys(change, {job.unique_key for job in jobs if job.unique_key is not None})
    answers = [answer for part in _parts(jobs) for answer in _submit(change, part)]
    new = [answer.id for answer in answers if answer.is_new]
    if (
        max_waiting is not None
        and new
        and tally.waiting(change.connection) + len(new) > max_waiting
    ):
        _TAKE_BACK.count(change.connection, ids=several(change.connection, new))
        raise QueueFull(max_waiting)
    return answers


def _parts(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """The jobs, parted where an id comes again: what became of the first decides then."""
    part: dict[str, Job] = {}
    for job in jobs:
        if job.id in part:
            yield list(part.values())
            part = {}
        part[job.id] = job
    yield list(part.values())


def _submit(change: Transaction, jobs: Sequence[Job]) -> list[Submission]:
    """Submit jobs of different ids."""
    new: set[str] = set()
    standing: dict[str, Submission] = {}
    left = jobs
    while left:
        new.update(_insert_all(change, left))
        standing |= _find_standing(change, [job for job in left if job.id not in new])
        # A job that stood in the way may have been pruned between the two.
        left = [job for job in left if job.id not in new and job.id not in standing]
    return [_taken(change, job) if job.id in new else standing[job.id] for job in jobs]


def _taken(change: Transaction, job: Job) -> Submission:
    state = first_state(job)
    change.change.came(job.queue, stored_state(state, job.concurrency_key))
    if job.concurrency_key is not None and state is JobState.QUEUED:
        change.keys.add(job.concurrency_key)
    return Submission(job.id, is_new=True, state=state)


def free_lapsed_keys(change: Transaction, keys: set[str]) -> None:
    """Lock these unique keys, and free those that jobs hold whose time is over."""
    if keys:
        lock_names(change.connection, LockKind.UNIQUE, keys)
        values = several(change.connection, keys)
        _FREE_LAPSED.count(change.connection, keys=values, now=change.now)


def holder(change: Transaction, key: str) -> str | None:
    """The id of the job that holds this unique key."""
    found = _BY_KEY.first(change.connection, names=several(change.connection, [key]))
    return None if found is None else str(found[1])


def _insert_all(change: Transaction, jobs: Sequence[Job]) -> Iterator[str]:
    """Insert those that are not known, in their order; their ids."""
    start = 0
    for size in AT_ONCE:
        while start + size <= len(jobs):
            rows = (new_row(job, change.now) for job in jobs[start : start + size])
            values = zip(_names(size), chain.from_iterable(rows), strict=True)
            for (job_id,) in _insert(size).rows(change.connection, **dict(values)):
                yield job_id
            start += size


def _find_standing(change: Transaction, jobs: Sequence[Job]) -> dict[str, Submission]:
    """For each job that was not taken, the one that stands in its place."""
    if not jobs:
        return {}
    connection = change.connection
    by_id = _found(change, _BY_ID.rows(connection, names=several(connection, (j.id for j in jobs))))
    keys = {job.unique_key for job in jobs if job.unique_key is not None}
    by_key = (
        _found(change, _BY_KEY.rows(connection, names=several(connection, keys))) if keys else {}
    )
    standing = {job.id: by_id.get(job.id) or by_key.get(job.unique_key or "") for job in jobs}
    return {job_id: found for job_id, found in standing.items() if found is not None}


def _found(change: Transaction, rows: Sequence[Row]) -> dict[str, Submission]:
    return {
        name: Submission(job_id, is_new=False, state=state_of(state, due_at, change.now))
        for name, job_id, state, due_at in rows
    }
