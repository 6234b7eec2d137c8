"""What waits for a person, what they decide, and for which runs that holds."""

from collections.abc import Awaitable, Callable

import pytest

from capturekit.database import Database
from capturekit.errors import Conflict, Unknown
from capturekit.frame import Observation
from capturekit.store import Basis, Evidence, MovementKind, NewMovement, RunRecord, Store, carrying
from capturekit.store.review import WaitsFor
from tests.dumps import whole
from tests.unit.store.conftest import Photograph

pytestmark = pytest.mark.anyio

Quantities = Callable[[], Awaitable[dict[tuple[str, str], int]]]


def box(left: float, top: float = 0, size: float = 10) -> tuple[tuple[float, float], ...]:
    right, bottom = left + size, top + size
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def seen(
    item: str = "tea",
    confidence: float = 0.3,
    quantity: int = 1,
    at: tuple[tuple[float, float], ...] = (),
) -> Observation:
    return Observation(
        analyser="model", item=item, confidence=confidence, quantity=quantity, box=at
    )


@pytest.fixture
async def shelf(store: Store) -> Store:
    """A camera that sees all of its place, and items to correct to."""
    await store.devices.add("cam", is_exhaustive=True)
    for item in ("tea", "cocoa"):
        await store.inventory.add_item(item, item.title())
    return store


async def evidence_of(store: Store, item: str) -> tuple[Evidence, ...]:
    basis = (await store.inventory.why(item, "cam")).basis
    assert isinstance(basis, Basis)
    return basis.evidence


async def ids(store: Store) -> list[int]:
    return [one.observation_id for one in (await store.inventory.proposals()).rows]


async def test_a_proposal_says_why_it_waits_and_where_its_picture_is(
    shelf: Store, photograph: Photograph
) -> None:
    capture = await photograph(
        "cam", "k", 5.0, [seen(at=box(1)), seen(confidence=0.9, quantity=2 * 10**9)]
    )

    many, doubtful = (await shelf.inventory.proposals()).rows

    assert (doubtful.waits_for, many.waits_for) == (WaitsFor.CONFIDENCE, WaitsFor.QUANTITY)
    assert doubtful.as_json()["capture_id"] == capture.id
    assert doubtful.as_json()["box"] == [list(point) for point in box(1)]
    assert doubtful.as_json()["thumbnail"] is None


