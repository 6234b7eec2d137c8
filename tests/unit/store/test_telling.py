"""What became of a capture is told once, however often its job is handed out."""

import pytest

from capturekit.store import Capture, RunRecord, Store
from tests.unit.store.conftest import Photograph

pytestmark = pytest.mark.anyio


async def completed(store: Store) -> list[str]:
    events = (await store.outbox.after(0, kinds=["capture.completed"])).events
    return [event.id for event in events]


async def process(store: Store, capture: Capture, attempt: int) -> None:
    await store.captures.start(capture.id, capture.series, attempt)
    record = RunRecord("v1", 1.0, 1.0, {})
    await store.captures.finish(capture.id, capture.series, attempt, record)


async def test_a_job_that_comes_again_after_its_effect_is_told_once(
    store: Store, upload: Photograph
) -> None:
    await store.devices.add("cam")
    capture = await upload("cam", "k", 5.0)

    await process(store, capture, 1)
    await process(store, capture, 2)

    assert len(await completed(store)) == 1


async def test_a_capture_that_is_processed_anew_is_told_again(
    store: Store, upload: Photograph
) -> None:
    await store.devices.add("cam")
    capture = await upload("cam", "k", 5.0)

    await process(store, capture, 1)
    await process(store, await store.captures.next_series(capture.id), 1)

    first, second = await completed(store)
    assert first != second
