"""Sums of what all processes counted, on both engines."""

import time

import anyio
import pytest
from sqlalchemy import func, select

from capturekit.database import Connection, Database
from capturekit.store import MovementKind, NewMovement, Store
from capturekit.store import telemetry as kept
from capturekit.store.schema import move
from capturekit.telemetry import MEASURES, Series, Tally, Telemetry

pytestmark = pytest.mark.anyio

STEP = Series("step_duration_seconds", ("codes",))
REQUEST = Series("http_request_duration_seconds", ("/v1/items/{id}", "GET", "200"))


@pytest.fixture
async def store(database: Database) -> Store:
    return Store(database, clock=time.time)


async def test_what_several_processes_counted_adds_up(store: Store) -> None:
    async def process() -> None:
        telemetry = Telemetry()
        for _ in range(5):
            telemetry.time(STEP.name, 0.003, *STEP.labels)
            telemetry.time(STEP.name, 99.0, *STEP.labels)
            telemetry.time(REQUEST.name, 0.2, *REQUEST.labels)
            telemetry.count("upload_bytes", amount=100)
            await store.tallies.add(telemetry.take())

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(process)
    found = await store.tallies.all()
    assert found[Series("upload_bytes")] == Tally(2000)
    assert found[STEP].total == pytest.approx(20 * 99.003)
    assert found[STEP].buckets == (0, 0, 20, *[0] * 8, 20)
    assert sum(found[REQUEST].buckets) == 20
    assert len(found[REQUEST].buckets) == len(MEASURES[REQUEST.name].bounds) + 1


async def test_every_line_of_the_ledger_is_counted_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "COUNTED_AT_ONCE", 3)
    await store.inventory.add_item("beans", "Beans")
    await store.inventory.add_location("shelf", "Shelf")

    async def moves(first: int, count: int) -> None:
        for number in range(first, first + count):
            new = NewMovement(
                key=str(number),
                kind=MovementKind.RECEIVE,
                item="beans",
                target="shelf",
                quantity=1,
                by="ann",
            )
            await store.inventory.move(new)

    async def count() -> None:
        while await store.tallies.count_ledger():
            pass

    await moves(0, 7)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        tasks.start_soon(count)
        tasks.start_soon(moves, 7, 4)
    await count()

    def lines(connection: Connection) -> int:
        return connection.scalars(select(func.count()).select_from(move)).one()

    found = (await store.tallies.all())[Series("stock_moves", ("movement",))]
    assert found.total == 11 == await store.inventory._database.read(lines)  # noqa: SLF001


async def test_what_another_version_counted_is_left_out(store: Store) -> None:
    unknown = {Series("of_tomorrow"): Tally(1), Series("jobs", ("one label",)): Tally(1)}
    await store.tallies.add(unknown)
    assert await store.tallies.all() == {}
