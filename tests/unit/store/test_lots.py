from collections.abc import Awaitable, Callable
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.errors import Unknown
from capturekit.frame import Observation
from capturekit.store import Capture, Lot, MovementKind, NewMovement, Store
from capturekit.store.lots import Package, first_expired_first_out
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio

Photograph = Callable[..., Awaitable[Capture]]

EARLY, LATE = date(2026, 3, 1), date(2026, 6, 1)


def seen(quantity: int = 1, lot: str | None = None, expires_on: date | None = None) -> Observation:
    return Observation(
        analyser="made",
        item="milk",
        quantity=quantity,
        confidence=1.0,
        lot=lot,
        expires_on=expires_on,
    )


@pytest.fixture
async def fridge(store: Store) -> Store:
    await store.devices.add("fridge")
    await store.inventory.add_location("shop")
    await store.inventory.add_item("milk", "Milk")
    return store


async def receive(
    store: Store, quantity: int, lot: str | None, expires_on: date | None, **more: float
) -> str:
    movement, _ = await store.inventory.move(
        NewMovement(
            MovementKind.RECEIVE,
            "milk",
            quantity,
            target="fridge",
            lot=lot,
            expires_on=expires_on,
            at=more.get("at"),
        )
    )
    return movement.id


async def use(store: Store, quantity: int, lot: str | None = None) -> None:
    await store.inventory.move(
        NewMovement(MovementKind.USE, "milk", quantity, source="fridge", lot=lot)
    )


async def test_what_expires_first_is_used_first(fridge: Store) -> None:
    await receive(fridge, 4, "B", LATE)
    await receive(fridge, 3, "A", EARLY)
    await use(fridge, 5)

    found = await fridge.inventory.lots("milk")

    assert found.lots == (Lot("B", LATE, 2),)
    assert (found.quantity, found.unknown) == (2, 0)


async def test_lots_outlive_a_count(fridge: Store, photograph: Photograph) -> None:
    await receive(fridge, 4, "B", LATE, at=100.0)
    await receive(fridge, 3, "A", EARLY, at=100.0)
    await photograph("fridge", "1", 200.0, [seen(6)])

    found = await fridge.inventory.lots("milk", "fridge")

    assert found.lots == (Lot("A", EARLY, 2), Lot("B", LATE, 4))
    assert found.unknown == 0


async def test_what_no_lot_explains_is_unknown(fridge: Store, photograph: Photograph) -> None:
    await receive(fridge, 3, "A", EARLY, at=100.0)
    await photograph("fridge", "1", 200.0, [seen(5)])

    found = await fridge.inventory.lots("milk")

    assert (found.lots, found.unknown) == ((Lot("A", EARLY, 3),), 2)


async def test_a_lot_that_was_used_up_does_not_come_back(
    fridge: Store, photograph: Photograph
) -> None:
    await receive(fridge, 3, "A", EARLY, at=100.0)
    await photograph("fridge", "1", 200.0, [seen(0)])
    await photograph("fridge", "2", 300.0, [seen(5)])

    found = await fridge.inventory.lots("milk")

    assert (found.lots, found.unknown) == ((), 5)


async def test_a_camera_that_saw_the_place_empty_ends_its_lots(
    store: Store, photograph: Photograph
) -> None:
    await store.devices.add("fridge", is_exhaustive=True)
    await store.inventory.add_item("milk", "Milk")
    await receive(store, 3, "A", EARLY, at=100.0)
    await photograph("fridge", "full", 150.0, [seen(3)])
    assert (await store.inventory.lots("milk")).lots == (Lot("A", EARLY, 3),)

    await photograph("fridge", "empty", 200.0)
    assert (await store.inventory.lots("milk")).lots == ()

    await receive(store, 2, "B", LATE, at=250.0)
    await photograph("fridge", "full again", 300.0, [seen(5)])
    found = await store.inventory.lots("milk")
    assert (found.lots, found.unknown) == ((Lot("B", LATE, 2),), 3)


