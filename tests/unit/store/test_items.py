from collections.abc import Awaitable, Callable

import pytest

from capturekit.errors import Unknown
from capturekit.frame import Observation
from capturekit.store import Capture, ItemCode, Store

pytestmark = pytest.mark.anyio

Photograph = Callable[..., Awaitable[Capture]]


async def test_an_item_has_several_codes_that_stand_for_packs(store: Store) -> None:
    await store.inventory.add_item("beer", "Beer", "bottle")
    await store.inventory.assign_code("111", "beer")
    await store.inventory.assign_code("666", "beer", 6)

    entry = await store.inventory.item("beer")

    assert entry.codes == (ItemCode("111", 1), ItemCode("666", 6))
    assert entry.as_json() == {
        "item_id": "beer",
        "name": "Beer",
        "unit": "bottle",
        "codes": [{"code": "111", "quantity": 1}, {"code": "666", "quantity": 6}],
    }
    with pytest.raises(Unknown, match="item"):
        await store.inventory.item("wine")


async def test_the_catalogue_has_pages_and_is_searched_by_name_code_and_id(store: Store) -> None:
    for name in ("beer", "milk", "tea"):
        await store.inventory.add_item(name, name.title())
    await store.inventory.assign_code("666", "beer", 6)

    first = await store.inventory.items(limit=2)
    rest = await store.inventory.items(limit=2, cursor=first.next)

    assert [one.id for one in (*first.rows, *rest.rows)] == ["beer", "milk", "tea"]
    assert rest.next is None
    for text in ("EE", "666", "beer"):
        assert [one.id for one in (await store.inventory.items(text=text)).rows] == ["beer"]


async def test_a_code_that_is_released_names_an_item_of_its_own(
    store: Store, photograph: Photograph
) -> None:
    await store.devices.add("cam")
    await store.inventory.add_item("beer", "Beer")
    await store.inventory.assign_code("666", "beer", 6)
    await photograph("cam", "1", 100.0, [Observation(analyser="made", code="666", confidence=1.0)])

    changes = await store.inventory.release_code("666", "beer")

    assert {change.item_id: change.delta for change in changes} == {"beer": -6, "666": 1}
    assert (await store.inventory.item("beer")).codes == ()
    with pytest.raises(Unknown, match="no code of 'beer' with id '666'"):
        await store.inventory.release_code("666", "beer")
