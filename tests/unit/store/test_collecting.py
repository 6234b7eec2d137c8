"""Nothing that is needed is ever deleted, whoever is killed when; what nobody needs goes."""

import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from capturekit.blobs import FileBlobs, StoredBlob
from capturekit.database import Connection, Database
from capturekit.errors import BlobDoomed, Conflict, StorageBusy, Unknown
from capturekit.frame import Observation
from capturekit.store import (
    BlobRecords,
    Collector,
    Keeping,
    NewCapture,
    Retention,
    RunRecord,
    Store,
)
from capturekit.store import blob_records as blob_records_module
from capturekit.store.collecting import FORGOTTEN_S, GRACE_S, LEFT_S
from capturekit.store.schema import capture, doomed_blob, run
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio

T = TypeVar("T")
DAY = 86400.0


class Killed(BaseException):
    """The process ends here: nothing after this point happens."""


class Mortal:
    """Counts down the points at which a process may be killed."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.reached = 0

    def point(self) -> None:
        self.reached += 1
        if self.left is not None:
            if self.left == 0:
                self.left = None
                raise Killed
            self.left -= 1


class MortalBlobs(FileBlobs):
    """Files of which each put and deletion may be the last, and whose times the test sets."""

    def __init__(self, root: Path, mortal: Mortal, clock: Clock) -> None:
        super().__init__(root)
        self._mortal, self._clock = mortal, clock
        self.times: dict[str, float] = {}

    async def put(self, content: bytes) -> str:
        self._mortal.point()
        sha256 = await super().put(content)
        self.times[sha256] = self._clock.now
        self._mortal.point()
        return sha256

    async def delete(self, sha256: str) -> None:
        self._mortal.point()
        await super().delete(sha256)
        self._mortal.point()

    async def stored(self) -> AsyncIterator[StoredBlob]:
        async for blob in super().stored():
            yield StoredBlob(blob.sha256, blob.size_bytes, self.times[blob.sha256])


class MortalDatabase:
    """Passes all on; before and after each transaction may be the end."""

    def __init__(self, database: Database, mortal: Mortal) -> None:
        self._database, self._mortal = database, mortal

    async def write(self, work: Callable[[Connection], T], *, is_synced: bool = True) -> T:
        self._mortal.point()
        answer = await self._database.write(work, is_synced=is_synced)
        self._mortal.point()
        return answer

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._database.read(work)


class House:
    """A store with its blobs, in which anything may be killed."""

    def __init__(self, database: Database, folder: Path, clock: Clock) -> None:
        self.mortal = Mortal()
        self.clock = clock
        self.database = database
        self.numbers = itertools.count()
        self.blobs = MortalBlobs(folder, self.mortal, clock)
        through: Database = MortalDatabase(database, self.mortal)  # type: ignore[assignment]
        self.store = Store(through, clock=clock)
        self.store.captures._database = through  # noqa: SLF001
        self.collector = Collector(self.store.blob_records, self.blobs, clock)
        self.retention = Retention(through, self.collector, clock)

    async def receive(self, content: bytes) -> str:
        async def record(sha256: str) -> str:
            key = str(next(self.numbers))
            new = NewCapture("shelf", key, sha256, len(content), "image/jpeg", 4, 3)
            recorded, _ = await self.store.captures.record(new, lambda *_: None)
            return recorded.id

        return await self.store.blob_records.keep(self.blobs, content, record)

    async def process(self, id: str, thumbnail: bytes, seen: int, confidence: float) -> None:
        captures = self.store.captures
        started = await captures.next_series(id)
        await captures.start(id, started.series, 1)

        async def finish(sha256: str) -> None:
            observation = Observation(
                analyser="test", item=f"item-{seen}", quantity=seen, confidence=confidence
            )
            made = RunRecord("v1", 1.0, 2.0, {}, (observation,), sha256)
            await captures.finish(id, started.series, 1, made)

        await self.store.blob_records.keep(self.blobs, thumbnail, finish)

    async def restart(self) -> None:
        """As a server does that holds the lock on its folder."""
        self.mortal.left = None
        await self.collector.finish(is_alone=True)

    async def check(self) -> None:
        """All that is needed is there."""
        async for sha256 in self.store.blob_records.wanted(limit=3):
            await self.blobs.get(sha256)
        await self.check_basis()

    async def check_basis(self) -> None:
        """No picture is gone that stock rests on."""

        def look(connection: Connection) -> list[str]:
            from capturekit.store.schema import stock

            query = (
                select(capture.c.id)
                .join(run, run.c.capture_id == capture.c.id)
                .join(stock, stock.c.basis_run_id == run.c.id)
                .where(capture.c.picture_removed_at.is_not(None))
            )
            return list(connection.scalars(query))

        assert await self.database.read(look) == []


@pytest.fixture
async def house(database: Database, tmp_path: Path, clock: Clock) -> House:
    clock.now = 100 * DAY
    house = House(database, tmp_path / "blobs", clock)
    await house.store.devices.add("shelf")
    return house


OPERATIONS = st.sampled_from(
    ["receive", "orphan", "process", "retain", "quota", "collect", "collect-all", "later", "again"]
)
STEPS = st.lists(
    st.tuples(OPERATIONS, st.integers(0, 5), st.none() | st.integers(0, 12)),
    min_size=4,
    max_size=25,
)


async def _do(house: House, operation: str, number: int, known: list[str]) -> None:
    content = b"picture %d" % number

    async def receive() -> None:
        known.append(await house.receive(content))

    async def process() -> None:
        # Thumbnails may be the same bytes as a picture.
        thumbnail = b"picture %d" % (number // 2)
        with contextlib.suppress(Conflict):
            if known:
                await house.process(known[number % len(known)], thumbnail, number, number / 5)

    async def later() -> None:
        house.clock.now += (60.0, LEFT_S, GRACE_S, FORGOTTEN_S, DAY, 3 * DAY)[number]

    operations: dict[str, Callable[[], Awaitable[object]]] = {
        "receive": receive,
        "orphan": lambda: house.blobs.put(content),
        "process": process,
        "retain": lambda: house.retention.remove(Keeping(older_than_s=DAY)),
        "quota": lambda: house.retention.remove(Keeping(max_bytes=20)),
        "collect": house.collector.collect,
        "collect-all": lambda: house.collector.collect(grace_s=0),
        "later": later,
        "again": house.restart,
    }
    await operations[operation]()


async def _live(house: House, steps: list[tuple[str, int, int | None]]) -> None:
    known: list[str] = []
    for operation, number, life in steps:
        house.mortal.left = life
        try:
            await _do(house, operation, number, known)
        except Killed:
            await house.check()
            await house.restart()
        house.mortal.left = None
        await house.check()


async def _empty(house: House) -> None:
    """What nobody needs is gone in the end."""
    await house.restart()
    house.clock.now += 2 * GRACE_S
    await house.collector.collect()
    wanted = [sha256 async for sha256 in house.store.blob_records.wanted()]
    assert [blob.sha256 async for blob in house.blobs.stored()] == wanted


def _try_lives(tmp_path: Path, template: bytes, examples: int) -> None:
    numbers = itertools.count()

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(STEPS)
    def live(steps: list[tuple[str, int, int | None]]) -> None:
        async def run_once() -> None:
            folder = tmp_path / str(next(numbers))
            folder.mkdir()
            (folder / "store.db").write_bytes(template)
            async with Database(f"sqlite:///{folder}/store.db") as database:
                house = House(database, folder / "blobs", Clock(100 * DAY))
                await house.store.devices.add("shelf")
                await _live(house, steps)
                await _empty(house)

        anyio.run(run_once)

    live()


def test_whatever_happens_nothing_needed_is_missing(tmp_path: Path, template: bytes) -> None:
    _try_lives(tmp_path, template, examples=60)


async def _race(house: House, after: str) -> str:
    """One who puts a blob is slow to record it; meanwhile it is taken for old and deleted."""
    sha256 = await house.blobs.put(b"slow")
    records = house.store.blob_records
    assert await records.doom([sha256]) == [sha256]
    if after != "doomed":
        await house.blobs.delete(sha256)
    if after == "noted":
        await records.note_deleted([sha256])
    return sha256


@pytest.mark.parametrize("after", ["doomed", "deleted", "noted"])
async def test_what_is_being_deleted_cannot_be_recorded(house: House, after: str) -> None:
    sha256 = await _race(house, after)
    new = NewCapture("shelf", "k", sha256, 4, "image/jpeg", 4, 3)
    with pytest.raises(BlobDoomed):
        await house.store.captures.record(new, lambda *_: None)
    upload = NewCapture("shelf", "picture", "ab" * 32, 4, "image/jpeg", 4, 3)
    kept, _ = await house.store.captures.record(upload, lambda *_: None)
    started = await house.store.captures.next_series(kept.id)
    await house.store.captures.start(kept.id, started.series, 1)
    with pytest.raises(BlobDoomed):
        await house.store.captures.finish(
            kept.id, started.series, 1, RunRecord("v1", 1.0, 2.0, {}, (), sha256)
        )


async def test_one_who_uploads_what_is_being_deleted_waits_and_puts_it_again(
    house: House,
) -> None:
    sha256 = await _race(house, "doomed")
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(house.receive, b"slow")
        await anyio.lowlevel.checkpoint()
        await house.blobs.delete(sha256)
        await house.store.blob_records.note_deleted([sha256])
    await house.check()
    assert await house.blobs.get(sha256) == b"slow"


async def test_one_who_waits_too_long_is_told_to_try_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_records_module, "WAIT_S", 0.1)
    await _race(house, "doomed")
    with pytest.raises(StorageBusy):
        await house.receive(b"slow")


async def test_a_deletion_without_a_row_would_lose_a_picture(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: with it the same race, and the test above, find the loss."""

    async def plant(_records: BlobRecords, shas: list[str]) -> list[str]:
        return sorted(set(shas) - await _records.needed(shas))

    monkeypatch.setattr(BlobRecords, "doom", plant)
    await _race(house, "noted")
    new = NewCapture("shelf", "k", hashlib.sha256(b"slow").hexdigest(), 4, "image/jpeg", 4, 3)
    await house.store.captures.record(new, lambda *_: None)
    with pytest.raises(Unknown):
        await house.check()


