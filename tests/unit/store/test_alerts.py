import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.frame import Observation
from capturekit.store import (
    AlertKind,
    Capture,
    MovementKind,
    NewCapture,
    NewMovement,
    RunRecord,
    Store,
)
from capturekit.store.schema import event

pytestmark = pytest.mark.anyio

Photograph = Callable[..., Awaitable[Capture]]


def seen(quantity: int, confidence: float = 1.0, location: str | None = None) -> Observation:
    return Observation(
        analyser="made", item="tea", quantity=quantity, confidence=confidence, location=location
    )


def told(connection: Connection) -> list[str]:
    kinds = select(event.c.kind).where(event.c.kind != "stock.changed").order_by(event.c.seq)
    alerts = ("stock.low", "stock.restocked", "stock.unwatched", "stock.below_zero")
    return [kind for kind in connection.scalars(kinds) if kind in alerts]


@pytest.fixture
async def shelf(store: Store) -> Store:
    """A store with a camera in a room, and tea."""
    await store.inventory.add_location("room")
    await store.devices.add("cam")
    await store.inventory.move_location("cam", "room")
    await store.inventory.add_item("tea", "Tea")
    return store


async def test_one_alert_is_raised_when_stock_comes_down_to_its_level(
    shelf: Store, photograph: Photograph, database: Database
) -> None:
    await photograph("cam", "1", 100.0, [seen(5)])
    level = await shelf.inventory.set_par_level("tea", "room", 2, restock_at=4, by="ana")
    assert not level.is_low

    for number, quantity in enumerate((3, 2, 1, 3, 2, 4, 3)):
        await photograph("cam", f"next {number}", 200.0 + number, [seen(quantity)])

    (alert,) = (await shelf.inventory.alerts(is_open=False)).rows
    assert (alert.kind, alert.item_id, alert.location_id) == (AlertKind.LOW, "tea", "room")
    assert alert.quantity == 2
    assert alert.cleared_at is not None
    assert not (await shelf.inventory.alerts()).rows
    assert await database.read(told) == ["stock.low", "stock.restocked"]


async def test_an_alert_is_raised_at_once_where_there_is_too_little(
    shelf: Store, database: Database
) -> None:
    level = await shelf.inventory.set_par_level("tea", "room", 0)

    assert level.is_low
    assert level.restock_at == 1
    assert await database.read(told) == ["stock.low"]


async def test_a_doubtful_figure_neither_raises_nor_clears(
    shelf: Store, photograph: Photograph, database: Database
) -> None:
    await photograph("cam", "1", 100.0, [seen(5)])
    await shelf.inventory.set_par_level("tea", "cam", 2, min_confidence=0.8)

    await photograph("cam", "2", 200.0, [seen(1, 0.7)])
    assert await database.read(told) == []

    await photograph("cam", "3", 300.0, [seen(1, 0.9)])
    assert await database.read(told) == ["stock.low"]

    await photograph("cam", "4", 400.0, [seen(9, 0.7)])
    assert await database.read(told) == ["stock.low"]


async def test_what_only_moves_within_the_place_is_no_crossing(
    shelf: Store, database: Database
) -> None:
    await shelf.inventory.add_location("bin", parent="cam")
    await shelf.inventory.move(NewMovement(MovementKind.RECEIVE, "tea", 5, target="cam"))
    await shelf.inventory.set_par_level("tea", "cam", 3)

    await shelf.inventory.move(NewMovement(MovementKind.MOVE, "tea", 4, source="cam", target="bin"))

    assert await database.read(told) == []


async def test_a_place_that_is_moved_away_takes_its_stock_along(
    shelf: Store, photograph: Photograph, database: Database
) -> None:
    await shelf.inventory.add_location("attic")
    await photograph("cam", "1", 100.0, [seen(5)])
    await shelf.inventory.set_par_level("tea", "room", 2)

    await shelf.inventory.move_location("cam", "attic")
    assert await database.read(told) == ["stock.low"]

    await shelf.inventory.move_location("cam", "room")
    assert await database.read(told) == ["stock.low", "stock.restocked"]


async def test_another_level_is_looked_at_anew(
    shelf: Store, photograph: Photograph, database: Database
) -> None:
    await photograph("cam", "1", 100.0, [seen(5)])
    await shelf.inventory.set_par_level("tea", "cam", 2)

    await shelf.inventory.set_par_level("tea", "cam", 6)
    assert await database.read(told) == ["stock.low"]

    await shelf.inventory.set_par_level("tea", "cam", 3)
    assert await database.read(told) == ["stock.low", "stock.restocked"]


async def test_a_level_that_is_removed_clears_its_alert(shelf: Store, database: Database) -> None:
    await shelf.inventory.set_par_level("tea", "cam", 2)

    await shelf.inventory.remove_par_level("tea", "cam")

    assert await database.read(told) == ["stock.low", "stock.unwatched"]
    assert not (await shelf.inventory.alerts()).rows
    assert not (await shelf.inventory.par_levels()).rows
    with pytest.raises(Unknown, match="par level"):
        await shelf.inventory.remove_par_level("tea", "cam")


async def test_less_than_nothing_is_an_alert_until_it_is_put_right(
    shelf: Store, database: Database
) -> None:
    use = NewMovement(MovementKind.USE, "tea", 2, source="cam", may_go_negative=True)
    await shelf.inventory.move(use)
    await shelf.inventory.move(use)

    (alert,) = (await shelf.inventory.alerts(item="tea")).rows
    assert (alert.kind, alert.quantity) == (AlertKind.BELOW_ZERO, -2)

    await shelf.inventory.move(NewMovement(MovementKind.COUNT, "tea", 0, target="cam"))
    assert not (await shelf.inventory.alerts()).rows
    assert await database.read(told) == ["stock.below_zero"]


