"""Concurrency keys: of the jobs of a key, only as many are queued as may start now.

The rest are stored as ``blocked``, where a claim does not see them, so a device with a million
pictures costs a claim nothing. Whoever changes jobs of a key settles its turns in the same
transaction, under the key's lock.

On Postgres a transaction locks rows first and the key then; who holds a key's lock waits for
no row, but leaves those that others hold to them. So nobody waits in a circle.
"""

from collections.abc import Iterable
from itertools import count
from typing import Final

from sqlalchemy import Connection

from capturekit.queue.base import JobState
from capturekit.queue.sql.locks import LockKind, lock_names
from capturekit.queue.sql.rows import BLOCKED
from capturekit.queue.sql.statement import Statement, several

PAGE: Final = 16
"""Waiting jobs looked at together. Most keys let one job run at a time."""

_ON_TURN: Final = Statement(
    """
    SELECT seq, state FROM job {BY:ix_job_on_turn}
    WHERE concurrency_key = :key AND concurrency_key IS NOT NULL
    AND state IN ('queued', 'running')
    """
)
_NEXT: Final = Statement(
    """
    SELECT seq, max_running FROM job {BY:ix_job_turn}
    WHERE concurrency_key = :key AND concurrency_key IS NOT NULL
    AND state IN ('queued', 'blocked')
    ORDER BY priority DESC, due_at, seq LIMIT :limit OFFSET :offset
    """
)
_PLACE: Final = Statement(
    # The state is hidden from Postgres's planner, which would read all blocked jobs by its index.
    """
    UPDATE job SET state = :new WHERE seq IN (
        SELECT seq FROM job WHERE seq {AMONG:seqs} AND state || '' = :old {SKIP_LOCKED}
    )
    """
)
_GIVE_BACK: Final = Statement(
    """
    UPDATE job SET state = 'blocked', attempt = attempt - 1, tries = tries - 1,
        worker = NULL, started_at = NULL, lease_until = NULL
    WHERE seq {AMONG:seqs}
    """
)
_STUCK: Final = Statement(
    # Walks from key to key along the index.
    """
    WITH RECURSIVE known (key) AS (
        SELECT min(concurrency_key) FROM job {BY:ix_job_turn}
        WHERE concurrency_key IS NOT NULL AND state IN ('queued', 'blocked')
        UNION ALL
        SELECT (
            SELECT min(concurrency_key) FROM job {BY:ix_job_turn}
            WHERE concurrency_key IS NOT NULL AND state IN ('queued', 'blocked')
            AND concurrency_key > known.key
        ) FROM known WHERE known.key IS NOT NULL
    )
    SELECT key FROM known WHERE key IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM job {BY:ix_job_on_turn}
        WHERE concurrency_key = known.key AND concurrency_key IS NOT NULL
        AND state IN ('queued', 'running')
    )
    """
)


def settle(connection: Connection, keys: Iterable[str | None]) -> None:
    """Queue the jobs of each key that may start now, and block the rest."""
    wanted = {key for key in keys if key is not None}
    lock_names(connection, LockKind.TURNS, wanted)
    for key in sorted(wanted):
        _settle(connection, key)


def give_back(connection: Connection, taken: Iterable[tuple[str | None, int, int]]) -> set[int]:
    """Which of the jobs just taken were too many for their key, after giving them back.

    Each is its key, seq and max_running, in the order of their turns. It happens when two
    claims that do not see each other take jobs of one key, and when a job is asked for by its
    id or queue out of turn.
    """
    by_key: dict[str, list[tuple[int, int]]] = {}
    for key, seq, max_running in taken:
        if key is not None:
            by_key.setdefault(key, []).append((seq, max_running))
    lock_names(connection, LockKind.TURNS, by_key)
    back: set[int] = set()
    for key, mine in sorted(by_key.items()):
        states = [state for _, state in _ON_TURN.rows(connection, key=key)]
        running = states.count(JobState.RUNNING) - len(mine)
        for seq, max_running in mine:
            if running < max_running:
                running += 1
            else:
                back.add(seq)
    if back:
        _GIVE_BACK.count(connection, seqs=several(connection, sorted(back)))
    for key in sorted(by_key):
        _settle(connection, key)
    return back


def settle_stuck(connection: Connection) -> None:
    """Settle keys of which nothing runs or is queued though jobs wait.

    On Postgres that is so after a connection broke while it held the row that was next.
    """
    settle(connection, [key for (key,) in _STUCK.rows(connection)])


def _settle(connection: Connection, key: str) -> None:
    on_turn = _ON_TURN.rows(connection, key=key)
    queued = {seq for seq, state in on_turn if state == JobState.QUEUED}
    may_start = _may_start(connection, key, running=len(on_turn) - len(queued))
    _place(connection, may_start - queued, BLOCKED, JobState.QUEUED)
    _place(connection, queued - may_start, JobState.QUEUED, BLOCKED)


def _may_start(connection: Connection, key: str, *, running: int) -> set[int]:
    found: set[int] = set()
    for offset in count(step=PAGE):
        page = _NEXT.rows(connection, key=key, limit=PAGE, offset=offset)
        for seq, max_running in page:
            if running + len(found) >= max_running:
                return found
            found.add(seq)
        if len(page) < PAGE:
            break
    return found


def _place(connection: Connection, seqs: set[int], old: str, new: str) -> None:
    if seqs:
        _PLACE.count(connection, seqs=several(connection, sorted(seqs)), old=old, new=new)
