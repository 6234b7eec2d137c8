import pytest

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.store import Role, Store
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("role", Role)
async def test_a_token_speaks_for_its_name_and_role(store: Store, role: Role) -> None:
    made, secret = await store.tokens.add("till", role)

    principal = await store.devices.authenticate(secret)

    assert principal is not None
    assert (principal.name, principal.role, principal.device_id) == ("till", role, None)
    assert await store.tokens.all() == [made]


def test_a_role_covers_those_below_it() -> None:
    covered = {role: {other for other in Role if role.covers(other)} for role in Role}

    assert covered == {
        Role.VIEWER: {Role.VIEWER},
        Role.OPERATOR: {Role.VIEWER, Role.OPERATOR},
        Role.ADMIN: set(Role),
    }


async def test_an_expired_token_opens_nothing(store: Store, clock: Clock) -> None:
    _, secret = await store.tokens.add("till", Role.ADMIN, expires_at=clock.now + 10)
    clock.now += 9
    assert await store.devices.authenticate(secret) is not None

    clock.now += 1

    assert await store.devices.authenticate(secret) is None


async def test_a_name_is_free_again_when_its_token_holds_no_more(
    store: Store, clock: Clock
) -> None:
    first, _ = await store.tokens.add("till", Role.VIEWER, expires_at=clock.now + 10)
    with pytest.raises(Conflict, match="'till' already"):
        await store.tokens.add("till", Role.VIEWER)
    clock.now += 10
    second, _ = await store.tokens.add("till", Role.VIEWER)
    assert (await store.tokens.named("till")).id == second.id != first.id

    await store.tokens.revoke(second.id)

    await store.tokens.add("till", Role.VIEWER)


async def test_revoking_ends_a_token_once(store: Store, clock: Clock) -> None:
    made, secret = await store.tokens.add("till", Role.VIEWER)
    ended = await store.tokens.revoke(made.id)
    clock.now += 5

    again = await store.tokens.revoke(made.id)

    assert again == ended
    assert await store.devices.authenticate(secret) is None
    for call in (store.tokens.revoke("x"), store.tokens.named("till")):
        with pytest.raises(Unknown, match="token"):
            await call


async def test_the_token_of_a_device_is_not_managed_here(store: Store, database: Database) -> None:
    await store.devices.add("cam")
    ids = await database.read(
        lambda connection: connection.exec_driver_sql("SELECT id FROM credential").scalars().all()
    )

    with pytest.raises(Unknown, match="token"):
        await store.tokens.revoke(ids[0])

    assert await store.tokens.all() == []


@pytest.mark.parametrize("name", ["", "two words", "-x", "a/b", "x" * 65, "till\n", "admin"])
async def test_a_name_that_could_be_misread_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        await store.tokens.add(name, Role.VIEWER)


async def test_setting_the_first_token_leaves_the_named_ones(store: Store) -> None:
    _, named = await store.tokens.add("till", Role.ADMIN)

    await store.devices.set_admin_token("one")
    await store.devices.set_admin_token("two")

    holds = {token: await store.devices.authenticate(token) for token in (named, "one", "two")}
    assert [token for token, principal in holds.items() if principal] == [named, "two"]
    assert {one.name for one in await store.tokens.all()} == {"till", "admin"}


async def test_an_admin_token_with_an_end_does_not_replace_the_first(
    store: Store, clock: Clock
) -> None:
    await store.tokens.add("till", Role.ADMIN, expires_at=clock.now + 10)

    assert await store.devices.ensure_admin_token() is not None
