import anyio
import pytest

from capturekit.database import Database
from capturekit.errors import ClaimRefused, Conflict, NotAuthorized, Unknown
from capturekit.store import Store
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio


async def holds(store: Store, token: str) -> bool:
    return await store.devices.authenticate(token) is not None


async def test_a_code_is_worth_a_token_once(store: Store) -> None:
    claim, code = await store.claims.offer("cam", name="Cellar", is_exhaustive=True)
    assert (await store.fleet.entry("cam")).keys == (), "the device waits without a token"

    device, token = await store.claims.use(code)

    assert (device.id, device.name, device.is_exhaustive) == ("cam", "Cellar", True)
    principal = await store.devices.authenticate(token)
    assert principal is not None
    assert principal.device_id == "cam"
    assert (await store.claims.get(claim.id)).used_at == 1_000.0
    with pytest.raises(ClaimRefused):
        await store.claims.use(code)


async def test_of_twenty_at_once_one_has_the_token(store: Store) -> None:
    _, code = await store.claims.offer("cam")
    tokens: list[str] = []
    refused: list[str] = []
    start = anyio.Event()

    async def claim() -> None:
        await start.wait()
        try:
            tokens.append((await store.claims.use(code))[1])
        except ClaimRefused as error:
            refused.append(str(error))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(claim)
        await anyio.wait_all_tasks_blocked()
        start.set()

    assert (len(tokens), len(refused)) == (1, 19)
    assert await holds(store, tokens[0])
    assert len((await store.fleet.entry("cam")).keys) == 1


async def test_of_twenty_in_two_servers_one_has_the_token(database_url: str) -> None:
    """Two databases opened apart share no writer and no pool, as two servers do."""
    taken: list[str] = []
    async with Database(database_url) as one, Database(database_url) as other:
        stores = [Store(one), Store(other)]
        _, code = await stores[0].claims.offer("cam")

        async def claim(store: Store) -> None:
            try:
                taken.append((await store.claims.use(code))[1])
            except ClaimRefused:
                return

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(claim, stores[number % 2])

    assert len(taken) == 1


async def test_wrong_used_and_old_codes_are_refused_alike(store: Store, clock: Clock) -> None:
    _, used = await store.claims.offer("used")
    await store.claims.use(used)
    _, old = await store.claims.offer("old", valid_s=60)
    clock.now += 60
    told = set()
    for code in (used, old, "7H2K-9MQX", "", "é"):
        with pytest.raises(ClaimRefused) as refused:
            await store.claims.use(code)
        told.add(str(refused.value))

    assert len(told) == 1
    assert issubclass(ClaimRefused, NotAuthorized)


async def test_a_code_may_be_written_as_it_was_read(store: Store) -> None:
    _, code = await store.claims.offer("cam")
    misread = code.lower().replace("-", " ").replace("1", "l").replace("0", "o")

    device, _ = await store.claims.use(misread)

    assert device.id == "cam"


async def test_a_device_that_was_there_loses_its_tokens(store: Store) -> None:
    _, before = await store.devices.add("cam")
    _, code = await store.claims.offer("cam")
    assert await holds(store, before)

    _, token = await store.claims.use(code)

    assert not await holds(store, before)
    assert await holds(store, token)


async def test_revoking_a_device_ends_its_codes(store: Store) -> None:
    await store.devices.add("cam")
    claim, code = await store.claims.offer("cam")

    await store.devices.revoke("cam")

    with pytest.raises(ClaimRefused):
        await store.claims.use(code)
    with pytest.raises(Conflict):
        await store.claims.code(claim.id)
    assert (await store.devices.get("cam")).is_revoked


async def test_a_code_for_any_device_makes_one(store: Store) -> None:
    _, named = await store.claims.offer()
    _, unnamed = await store.claims.offer()

    first, token = await store.claims.use(named, "shed")
    second, _ = await store.claims.use(unnamed)

    assert (first.id, first.location_id) == ("shed", "shed")
    assert second.id.startswith("cam-")
    assert await holds(store, token)


async def test_a_name_that_is_taken_costs_no_code(store: Store) -> None:
    await store.devices.add("shed")
    _, code = await store.claims.offer()
    with pytest.raises(Conflict, match="shed"):
        await store.claims.use(code, "shed")

    assert (await store.claims.use(code, "shed-2"))[0].id == "shed-2"


async def test_a_code_can_be_shown_again_while_it_is_good(store: Store, clock: Clock) -> None:
    claim, code = await store.claims.offer("cam", valid_s=60)

    assert await store.claims.code(claim.id) == code
    clock.now += 60
    with pytest.raises(Conflict, match="expired"):
        await store.claims.code(claim.id)
    with pytest.raises(Unknown):
        await store.claims.code("none")


async def test_codes_differ_and_are_not_stored(sqlite_database: Database) -> None:
    store = Store(sqlite_database)
    codes = {(await store.claims.offer("cam"))[1] for _ in range(50)}

    path = sqlite_database.path
    written = path.read_bytes() + path.with_name(path.name + "-wal").read_bytes()

    assert len(codes) == 50
    for code in codes:
        assert code.encode() not in written
        assert code.replace("-", "").encode() not in written


async def test_where_it_must_be_new_a_device_is_not_there_yet(store: Store) -> None:
    await store.devices.add("cam")
    with pytest.raises(Conflict, match="'cam' already"):
        await store.claims.offer("cam", must_be_new=True)


@pytest.mark.parametrize("wrong", [{"device_id": "not an id"}, {"valid_s": 0.0}, {"valid_s": 1e9}])
async def test_what_cannot_be_offered_is_refused(store: Store, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"device id|good for"):
        await store.claims.offer(**wrong)  # type: ignore[arg-type]  # wrong on purpose
