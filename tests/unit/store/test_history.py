import random
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import Connection, event

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import Capture, HistoryEnd, HistoryLine, MovementKind, NewMovement, Store
from capturekit.store.history import HistoryQuery, page
from tests.unit.store.conftest import Clock

pytestmark = pytest.mark.anyio

Photograph = Callable[..., Awaitable[Capture]]


def seen(quantity: int, confidence: float = 1.0) -> Observation:
    return Observation(analyser="made", item="tea", quantity=quantity, confidence=confidence)


@pytest.fixture
async def shop(store: Store) -> Store:
    await store.devices.add("cam")
    await store.inventory.add_location("shop")
    await store.inventory.add_item("tea", "Tea", "box")
    return store


async def lines(store: Store, **asked: object) -> list[HistoryLine]:
    return list((await store.inventory.history(**asked)).rows)  # type: ignore[arg-type]


async def test_each_line_tells_what_was_there_before_and_after(
    shop: Store, photograph: Photograph
) -> None:
    await photograph("cam", "1", 100.0, [seen(5)])
    move = NewMovement(MovementKind.MOVE, "tea", 2, source="cam", target="shop", at=200.0)
    await shop.inventory.move(move)
    await photograph("cam", "2", 300.0, [seen(4)])

    told = await lines(shop)

    assert [line.ends for line in told] == [
        (HistoryEnd("cam", 3, 4),),
        (HistoryEnd("cam", 5, 3), HistoryEnd("shop", 0, 2)),
        (HistoryEnd("cam", 0, 5),),
    ]
    assert [(line.source, line.target, line.quantity) for line in told] == [
        ("~adjusted", "cam", 1),
        ("cam", "shop", 2),
        ("~adjusted", "cam", 5),
    ]
    assert (told[0].name, told[0].unit) == ("Tea", "box")


async def test_a_line_by_a_camera_leads_to_its_picture(shop: Store, photograph: Photograph) -> None:
    capture = await photograph("cam", "1", 100.0, [seen(5)], "print")

    (line,) = await lines(shop)

    assert line.origin.as_json() == {
        "kind": "run",
        "id": capture.current_run_id,
        "device_id": "cam",
        "capture_id": capture.id,
        "captured_at": "1970-01-01T00:01:40.000Z",
        "run_id": capture.current_run_id,
        "fingerprint": "print",
    }


async def test_a_line_by_a_person_names_them_and_their_reason(
    shop: Store, photograph: Photograph
) -> None:
    await photograph("cam", "1", 100.0, [seen(5, 0.2)])
    (proposal,) = (await shop.inventory.proposals()).rows
    await shop.inventory.accept(proposal.observation_id, by="ana")
    used, _ = await shop.inventory.move(
        NewMovement(MovementKind.USE, "tea", 1, source="cam", by="bo", reason="guests")
    )
    await shop.inventory.void(used.id, by="cy")
    await shop.inventory.assign_code("1234", "tea", 6)

    void, use, accept = [line.origin for line in await lines(shop)]

    assert (void.kind, void.by, void.movement_kind) == ("void", "cy", "use")
    assert (use.kind, use.by, use.reason) == ("movement", "bo", "guests")
    assert (accept.kind, accept.by, accept.device_id) == ("verdict", "ana", "cam")


async def test_a_line_of_an_assigned_code_names_it(shop: Store, photograph: Photograph) -> None:
    code = Observation(analyser="made", code="1234", confidence=1.0)
    await photograph("cam", "1", 100.0, [code])

    await shop.inventory.assign_code("1234", "tea", 6)

    assert {line.item_id: line.origin.as_json() for line in (await lines(shop))[:2]} == {
        "tea": {"kind": "code", "id": "1234"},
        "1234": {"kind": "code", "id": "1234"},
    }


async def test_pages_hold_every_line_once_and_keep_their_balances(
    shop: Store, photograph: Photograph
) -> None:
    for number in range(5):
        await photograph("cam", str(number), 100.0 + number, [seen(number + 1)])
    whole = await lines(shop)

    found: list[HistoryLine] = []
    cursor: str | None = None
    while True:
        told = await shop.inventory.history(cursor=cursor, limit=2)
        found += told.rows
        cursor = told.next
        if cursor is None:
            break

    assert found == whole
    assert len(whole) == 5
    with pytest.raises(ValueError, match="not a cursor"):
        await shop.inventory.history(cursor="!!")


