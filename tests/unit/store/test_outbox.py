"""Events: written with the fact, read in order, kept until they were told."""

import anyio
import pytest

from capturekit.database import Connection, Database
from capturekit.frame import Observation
from capturekit.store import Event, MovementKind, NewMovement, Store, outbox
from capturekit.store.outbox import DAY_S, LOOKED_THROUGH, NOTICE_S, PRUNED_AT_ONCE, tell
from capturekit.store.outlets import HOLD_S
from capturekit.store.schema import lock_ledger
from tests.unit.store.conftest import Clock, Photograph

pytestmark = pytest.mark.anyio

SOON_S = 20.0


def seen(quantity: int, confidence: float) -> Observation:
    return Observation(analyser="t", code="A", quantity=quantity, confidence=confidence)


async def say(store: Store, *kinds: str) -> None:
    """Write events of these kinds, through the store's own database."""

    def work(connection: Connection) -> None:
        lock_ledger(connection)
        for kind in kinds:
            tell(connection, kind, {"n": 1}, store.outbox._clock())  # noqa: SLF001

    await store.webhooks._database.write(work)  # noqa: SLF001


async def told(store: Store) -> list[Event]:
    return list((await store.outbox.after(0, 1000)).events)


async def test_a_run_is_told_with_its_changes_in_order(
    store: Store, photograph: Photograph
) -> None:
    await store.devices.add("cam")
    capture = await photograph("cam", "one", 900.0, [seen(3, 0.9)])

    changed, completed = await told(store)

    assert changed.seq < completed.seq
    assert (changed.kind, completed.kind) == ("stock.changed", "capture.completed")
    assert changed.item_id == "A"
    assert changed.data == {
        "item_id": "A",
        "location_id": "cam",
        "before": 0,
        "after": 3,
        "confidence": 0.9,
        "cause": {"kind": "run", "id": capture.current_run_id},
    }
    assert completed.data == {
        "capture_id": capture.id,
        "device_id": "cam",
        "captured_at": "1970-01-01T00:15:00.000Z",
        "run_id": capture.current_run_id,
    }
    assert changed.id != completed.id
    assert changed.at == 1000.0


async def test_a_doubt_is_told_without_what_was_seen(store: Store, photograph: Photograph) -> None:
    await store.devices.add("cam")
    capture = await photograph("cam", "one", 900.0, [seen(3, 0.1)])

    opened, completed = await told(store)

    assert (opened.kind, completed.kind) == ("proposal.opened", "capture.completed")
    assert set(opened.data) == {
        *("capture_id", "device_id", "captured_at", "run_id", "count", "observation_ids")
    }
    assert (opened.data["capture_id"], opened.data["count"]) == (capture.id, 1)
    assert opened.item_id is None


async def test_a_failure_is_told(store: Store, upload: Photograph) -> None:
    await store.devices.add("cam")
    capture = await upload("cam", "one")
    await store.captures.start(capture.id, 0, 1)

    await store.captures.fail(capture.id, 0, 1, {"type": "DamagedImage", "message": "cut"})

    (event,) = await told(store)
    assert event.kind == "capture.failed"
    assert event.data["error"] == {"type": "DamagedImage", "message": "cut"}