async def test_a_corrected_quantity_counts_instead(
    shelf: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await photograph("cam", "k", 5.0, [seen(quantity=3)])
    (one,) = await ids(shelf)

    await shelf.inventory.correct(one, "ana", quantity=5, reason="two behind")

    assert await quantities() == {("tea", "cam"): 5}
    assert await ids(shelf) == []


async def test_what_is_corrected_to_another_item_is_not_there_any_more(
    shelf: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await photograph("cam", "a", 4.0, [seen(confidence=0.9, quantity=7)])
    await photograph("cam", "b", 5.0, [seen(confidence=0.9, quantity=3)])
    (evidence,) = await evidence_of(shelf, "tea")

    await shelf.inventory.correct(evidence.observation_id, "ana", item="cocoa")

    assert await quantities() == {("tea", "cam"): 0, ("cocoa", "cam"): 3}
    (told,) = await evidence_of(shelf, "cocoa")
    assert (told.quantity, told.is_corrected, told.decided_by) == (3, True, "ana")


async def test_a_code_names_what_it_stands_for(
    shelf: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await shelf.inventory.assign_code("400", "cocoa", 6)
    await photograph("cam", "k", 5.0, [seen()])
    (one,) = await ids(shelf)

    await shelf.inventory.correct(one, "ana", item="400", quantity=2)

    assert (await quantities())["cocoa", "cam"] == 12


async def test_packs_are_not_more_than_anyone_has(
    shelf: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await shelf.inventory.assign_code("400", "tea", 1000)
    await photograph("cam", "k", 5.0, [seen()])
    (one,) = await ids(shelf)

    with pytest.raises(ValueError, match="1,000,000,000"):
        await shelf.inventory.correct(one, "ana", item="400", quantity=10**9)

    assert await ids(shelf) == [one]
    await shelf.inventory.correct(one, "ana", item="400", quantity=10**6)
    assert (await quantities())["tea", "cam"] == 10**9


async def test_nothing_is_corrected_to_what_nobody_knows(
    shelf: Store, photograph: Photograph
) -> None:
    await photograph("cam", "k", 5.0, [seen()])
    (one,) = await ids(shelf)

    with pytest.raises(Unknown):
        await shelf.inventory.correct(one, "ana", item="gold")
    with pytest.raises(ValueError, match="0 to"):
        await shelf.inventory.correct(one, "ana", quantity=-1)
    with pytest.raises(ValueError, match="instead"):
        await shelf.inventory.correct(one, "ana")
    with pytest.raises(Unknown):
        await shelf.inventory.accept(one + 1, "ana")
    assert await ids(shelf) == [one]


async def test_a_verdict_said_twice_changes_nothing_and_can_be_withdrawn(
    shelf: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await photograph("cam", "k", 5.0, [seen(quantity=3)])
    (one,) = await ids(shelf)
    assert len(await shelf.inventory.accept(one, "ana")) == 1

    assert await shelf.inventory.accept(one, "bob") == []
    evidence = await evidence_of(shelf, "tea")
    assert evidence[0].decided_by == "ana"
    await shelf.inventory.withdraw(one)
    assert await shelf.inventory.withdraw(one) == []

    assert (await quantities()).get(("tea", "cam"), 0) == 0
    assert await ids(shelf) == [one]


async def test_a_verdict_holds_where_the_box_is_the_same(
    shelf: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await photograph("cam", "k", 5.0, [seen(quantity=1, at=box(0)), seen(quantity=10, at=box(50))])
    second, _ = await ids(shelf)
    await shelf.inventory.accept(second, "ana")

    moved = [seen(quantity=20, at=box(53)), seen(quantity=2, at=box(0)), seen(at=box(80))]
    await photograph("cam", "k", 5.0, moved, "v2")

    assert (await quantities())["tea", "cam"] == 20
    evidence = await evidence_of(shelf, "tea")
    assert [one.carried_from for one in evidence] == [second, None, None]
    assert len(await ids(shelf)) == 2


@pytest.mark.parametrize("is_decided_first", [True, False])
async def test_a_verdict_holds_where_another_pipeline_sees_what_was_corrected(
    shelf: Store, photograph: Photograph, quantities: Quantities, *, is_decided_first: bool
) -> None:
    capture = await photograph("cam", "k", 5.0, [seen("tea", at=box(0))])
    (first,) = await ids(shelf)
    if is_decided_first:
        await shelf.inventory.correct(first, "ana", item="cocoa", quantity=3)

    elsewhere, there = seen("cocoa", 0.4, at=box(40)), seen("cocoa", 0.4, at=box(1))
    await photograph("cam", "k", 5.0, [elsewhere, there], "v2")
    if not is_decided_first:
        await shelf.inventory.correct(first, "ana", item="cocoa", quantity=3)

    evidence = await evidence_of(shelf, "cocoa")
    assert [one.carried_from for one in evidence if one.carried_from] == [first]
    assert len(await ids(shelf)) == 1
    for version in ("v1", "v2"):
        await shelf.inventory.choose_run(capture.id, version)
        assert (await quantities())["cocoa", "cam"] == 3
    await shelf.inventory.withdraw(first)
    assert (await quantities()).get(("cocoa", "cam"), 0) == 0


async def test_carrying_over_without_a_look_at_the_box_is_found(
    shelf: Store, photograph: Photograph, quantities: Quantities, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault: any two observations of an item in a place are taken for the same."""
    monkeypatch.setattr(carrying, "overlap", lambda _one, _other: 1.0)

    with pytest.raises(AssertionError):
        await test_a_verdict_holds_where_the_box_is_the_same(shelf, photograph, quantities)


async def test_a_verdict_given_later_holds_for_other_runs_as_well(
    shelf: Store, photograph: Photograph, quantities: Quantities
) -> None:
    capture = await photograph("cam", "k", 5.0, [seen(quantity=1)])
    (first,) = await ids(shelf)
    await photograph("cam", "k", 5.0, [seen(quantity=2)], "v2")

    await shelf.inventory.accept(first, "ana")

    assert await quantities() == {("tea", "cam"): 2}
    await shelf.inventory.choose_run(capture.id, "v1")
    await shelf.inventory.choose_run(capture.id, "v2")
    assert await quantities() == {("tea", "cam"): 2}


async def test_what_is_carried_is_withdrawn_where_it_was_decided(
    shelf: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await photograph("cam", "k", 5.0, [seen(quantity=1)])
    (first,) = await ids(shelf)
    await shelf.inventory.accept(first, "ana")
    await photograph("cam", "k", 5.0, [seen(quantity=2)], "v2")
    evidence = await evidence_of(shelf, "tea")

    with pytest.raises(Conflict, match=f"observation {first}"):
        await shelf.inventory.withdraw(evidence[0].observation_id)
    await shelf.inventory.withdraw(first)

    assert (await quantities()).get(("tea", "cam"), 0) == 0


async def test_an_own_verdict_is_stronger_than_a_carried_one(
    shelf: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await photograph("cam", "k", 5.0, [seen(quantity=1)])
    (first,) = await ids(shelf)
    await photograph("cam", "k", 5.0, [seen(quantity=2)], "v2")
    (second,) = await ids(shelf)
    await shelf.inventory.reject(second, "ana")

    await shelf.inventory.accept(first, "bob")

    assert (await quantities()).get(("tea", "cam"), 0) == 0


@pytest.mark.parametrize("is_decided_first", [True, False])
async def test_what_was_taken_over_keeps_the_verdict(
    shelf: Store, photograph: Photograph, quantities: Quantities, *, is_decided_first: bool
) -> None:
    """Nothing changed between two pictures: what was decided about one holds for the other."""
    full = await photograph("cam", "a", 5.0, [seen(quantity=3, at=box(0))])
    (first,) = await ids(shelf)
    if is_decided_first:
        await shelf.inventory.correct(first, "ana", item="cocoa")

    later = await photograph("cam", "b", 6.0, [], "other")
    series = (await shelf.captures.next_series(later.id)).series
    await shelf.captures.start(later.id, series, 1)
    taken = RunRecord("v1", 6.0, 6.0, {}, (seen(quantity=3, at=box(0)),), reference=full.id)
    await shelf.captures.finish(later.id, series, 1, taken)
    if not is_decided_first:
        await shelf.inventory.correct(first, "ana", item="cocoa")

    assert await quantities() == {("cocoa", "cam"): 3}
    assert [one.carried_from for one in await evidence_of(shelf, "cocoa")] == [first]
    assert await ids(shelf) == []


async def test_doubts_of_a_superseded_run_do_not_wait(shelf: Store, photograph: Photograph) -> None:
    await photograph("cam", "k", 5.0, [seen(), seen()])
    await photograph("cam", "k", 5.0, [seen(item="cocoa")], "v2")

    assert [one.item_id for one in (await shelf.inventory.proposals()).rows] == ["cocoa"]
    assert (await shelf.inventory.counts()).proposals == 1


async def test_a_dry_choice_leaves_the_database_as_it_was(
    shelf: Store, database: Database, photograph: Photograph
) -> None:
    capture = await photograph("cam", "k", 5.0, [seen(confidence=0.9, quantity=3)])
    await photograph("cam", "k", 5.0, [seen(confidence=0.9, quantity=5)], "v2")
    await shelf.inventory.move(NewMovement(MovementKind.USE, "tea", 1, source="cam", at=7.0))
    before = await database.read(whole)

    changes = await shelf.inventory.choose_run(capture.id, "v1", dry_run=True)

    assert [(one.before, one.after) for one in changes] == [(4, 2)]
    assert await database.read(whole) == before


def test_boxes_overlap_by_what_they_share_of_both() -> None:
    assert carrying.overlap(box(0), box(0)) == 1
    assert carrying.overlap(box(0), box(5)) == pytest.approx(1 / 3)
    assert carrying.overlap(box(0), box(20)) == 0
    assert carrying.overlap(((1, 1), (1, 1)), ((1, 1), (1, 1))) == 1


def test_each_thing_is_matched_with_the_nearest_once() -> None:
    def at(number: int, left: float) -> carrying.Sighting:
        return carrying.Sighting(number, "model", "cam", None, "tea", box(left))

    old, new = [at(1, 0), at(2, 3)], [at(3, 3), at(4, 1), at(5, 40)]

    assert sorted(carrying.matched(old, new)) == [(0, 1), (1, 0)]


def test_the_same_name_is_matched_before_what_was_corrected() -> None:
    def one(
        number: int, item: str, left: float, corrected_to: str | None = None
    ) -> carrying.Sighting:
        return carrying.Sighting(number, "m", "cam", None, item, box(left), item, corrected_to)

    old = [one(1, "tea", 0, "cocoa")]
    new = [one(2, "cocoa", 0), one(3, "tea", 2)]

    assert list(carrying.matched(old, new)) == [(0, 1)]
    assert list(carrying.matched(old, new[:1])) == [(0, 0)]
