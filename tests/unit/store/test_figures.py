"""All figures, in parts, and the alarms of par levels."""

import pytest

from capturekit.store import Alarm, Figure, MovementKind, NewMovement, Store
from capturekit.store.changes import Key

pytestmark = pytest.mark.anyio


async def receive(store: Store, item: str, quantity: int) -> str:
    await store.inventory.add_item(item, item.title(), "kg")
    new = NewMovement(MovementKind.RECEIVE, item, quantity, target="shelf")
    done, _changes = await store.inventory.move(new)
    return done.id


async def test_figures_come_in_parts_by_key(store: Store) -> None:
    await store.inventory.add_location("shelf", "Top shelf")
    for number, item in enumerate(("b", "a", "c"), 1):
        await receive(store, item, number)

    first = await store.figures.page(None, 2)
    # Whatever becomes of names meanwhile.
    await store.inventory.rename("c", "0")
    rest = await store.figures.page(first[-1].key, 2)

    assert first[0] == Figure("a", "A", "kg", "shelf", "Top shelf", 2, None, None)
    assert [(one.item_id, one.quantity) for one in (*first, *rest)] == [
        *(("a", 2), ("b", 1), ("c", 3))
    ]
    assert await store.figures.page(rest[-1].key, 2) == []


async def test_what_was_never_there_has_no_figure(store: Store) -> None:
    await store.inventory.add_location("shelf")
    wrong = await receive(store, "a", 3)
    await receive(store, "b", 4)
    await store.inventory.void(wrong)

    assert [one.item_id for one in await store.figures.page(None, 9)] == ["b"]
    found = await store.figures.of([Key("a", "shelf"), Key("b", "shelf"), Key("x", "y")])
    assert {key: one.quantity for key, one in found.items()} == {("b", "shelf"): 4}


async def test_an_alarm_is_of_a_par_level(store: Store) -> None:
    await store.inventory.add_location("shelf", "Top shelf")
    await receive(store, "a", 3)
    await receive(store, "b", 9)
    for item in ("a", "b"):
        await store.inventory.set_par_level(item, "shelf", minimum=3, restock_at=5)

    first = await store.figures.alarms(None, 1)
    rest = await store.figures.alarms(first[-1].key, 9)

    assert [*first, *rest] == [
        Alarm("a", "A", "shelf", "Top shelf", is_low=True),
        Alarm("b", "B", "shelf", "Top shelf", is_low=False),
    ]