@pytest.mark.parametrize(
    ("minimum", "restock_at", "confidence"),
    [(-1, 1, 0.0), (3, 3, 0.0), (1, 10**9 + 1, 0), (1, 2, 2)],
)
async def test_levels_that_make_no_sense_are_refused(
    shelf: Store, minimum: int, restock_at: int, confidence: float
) -> None:
    with pytest.raises(ValueError, match=r"minimum|min_confidence"):
        await shelf.inventory.set_par_level(
            "tea", "cam", minimum, restock_at=restock_at, min_confidence=confidence
        )


async def test_levels_of_unknown_things_are_refused(shelf: Store) -> None:
    with pytest.raises(Unknown, match="item"):
        await shelf.inventory.set_par_level("salt", "cam", 1)
    with pytest.raises(Unknown, match="location"):
        await shelf.inventory.set_par_level("tea", "attic", 1)


async def test_pages_of_levels_and_alerts_hold_each_once(shelf: Store) -> None:
    for place in ("cam", "room"):
        await shelf.inventory.set_par_level("tea", place, 1)

    first = await shelf.inventory.par_levels(limit=1)
    last = await shelf.inventory.par_levels(limit=1, cursor=first.next)
    newest = await shelf.inventory.alerts(limit=1)
    oldest = await shelf.inventory.alerts(limit=1, cursor=newest.next)

    assert [one.location_id for one in (*first.rows, *last.rows)] == ["cam", "room"]
    assert [one.location_id for one in (*newest.rows, *oldest.rows)] == ["room", "cam"]
    assert (last.next, oldest.next) == (None, None)
    assert len((await shelf.inventory.par_levels(item="tea", location="cam")).rows) == 1


async def test_a_location_is_never_within_itself(shelf: Store) -> None:
    for parent in ("room", "cam"):
        with pytest.raises(Conflict, match="cannot be within itself"):
            await shelf.inventory.move_location("room", parent)
    with pytest.raises(Unknown, match="location"):
        await shelf.inventory.move_location("room", "attic")
    with pytest.raises(Unknown, match="location"):
        await shelf.inventory.move_location("attic", None)

    assert (await shelf.inventory.move_location("cam", None)).parent_id is None
    assert (await shelf.inventory.rename_location("cam", "The camera")).name == "The camera"


@dataclass
class Oracle:
    """What alerts there should be of figures that come one after the other."""

    minimum: int
    restock_at: int
    min_confidence: float
    is_low: bool = False
    raised: int = 0
    cleared: int = 0

    def figure(self, quantity: int, confidence: float) -> None:
        if confidence < self.min_confidence:
            return
        if self.is_low and quantity >= self.restock_at:
            self.is_low = False
            self.cleared += 1
        elif not self.is_low and quantity <= self.minimum:
            self.is_low = True
            self.raised += 1


def _open(path: Path) -> tuple[asyncio.Runner, Database]:
    runner = asyncio.Runner()
    database = Database(f"sqlite:///{path}")
    runner.run(database.__aenter__())
    return runner, database


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    figures=st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from([0.5, 0.75, 1.0]), st.booleans()), max_size=12
    ),
    minimum=st.integers(0, 5),
    more=st.integers(1, 3),
    min_confidence=st.sampled_from([0.0, 0.6, 0.9]),
)
def test_there_is_one_alert_for_each_crossing(
    tmp_path_factory: pytest.TempPathFactory,
    template: bytes,
    figures: list[tuple[int, float, bool]],
    minimum: int,
    more: int,
    min_confidence: float,
) -> None:
    """I10, against an oracle. A figure comes from a camera or from a person's correction."""
    path = tmp_path_factory.mktemp("alerts") / "store.db"
    path.write_bytes(template)
    runner, database = _open(path)
    oracle = Oracle(minimum, minimum + more, min_confidence)

    async def tell() -> int:
        store = Store(database, clock=lambda: 1_000.0)
        await store.devices.add("cam")
        await store.inventory.add_item("tea", "Tea")
        await store.inventory.set_par_level(
            "tea", "cam", minimum, restock_at=minimum + more, min_confidence=min_confidence
        )
        oracle.figure(0, 1.0)
        for number, (quantity, confidence, is_camera) in enumerate(figures):
            at = 100.0 + number
            if is_camera:
                await _photograph(store, str(number), at, seen(quantity, confidence))
                oracle.figure(quantity, confidence)
            else:
                count = NewMovement(MovementKind.COUNT, "tea", quantity, target="cam", at=at)
                await store.inventory.move(count)
                oracle.figure(quantity, 1.0)
        found = (await store.inventory.alerts(is_open=False)).rows
        assert sum(one.kind is AlertKind.LOW for one in found) == len(found)
        assert sum(one.cleared_at is not None for one in found) == oracle.cleared
        return len(found)

    try:
        assert runner.run(tell()) == oracle.raised
    finally:
        runner.run(database.__aexit__(None, None, None))
        runner.close()


async def _photograph(store: Store, key: str, at: float, one: Observation) -> None:

    new = NewCapture("cam", key, "ab" * 32, 9, "image/jpeg", 4, 3, captured_at=at)
    capture, _ = await store.captures.record(new, lambda _connection, _capture: None)
    await store.captures.start(capture.id, 0, 1)
    await store.captures.finish(capture.id, 0, 1, RunRecord("v1", at, at, {}, (one,)))