async def test_two_collections_at_once_delete_each_blob_once(house: House) -> None:
    for number in range(50):
        await house.blobs.put(b"orphan %d" % number)
    kept = await house.receive(b"kept")
    house.clock.now += 2 * GRACE_S
    counted: list[int] = []

    async def collect() -> None:
        counted.append((await house.collector.collect()).deleted)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect)
        tasks.start_soon(collect)
    assert sum(counted) == 50
    assert (await house.blobs.usage()).count == 1
    await house.check()
    assert (await house.store.captures.get(kept)).sha256


async def test_a_dry_run_counts_and_deletes_nothing(house: House) -> None:
    await house.blobs.put(b"old orphan")
    house.clock.now += 2 * GRACE_S
    await house.blobs.put(b"new")
    await house.receive(b"needed")
    dry = await house.collector.collect(is_dry=True)
    assert (dry.deleted, dry.deleted_bytes, dry.kept, dry.fresh) == (1, 10, 1, 1)
    assert (await house.blobs.usage()).count == 3
    wet = await house.collector.collect()
    assert (wet.deleted, wet.deleted_bytes, wet.kept, wet.fresh) == (1, 10, 1, 1)
    assert (await house.blobs.usage()).count == 2


async def test_a_blob_that_is_put_again_counts_as_new(house: House) -> None:
    await house.blobs.put(b"orphan")
    house.clock.now += 2 * GRACE_S
    await house.blobs.put(b"orphan")
    assert (await house.collector.collect()).fresh == 1