async def test_packages_tell_their_lots_and_days(fridge: Store, photograph: Photograph) -> None:
    await receive(fridge, 9, "old", EARLY, at=50.0)
    labelled = [seen(1, "A", EARLY), seen(1, "A", EARLY), seen(2, None, LATE)]
    await photograph("fridge", "1", 100.0, [*labelled, seen()])
    await receive(fridge, 2, "B", LATE, at=200.0)

    found = await fridge.inventory.lots("milk")

    assert found.lots == (Lot("A", EARLY, 2), Lot(None, LATE, 2), Lot("B", LATE, 2))
    assert (found.quantity, found.unknown) == (7, 1)


async def test_a_lot_can_be_used_by_name(fridge: Store) -> None:
    await receive(fridge, 4, "B", LATE)
    await receive(fridge, 3, "A", EARLY)
    await use(fridge, 3, "B")

    found = await fridge.inventory.lots("milk")

    assert found.lots == (Lot("A", EARLY, 3), Lot("B", LATE, 1))


async def test_a_lot_that_is_moved_by_name_is_known_in_both_places(fridge: Store) -> None:
    await receive(fridge, 4, "B", LATE)
    await fridge.inventory.move(
        NewMovement(MovementKind.MOVE, "milk", 3, source="fridge", target="shop", lot="B")
    )

    assert (await fridge.inventory.lots("milk", "fridge")).lots == (Lot("B", LATE, 1),)
    assert (await fridge.inventory.lots("milk", "shop")).lots == (Lot("B", LATE, 3),)
    assert (await fridge.inventory.lots("milk")).lots == (Lot("B", LATE, 4),)


async def test_a_voided_delivery_brought_no_lot(fridge: Store) -> None:
    await receive(fridge, 4, "B", LATE)
    await fridge.inventory.void(await receive(fridge, 3, "A", EARLY))

    assert (await fridge.inventory.lots("milk")).lots == (Lot("B", LATE, 4),)
    with pytest.raises(Unknown, match="item"):
        await fridge.inventory.lots("tea")


async def test_what_expires_soon_is_listed_first_first(
    fridge: Store, clock: Clock, photograph: Photograph
) -> None:
    clock.now = 1_772_323_200.0  # 2026-03-01
    await fridge.inventory.add_item("tea", "Tea")
    await receive(fridge, 4, "B", LATE)
    await receive(fridge, 3, "A", EARLY)
    await receive(fridge, 1, "C", EARLY + timedelta(8))
    tea = Observation(
        analyser="made", item="tea", quantity=2, confidence=1.0, expires_on=EARLY - timedelta(1)
    )
    await photograph("fridge", "1", 1_772_323_200.0, [tea])

    soon = await fridge.inventory.expiring(7)

    assert [(one.item_id, one.name, one.lot, one.quantity) for one in soon] == [
        ("tea", "Tea", None, 2),
        ("milk", "Milk", "A", 3),
    ]
    assert len(await fridge.inventory.expiring(8)) == 3
    assert await fridge.inventory.expiring(8, location="shop") == []


_packages = st.builds(
    Package,
    st.sampled_from(["A", "B", "C", None]),
    st.sampled_from([EARLY, LATE, EARLY + timedelta(9), None]),
)


@given(
    quantity=st.integers(-5, 30),
    came=st.lists(st.tuples(_packages, st.integers(-3, 9)), max_size=8),
)
def test_lots_add_up_and_the_first_to_expire_are_gone_first(
    quantity: int, came: list[tuple[Package, int]]
) -> None:
    lots, unknown = first_expired_first_out(quantity, came)

    assert sum(one.quantity for one in lots) + unknown == quantity
    assert all(one.quantity > 0 for one in lots)
    days = [one.expires_on or date.max for one in lots]
    assert days == sorted(days)
    supplied: dict[Package, int] = {}
    for package, units in came:
        supplied[package] = supplied.get(package, 0) + units
    left = {Package(one.lot, one.expires_on): one.quantity for one in lots}
    # Of what expires later than something left, all that came is left.
    for package, units in supplied.items():
        if any((package.expires_on or date.max) > day for day in days):
            assert left.get(package, 0) == max(units, 0)
    # Nothing is unknown while a lot may explain it.
    if unknown > 0:
        assert left == {package: units for package, units in supplied.items() if units > 0}
