"""The kit from Python: what becomes of captures when jobs fail, are cancelled or get lost."""

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from capturekit.errors import Conflict, DamagedImage, NotAnImage, NotAuthorized, Unknown
from capturekit.frame import Frame
from capturekit.kit import CaptureKit, Role, Upload
from capturekit.pipeline import ProcessingPipeline
from capturekit.queue.base import CancelOutcome, JobState
from capturekit.ratelimit import Scaling
from capturekit.schedule import Schedule
from capturekit.settings import Settings
from capturekit.steps import default_pipeline
from capturekit.store import Capture, CaptureState
from capturekit.worker import JobContext
from tests.made_pictures import picture

pytestmark = pytest.mark.anyio

CODE = "4006381333931"
QUEUES = ("sql://", "memory://")


class SlowStep:
    """Goes on until it is told otherwise, and cannot be stopped."""

    fingerprint = "slow"

    def __init__(self) -> None:
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, frame: Frame) -> Frame:
        self.has_begun.set()
        self.may_go_on.wait(20)
        return frame


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    pipeline: ProcessingPipeline | None = None,
    queue: str = "sql://",
    concurrency: int = 1,
    max_attempts: int = 1,
    device_concurrency: int | None = None,
) -> AsyncIterator[CaptureKit]:
    settings = Settings.model_validate(
        {
            "data_dir": folder,
            "queue_url": queue,
            "concurrency": concurrency,
            "max_attempts": max_attempts,
            "device_concurrency": device_concurrency,
        }
    )
    async with CaptureKit(settings, pipeline=pipeline) as kit:
        if not await kit.store.devices.all():
            await kit.store.devices.add("camera")
        yield kit


async def ended(kit: CaptureKit, capture_id: str) -> Capture:
    """The capture, once it is neither pending nor being processed."""
    with anyio.fail_after(20):
        while True:
            capture = await kit.store.captures.get(capture_id)
            if capture.state in (CaptureState.COMPLETED, CaptureState.FAILED):
                return capture
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("queue", QUEUES)
async def test_a_received_picture_becomes_stock(tmp_path: Path, queue: str) -> None:
    async with opened(tmp_path, queue=queue) as kit:
        capture, is_duplicate = await kit.receive(Upload(picture(CODE, CODE), "camera"))
        assert not is_duplicate
        assert (await ended(kit, capture.id)).state is CaptureState.COMPLETED
        (row,) = (await kit.store.inventory.stock()).rows
        assert (row.item_id, row.quantity) == (CODE, 2)


async def test_a_picture_is_received_as_bytes_too(tmp_path: Path) -> None:
    async with opened(tmp_path, concurrency=0) as kit:
        capture, _ = await kit.receive(picture(CODE), "camera", key="first", battery_v=3.9)
        again = await kit.receive(Upload(picture(CODE), "camera", key="first"))
        assert again == (capture, True)
        assert capture.battery_v == 3.9
        with pytest.raises(Unknown, match="'nobody'"):
            await kit.receive(picture(CODE), "nobody")
        with pytest.raises(NotAnImage):
            await kit.receive(b"GET / HTTP/1.1", "camera")
        assert len((await kit.store.captures.list()).rows) == 1


async def test_a_failed_capture_keeps_its_cause(tmp_path: Path) -> None:
    def broken(frame: Frame) -> Frame:
        raise RuntimeError(f"no such model for {frame.width} px")

    async with opened(tmp_path, pipeline=ProcessingPipeline((broken,))) as kit:
        capture, _ = await kit.receive(Upload(picture(CODE), "camera"))
        failed = await ended(kit, capture.id)
        assert failed.state is CaptureState.FAILED
        assert failed.error is not None
        assert "no such model for 960 px" in str(failed.error["message"])
        assert failed.error["step"] == "broken"
        # Asked for again it gets a job of its own, and the first one's cause stays.
        job_id, is_new = await kit.processing.submit(capture.id)
        assert is_new
        status = await kit.worker.run_job(job_id, timeout_s=20)
        assert (status.state, status.error and status.error.step) == (JobState.FAILED, "broken")


@pytest.mark.parametrize("queue", QUEUES)
async def test_a_cancelled_capture_waits_and_has_no_effect(tmp_path: Path, queue: str) -> None:
    async with opened(tmp_path, queue=queue, concurrency=0) as kit:
        capture, _ = await kit.receive(Upload(picture(CODE), "camera"))
        job_id, is_new = await kit.processing.submit(capture.id)
        assert not is_new
        assert await kit.processing.cancel(job_id) is CancelOutcome.CANCELLED
        assert (await kit.worker.run_job(job_id)).state is JobState.CANCELLED
        assert await kit.processing.sweep() == 0
        assert (await kit.store.captures.get(capture.id)).state is CaptureState.PENDING
        assert (await kit.store.inventory.stock()).rows == ()
        batch = await kit.processing.submit_pending(limit=10)
        assert len(batch.job_ids) == 1
        assert (await kit.worker.run_job(batch.job_ids[0])).state is JobState.SUCCEEDED


async def test_pending_captures_that_are_queued_are_not_queued_again(tmp_path: Path) -> None:
    async with opened(tmp_path, concurrency=0) as kit:
        for count in (1, 2):
            await kit.receive(Upload(picture(*[CODE] * count), "camera"))
        batch = await kit.processing.submit_pending(limit=10)
        assert (batch.job_ids, batch.skipped) == ([], 2)


