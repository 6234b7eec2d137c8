"""Captures looked at again by another pipeline: rehearsed, one by one, and many at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.kit import CaptureKit, Upload
from capturekit.pipeline import ProcessingPipeline
from capturekit.processing import BACKFILL_PRIORITY, JOB_KIND, Outlook, Processing
from capturekit.queue.base import JobState
from capturekit.settings import Settings
from capturekit.steps import JudgeQuality, ReadCodes
from capturekit.store import CaptureState, Selection, captures
from capturekit.store.changes import Rehearsed, StockChange
from capturekit.worker import Worker
from tests.dumps import whole
from tests.made_pictures import picture
from tests.servers_postgres import PostgresServer

pytestmark = pytest.mark.anyio

CODE, OTHER = "4006381333931", "5901234123457"
BLIND = ProcessingPipeline((JudgeQuality(),), max_pixels=4_000_000)
SEEING = ProcessingPipeline((JudgeQuality(), ReadCodes()), max_pixels=4_000_000)


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_extra("postgres"))]
)
def given(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, object]:
    """Settings of a kit of this test's own, on each engine in turn."""
    settings: dict[str, object] = {"data_dir": tmp_path, "concurrency": 0, "max_attempts": 1}
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        settings["database_url"] = server.new_database()
    return settings


@asynccontextmanager
async def opened(
    given: dict[str, object], pipeline: ProcessingPipeline
) -> AsyncIterator[CaptureKit]:
    async with CaptureKit(Settings.model_validate(given), pipeline=pipeline) as kit:
        yield kit


async def work(kit: CaptureKit) -> None:
    """Run all jobs that wait."""
    worker = Worker(
        kit.queue, {JOB_KIND: kit.processing.handle}, after_failure=kit.processing.settle
    )
    with anyio.fail_after(60):
        for job in await kit.queue.statuses(states=[JobState.QUEUED]):
            await worker.run_job(job.id)


async def uploaded(kit: CaptureKit, *contents: bytes) -> list[str]:
    """Ids of captures, each processed by the kit's pipeline, of the device ``cam``."""
    await kit.store.devices.add("cam", is_exhaustive=True)
    ids = []
    for number, content in enumerate(contents):
        capture, _ = await kit.receive(Upload(content, "cam", captured_at=1e9 + number))
        ids.append(capture.id)
    await work(kit)
    return ids


async def stock(kit: CaptureKit) -> dict[str, int]:
    return {row.item_id: row.quantity async for row in kit.store.inventory.all_stock()}


async def dump(given: dict[str, object]) -> dict[str, list[str]]:
    async with Database(Settings.model_validate(given).database) as database:
        return await database.read(whole)


async def test_a_dry_run_tells_what_would_change_and_changes_nothing(
    given: dict[str, object],
) -> None:
    async with opened(given, BLIND) as kit:
        (capture_id,) = await uploaded(kit, picture(CODE, OTHER))
    async with opened(given, SEEING) as kit:
        before = await dump(given)

        told = await kit.reprocess(capture_id, dry_run=True)

        assert [(one.item_id, one.before, one.after) for one in told.changes] == [
            (CODE, 0, 1),
            (OTHER, 0, 1),
        ]
        assert told.job_id is None
        assert await dump(given) == before


