from collections.abc import Awaitable, Callable

import pytest
from pydantic import JsonValue
from sqlalchemy import Connection

from capturekit.errors import LeaseLost, NotAuthorized, Unknown
from capturekit.frame import Observation
from capturekit.store import Capture, CaptureState, NewCapture, RunRecord, Store

pytestmark = pytest.mark.anyio

Photograph = Callable[..., Awaitable[Capture]]

NEW = NewCapture("cam", "k", "ab" * 32, 9, "image/jpeg", 4, 3, battery_v=3.9, rssi=-70)
TEA = Observation(analyser="codes", code="tea", quantity=2, confidence=1.0)
ERROR: dict[str, JsonValue] = {"type": "Damaged", "message": "cut off"}


class Jobs(list[str]):
    """Takes the place of a queue."""

    def __call__(self, _connection: Connection, capture: Capture) -> None:
        self.append(capture.id)


async def test_an_upload_retry_does_not_make_a_second_capture(store: Store) -> None:
    await store.devices.add("cam")
    jobs = Jobs()
    first, was_known = await store.captures.record(NEW, jobs)

    again, is_known = await store.captures.record(NEW, jobs)

    assert (was_known, is_known) == (False, True)
    assert again == first
    assert jobs == [first.id]
    assert (await store.captures.counts())[CaptureState.PENDING] == 1


async def test_a_capture_and_its_job_are_kept_together_or_not_at_all(store: Store) -> None:
    await store.devices.add("cam")

    def refuse(_connection: Connection, _capture: Capture) -> None:
        raise RuntimeError("the queue is broken")

    with pytest.raises(RuntimeError, match="broken"):
        await store.captures.record(NEW, refuse)

    assert sum((await store.captures.counts()).values()) == 0


async def test_a_revoked_device_uploads_nothing(store: Store) -> None:
    _, token = await store.devices.add("cam")
    principal = await store.devices.authenticate(token)
    await store.devices.revoke("cam")

    for by in (None, principal):
        with pytest.raises(NotAuthorized, match="revoked"):
            await store.captures.record(NEW, Jobs(), by=by)


async def test_a_token_rotated_since_uploads_nothing(store: Store) -> None:
    _, token = await store.devices.add("cam")
    principal = await store.devices.authenticate(token)
    await store.devices.rotate("cam")

    with pytest.raises(NotAuthorized, match="does not hold"):
        await store.captures.record(NEW, Jobs(), by=principal)


async def test_one_device_does_not_upload_for_another(store: Store) -> None:
    await store.devices.add("cam")
    _, token = await store.devices.add("eye")
    principal = await store.devices.authenticate(token)

    with pytest.raises(NotAuthorized, match="does not hold"):
        await store.captures.record(NEW, Jobs(), by=principal)


async def test_an_upload_tells_how_the_device_is(store: Store) -> None:
    await store.devices.add("cam")

    await store.captures.record(NEW, Jobs())

    device = await store.devices.get("cam")
    assert (device.last_seen_at, device.battery_v, device.rssi) == (1_000.0, 3.9, -70)


@pytest.mark.parametrize(
    ("told", "believed", "flags"),
    [
        (None, 1_000.0, ()),
        (900.0, 900.0, ()),
        (1_300.0, 1_300.0, ()),
        (1_300.1, 1_000.0, ("clock_ahead",)),
    ],
)
async def test_a_clock_far_ahead_is_not_believed(
    store: Store, upload: Photograph, told: float | None, believed: float, flags: tuple[str, ...]
) -> None:
    await store.devices.add("cam")

    capture = await upload("cam", "k", told)

    assert (capture.captured_at, capture.flags) == (believed, flags)
    assert await store.captures.get(capture.id) == capture


async def test_lists_begin_with_the_newest_and_go_on_at_the_cursor(
    store: Store, upload: Photograph, clock: Callable[[], float]
) -> None:
    await store.devices.add("cam")
    await store.devices.add("eye")
    for number in range(5):
        clock.now = 2_000.0 + number  # type: ignore[attr-defined]  # the fixture's Clock
        await upload("eye" if number == 2 else "cam", str(number))

    first = await store.captures.list(device_id="cam", limit=3)
    second = await store.captures.list(device_id="cam", limit=3, cursor=first.next)

    assert [capture.key for capture in first.rows] == ["4", "3", "1"]
    assert [capture.key for capture in second.rows] == ["0"]
    assert second.next is None
    assert not (await store.captures.list(state=CaptureState.FAILED)).rows