async def test_nothing_is_deleted_while_a_backup_holds_the_blobs(house: House) -> None:
    await house.blobs.put(b"orphan")
    house.clock.now += 2 * GRACE_S
    await house.store.blob_records.hold(house.clock.now + 60)
    assert (await house.collector.collect()).deleted == 0
    house.clock.now += 61
    assert (await house.collector.collect()).deleted == 1


async def test_rows_of_deletions_go_when_no_put_is_on_its_way(
    house: House, database: Database
) -> None:
    await _race(house, "noted")
    house.clock.now += FORGOTTEN_S + 1
    await house.collector.collect()
    rows = await database.read(lambda c: c.execute(select(doomed_blob)).all())
    assert rows == []


async def test_a_picture_that_stock_rests_on_or_that_is_doubtful_stays(house: House) -> None:
    names = {}
    for name, seen, confidence in (("old", 3, 1.0), ("basis", 3, 1.0), ("doubtful", 5, 0.1)):
        names[name] = await house.receive(name.encode())
        house.clock.now += 1
        await house.process(names[name], b"thumbnail of " + name.encode(), seen, confidence)
    names["waiting"] = await house.receive(b"waiting")
    house.clock.now += 10 * DAY
    keeping = Keeping(older_than_s=DAY)

    dry = await house.retention.remove(keeping, is_dry=True)
    assert (dry.captures, dry.picture_bytes, dry.spared, dry.blobs) == (1, 3, 2, 0)
    done = await house.retention.remove(keeping)

    assert (done.captures, done.picture_bytes, done.spared, done.blobs) == (1, 3, 2, 2)
    removed = await house.store.captures.get(names["old"])
    assert removed.picture_removed_at == house.clock.now
    with pytest.raises(Unknown):
        await house.blobs.get(removed.sha256)
    assert (await house.retention.remove(keeping)).captures == 0
    with pytest.raises(Conflict, match="removed by retention"):
        await house.store.captures.next_series(names["old"])
    await house.check()


async def test_a_quota_removes_the_oldest_until_it_is_met(house: House) -> None:
    ids = []
    for number in range(6):
        ids.append(await house.receive(b"%d" % number * 100))
        house.clock.now += 1
        await house.process(ids[-1], b"t%d" % number, 1, 1.0)
    dry = await house.retention.remove(Keeping(max_bytes=250), is_dry=True)
    done = await house.retention.remove(Keeping(max_bytes=250))
    assert dry.captures == done.captures == 4
    captures = [await house.store.captures.get(name) for name in ids]
    left = [one.id for one in captures if one.picture_removed_at is None]
    assert left == ids[4:]


async def test_bytes_that_another_capture_needs_stay(house: House) -> None:
    first = await house.receive(b"same")
    await house.process(first, b"t", 1, 1.0)
    house.clock.now += 10 * DAY
    second = await house.receive(b"same")
    await house.process(second, b"t", 1, 1.0)
    done = await house.retention.remove(Keeping(older_than_s=DAY))
    assert (done.captures, done.blobs) == (1, 0)
    assert await house.blobs.get((await house.store.captures.get(second)).sha256) == b"same"
