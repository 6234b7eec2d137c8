from datetime import date

import pytest
from sqlalchemy import Connection, select

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.store import MovementKind, NewMovement, Store
from capturekit.store.schema import event
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio

BEST_BEFORE = date(2026, 3, 31)


@pytest.fixture
async def shelf(store: Store) -> Store:
    await store.inventory.add_location("shelf")
    await store.inventory.add_location("shop")
    await store.inventory.add_item("tea", "Tea")
    return store


def receive(quantity: int = 5, **more: object) -> NewMovement:
    values: dict[str, object] = {"target": "shelf", "by": "ana"}
    return NewMovement(MovementKind.RECEIVE, "tea", quantity, **values | more)  # type: ignore[arg-type]


def told(connection: Connection) -> list[tuple[str, object]]:
    found = connection.execute(select(event.c.kind, event.c.payload).order_by(event.c.seq))
    return [(kind, payload) for kind, payload in found if kind.startswith("movement.")]


async def test_a_movement_keeps_who_why_and_which(shelf: Store) -> None:
    said = receive(reason="weekly", lot="L1", expires_on=BEST_BEFORE)

    movement, _ = await shelf.inventory.move(said)

    assert await shelf.inventory.movement(movement.id) == movement
    assert (movement.by, movement.reason) == ("ana", "weekly")
    assert (movement.lot, movement.expires_on) == ("L1", BEST_BEFORE)
    assert movement.as_json()["expires_on"] == "2026-03-31"


async def test_movements_can_be_voided_in_any_order(shelf: Store, clock: Clock) -> None:
    first, _ = await shelf.inventory.move(receive(5))
    second, _ = await shelf.inventory.move(receive(3))
    used, _ = await shelf.inventory.move(NewMovement(MovementKind.USE, "tea", 6, source="shelf"))
    clock.now = 1_100.0

    (change,) = await shelf.inventory.void(first.id, by="bo")
    assert (change.before, change.after) == (2, -3)
    assert await shelf.inventory.void(first.id) == []
    await shelf.inventory.void(used.id)
    await shelf.inventory.void(second.id)

    voided = await shelf.inventory.movement(first.id)
    assert (voided.voided_at, voided.voided_by) == (1_100.0, "bo")
    assert [one.quantity for one in await shelf.inventory.sums()] == []


async def test_a_movement_and_its_end_are_told_with_it(shelf: Store, database: Database) -> None:
    said = receive(key="once")
    movement, _ = await shelf.inventory.move(said)
    await shelf.inventory.move(said)
    await shelf.inventory.void(movement.id, by="bo")
    await shelf.inventory.void(movement.id, by="bo")

    voided = await shelf.inventory.movement(movement.id)

    assert await database.read(told) == [
        ("movement.recorded", movement.as_json()),
        ("movement.voided", voided.as_json()),
    ]


async def test_a_lot_without_a_name_is_named_after_its_day(shelf: Store) -> None:
    movement, _ = await shelf.inventory.move(receive(expires_on=BEST_BEFORE))

    assert (movement.lot, movement.expires_on) == ("2026-03-31", BEST_BEFORE)


async def test_a_lot_expires_on_one_day(shelf: Store) -> None:
    await shelf.inventory.move(receive(lot="L1", expires_on=BEST_BEFORE))

    movement, _ = await shelf.inventory.move(receive(lot="L1"))
    assert movement.expires_on == BEST_BEFORE
    with pytest.raises(Conflict, match="'L1' of 'tea' expires on 2026-03-31, not 2026-04-01"):
        await shelf.inventory.move(receive(lot="L1", expires_on=date(2026, 4, 1)))


async def test_only_a_lot_that_came_can_be_used(shelf: Store) -> None:
    with pytest.raises(Unknown, match="no lot of 'tea' with id 'L1'"):
        await shelf.inventory.move(
            NewMovement(MovementKind.USE, "tea", 1, source="shelf", lot="L1")
        )


@pytest.mark.parametrize(
    ("kind", "ends", "more"),
    [
        (MovementKind.COUNT, {"target": "shelf"}, {"lot": "L1"}),
        (MovementKind.USE, {"source": "shelf"}, {"expires_on": BEST_BEFORE}),
    ],
)
def test_lots_that_make_no_sense_are_refused(
    kind: MovementKind, ends: dict[str, str], more: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"a count is of all lots|only what is received"):
        NewMovement(kind, "tea", 1, **ends, **more)  # type: ignore[arg-type]


async def test_a_key_names_one_lot(shelf: Store) -> None:
    await shelf.inventory.move(receive(key="k", lot="L1"))

    with pytest.raises(Conflict, match="'k' names a receive already"):
        await shelf.inventory.move(receive(key="k", lot="L2"))
