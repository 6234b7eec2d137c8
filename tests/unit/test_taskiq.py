"""Captures, processed by ``taskiq worker capturekit.worker:broker``."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from taskiq import AsyncBroker

import capturekit.worker
from capturekit.kit import CaptureKit, Upload
from capturekit.queue.base import JobState
from capturekit.settings import Settings
from capturekit.store import Capture, CaptureState
from capturekit.taskiq import make_broker
from tests.made_pictures import picture
from tests.taskiq_workers import PATIENCE_S, taskiq_worker

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

CODE = "4006381333931"


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[CaptureKit]:
    """A server that leaves the work to others."""
    settings = Settings(data_dir=tmp_path / "data", concurrency=0, max_attempts=1)
    async with CaptureKit(settings) as kit:
        await kit.store.devices.add("camera")
        yield kit


def environment_of(kit: CaptureKit) -> dict[str, str]:
    return {"CAPTUREKIT_DATA_DIR": str(kit.settings.data_dir)}


async def ended(kit: CaptureKit, capture: Capture) -> Capture:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            seen = await kit.store.captures.get(capture.id)
            if seen.state in (CaptureState.COMPLETED, CaptureState.FAILED):
                return seen
            await asyncio.sleep(0.02)


async def test_captures_of_a_server_are_processed(kit: CaptureKit) -> None:
    capture, _ = await kit.receive(Upload(picture(CODE), "camera"))

    with taskiq_worker("capturekit.worker:broker", environment_of(kit)):
        seen = await ended(kit, capture)

    assert seen.state is CaptureState.COMPLETED


async def test_a_capture_learns_that_its_job_failed(kit: CaptureKit) -> None:
    capture, _ = await kit.receive(Upload(picture(CODE), "camera"))
    for blob in (kit.settings.data_dir / "blobs").glob("??/*"):
        blob.unlink()

    with taskiq_worker("capturekit.worker:broker", environment_of(kit)):
        seen = await ended(kit, capture)

    assert seen.state is CaptureState.FAILED


async def test_a_broker_that_only_sends_opens_the_kit_as_a_command_does(kit: CaptureKit) -> None:
    broker = make_broker(kit.settings)
    task = broker.find_task("process-capture")
    assert task is not None

    await broker.startup()
    sent = await task.kiq(capture_id="none", series=0)
    await broker.shutdown()

    assert (await kit.queue.status(sent.task_id)).state is JobState.QUEUED


def test_the_broker_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAPTUREKIT_DATA_DIR", str(tmp_path))
    found = vars(capturekit.worker)
    monkeypatch.setitem(found, "broker", None)
    del found["broker"]

    made = capturekit.worker.broker

    assert isinstance(made, AsyncBroker)
    assert capturekit.worker.broker is made
