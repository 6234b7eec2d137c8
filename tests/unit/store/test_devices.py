import pytest

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.store import PrincipalKind, Store

pytestmark = pytest.mark.anyio


async def test_a_device_comes_with_its_token_and_its_location(store: Store) -> None:
    device, token = await store.devices.add("cam", is_exhaustive=True)

    principal = await store.devices.authenticate(token)

    assert principal is not None
    assert (principal.kind, principal.device_id) == (PrincipalKind.DEVICE, "cam")
    assert [place.id for place in await store.inventory.locations()] == ["cam"]
    assert await store.devices.all() == [device]
    assert device.is_exhaustive


async def test_only_the_hash_of_a_token_is_stored(sqlite_database: Database) -> None:
    _, token = await Store(sqlite_database).devices.add("cam")

    path = sqlite_database.path
    written = path.read_bytes() + path.with_name(path.name + "-wal").read_bytes()

    assert token.encode() not in written


async def test_a_name_that_is_no_id_can_have_an_id_beside_it(store: Store) -> None:
    device, _ = await store.devices.add("Pantry, upper shelf", id="pantry-1")

    assert (device.id, device.name) == ("pantry-1", "Pantry, upper shelf")


@pytest.mark.parametrize("name", ["", "Pantry shelf", "-x", "a/b", "é", "x" * 65, "~", "cam\n"])
async def test_an_id_that_could_be_misread_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="device id"):
        await store.devices.add(name)


async def test_an_id_is_given_once(store: Store) -> None:
    await store.devices.add("cam")

    with pytest.raises(Conflict, match="'cam' already"):
        await store.devices.add("cam")


async def test_revoking_ends_a_token_at_once(store: Store) -> None:
    _, token = await store.devices.add("cam")

    await store.devices.revoke("cam")

    assert await store.devices.authenticate(token) is None
    assert (await store.devices.get("cam")).is_revoked


async def test_devices_are_counted_and_the_revoked_among_them(store: Store) -> None:
    for name in ("cam", "gone", "other"):
        await store.devices.add(name)
    await store.devices.revoke("gone")

    assert await store.devices.counts() == (3, 1)


async def test_rotating_gives_a_new_token_and_ends_the_old(store: Store) -> None:
    _, old = await store.devices.add("cam")
    await store.devices.revoke("cam")

    new = await store.devices.rotate("cam")

    assert await store.devices.authenticate(old) is None
    assert await store.devices.authenticate(new) is not None
    assert not (await store.devices.get("cam")).is_revoked


async def test_unknown_devices_and_tokens_are_told_as_such(store: Store) -> None:
    devices = store.devices
    assert await devices.authenticate("ck_device_guess") is None
    for call in (
        devices.get("x"),
        devices.rotate("x"),
        devices.revoke("x"),
        devices.add_view("x", "bin"),
    ):
        with pytest.raises(Unknown, match="device"):
            await call


async def test_an_admin_token_is_made_once(store: Store) -> None:
    token = await store.devices.ensure_admin_token()

    assert token is not None
    principal = await store.devices.authenticate(token)
    assert principal is not None
    assert principal.kind is PrincipalKind.TOKEN
    assert await store.devices.ensure_admin_token() is None


async def test_an_admin_token_that_is_set_replaces_the_others(store: Store) -> None:
    made = await store.devices.ensure_admin_token()
    for _ in range(2):
        await store.devices.set_admin_token("chosen by an operator")

    assert await store.devices.authenticate(str(made)) is None
    assert await store.devices.authenticate("chosen by an operator") is not None
    with pytest.raises(ValueError, match="admin token"):
        await store.devices.set_admin_token("")