async def test_captures_are_due_until_they_end(store: Store, upload: Photograph) -> None:
    await store.devices.add("cam")
    waiting, begun, done, failed = [await upload("cam", key) for key in "abcd"]
    for capture in (begun, done, failed):
        await store.captures.start(capture.id, 0, 1)
    await store.captures.finish(done.id, 0, 1, RunRecord("v1", 1.0, 2.0, {}))
    await store.captures.fail(failed.id, 0, 1, ERROR)

    due = await store.captures.due()

    assert {capture.id for capture in due} == {waiting.id, begun.id}
    assert [one.id for one in await store.captures.due(after=due[0].id)] == [due[1].id]
    assert (await store.captures.get(failed.id)).error == ERROR


async def test_attempts_only_go_forward(store: Store, upload: Photograph) -> None:
    await store.devices.add("cam")
    capture = await upload("cam", "k")
    await store.captures.start(capture.id, 0, 2)

    for attempt in (1, 2):
        with pytest.raises(LeaseLost):
            await store.captures.start(capture.id, 0, attempt)
    assert (await store.captures.start(capture.id, 0, 3)).attempt == 3


async def test_an_attempt_that_was_overtaken_has_no_effect(
    store: Store, upload: Photograph
) -> None:
    await store.devices.add("cam")
    capture = await upload("cam", "k")
    await store.captures.start(capture.id, 0, 1)
    await store.captures.start(capture.id, 0, 2)

    with pytest.raises(LeaseLost):
        await store.captures.finish(capture.id, 0, 1, RunRecord("v1", 1.0, 2.0, {}, [TEA]))

    assert not (await store.inventory.stock()).rows
    assert await store.captures.current_run(capture.id) is None


async def test_a_released_capture_waits_and_its_late_answer_is_lost(
    store: Store, upload: Photograph
) -> None:
    await store.devices.add("cam")
    capture = await upload("cam", "k")
    await store.captures.start(capture.id, 0, 1)

    await store.captures.release(capture.id, 0, 1)

    assert (await store.captures.get(capture.id)).state is CaptureState.PENDING
    with pytest.raises(LeaseLost):
        await store.captures.fail(capture.id, 0, 1, ERROR)


async def test_a_capture_whose_job_never_came_so_far_can_fail(
    store: Store, upload: Photograph
) -> None:
    await store.devices.add("cam")
    capture = await upload("cam", "k")

    await store.captures.fail(capture.id, 0, 0, ERROR)

    assert (await store.captures.get(capture.id)).state is CaptureState.FAILED


async def test_a_finished_capture_tells_its_run_and_what_changed(
    store: Store, upload: Photograph
) -> None:
    await store.devices.add("cam")
    capture = await upload("cam", "k")
    await store.captures.start(capture.id, 0, 1)
    record = RunRecord("v1", 1.0, 2.0, {"codes": 1}, [TEA], thumbnail="cd" * 32)

    changes = await store.captures.finish(capture.id, 0, 1, record)

    run = await store.captures.current_run(capture.id)
    assert [(change.item_id, change.delta) for change in changes] == [("tea", 2)]
    assert run is not None
    assert (run.fingerprint, run.result, len(run.observation_ids)) == ("v1", {"codes": 1}, 1)
    assert (await store.captures.get(capture.id)).thumbnail_sha256 == "cd" * 32


async def test_a_new_series_fences_off_the_job_before(store: Store, upload: Photograph) -> None:
    await store.devices.add("cam")
    capture = await upload("cam", "k")
    await store.captures.start(capture.id, 0, 1)

    renewed = await store.captures.next_series(capture.id)

    assert (renewed.series, renewed.attempt, renewed.state) == (1, 0, CaptureState.PENDING)
    with pytest.raises(LeaseLost):
        await store.captures.finish(capture.id, 0, 1, RunRecord("v1", 1.0, 2.0, {}))


async def test_unknown_captures_are_told_as_such(store: Store) -> None:
    captures = store.captures
    with pytest.raises(Unknown, match="device"):
        await captures.record(NEW, Jobs())
    for call in (
        captures.get("x"),
        captures.start("x", 0, 1),
        captures.release("x", 0, 1),
        captures.next_series("x"),
        captures.current_run("x"),
    ):
        with pytest.raises(Unknown, match="capture"):
            await call
