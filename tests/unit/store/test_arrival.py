"""Many captures in any order of arrival: the stock of the newest, and a ledger that is proved."""

import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from capturekit.database import Database
from capturekit.frame import Observation
from capturekit.store import NewCapture, RunRecord, Store

pytestmark = pytest.mark.anyio

COUNT = int(os.environ.get("CAPTUREKIT_TEST_ARRIVALS", "60"))
"""The long form is 10000, in ``nox -s faults``."""
LONG_S = 60 + COUNT / 5

ITEMS = ("tea", "rice", "salt")


class Arrival(NamedTuple):
    """A picture of an exhaustive camera, by when it was taken."""

    at: float
    seen: tuple[Observation, ...]


def pictures(count: int) -> list[Arrival]:
    """Made from a seed: of each item some, none, or a doubt."""
    made = random.Random(7)
    found = []
    for second in range(count):
        seen = []
        for item in ITEMS:
            if made.random() < 0.7:
                confidence = 0.2 if made.random() < 0.2 else 0.9
                amount = made.randint(1, 9)
                seen.append(
                    Observation(analyser="m", item=item, quantity=amount, confidence=confidence)
                )
        found.append(Arrival(1000.0 + second, tuple(seen)))
    return found


def expected(arrivals: Sequence[Arrival]) -> dict[str, int]:
    """The newest picture that says something certain: a count, or silence."""
    stock = {}
    for item in ITEMS:
        for arrival in sorted(arrivals, reverse=True, key=lambda one: one.at):
            of_item = [one for one in arrival.seen if one.item == item]
            if not of_item:
                stock[item] = 0
                break
            if of_item[0].confidence > 0.5:
                stock[item] = of_item[0].quantity
                break
    return stock


@pytest.fixture
async def store(database: Database) -> Store:
    return Store(database, clock=time.time)


async def arrive(store: Store, arrival: Arrival) -> None:
    new = NewCapture(
        "cam", f"{arrival.at}", "ab" * 32, 9, "image/jpeg", 4, 3, captured_at=arrival.at
    )
    capture, _ = await store.captures.record(new, lambda _connection, _capture: None)
    await store.captures.start(capture.id, 0, 1)
    record = RunRecord("v1", arrival.at, arrival.at, {}, arrival.seen)
    await store.captures.finish(capture.id, 0, 1, record)


def _in_order(arrivals: list[Arrival]) -> list[Arrival]:
    return arrivals


def _reversed(arrivals: list[Arrival]) -> list[Arrival]:
    return arrivals[::-1]


def _shuffled(arrivals: list[Arrival]) -> list[Arrival]:
    return random.Random(3).sample(arrivals, len(arrivals))


@pytest.mark.timeout(LONG_S)
@pytest.mark.parametrize("order", [_in_order, _reversed, _shuffled])
async def test_the_newest_picture_wins_whatever_came_last(
    store: Store,
    order: Callable[[list[Arrival]], list[Arrival]],
    quantities: Callable[[], Awaitable[dict[tuple[str, str], int]]],
    record_property: Callable[[str, object], None],
    tmp_path: Path,
) -> None:
    await store.devices.add("cam", is_exhaustive=True)
    arrivals = pictures(COUNT)
    began = time.perf_counter()
    for arrival in order(arrivals):
        await arrive(store, arrival)
    took_ms = 1000 * (time.perf_counter() - began) / COUNT
    print(f"{order.__name__}: {took_ms:.1f} ms a picture, {tmp_path.name}")
    record_property("ms_a_picture", took_ms)

    stock = {item: quantity for (item, _), quantity in (await quantities()).items()}
    wanted = expected(arrivals)
    assert {item: stock.get(item, 0) for item in wanted} == wanted
    assert (await store.inventory.verify()).is_proved