async def test_what_is_undone_is_not_told(store: Store, database: Database) -> None:
    def work(connection: Connection) -> None:
        tell(connection, "stock.changed", {}, 0.0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(work)

    assert await told(store) == []


async def test_events_are_read_in_pages_and_by_kind(store: Store) -> None:
    await say(store, "stock.low", "stock.changed", "stock.changed", "stock.low")
    seqs = [event.seq for event in await told(store)]

    first = await store.outbox.after(0, 3)
    rest = await store.outbox.after(first.upto, 3)
    low = await store.outbox.after(0, 1, kinds=["stock.low"])
    more = await store.outbox.after(low.upto, 5, kinds=["capture.failed"])

    assert [event.seq for event in (*first.events, *rest.events)] == seqs
    assert rest.upto == seqs[-1]
    assert (len(low.events), low.upto) == (1, seqs[0])
    assert (more.events, more.upto) == ((), seqs[-1])


async def test_rare_kinds_are_looked_for_in_parts(store: Store) -> None:
    await say(store, *["stock.changed"] * LOOKED_THROUGH, "stock.low")

    first = await store.outbox.after(0, 5, kinds=["stock.low"])
    rest = await store.outbox.after(first.upto, 5, kinds=["stock.low"])

    assert (first.events, first.upto) == ((), LOOKED_THROUGH)
    assert [event.seq for event in rest.events] == [LOOKED_THROUGH + 1]
    end = await store.outbox.after(rest.upto, 5, kinds=["stock.low"])
    assert (end.events, end.upto) == ((), rest.upto)


async def test_the_place_of_a_time_is_before_its_first_event(store: Store, clock: Clock) -> None:
    await say(store, "stock.low")
    clock.now += 10
    await say(store, "stock.low", "stock.low")
    seqs = [event.seq for event in await told(store)]

    assert await store.outbox.before(clock.now) == seqs[1] - 1
    assert await store.outbox.before(0.0) == seqs[0] - 1
    assert await store.outbox.before(clock.now + 1) == seqs[-1]


async def test_whoever_waits_is_woken_by_a_write(store: Store) -> None:
    woken: list[bool] = []

    async def wait() -> None:
        woken.append(await store.outbox.wait(0, SOON_S))

    with anyio.fail_after(SOON_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await say(store, "stock.low")

    assert woken == [True]


async def test_events_of_another_process_are_noticed_too(
    store: Store, database: Database, clock: Clock
) -> None:
    other = Store(database, clock=clock)
    took: list[float] = []

    async def wait() -> None:
        await store.outbox.wait(0, SOON_S)
        took.append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await say(other, "stock.low")
        began = anyio.current_time()

    # How long is not asserted closely: machines are shared.
    assert took[0] - began < 20 * NOTICE_S


async def test_who_waits_for_nothing_is_told_so(store: Store) -> None:
    assert not await store.outbox.wait(0, 0.0)


async def test_old_events_go_but_the_newest(store: Store, clock: Clock) -> None:
    await say(store, *["stock.low"] * 3)
    clock.now += 2 * DAY_S

    assert await store.outbox.prune(DAY_S) == 2
    assert await store.outbox.prune(DAY_S) == 0

    (left,) = await told(store)
    await say(store, "stock.low")
    assert (await told(store))[-1].seq > left.seq
    assert await store.outbox.oldest() == left.seq


async def test_many_old_events_go_in_parts(store: Store, clock: Clock) -> None:
    await say(store, *["stock.low"] * (PRUNED_AT_ONCE + 10))
    clock.now += 2 * DAY_S

    assert await store.outbox.prune(DAY_S) == PRUNED_AT_ONCE + 9


async def test_what_a_webhook_was_not_told_is_kept(store: Store, clock: Clock) -> None:
    webhook = await store.webhooks.add("https://example.com/")
    await say(store, *["stock.low"] * 3)
    clock.now += 2 * DAY_S

    assert await store.outbox.prune(DAY_S) == 0
    held = await store.webhooks.hold(webhook.id, "me")
    assert held is not None
    await store.webhooks.delivered(held, held.webhook.cursor + 1, None)
    assert await store.outbox.prune(DAY_S) == 1


async def test_an_outlet_that_nobody_holds_keeps_nothing(
    sqlite_database: Database, clock: Clock
) -> None:
    store = Store(sqlite_database, clock=clock)
    await store.outlets.ensure("mqtt")
    assert await store.outlets.hold("mqtt", "me") is not None
    await say(store, *["stock.low"] * 3)

    clock.now += DAY_S + HOLD_S / 2
    assert await store.outbox.prune(DAY_S) == 0
    clock.now += HOLD_S
    assert await store.outbox.prune(DAY_S) == 2


async def test_a_clock_that_was_ahead_keeps_nothing_for_years(store: Store, clock: Clock) -> None:
    clock.now += 400 * DAY_S
    await say(store, *["stock.low"] * 2)
    clock.now -= 400 * DAY_S

    assert await store.outbox.prune(DAY_S) == 1


async def test_kinds_are_known_by_name(store: Store) -> None:
    await store.inventory.add_item("A", "apples")
    await store.inventory.add_location("shelf")
    new = NewMovement(MovementKind.RECEIVE, "A", 2, target="shelf")
    done, _ = await store.inventory.move(new)
    await store.inventory.void(done.id)

    assert {event.kind for event in await told(store)} <= set(outbox.KINDS)
