"""Several processes tell one ledger facts at once: it ends as if they had taken turns."""

import json
import sys
from itertools import product

import anyio
import pytest

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import NewMovement, Store
from tests.ledger_oracle import ITEMS, LOCATIONS, NOW, Deed, Facts, Shot, check_alerts, furnish

pytestmark = pytest.mark.anyio

WRITERS = 3
FACTS_EACH = 25


@pytest.fixture
async def url(database_url: str) -> str:
    await furnish(database_url)
    return database_url


async def tell(url: str, name: str) -> Facts:
    """What a process of this name told the ledger."""
    command = [sys.executable, "-m", "tests.ledger_writer", url, name, str(FACTS_EACH)]
    told = json.loads((await anyio.run_process(command)).stdout)
    facts = Facts()
    for shot in told["shots"]:
        runs = {
            version: [Observation.model_validate(one) for one in seen]
            for version, seen in shot.pop("runs").items()
        }
        facts.shots.append(Shot(**shot, runs=runs))
    for deed in told["deeds"]:
        new = NewMovement(**deed["new"])
        facts.deeds.append(Deed(str(new.key), new, float(new.at or 0), deed["is_voided"]))
    return facts


async def follow(store: Store, seen: list[int], is_over: anyio.Event) -> None:
    """Read events as they come, by the number of the last."""
    while True:
        was_over = is_over.is_set()
        batch = await store.outbox.after(seen[-1] if seen else 0)
        seen += [event.seq for event in batch.events]
        if was_over and not batch.events:
            return


async def test_writers_in_several_processes_end_in_one_ledger(url: str) -> None:
    all_facts, seen, is_over = Facts(), list[int](), anyio.Event()

    async def write(name: str) -> None:
        facts = await tell(url, name)
        all_facts.shots += facts.shots
        all_facts.deeds += facts.deeds

    async with Database(url) as database:
        store = Store(database, clock=lambda: NOW)
        async with anyio.create_task_group() as readers:
            readers.start_soon(follow, store, seen, is_over)
            async with anyio.create_task_group() as writers:
                for number in range(WRITERS):
                    writers.start_soon(write, str(number))
            is_over.set()

        rows = [row async for row in store.inventory.all_stock()]
        stock = {(row.item_id, row.location): row.quantity for row in rows}
        for item, location in product((*ITEMS, "C"), LOCATIONS):
            assert stock.get((item, location), 0) == all_facts.quantity(item, location)
        assert (await store.inventory.verify()).findings == ()
        batch = await store.outbox.after(0, 10_000)
        assert [event.seq for event in batch.events] == seen, "a reader missed an event"
        check_alerts([(event.kind, event.data) for event in batch.events])
