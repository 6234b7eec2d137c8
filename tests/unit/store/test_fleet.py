import anyio
import pytest

from capturekit.errors import Unknown
from capturekit.store import Store
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio


async def holds(store: Store, *tokens: str) -> list[bool]:
    return [await store.devices.authenticate(token) is not None for token in tokens]


async def test_two_tokens_hold_while_a_rotation_has_grace(store: Store, clock: Clock) -> None:
    _, old = await store.devices.add("cam")

    new = await store.devices.rotate("cam", grace_s=60)

    assert await holds(store, old, new) == [True, True]
    clock.now += 59.9
    assert await holds(store, old, new) == [True, True]
    clock.now += 0.1
    assert await holds(store, old, new) == [False, True]


async def test_a_third_rotation_ends_the_oldest_token(store: Store, clock: Clock) -> None:
    _, first = await store.devices.add("cam")
    clock.now += 1
    second = await store.devices.rotate("cam", grace_s=1000)
    clock.now += 1

    third = await store.devices.rotate("cam", grace_s=10)

    assert await holds(store, first, second, third) == [False, True, True]
    keys = (await store.fleet.entry("cam")).keys
    assert [(key.created_at, key.ends_at) for key in keys] == [(1001.0, 1012.0), (1002.0, None)]


async def test_rotating_without_grace_ends_both_tokens(store: Store) -> None:
    _, first = await store.devices.add("cam")
    second = await store.devices.rotate("cam", grace_s=1000)

    third = await store.devices.rotate("cam")

    assert await holds(store, first, second, third) == [False, False, True]


async def test_revoking_ends_both_tokens(store: Store) -> None:
    _, first = await store.devices.add("cam")
    second = await store.devices.rotate("cam", grace_s=1000)

    await store.devices.revoke("cam")

    assert await holds(store, first, second) == [False, False]
    assert (await store.fleet.entry("cam")).keys == ()


async def test_an_ended_token_stays_ended_when_the_device_is_revoked(
    store: Store, clock: Clock
) -> None:
    _, first = await store.devices.add("cam")
    await store.devices.rotate("cam", grace_s=10)
    clock.now += 20
    await store.devices.revoke("cam")
    clock.now -= 15

    assert await holds(store, first) == [True], "its end was not moved by the revocation"


async def test_rotations_at_once_leave_two_tokens(store: Store) -> None:
    _, first = await store.devices.add("cam")
    tokens = [first]

    async def rotate() -> None:
        tokens.append(await store.devices.rotate("cam", grace_s=1000))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(rotate)

    assert (await holds(store, *tokens)).count(True) == 2
    assert len((await store.fleet.entry("cam")).keys) == 2


@pytest.mark.parametrize("grace_s", [-1.0, 31 * 86400.0, float("nan")])
async def test_a_grace_out_of_bounds_is_refused(store: Store, grace_s: float) -> None:
    await store.devices.add("cam")
    with pytest.raises(ValueError, match="grace_s"):
        await store.devices.rotate("cam", grace_s=grace_s)


async def test_a_key_is_shown_without_what_opens(store: Store) -> None:
    _, token = await store.devices.add("cam")

    (key,) = (await store.fleet.entry("cam")).keys

    assert token not in str(key.as_json())
    assert len(key.id) == 12


async def test_devices_come_in_pages_by_id(store: Store) -> None:
    for number in range(5):
        await store.devices.add(f"Shelf {number}", id=f"cam-{number}")
    await store.devices.revoke("cam-3")
    found: list[str] = []
    cursor = None
    while True:
        page = await store.fleet.page(limit=2, cursor=cursor)
        found += [one.id for one in page.rows]
        if (cursor := page.next) is None:
            break

    assert found == [f"cam-{number}" for number in range(5)]
    assert [one.id for one in (await store.fleet.page(text="SHELF 4")).rows] == ["cam-4"]
    assert [one.id for one in (await store.fleet.page(is_revoked=True)).rows] == ["cam-3"]
    assert len((await store.fleet.page(is_revoked=False)).rows) == 4
    assert [one.id for one in (await store.fleet.page(location_id="cam-1")).rows] == ["cam-1"]
    assert (await store.fleet.page(text="%")).rows == ()


async def test_a_device_is_shown_with_its_views(store: Store) -> None:
    await store.devices.add("cam")
    corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]
    await store.devices.add_view("cam", "bin", polygon=corners, is_exhaustive=True)

    entry = (await store.fleet.entry("cam")).as_json()

    assert entry["views"] == [
        {
            "location_id": "bin",
            "polygon": [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]],
            "is_exhaustive": True,
        }
    ]


async def test_what_is_given_is_changed(store: Store) -> None:
    await store.devices.add("cam")
    await store.inventory.add_location("cellar")

    await store.fleet.change("cam", name="Cellar, left")
    changed = await store.fleet.change("cam", location_id="cellar", is_exhaustive=True)

    assert (changed.name, changed.location_id, changed.is_exhaustive) == (
        "Cellar, left",
        "cellar",
        True,
    )
    assert await store.fleet.change("cam") == changed
    with pytest.raises(Unknown, match="location"):
        await store.fleet.change("cam", location_id="nowhere")
    with pytest.raises(Unknown, match="device"):
        await store.fleet.change("none", name="x")
