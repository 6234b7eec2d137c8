"""Which blobs are needed, and which are being deleted.

A blob is deleted in four steps: a row in ``doomed_blob``, in a transaction that sees that
nothing needs it; the deletion; a note of it in the row; and, when no put from before can be
on its way any more, the end of the row. Whoever records a capture or a thumbnail looks for
such a row in the same transaction, and then puts the blob again. So what is recorded is there,
whoever is killed in between.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import anyio
from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    select,
    text,
    union,
    update,
)

from capturekit.blobs import Blobs
from capturekit.database import Database
from capturekit.database.prepared import Prepared
from capturekit.errors import BlobDoomed, StorageBusy
from capturekit.store.schema import capture, doomed_blob, insert_new, installation, run

T = TypeVar("T")

TRIES: Final = 5
PAUSE_S: Final = 0.05
WAIT_S: Final = 10.0
"""How long one who puts a blob waits for its deletion to end, before StorageBusy."""

PAGE: Final = 500

HELD: Final = "blobs_held_until"
"""The fact of the installation until when nothing is deleted, for a backup."""


class BlobRecords:
    """The database's word on blobs."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def wanted(self, *, limit: int = PAGE) -> AsyncIterator[str]:
        """Every blob that is needed, in ascending order; reads a page of ``limit`` at a time."""
        after = ""
        while page := await self._database.read(partial(wanted_page, after=after, limit=limit)):
            for sha256 in page:
                yield sha256
            after = page[-1]

    async def needed(self, shas: Sequence[str]) -> set[str]:
        """Those of these blobs that something needs."""
        return await self._database.read(partial(_needed, shas=shas))

    async def thumbnails(self, shas: Sequence[str]) -> set[str]:
        """Those of these blobs that are needed as thumbnails."""
        return await self._database.read(partial(_thumbnails, shas=shas))

    async def doom(self, shas: Sequence[str]) -> list[str]:
        """Let nothing come to need those of these that nothing needs, and return them.

        The caller deletes them, within moments. None while somebody holds blobs.
        """
        return await self._database.write(partial(_doom, shas=shas, at=self._clock()))

    async def doomed(self, *, before: float) -> list[str]:
        """Blobs doomed until then, whose deletion nobody noted: who began it has died."""
        return await self._database.read(partial(_doomed, before=before))

    async def note_deleted(self, shas: Sequence[str]) -> None:
        """They are deleted."""
        await self._database.write(partial(_note_deleted, shas=shas, at=self._clock()))

    async def forget_deleted(self, *, before: float) -> None:
        """No put from before the deletions until then is on its way any more."""
        gone = delete(doomed_blob).where(doomed_blob.c.deleted_at < before)
        await self._database.write(lambda connection: connection.execute(gone).rowcount)

    async def hold(self, until: float | None) -> None:
        """Let nothing be deleted until then, or, by None, from now on again."""
        await self._database.write(partial(_hold, until=until))

    async def keep(self, blobs: Blobs, content: bytes, record: Callable[[str], Awaitable[T]]) -> T:
        """Put a blob and record its SHA-256, however deletions get in between.

        ``record`` is called again when it raises BlobDoomed. Raises what it raises, and
        StorageBusy when a deletion does not end.
        """
        sha256 = await blobs.put(content)
        for _ in range(TRIES):
            try:
                return await record(sha256)
            except BlobDoomed:
                await self._wait_until_deleted(sha256)
                await blobs.put(content)
                # Only now: others who put it before the deletion must find it there.
                await self._database.write(partial(_revive, sha256=sha256))
        raise StorageBusy(f"blob {sha256} is deleted again and again; try later")

    async def _wait_until_deleted(self, sha256: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while await self._database.read(partial(_is_being_deleted, sha256=sha256)):
            if time.monotonic() > deadline:
                raise BlobDoomed(sha256)
            await anyio.sleep(PAUSE_S)


def require_kept(connection: Connection, sha256: str | None) -> None:
    """Raise BlobDoomed if it is being deleted; until the transaction ends it will not be.

    In each transaction that makes something need a blob. After ``lock_ledger``, if it takes that.
    """
    if sha256 is None:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(_SHARED)
    if _DOOMED.first(connection, sha256=sha256) is not None:
        raise BlobDoomed(sha256)


_DOOMED: Final = Prepared(
    select(doomed_blob.c.sha256).where(doomed_blob.c.sha256 == bindparam("sha256"))
)

_SHARED: Final = text("SELECT pg_advisory_xact_lock_shared(1667330677)")
_ALONE: Final = text("SELECT pg_advisory_xact_lock(1667330677)")
"""The number after that of the ledger's lock."""

_is_kept: Final = capture.c.picture_removed_at.is_(None)


def _of_runs() -> Select[tuple[str]]:
    """Thumbnails of runs, also of those that do not hold: they may be chosen again."""
    return (
        select(run.c.thumbnail_sha256.label("sha256"))
        .join(capture, capture.c.id == run.c.capture_id)
        .where(run.c.thumbnail_sha256.is_not(None), _is_kept)
    )


def wanted_page(connection: Connection, after: str, limit: int) -> list[str]:
    """A page of ``BlobRecords.wanted``, past ``after``."""
    pictures = (
        select(capture.c.sha256)
        .where(capture.c.sha256 > after, _is_kept)
        .distinct()
        .order_by(capture.c.sha256)
        .limit(limit)
        .subquery()
    )
    thumbnails = (
        _of_runs()
        .where(run.c.thumbnail_sha256 > after)
        .distinct()
        .order_by(run.c.thumbnail_sha256)
        .limit(limit)
        .subquery()
    )
    both = union(select(pictures.c.sha256), select(thumbnails.c.sha256)).subquery()
    page = select(both.c.sha256).order_by(both.c.sha256).limit(limit)
    return list(connection.scalars(page))


def _needed(connection: Connection, shas: Sequence[str]) -> set[str]:
    pictures = select(capture.c.sha256).where(capture.c.sha256.in_(shas), _is_kept)
    return set(connection.scalars(pictures)) | _thumbnails(connection, shas)


def _thumbnails(connection: Connection, shas: Sequence[str]) -> set[str]:
    return set(connection.scalars(_of_runs().where(run.c.thumbnail_sha256.in_(shas))))


def _doom(connection: Connection, shas: Sequence[str], at: float) -> list[str]:
    if connection.dialect.name == "postgresql":
        connection.execute(_ALONE)
    if _held_until(connection) > at:
        return []
    of_these = doomed_blob.c.sha256.in_(shas)
    # Whose deletion is noted may have been put again since, for nothing.
    connection.execute(delete(doomed_blob).where(of_these, doomed_blob.c.deleted_at.is_not(None)))
    others = set(connection.scalars(select(doomed_blob.c.sha256).where(of_these)))
    doomed = sorted(set(shas) - others - _needed(connection, shas))
    insert_new(connection, doomed_blob, [{"sha256": one, "doomed_at": at} for one in doomed])
    return doomed


def _doomed(connection: Connection, before: float) -> list[str]:
    query = select(doomed_blob.c.sha256).where(
        doomed_blob.c.deleted_at.is_(None), doomed_blob.c.doomed_at <= before
    )
    return list(connection.scalars(query))


def _note_deleted(connection: Connection, shas: Sequence[str], at: float) -> None:
    connection.execute(
        update(doomed_blob).where(doomed_blob.c.sha256.in_(shas)).values(deleted_at=at)
    )


def _is_being_deleted(connection: Connection, sha256: str) -> bool:
    being = exists().where(doomed_blob.c.sha256 == sha256, doomed_blob.c.deleted_at.is_(None))
    return bool(connection.scalar(select(being)))


def _revive(connection: Connection, sha256: str) -> None:
    connection.execute(
        delete(doomed_blob).where(
            doomed_blob.c.sha256 == sha256, doomed_blob.c.deleted_at.is_not(None)
        )
    )


def _hold(connection: Connection, until: float | None) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(_ALONE)
    connection.execute(delete(installation).where(installation.c.name == HELD))
    if until is not None:
        connection.execute(installation.insert().values(name=HELD, value=repr(until)))


def _held_until(connection: Connection) -> float:
    value = connection.scalar(select(installation.c.value).where(installation.c.name == HELD))
    return 0.0 if value is None else float(value)