async def test_a_lost_queue_loses_no_capture(tmp_path: Path) -> None:
    async with opened(tmp_path, queue="memory://", concurrency=0) as kit:
        capture, _ = await kit.receive(Upload(picture(CODE), "camera"))
    async with opened(tmp_path, queue="memory://") as kit:
        assert (await ended(kit, capture.id)).state is CaptureState.COMPLETED


async def test_a_cancelled_run_changes_nothing_even_when_its_step_goes_on(tmp_path: Path) -> None:
    step = SlowStep()
    pipeline = ProcessingPipeline((step,)) | default_pipeline()
    async with opened(tmp_path, pipeline=pipeline) as kit:
        capture, _ = await kit.receive(Upload(picture(CODE), "camera"))
        await anyio.to_thread.run_sync(step.has_begun.wait, 20)
        job_id, _ = await kit.processing.submit(capture.id)
        assert await kit.processing.cancel(job_id) is CancelOutcome.CANCELLING
        status = await kit.worker.run_job(job_id, timeout_s=20)
        step.may_go_on.set()
        assert status.state is JobState.CANCELLED
        assert (await kit.store.captures.get(capture.id)).state is CaptureState.PENDING
        assert (await kit.store.inventory.stock()).rows == ()


async def test_what_is_refused_is_not_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, concurrency=0) as kit:
        with pytest.raises(DamagedImage):
            await kit.receive(Upload(picture(CODE)[:9000], "camera"))
        await kit.store.devices.revoke("camera")
        with pytest.raises(NotAuthorized):
            await kit.receive(Upload(picture(CODE), "camera"))
        assert sum((await kit.store.captures.counts()).values()) == 0


async def test_a_key_names_one_picture(tmp_path: Path) -> None:
    async with opened(tmp_path, concurrency=0) as kit:
        first, _ = await kit.receive(Upload(picture(CODE), "camera", key="door-1"))
        again, is_duplicate = await kit.receive(Upload(picture(CODE), "camera", key="door-1"))
        assert (again.id, is_duplicate) == (first.id, True)
        with pytest.raises(Conflict):
            await kit.receive(Upload(picture(CODE, CODE), "camera", key="door-1"))


async def test_a_poor_picture_does_not_empty_a_shelf(tmp_path: Path) -> None:
    from tests.made_pictures import dark_picture

    async with opened(tmp_path) as kit:
        await kit.store.devices.add("shelf", is_exhaustive=True)
        for content in (picture(CODE), dark_picture()):
            capture, _ = await kit.receive(Upload(content, "shelf"))
            assert (await ended(kit, capture.id)).state is CaptureState.COMPLETED
        (row,) = (await kit.store.inventory.stock()).rows
        assert row.quantity == 1
        capture, _ = await kit.receive(Upload(picture("96385074"), "shelf"))
        await ended(kit, capture.id)
        quantities = {row.item_id: row.quantity for row in (await kit.store.inventory.stock()).rows}
        assert quantities == {CODE: 0, "96385074": 1}


async def test_a_worker_refuses_a_queue_it_cannot_see(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "queue_url": "memory://"})
    with pytest.raises(Exception, match="CAPTUREKIT_QUEUE_URL"):
        async with CaptureKit(settings, role=Role.WORKER):
            pass


async def test_one_device_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path, concurrency=0, device_concurrency=1) as kit:
        await kit.store.devices.add("other")
        for count in (1, 2, 3):
            await kit.receive(Upload(picture(*[CODE] * count), "camera"))
        capture, _ = await kit.receive(Upload(picture(CODE), "other"))
        leases = await kit.queue.claim("worker", limit=9)
        assert len(leases) == 2
        assert leases[1].job.payload["capture_id"] == capture.id


async def test_jobs_of_ones_own_run_beside_captures(tmp_path: Path) -> None:
    async def greet(context: JobContext) -> str:
        return f"hello {context.job.payload['name']}"

    settings = Settings.model_validate({"data_dir": tmp_path})
    report = Schedule("report", "0 0 * * *", "greet", {"name": "Ada"})
    async with CaptureKit(settings, handlers={"greet": greet}, schedules=[report]) as kit:
        job_id = report.job(report.last_at(time.time())).id
        with anyio.fail_after(20):
            while not [job for job in await kit.queue.statuses() if job.id == job_id]:
                await anyio.lowlevel.checkpoint()
        assert (await kit.worker.run_job(job_id)).result == "hello Ada"


async def test_a_command_does_not_change_the_admin_token(tmp_path: Path) -> None:
    async with CaptureKit(Settings.model_validate({"data_dir": tmp_path})) as kit:
        token = kit.new_admin_token
        assert token is not None
    other = {"data_dir": tmp_path, "admin_token": "somebody-else's-token"}
    async with CaptureKit(Settings.model_validate(other), role=Role.COMMAND) as kit:
        assert await kit.store.devices.authenticate(token) is not None


class Full:
    """A signal of a place that can do no more."""

    name = "full"

    def load(self) -> float:
        return 1.0


async def test_an_app_that_was_made_before_its_kit_was_opened_adapts_its_limits(
    tmp_path: Path,
) -> None:
    kit = CaptureKit(Settings.model_validate({"data_dir": tmp_path, "concurrency": 0}))
    limits = kit.app.state.limiters
    async with kit:
        assert kit.pressure is not None
        kit.pressure.scaling = Scaling([Full()])
        scales = {name: limiter.describe()["scale"] for name, limiter in limits.items()}

    assert scales.pop("ingest") == 0.5
    assert set(scales.values()) == {1.0}
