"""Deleting blobs that nothing needs: uploads that were never recorded, and removed pictures."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from capturekit.blobs import Blobs, StoredBlob
from capturekit.store.blob_records import BlobRecords

GRACE_S: Final = 3600.0
"""Age from which a blob that nothing needs is deleted. A younger one may be of an upload that is
recorded in a moment."""

FORGOTTEN_S: Final = 3600.0
"""Age of a deletion from which no put from before it is on its way any more."""

BATCH: Final = 200
"""Blobs doomed in one transaction."""

LEASE_S: Final = 30.0
"""How long after they were doomed a collection deletes blobs. One that slept for longer, or was
stopped, leaves them."""

LEFT_S: Final = 300.0
"""Age from which doomed blobs count as left behind by a collection that died."""


@dataclass(slots=True)
class Collection:
    """What a collection did; in a dry run, what it would do."""

    deleted: int = 0
    deleted_bytes: int = 0
    kept: int = 0
    """Blobs that something needs."""
    kept_bytes: int = 0
    fresh: int = 0
    """Blobs that nothing needs and that are too young."""
    fresh_bytes: int = 0
    finished: int = 0
    """Deletions that an earlier collection had begun."""


class Collector:
    """Deletes by the steps of ``blob_records``. Any number may be at work at once."""

    def __init__(self, records: BlobRecords, blobs: Blobs, clock: Callable[[], float]) -> None:
        self._records = records
        self._blobs = blobs
        self._clock = clock

    async def collect(self, *, grace_s: float = GRACE_S, is_dry: bool = False) -> Collection:
        """Delete all that nothing needs and that is older than ``grace_s``.

        Costs a listing of the blobs, and holds a batch of names. Nothing is deleted while a
        backup runs.
        """
        done = Collection()
        if not is_dry:
            done.finished = await self.finish()
            await self._records.forget_deleted(before=self._clock() - FORGOTTEN_S)
        async for batch in batches(self._blobs.stored(), BATCH):
            await self._collect(done, batch, self._clock() - grace_s, is_dry=is_dry)
        return done

    async def finish(self, *, is_alone: bool = False) -> int:
        """Delete what earlier collections had doomed and left; returns how many.

        ``is_alone`` says that no other is at work, so that none is spared for its youth.
        """
        age_s = 0.0 if is_alone else LEFT_S
        left = await self._records.doomed(before=self._clock() - age_s)
        for sha256 in left:
            await self._blobs.delete(sha256)
        if left:
            await self._records.note_deleted(left)
        return len(left)

    async def delete(self, shas: Sequence[str]) -> list[str]:
        """Delete those of these blobs that nothing needs, whatever their age; returns them."""
        doomed = await self._records.doom(shas)
        began = time.monotonic()
        deleted = []
        for sha256 in doomed:
            if time.monotonic() - began > LEASE_S:
                break
            await self._blobs.delete(sha256)
            deleted.append(sha256)
        if deleted:
            await self._records.note_deleted(deleted)
        return deleted

    async def _collect(
        self, done: Collection, batch: Sequence[StoredBlob], before: float, *, is_dry: bool
    ) -> None:
        needed = await self._records.needed([blob.sha256 for blob in batch])
        old = [blob for blob in batch if blob.modified_at <= before]
        unneeded = [blob.sha256 for blob in old if blob.sha256 not in needed]
        deleted = set(unneeded if is_dry or not unneeded else await self.delete(unneeded))
        for blob in batch:
            if blob.sha256 in deleted:
                done.deleted += 1
                done.deleted_bytes += blob.size_bytes
            elif blob.sha256 in needed or blob.modified_at <= before:
                done.kept += 1
                done.kept_bytes += blob.size_bytes
            else:
                done.fresh += 1
                done.fresh_bytes += blob.size_bytes


async def batches(stored: AsyncIterator[StoredBlob], size: int) -> AsyncIterator[list[StoredBlob]]:
    """The same, so many at a time."""
    batch: list[StoredBlob] = []
    async for blob in stored:
        batch.append(blob)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
