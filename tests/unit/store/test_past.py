"""Stock as of a time is the stock of a ledger that was told only what had happened by then."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capturekit.database import Database
from capturekit.errors import Unknown
from capturekit.frame import Observation
from capturekit.store import (
    Basis,
    Capture,
    Movement,
    MovementKind,
    NewCapture,
    NewMovement,
    RunRecord,
    StockSort,
    Store,
)

pytestmark = pytest.mark.anyio

Photograph = Callable[..., Awaitable[Capture]]
Row: TypeAlias = tuple[str, str, int, float | None, float | None, float | None]

PLACES = ("cam", "bin")
ITEMS = ("tea", "salt")


@dataclass(frozen=True)
class Picture:
    """What a camera saw that sees its own location whole."""

    at: float
    seen: tuple[Observation, ...]
    is_first_accepted: bool


@dataclass(frozen=True)
class Deed:
    at: float
    new: NewMovement
    is_voided: bool


def _deed(
    at: float, kind: MovementKind, item: str, *, quantity: int, is_voided: bool, is_back: bool
) -> Deed:
    ends = PLACES[::-1] if is_back else PLACES
    has_source = kind in (MovementKind.USE, MovementKind.MOVE, MovementKind.WRITE_OFF)
    has_target = kind in (MovementKind.RECEIVE, MovementKind.MOVE, MovementKind.COUNT)
    source, target = ends[0] if has_source else None, ends[1] if has_target else None
    new = NewMovement(kind, item, quantity, source, target, at, may_go_negative=True)
    return Deed(at, new, is_voided)


_times = st.integers(1, 5).map(float)
_seen = st.builds(
    Observation,
    analyser=st.just("made"),
    item=st.sampled_from(ITEMS),
    quantity=st.integers(0, 4),
    confidence=st.sampled_from([0.2, 0.6, 1.0]),
    location=st.sampled_from([None, "bin"]),
)
_pictures = st.builds(Picture, _times, st.lists(_seen, max_size=3).map(tuple), st.booleans())
_deeds = st.builds(
    _deed,
    _times,
    st.sampled_from(MovementKind),
    st.sampled_from(ITEMS),
    quantity=st.integers(1, 4),
    is_voided=st.booleans(),
    is_back=st.booleans(),
)


async def _tell(store: Store, facts: Sequence[tuple[int, Picture | Deed]]) -> None:
    await store.devices.add("cam", is_exhaustive=True)
    await store.inventory.add_location("bin")
    for name in ITEMS:
        await store.inventory.add_item(name, name)
    for number, fact in facts:
        if isinstance(fact, Picture):
            await _photograph(store, f"{number:02}", fact)
        else:
            said = replace(fact.new, key=f"{number:02}")
            movement, _ = await store.inventory.move(said)
            if fact.is_voided:
                await store.inventory.void(movement.id)


async def _photograph(store: Store, key: str, picture: Picture) -> None:
    new = NewCapture("cam", key, "ab" * 32, 9, "image/jpeg", 4, 3, captured_at=picture.at)
    capture, _ = await store.captures.record(new, lambda _connection, _capture: None)
    await store.captures.start(capture.id, 0, 1)
    record = RunRecord("v1", picture.at, picture.at, {}, picture.seen)
    await store.captures.finish(capture.id, 0, 1, record)
    run = await store.captures.current_run(capture.id)
    assert run is not None
    if picture.is_first_accepted and picture.seen:
        await store.inventory.accept(run.observation_ids[0], "ana")


async def _rows(store: Store, as_of: float | None = None) -> list[Row]:
    return [
        (one.item_id, one.location, one.quantity, one.confidence, one.counted_at, one.last_seen_at)
        async for one in store.inventory.all_stock(as_of=as_of)
    ]


@settings(max_examples=30)
@given(facts=st.lists(_pictures | _deeds, max_size=10), as_of=st.integers(0, 6).map(float))
def test_stock_as_of_a_time_rests_on_the_facts_up_to_it(
    tmp_path_factory: pytest.TempPathFactory,
    template: bytes,
    facts: list[Picture | Deed],
    as_of: float,
) -> None:
    folder = tmp_path_factory.mktemp("past")
    numbered = list(enumerate(facts))
    by_then = [(number, fact) for number, fact in numbered if fact.at <= as_of]

    async def told(path: Path, facts: Sequence[tuple[int, Picture | Deed]]) -> list[list[Row]]:
        async with Database(f"sqlite:///{path}") as database:
            store = Store(database, clock=lambda: 1_000.0)
            await _tell(store, facts)
            return [await _rows(store), await _rows(store, as_of), await _rows(store, 2_000.0)]

    for name in ("all", "then"):
        (folder / name).write_bytes(template)

    async def compare() -> None:
        now, then, later = await told(folder / "all", numbered)
        assert later == now
        assert then == (await told(folder / "then", by_then))[0]

    asyncio.run(compare())


async def test_the_past_reads_like_the_present(store: Store, photograph: Photograph) -> None:
    await store.devices.add("cam", is_exhaustive=True)
    tea = Observation(analyser="made", item="tea", quantity=3, confidence=0.9)
    salt = Observation(analyser="made", item="salt", quantity=1, confidence=0.8)
    await photograph("cam", "1", 100.0, [tea, salt])
    await store.inventory.move(NewMovement(MovementKind.USE, "tea", 1, source="cam", at=150.0))
    await photograph("cam", "2", 200.0, [salt])

    assert await _rows(store, 99.0) == []
    for sort in StockSort:
        whole = (await store.inventory.stock(sort=sort, as_of=160.0)).rows
        first = await store.inventory.stock(sort=sort, as_of=160.0, limit=1)
        rest = await store.inventory.stock(sort=sort, as_of=160.0, cursor=first.next)
        assert (*first.rows, *rest.rows) == whole
        assert {one.item_id: one.quantity for one in whole} == {"tea": 2, "salt": 1}
    (one,) = (await store.inventory.stock(item="tea", location="cam", as_of=160.0)).rows
    assert (one.confidence, one.counted_at) == (0.9, 100.0)
    assert [one.quantity for one in await store.inventory.sums(as_of=160.0)] == [1, 2]


async def test_why_a_figure_of_the_past_was_so(store: Store, photograph: Photograph) -> None:
    await store.devices.add("cam")
    tea = Observation(analyser="made", item="tea", quantity=3, confidence=0.9)
    capture = await photograph("cam", "1", 100.0, [tea])
    used, _ = await store.inventory.move(
        NewMovement(MovementKind.USE, "tea", 1, source="cam", at=150.0)
    )
    await store.inventory.move(NewMovement(MovementKind.COUNT, "tea", 9, target="cam", at=200.0))

    then = await store.inventory.why("tea", "cam", as_of=160.0)
    now = await store.inventory.why("tea", "cam")

    assert isinstance(then.basis, Basis)
    assert (then.basis.capture_id, then.stock.quantity) == (capture.id, 2)
    assert then.movements == (used,)
    assert isinstance(now.basis, Movement)
    assert (now.stock.quantity, now.movements) == (9, ())
    with pytest.raises(Unknown, match="stock"):
        await store.inventory.why("tea", "cam", as_of=50.0)
