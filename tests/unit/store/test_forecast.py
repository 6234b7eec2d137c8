from collections.abc import Awaitable, Callable

import pytest

from capturekit.errors import Unknown
from capturekit.frame import Observation
from capturekit.store import Capture, MovementKind, NewMovement, Store
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio

Photograph = Callable[..., Awaitable[Capture]]

DAY_S = 86_400.0
NOW = 100 * DAY_S


@pytest.fixture
async def shelf(store: Store, clock: Clock) -> Store:
    clock.now = NOW
    await store.devices.add("cam")
    await store.inventory.add_location("room")
    await store.inventory.move_location("cam", "room")
    await store.inventory.add_item("tea", "Tea")
    return store


async def count(photograph: Photograph, days_ago: float, quantity: int) -> None:
    seen = Observation(analyser="made", item="tea", quantity=quantity, confidence=1.0)
    await photograph("cam", f"{days_ago}", NOW - days_ago * DAY_S, [seen])


async def test_days_left_follow_from_what_was_used_a_day(
    shelf: Store, photograph: Photograph
) -> None:
    for days_ago, quantity in ((10, 30), (8, 26), (6, 22), (4, 18), (2, 14), (0, 10)):
        await count(photograph, days_ago, quantity)

    found = await shelf.inventory.forecast("tea")

    assert (found.quantity, found.per_day, found.days_left) == (10, 2.0, 5.0)
    assert (found.empty_at, found.days_known) == (NOW + 5 * DAY_S, 10.0)
    assert (await shelf.inventory.forecast("tea", "room")).days_left == 5.0


async def test_what_stock_rises_is_a_delivery_and_not_use(
    shelf: Store, photograph: Photograph
) -> None:
    for days_ago, quantity in ((10, 5), (5, 0), (4, 20), (0, 15)):
        await count(photograph, days_ago, quantity)

    found = await shelf.inventory.forecast("tea")

    assert (found.per_day, found.days_left) == (1.0, 15.0)


async def test_only_the_days_asked_for_are_looked_at(shelf: Store, photograph: Photograph) -> None:
    for days_ago, quantity in ((90, 99), (50, 20), (10, 20), (5, 15), (0, 10)):
        await count(photograph, days_ago, quantity)

    assert (await shelf.inventory.forecast("tea", days=10)).per_day == 1.0
    assert (await shelf.inventory.forecast("tea", days=100)).per_day == pytest.approx(89 / 90)


async def test_what_is_written_off_and_moved_within_counts_as_it_is(shelf: Store) -> None:
    for kind, days_ago, ends in (
        (MovementKind.RECEIVE, 8.0, {"target": "cam"}),
        (MovementKind.MOVE, 6.0, {"source": "cam", "target": "room"}),
        (MovementKind.USE, 4.0, {"source": "room"}),
    ):
        at = NOW - days_ago * DAY_S
        source, target = ends.get("source"), ends.get("target")
        await shelf.inventory.move(NewMovement(kind, "tea", 8, source, target, at))

    assert (await shelf.inventory.forecast("tea", "room")).per_day == 1.0
    assert (await shelf.inventory.forecast("tea", "room")).days_left == 0.0


@pytest.mark.parametrize("counts", [[], [(10, 5), (0, 5)], [(2, 9), (1, 5), (0, 1)]])
async def test_nothing_used_or_little_known_has_no_forecast(
    shelf: Store, photograph: Photograph, counts: list[tuple[float, int]]
) -> None:
    for days_ago, quantity in counts:
        await count(photograph, days_ago, quantity)

    found = await shelf.inventory.forecast("tea")

    assert (found.per_day, found.days_left, found.empty_at) == (None, None, None)
    assert found.as_json()["per_day"] is None


async def test_forecasts_of_unknown_things_are_refused(shelf: Store) -> None:
    with pytest.raises(Unknown, match="item"):
        await shelf.inventory.forecast("salt")
    with pytest.raises(ValueError, match="1 to 366"):
        await shelf.inventory.forecast("tea", days=0)
