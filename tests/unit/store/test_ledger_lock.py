"""Whatever changes stock holds the ledger's lock from its first statement on."""

from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from sqlalchemy import Engine, event

from capturekit.database import Database, prepared
from capturekit.frame import Observation
from capturekit.store import MovementKind, NewMovement, RunRecord, Store
from tests.unit.store.conftest import Photograph

pytestmark = [pytest.mark.anyio, pytest.mark.needs_extra("postgres")]

LOCK = "SELECT pg_advisory_xact_lock"
GUARDED = [
    f"{verb} {table} "
    for table in ("stock", "move", "event", "live_count", "live_scope", "alert", "verdict")
    for verb in ("INSERT INTO", "UPDATE", "DELETE FROM")
]


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    async with Database(postgres_url) as database:
        yield Store(database, clock=lambda: 1_000.0)


@pytest.fixture
def transactions() -> Iterator[list[list[str]]]:
    """The statements of every transaction that the test makes."""
    made: list[list[str]] = []

    def begun(_connection: object) -> None:
        made.append([])

    def executed(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        made[-1].append(" ".join(statement.split()))

    def prepared_executed(statement: str, _values: object) -> None:
        executed(None, None, statement)

    event.listen(Engine, "begin", begun)
    event.listen(Engine, "before_cursor_execute", executed)
    prepared.watchers.append(prepared_executed)
    yield made
    prepared.watchers.remove(prepared_executed)
    event.remove(Engine, "begin", begun)
    event.remove(Engine, "before_cursor_execute", executed)


def unlocked(transactions: Sequence[Sequence[str]]) -> list[str]:
    """The statements that changed what the lock guards, in transactions without it."""
    found: list[str] = []
    for statements in transactions:
        if not (statements and statements[0].startswith(LOCK)):
            found += [one for one in statements if one.startswith(tuple(GUARDED))]
    return found


async def tour(store: Store, photograph: Photograph) -> None:
    """Everything that may change stock."""
    inventory = store.inventory
    await store.devices.add("cam", is_exhaustive=True)
    await inventory.add_item("tea", "Tea")
    await inventory.add_location("shelf")
    await inventory.set_par_level("tea", "cam", 2)
    seen = (
        Observation(analyser="codes", code="400", confidence=0.9),
        Observation(analyser="model", item="tea", confidence=0.2),
    )
    capture = await photograph("cam", "k", 5.0, seen)
    ((first, *_),) = [(await inventory.proposals()).rows]
    await inventory.accept(first.observation_id, "ana")
    await inventory.reject(first.observation_id, "ana")
    await inventory.assign_code("400", "tea", 6)
    await inventory.release_code("400", "tea")
    moved, _ = await inventory.move(NewMovement(MovementKind.RECEIVE, "tea", 3, target="cam"))
    await inventory.void(moved.id)
    await inventory.import_items(b"item,location,count\ntea,shelf,7\n")
    await inventory.move_location("shelf", "cam")
    await inventory.remove_par_level("tea", "cam")
    series = (await store.captures.next_series(capture.id)).series
    await store.captures.start(capture.id, series, 1)
    await store.captures.finish(capture.id, series, 1, RunRecord("v2", 6.0, 6.0, {}))
    await inventory.choose_run(capture.id, "v1")
    series = (await store.captures.next_series(capture.id)).series
    await store.captures.start(capture.id, series, 1)
    await store.captures.fail(capture.id, series, 1, {"type": "Boom", "message": "it broke"})


async def test_stock_changes_under_the_lock_alone(
    store: Store, photograph: Photograph, transactions: list[list[str]]
) -> None:
    await tour(store, photograph)

    assert unlocked(transactions) == []
    touched = [one for statements in transactions for one in statements]
    for table in ("stock", "move", "event", "live_count", "alert"):
        assert any(one.startswith(f"INSERT INTO {table} ") for one in touched), table


@pytest.mark.parametrize("module", ["inventory", "captures"])
async def test_a_lock_that_is_forgotten_is_found(
    store: Store,
    photograph: Photograph,
    transactions: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
) -> None:
    monkeypatch.setattr(f"capturekit.store.{module}.lock_ledger", lambda _connection: None)

    await tour(store, photograph)

    assert unlocked(transactions)
