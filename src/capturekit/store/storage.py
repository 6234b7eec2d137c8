"""What pictures take up, whether all are there, and the work that keeps it so."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from capturekit.blobs import Blobs, Proof, prove
from capturekit.database import Database
from capturekit.store.blob_records import BlobRecords
from capturekit.store.collecting import BATCH, LEFT_S, Collection, Collector, batches
from capturekit.store.retention import Keeping, Removal, Retention

MEASURE_S: Final = 600.0
"""Seconds between measurements at least; and at least so many times what one took:"""
MEASURE_SHARE: Final = 50

RETAIN_S: Final = 3600.0
COLLECT_S: Final = 86400.0
"""Seconds between looks for pictures to remove, and for blobs that nothing needs."""


@dataclass(slots=True)
class Amount:
    """Blobs of one kind."""

    count: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """Count one more."""
        self.count += 1
        self.size_bytes += size_bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What blobs took up when they were last listed."""

    pictures: Amount
    thumbnails: Amount
    unneeded: Amount
    """What nothing needs, and the next collection deletes when it is old enough."""
    measured_at: float
    took_s: float

    @property
    def total(self) -> Amount:
        """Of all kinds."""
        kinds = (self.pictures, self.thumbnails, self.unneeded)
        return Amount(sum(one.count for one in kinds), sum(one.size_bytes for one in kinds))


class Storage:
    """The blobs of a database, as a whole."""

    def __init__(
        self, database: Database, blobs: Blobs, clock: Callable[[], float], keeping: Keeping
    ) -> None:
        self._records = BlobRecords(database, clock)
        self._blobs = blobs
        self._clock = clock
        self._keeping = keeping
        self.collector = Collector(self._records, blobs, clock)
        self.retention = Retention(database, self.collector, clock)
        self._usage: Usage | None = None
        self._retain_at = self._collect_at = clock()

    async def usage(self) -> Usage:
        """What was measured last, however long ago; measured now if it never was."""
        return self._usage or await self.measure()

    async def measure(self) -> Usage:
        """List all blobs and tell them apart. Holds a batch of names at a time."""
        began, at = time.monotonic(), self._clock()
        pictures, thumbnails, unneeded = Amount(), Amount(), Amount()
        async for batch in batches(self._blobs.stored(), BATCH):
            names = [blob.sha256 for blob in batch]
            needed = await self._records.needed(names)
            small = await self._records.thumbnails(names)
            for blob in batch:
                of = thumbnails if blob.sha256 in small else pictures
                (of if blob.sha256 in needed else unneeded).add(blob.size_bytes)
        took_s = time.monotonic() - began
        self._usage = Usage(pictures, thumbnails, unneeded, at, took_s)
        return self._usage

    async def verify(self, *, is_thorough: bool = True) -> Proof:
        """Read every blob and compare with what should be there."""
        return await prove(self._blobs, self._records.wanted(), is_thorough=is_thorough)

    async def collect(self, *, is_dry: bool = False) -> Collection:
        """Delete what nothing needs; see ``Collector.collect``."""
        return await self.collector.collect(is_dry=is_dry)

    async def remove(self, keeping: Keeping, *, is_dry: bool = False) -> Removal:
        """Remove old pictures; see ``Retention.remove``."""
        return await self.retention.remove(keeping, is_dry=is_dry)

    async def left(self) -> int:
        """Deletions that a collection began a while ago, and that nobody finished."""
        return len(await self._records.doomed(before=self._clock() - LEFT_S))

    async def keep_house(self) -> None:
        """Do what is due of the above; for a server, every now and then."""
        now = self._clock()
        if now >= self._retain_at:
            self._retain_at = now + RETAIN_S
            await self.retention.remove(self._keeping)
        if now >= self._collect_at:
            self._collect_at = now + COLLECT_S
            await self.collector.collect()
        last = self._usage
        if last is None or now - last.measured_at > max(MEASURE_S, MEASURE_SHARE * last.took_s):
            await self.measure()
