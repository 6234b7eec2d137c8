"""Pipelines in the kit that compare with what came before, degrade, wait or give up."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import numpy as np
import pytest
from PIL import Image

from capturekit.errors import Permanent, RateLimited
from capturekit.frame import Frame
from capturekit.kit import CaptureKit, Upload
from capturekit.pipeline import ProcessingPipeline, Stage, Step, When
from capturekit.queue.base import JobState, JobStatus
from capturekit.settings import Settings
from capturekit.steps import JudgeQuality, MakeThumbnail, ReadCodes
from capturekit.steps.change import DetectChange
from capturekit.steps.markers import Marker, Markers
from capturekit.steps.zones import AssignZones, Zone
from capturekit.store import Capture, CaptureState
from tests.made_pictures import CELL, dark_picture, picture

pytestmark = pytest.mark.anyio

CODE, OTHER = "4006381333931", "5901234123457"
GATED = ProcessingPipeline(
    (
        JudgeQuality(),
        DetectChange(),
        Stage(ReadCodes(), when=When("change.changed")),
        MakeThumbnail(),
    )
)


def again(content: bytes, seed: int, *, is_second_gone: bool = False) -> bytes:
    """The same scene in another exposure: a little darker, and with other noise."""
    pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"), np.float64)
    if is_second_gone:
        pixels[50:, CELL + 50 : 2 * CELL + 50] = 235
    noise = np.random.default_rng(seed).normal(0, 2, pixels.shape)
    file = io.BytesIO()
    lit = np.clip(pixels * 0.92 + noise, 0, 255).astype(np.uint8)
    Image.fromarray(lit).save(file, "JPEG", quality=85)
    return file.getvalue()


@asynccontextmanager
async def opened(
    folder: Path, pipeline: ProcessingPipeline = GATED, *, concurrency: int = 1
) -> AsyncIterator[CaptureKit]:
    """A kit with one camera, ``shelf``, whose silence means that a thing is not there."""
    settings = Settings.model_validate({"data_dir": folder, "concurrency": concurrency})
    async with CaptureKit(settings, pipeline=pipeline) as kit:
        if not await kit.store.devices.all():
            await kit.store.devices.add("shelf", is_exhaustive=True)
        yield kit


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[CaptureKit]:
    async with opened(tmp_path) as kit:
        yield kit


async def seen(kit: CaptureKit, content: bytes, at: float) -> Capture:
    """Upload a picture taken at that time, and wait until it was processed."""
    capture, _ = await kit.receive(Upload(content, "shelf", captured_at=at))
    with anyio.fail_after(20):
        while capture.state in (CaptureState.PENDING, CaptureState.PROCESSING):
            await anyio.lowlevel.checkpoint()
            capture = await kit.store.captures.get(capture.id)
    assert capture.state is CaptureState.COMPLETED, capture.error
    return capture


async def change(kit: CaptureKit, capture: Capture) -> dict[str, object]:
    run = await kit.store.captures.current_run(capture.id)
    assert run is not None
    found = run.result["change"]
    assert isinstance(found, dict)
    return dict(found)


async def stock(kit: CaptureKit) -> dict[str, int]:
    rows = (await kit.store.inventory.stock()).rows
    return {row.item_id: row.quantity for row in rows if row.quantity}


async def test_an_unchanged_picture_is_spared_and_keeps_its_stock(kit: CaptureKit) -> None:
    first = await seen(kit, picture(CODE, OTHER), at=1e9)
    second = await seen(kit, again(picture(CODE, OTHER), 1), at=1e9 + 60)

    told = await change(kit, second)
    run = await kit.store.captures.current_run(second.id)

    assert (told["changed"], told["reference"], told["carried"]) == (False, first.id, 2)
    assert run is not None
    assert isinstance(run.result["steps"], list)
    [codes] = [s for s in run.result["steps"] if isinstance(s, dict) and s["name"] == "codes"]
    assert codes["skipped"] == "not so: change.changed is true"
    assert await stock(kit) == {CODE: 1, OTHER: 1}
    [row] = [r for r in (await kit.store.inventory.stock()).rows if r.item_id == CODE]
    assert row.last_seen_at == 1e9 + 60


async def test_a_row_of_unchanged_pictures_is_compared_with_the_one_analysed(
    kit: CaptureKit,
) -> None:
    first = await seen(kit, picture(CODE), at=1e9)
    for number in range(1, 4):
        later = await seen(kit, again(picture(CODE), number), at=1e9 + number)
        assert (await change(kit, later))["reference"] == first.id


async def test_what_was_taken_away_is_noticed(kit: CaptureKit) -> None:
    await seen(kit, picture(CODE, OTHER), at=1e9)
    await seen(kit, again(picture(CODE, OTHER), 1), at=1e9 + 60)
    third = await seen(kit, again(picture(CODE, OTHER), 2, is_second_gone=True), at=1e9 + 120)

    assert (await change(kit, third))["changed"] is True
    assert await stock(kit) == {CODE: 1}


async def test_a_late_picture_is_compared_with_what_came_before_it(kit: CaptureKit) -> None:
    await seen(kit, picture(CODE), at=1e9)
    late = await seen(kit, again(picture(CODE), 1), at=1e9 - 60)

    told = await change(kit, late)

    assert (told["changed"], told["reference"]) == (True, None)


async def test_nothing_is_compared_with_a_picture_too_poor_to_tell(kit: CaptureKit) -> None:
    await seen(kit, picture(CODE), at=1e9)
    await seen(kit, dark_picture(), at=1e9 + 60)
    third = await seen(kit, again(picture(CODE), 1), at=1e9 + 120)

    assert (await change(kit, third))["changed"] is True
    assert await stock(kit) == {CODE: 1}


@pytest.mark.parametrize("fault", ["gone", "changed on the disk"])
async def test_a_reference_that_is_lost_costs_only_the_sparing(kit: CaptureKit, fault: str) -> None:
    first = await seen(kit, picture(CODE), at=1e9)
    if fault == "gone":
        await kit.blobs.delete(first.sha256)
    else:
        [file] = (kit.settings.data_dir / "blobs").rglob(f"*{first.sha256[2:]}*")
        file.chmod(0o600)
        file.write_bytes(file.read_bytes()[:-9] + b"elsewhere")
    later = await seen(kit, again(picture(CODE), 1), at=1e9 + 60)

    assert (await change(kit, later))["reason"] == "no reference"
    assert await stock(kit) == {CODE: 1}


async def test_another_pipelines_run_is_no_reference(tmp_path: Path) -> None:
    other = ProcessingPipeline((JudgeQuality(), DetectChange(), ReadCodes()))
    async with opened(tmp_path) as kit:
        await seen(kit, picture(CODE), at=1e9)
    async with opened(tmp_path, other) as kit:
        later = await seen(kit, again(picture(CODE), 1), at=1e9 + 60)
        assert (await change(kit, later))["changed"] is True


# Zones

HALF = 330 / 660
ZONED = ProcessingPipeline(
    (
        JudgeQuality(),
        ReadCodes(),
        AssignZones(
            (
                Zone("left bay", ((0, 0), (HALF, 0), (HALF, 1), (0, 1))),
                Zone("right bay", ((HALF, 0), (1, 0), (1, 1), (HALF, 1))),
            )
        ),
    )
)


def two_bays(*, left: bool, right: bool) -> bytes:
    """Two labels with the same code side by side, each of which may be covered."""
    pixels = np.array(Image.open(io.BytesIO(picture(CODE, CODE))).convert("RGB"))
    pixels = pixels[:, : 2 * CELL + 60]
    for column, is_there in enumerate((left, right)):
        if not is_there:
            pixels[50:, column * CELL + 50 : column * CELL + CELL + 50] = 235
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


async def by_place(kit: CaptureKit) -> dict[tuple[str, str], int]:
    rows = (await kit.store.inventory.stock()).rows
    return {(row.item_id, row.location): row.quantity for row in rows}


async def test_what_leaves_a_zone_is_no_longer_there(tmp_path: Path) -> None:
    async with opened(tmp_path, ZONED) as kit:
        await seen(kit, two_bays(left=True, right=True), at=1e9)
        both = await by_place(kit)
        await seen(kit, two_bays(left=False, right=True), at=1e9 + 60)
        after = await by_place(kit)

    assert both == {(CODE, "left bay"): 1, (CODE, "right bay"): 1}
    assert {place: quantity for place, quantity in after.items() if quantity} == {
        (CODE, "right bay"): 1
    }


async def test_nothing_is_taken_over_from_where_zones_were_not_known(tmp_path: Path) -> None:
    zone = Zone("left bay", ((0.0, 0.0), (30.0, 0.0), (30.0, 40.0)))
    markers = Markers(tuple(Marker(n, x, 0.0, 4.0) for n, x in enumerate((0.0, 30.0, 60.0))))
    gated = ProcessingPipeline(
        (
            JudgeQuality(),
            DetectChange(),
            Stage(ReadCodes(), when=When("change.changed")),
            Stage(AssignZones((zone,), markers), when=When("change.changed")),
        )
    )
    async with opened(tmp_path, gated) as kit:
        await seen(kit, picture(CODE), at=1e9)
        later = await seen(kit, again(picture(CODE), 1), at=1e9 + 60)
        assert (await change(kit, later))["reason"] == "no reference"


# Steps that fail in their own way


def fail(frame: Frame) -> Frame:
    raise OSError(f"no such camera for {frame.width} px")


def give_up(frame: Frame) -> Frame:
    raise Permanent(f"nothing can be seen at {frame.width} px")


def wait(frame: Frame) -> Frame:
    raise RateLimited(f"too many pictures of {frame.width} px", retry_after_s=3600)


async def after_one_attempt(folder: Path, step: Step) -> JobStatus:
    async with opened(folder, ProcessingPipeline((step,)), concurrency=0) as kit:
        capture, _ = await kit.receive(Upload(picture(CODE), "shelf"))
        job_id, _ = await kit.processing.submit(capture.id)
        await kit.worker.run_job(job_id, timeout_s=1)
        return await kit.queue.status(job_id)


async def test_a_degraded_run_never_empties_a_shelf(tmp_path: Path) -> None:
    degraded = ProcessingPipeline((JudgeQuality(), Stage(fail, on_error="degrade")))
    async with opened(tmp_path) as kit:
        await seen(kit, picture(CODE), at=1e9)
    async with opened(tmp_path, degraded) as kit:
        await seen(kit, picture(OTHER), at=1e9 + 60)
        assert await stock(kit) == {CODE: 1}


async def test_a_step_that_fails_is_tried_again(tmp_path: Path) -> None:
    status = await after_one_attempt(tmp_path, fail)

    # It waits for its next attempt, or had all three within the second.
    assert status.state is JobState.SCHEDULED or len(status.attempts) == 3
    assert status.error is not None
    assert (status.error.step, status.error.type) == ("fail", "StepFailed")


async def test_a_step_that_gives_up_is_not_tried_again(tmp_path: Path) -> None:
    status = await after_one_attempt(tmp_path, give_up)

    assert (status.state, len(status.attempts)) == (JobState.FAILED, 1)
    assert status.error is not None
    assert status.error.step == "give_up"
    assert "nothing can be seen at 960 px" in status.error.message


async def test_a_step_that_must_wait_is_not_asked_before(tmp_path: Path) -> None:
    status = await after_one_attempt(tmp_path, wait)

    assert status.state is JobState.SCHEDULED
    assert status.next_retry_at is not None
    assert status.next_retry_at - status.queued_at >= 3600