async def test_lines_follow_from_each_other_down_to_stock(
    shop: Store, photograph: Photograph
) -> None:
    chance = random.Random(6)
    movement_ids: list[str] = []
    for number in range(60):
        at, quantity = float(chance.randint(1, 99)), chance.randint(1, 5)
        source, target = chance.sample(["cam", "shop"], 2)
        if number % 3 == 0:
            await photograph("cam", str(number), at, [seen(quantity)])
        elif number % 3 == 1:
            new = NewMovement(
                MovementKind.MOVE, "tea", quantity, source, target, at, may_go_negative=True
            )
            movement_ids.append((await shop.inventory.move(new))[0].id)
        else:
            await shop.inventory.void(chance.choice(movement_ids))

    balances: dict[str, int] = {"cam": 0, "shop": 0}
    cursor: str | None = None
    told: list[HistoryLine] = []
    while not told or cursor is not None:
        some = await shop.inventory.history(cursor=cursor, limit=7)
        told += some.rows
        cursor = some.next
    for line in reversed(told):
        for end in line.ends:
            assert balances[end.location_id] == end.before
            balances[end.location_id] = end.after
    stock = {row.location: row.quantity async for row in shop.inventory.all_stock()}
    assert balances == {"cam": 0, "shop": 0} | stock


async def test_history_of_an_item_a_place_and_a_time(shop: Store, clock: Clock) -> None:
    await shop.inventory.add_item("salt", "Salt")
    for at, item, place in (
        (1_000.0, "tea", "cam"),
        (1_010.0, "salt", "shop"),
        (1_020.0, "tea", "shop"),
        (1_030.0, "tea", "cam"),
    ):
        clock.now = at
        await shop.inventory.move(NewMovement(MovementKind.RECEIVE, item, 1, target=place))

    async def numbers(**asked: object) -> list[int]:
        return [line.seq for line in await lines(shop, **asked)]

    assert await numbers(item="tea") == [4, 3, 1]
    assert await numbers(location="shop") == [3, 2]
    assert await numbers(item="tea", location="shop") == [3]
    assert await numbers(since=1_010.0) == [4, 3, 2]
    assert await numbers(until=1_020.0) == [3, 2, 1]
    assert await numbers(since=1_010.0, until=1_020.0, item="tea") == [3]
    assert await numbers(since=1_031.0) == []
    assert await numbers(until=999.0) == []


def _plans(connection: Connection, query: HistoryQuery) -> list[str]:
    statements: list[tuple[str, object]] = []

    def note(*call: object) -> None:
        statements.append((str(call[2]), call[3]))

    event.listen(connection, "before_cursor_execute", note)
    page(connection, query)
    event.remove(connection, "before_cursor_execute", note)
    found: list[str] = []
    for statement, parameters in statements:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
        found += [str(row[3]) for row in plan]
    return found


@pytest.mark.parametrize(
    "query",
    [
        HistoryQuery(item="tea"),
        HistoryQuery(location="shop"),
        HistoryQuery(item="tea", location="shop"),
        HistoryQuery(since=1.0, until=2_000.0),
        HistoryQuery(item="tea", since=1.0, until=2_000.0, cursor="Wzld"),
    ],
)
async def test_no_history_sorts_or_scans(sqlite_database: Database, query: HistoryQuery) -> None:
    store = Store(sqlite_database)
    await store.inventory.add_location("shop")
    # Two, for which SQLite plans otherwise than for one.
    for name in ("tea", "salt"):
        await store.inventory.add_item(name, name)
        await store.inventory.move(NewMovement(MovementKind.RECEIVE, name, 1, target="shop"))

    plan = await sqlite_database.read(lambda connection: _plans(connection, query))

    # Ids that are asked for one by one are constant rows.
    scans = [line for line in plan if line.startswith("SCAN") and "CONSTANT ROW" not in line]
    assert not scans, plan
    assert not [line for line in plan if "FOR ORDER BY" in line], plan
