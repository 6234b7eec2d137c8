"""Removing old pictures. Facts are never removed: what was seen on them stays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import Connection, and_, func, or_, select, update

from capturekit.database import Database
from capturekit.store.captures import CaptureState
from capturekit.store.collecting import Collector
from capturekit.store.review import open_proposals
from capturekit.store.schema import capture, live_count, lock_ledger, run, stock

ENDED: Final = (CaptureState.COMPLETED, CaptureState.FAILED)
BATCH: Final = 200
"""Captures looked at in one transaction."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """Which pictures may go; one that fits any is enough to go."""

    older_than_s: float | None = None
    """Age by arrival from which a picture goes."""
    max_bytes: int | None = None
    """Bytes of pictures kept at most, as uploaded; the oldest go. Their thumbnails, a few
    kilobytes each, are not counted."""
    state: CaptureState | None = None
    """Only of captures in this state; completed and failed by default."""


@dataclass(slots=True)
class Removal:
    """What retention did; in a dry run, what it would do."""

    captures: int = 0
    """Whose picture was removed."""
    picture_bytes: int = 0
    """Of those pictures. Another capture may still need the same bytes."""
    spared: int = 0
    """Captures old enough whose picture stays: stock rests on it, or a person is to look at it."""
    blobs: int = 0
    """Blobs deleted at once; what is left, the next collection deletes."""


class _Place(NamedTuple):
    received_at: float
    id: str


class _Batch(NamedTuple):
    last: _Place | None
    removed: list[str]
    picture_bytes: int
    spared: int
    blobs: list[str]


class Retention:
    """Removes pictures by age, quota and state.

    Never those of captures that wait or are processed, that a row of stock rests on, or that a
    person is to look at.
    """

    def __init__(
        self, database: Database, collector: Collector, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._collector = collector
        self._clock = clock

    async def remove(self, keeping: Keeping, *, is_dry: bool = False) -> Removal:
        """Remove what need not be kept, oldest first, a batch at a time."""
        states = ENDED if keeping.state is None else (keeping.state,)
        done = Removal()
        after: _Place | None = None
        if not set(states) <= set(ENDED):
            raise ValueError("only pictures of completed and failed captures can be removed")
        if keeping.older_than_s is not None:
            until = self._clock() - keeping.older_than_s
            await self._walk(done, _Walk(states, until), is_dry=is_dry)
            # The ids of captures are hexadecimal.
            after = _Place(until, "~")
        if keeping.max_bytes is not None:
            kept = await self._database.read(_kept_bytes) - (done.picture_bytes if is_dry else 0)
            if kept > keeping.max_bytes:
                excess = kept - keeping.max_bytes
                walk = _Walk(states, self._clock(), excess, after)
                await self._walk(done, walk, is_dry=is_dry)
        return done

    async def _walk(self, done: Removal, walk: "_Walk", *, is_dry: bool) -> None:
        while walk.excess is None or walk.excess > 0:
            work = partial(_remove, walk=walk, at=None if is_dry else self._clock())
            batch = await (self._database.read if is_dry else self._database.write)(work)
            if batch.last is None:
                return
            left = None if walk.excess is None else walk.excess - batch.picture_bytes
            walk = walk._replace(after=batch.last, excess=left)
            done.captures += len(batch.removed)
            done.picture_bytes += batch.picture_bytes
            done.spared += batch.spared
            if not is_dry and batch.blobs:
                done.blobs += len(await self._collector.delete(batch.blobs))


class _Walk(NamedTuple):
    """Over captures in these states that came until then, until so many bytes are freed."""

    states: Sequence[CaptureState]
    until: float
    excess: int | None = None
    after: _Place | None = None


def _remove(connection: Connection, walk: _Walk, at: float | None) -> _Batch:
    """Remove the pictures of a batch of captures; ``at`` None only looks."""
    if at is not None:
        # What stock rests on does not change meanwhile.
        lock_ledger(connection)
    found = _candidates(connection, walk)
    if not found:
        return _Batch(None, [], 0, 0, [])
    needed = _needed(connection, [row.id for row in found])
    removed: list[str] = []
    freed = spared = 0
    last = found[-1]
    for row in found:
        if walk.excess is not None and freed >= walk.excess:
            last = row
            break
        if row.id in needed:
            spared += 1
            continue
        removed.append(row.id)
        freed += row.size_bytes
    blobs = _blobs(connection, removed)
    if at is not None and removed:
        connection.execute(
            update(capture).where(capture.c.id.in_(removed)).values(picture_removed_at=at)
        )
    return _Batch(_Place(last.received_at, last.id), removed, freed, spared, blobs)


def _candidates(connection: Connection, walk: _Walk) -> list["_Candidate"]:
    query = (
        select(capture.c.id, capture.c.received_at, capture.c.size_bytes)
        .where(capture.c.picture_removed_at.is_(None), capture.c.received_at <= walk.until)
        .where(capture.c.state.in_(walk.states))
        .order_by(capture.c.received_at, capture.c.id)
        .limit(BATCH)
    )
    after = walk.after
    if after is not None:
        of_that_time = and_(capture.c.received_at == after.received_at, capture.c.id > after.id)
        query = query.where(
            capture.c.received_at >= after.received_at,
            or_(capture.c.received_at > after.received_at, of_that_time),
        )
    return [_Candidate(*row) for row in connection.execute(query)]


class _Candidate(NamedTuple):
    id: str
    received_at: float
    size_bytes: int


def _needed(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Captures whose picture a person may want to see: stock rests on it, or it is doubtful."""
    basis = (
        select(run.c.capture_id)
        .join(stock, stock.c.basis_run_id == run.c.id)
        .where(run.c.capture_id.in_(ids))
    )
    doubtful = open_proposals().with_only_columns(capture.c.id).where(capture.c.id.in_(ids))
    doubted = select(live_count.c.capture_id).where(
        live_count.c.capture_id.in_(ids), live_count.c.is_plausible.is_(False)
    )
    queries = (basis, doubtful, doubted)
    return {found for query in queries for found in connection.scalars(query)}


def _blobs(connection: Connection, ids: Sequence[str]) -> list[str]:
    pictures = select(capture.c.sha256).where(capture.c.id.in_(ids))
    thumbnails = select(run.c.thumbnail_sha256).where(
        run.c.capture_id.in_(ids), run.c.thumbnail_sha256.is_not(None)
    )
    return sorted({*connection.scalars(pictures), *connection.scalars(thumbnails)})


def _kept_bytes(connection: Connection) -> int:
    kept = (
        select(func.max(capture.c.size_bytes).label("size_bytes"))
        .where(capture.c.picture_removed_at.is_(None))
        .group_by(capture.c.sha256)
        .subquery()
    )
    return int(connection.scalar(select(func.coalesce(func.sum(kept.c.size_bytes), 0))) or 0)