async def test_a_dry_run_that_commits_is_found(
    given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault: what was rehearsed is kept."""

    def kept(connection: Connection, **values: object) -> list[StockChange]:
        try:
            return right(connection, **values)  # type: ignore[arg-type]
        except Rehearsed as done:
            return done.changes

    right = captures._rehearse  # noqa: SLF001 - the seam where the fault is planted
    monkeypatch.setattr(captures, "_rehearse", kept)

    with pytest.raises(AssertionError):
        await test_a_dry_run_tells_what_would_change_and_changes_nothing(given)


async def test_what_a_pipeline_said_before_speaks_again_at_once(given: dict[str, object]) -> None:
    async with opened(given, BLIND) as kit:
        (capture_id,) = await uploaded(kit, picture(CODE))
    async with opened(given, SEEING) as kit:
        told = await kit.reprocess(capture_id)
        assert told.job_id is not None
        await work(kit)
        assert await stock(kit) == {CODE: 1}
    async with opened(given, BLIND) as kit:
        rehearsed = await kit.reprocess(capture_id, dry_run=True)
        told = await kit.reprocess(capture_id)

        assert (told.job_id, list(told.changes)) == (None, list(rehearsed.changes))
        assert [(one.before, one.after) for one in told.changes] == [(1, 0)]
        with pytest.raises(Unknown):
            await kit.reprocess("none")
        with pytest.raises(Unknown):
            await kit.reprocess("none", dry_run=True)


async def test_an_interrupted_bulk_run_goes_on_where_it_was(given: dict[str, object]) -> None:
    async with opened(given, BLIND) as kit:
        ids = await uploaded(kit, picture(CODE), picture(OTHER), picture(CODE, OTHER))
    async with opened(given, SEEING) as kit:
        await kit.reprocess(ids[0])
        await work(kit)
        await kit.reprocess(ids[1])  # submitted, and then the command was killed

        done = await kit.processing.reprocess_all(Selection())

        assert done.counts == {Outlook.CURRENT: 1, Outlook.WAITING: 1, Outlook.SUBMITTED: 1}
        (job,) = await kit.queue.statuses(states=[JobState.QUEUED], batch=done.batch_id)
        assert job.priority == BACKFILL_PRIORITY
        await work(kit)
        again = await kit.processing.reprocess_all(Selection())
        assert (again.batch_id, again.counts) == (None, {Outlook.CURRENT: 3})
    async with opened(given, BLIND) as kit:
        back = await kit.processing.reprocess_all(Selection())

        assert back.counts == {Outlook.CHOSEN: 3}
        assert set((await stock(kit)).values()) <= {0}


async def test_only_what_is_selected_is_looked_at_again(given: dict[str, object]) -> None:
    async with opened(given, BLIND) as kit:
        await uploaded(kit, picture(CODE), picture(OTHER))
    async with opened(given, SEEING) as kit:
        for which, count in (
            (Selection(device="other"), 0),
            (Selection(since=1e9 + 1), 1),
            (Selection(until=1e9 + 1), 1),
            (Selection(fingerprint=SEEING.fingerprint), 0),
            (Selection(device="cam", fingerprint=BLIND.fingerprint), 2),
        ):
            _, told = await kit.processing.rehearse_all(which)
            assert sum(told.counts.values()) == count, which


async def test_a_picture_that_was_removed_is_skipped_and_counted(given: dict[str, object]) -> None:
    async with opened(given, BLIND) as kit:
        (capture_id,) = await uploaded(kit, picture(CODE))
        await kit._database.write(remove_picture)  # noqa: SLF001 - as retention does
    async with opened(given, SEEING) as kit:
        done = await kit.processing.reprocess_all(Selection())

        assert (done.batch_id, done.counts) == (None, {Outlook.REMOVED: 1})
        with pytest.raises(Conflict, match="removed"):
            await kit.reprocess(capture_id, dry_run=True)


def remove_picture(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE capture SET picture_removed_at = 1")


async def test_a_worker_with_another_pipeline_records_nothing(given: dict[str, object]) -> None:
    """It hands the job back; where no worker has the right pipeline, it fails and says so."""
    given = given | {"max_attempts": 2}
    async with opened(given, BLIND) as kit:
        await kit.store.devices.add("cam")
        capture, _ = await kit.receive(Upload(picture(CODE), "cam"))
        (job,) = await kit.queue.statuses(states=[JobState.QUEUED])
        wrong = Processing(kit.store, kit.queue, kit.blobs, SEEING)
        worker = Worker(kit.queue, {JOB_KIND: wrong.handle}, after_failure=wrong.settle)

        status = await worker.run_job(job.id)
        await kit.processing.sweep()

        assert len(status.attempts) == 2
        capture = await kit.store.captures.get(capture.id)
        assert (capture.state, capture.current_run_id) == (CaptureState.FAILED, None)
        assert "same CAPTUREKIT_PIPELINE" in str(capture.error)
