from collections.abc import Awaitable, Callable

import pytest

from capturekit.errors import Conflict, Unknown
from capturekit.frame import Observation
from capturekit.store import (
    Basis,
    Capture,
    Movement,
    MovementKind,
    NewMovement,
    StockRow,
    StockSort,
    Store,
)

pytestmark = pytest.mark.anyio

Photograph = Callable[..., Awaitable[Capture]]
Quantities = Callable[[], Awaitable[dict[tuple[str, str], int]]]


def read(code: str, quantity: int = 1, confidence: float = 1.0, **more: object) -> Observation:
    values = {"analyser": "codes", "code": code, "quantity": quantity, "confidence": confidence}
    return Observation.model_validate(values | more)


async def test_the_newest_taken_wins_over_the_last_processed(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam")
    await photograph("cam", "noon", 200.0, [read("tea", 3)])

    await photograph("cam", "morning", 100.0, [read("tea", 8)])

    assert await quantities() == {("tea", "cam"): 3}


async def test_an_item_that_leaves_an_exhaustive_picture_drops_to_zero(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam", is_exhaustive=True)
    await photograph("cam", "1", 100.0, [read("tea", 3), read("salt", 1)])

    await photograph("cam", "2", 200.0, [read("salt", 1)])

    assert await quantities() == {("tea", "cam"): 0, ("salt", "cam"): 1}


async def test_an_item_that_leaves_an_ordinary_picture_stays(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam")
    await photograph("cam", "1", 100.0, [read("tea", 3)])

    await photograph("cam", "2", 200.0)

    assert await quantities() == {("tea", "cam"): 3}


async def test_a_view_seen_whole_empties_its_location_alone(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam")
    await store.devices.add_view("cam", "left bin", is_exhaustive=True)
    await photograph("cam", "1", 100.0, [read("tea", 3), read("tea", 2, location="left bin")])

    await photograph("cam", "2", 200.0)

    assert await quantities() == {("tea", "cam"): 3, ("tea", "left bin"): 0}


async def test_doubtful_reads_wait_as_proposals(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam")
    capture = await photograph("cam", "1", 100.0, [read("tea", 3, 0.2), read("salt", 1, 0.9)])

    waiting = await store.inventory.proposals()

    assert await quantities() == {("salt", "cam"): 1}
    assert [(one.capture_id, one.item_id, one.quantity) for one in waiting.rows] == [
        (capture.id, "tea", 3)
    ]
    assert (await store.inventory.counts()).proposals == 1


async def test_an_accepted_proposal_counts_and_waits_no_more(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam")
    await photograph("cam", "1", 100.0, [read("tea", 3, 0.2)])
    (proposal,) = (await store.inventory.proposals()).rows

    changes = await store.inventory.accept(proposal.observation_id, by="ana")

    assert [change.delta for change in changes] == [3]
    assert await quantities() == {("tea", "cam"): 3}
    assert not (await store.inventory.proposals()).rows


async def test_a_doubtful_read_keeps_an_exhaustive_picture_from_meaning_none(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam", is_exhaustive=True)
    await photograph("cam", "1", 100.0, [read("tea", 3)])

    await photograph("cam", "2", 200.0, [read("tea", 2, 0.2)])

    assert await quantities() == {("tea", "cam"): 3}


async def test_a_rejected_read_no_longer_counts(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam")
    await photograph("cam", "1", 100.0, [read("tea", 3)])
    await photograph("cam", "2", 200.0, [read("tea", 9)])
    why = await store.inventory.why("tea", "cam")
    assert isinstance(why.basis, Basis)

    await store.inventory.reject(why.basis.evidence[0].observation_id, by="ana")

    assert await quantities() == {("tea", "cam"): 3}


async def test_why_leads_from_a_figure_to_the_box_on_the_picture(
    store: Store, photograph: Photograph
) -> None:
    await store.devices.add("cam")
    box = [(1.0, 2.0), (3.0, 2.0), (3.0, 4.0)]
    capture = await photograph("cam", "1", 100.0, [read("tea", 3, 0.9, box=box)], "fingerprint")

    why = await store.inventory.why("tea", "cam")

    assert isinstance(why.basis, Basis)
    assert (why.stock.quantity, why.basis.capture_id, why.basis.fingerprint) == (
        3,
        capture.id,
        "fingerprint",
    )
    assert why.basis.evidence[0].box == [[1.0, 2.0], [3.0, 2.0], [3.0, 4.0]]
    assert [(move.source, move.target, move.quantity) for move in why.moves] == [
        ("~adjusted", "cam", 3)
    ]
    assert why.moves[0].cause_id == why.basis.run_id


async def test_why_names_the_person_who_counted(store: Store, quantities: Quantities) -> None:
    await store.inventory.add_location("shelf")
    await store.inventory.add_item("tea", "Tea")
    await store.inventory.move(NewMovement(MovementKind.COUNT, "tea", 4, target="shelf", by="ana"))

    why = await store.inventory.why("tea", "shelf")

    assert isinstance(why.basis, Movement)
    assert why.basis.by == "ana"
    assert await quantities() == {("tea", "shelf"): 4}


async def test_why_of_what_was_never_there_is_unknown(store: Store) -> None:
    with pytest.raises(Unknown, match="no stock with id 'tea in shelf'"):
        await store.inventory.why("tea", "shelf")


async def test_movements_have_their_other_end_outside(store: Store) -> None:
    await store.inventory.add_location("shelf")
    await store.inventory.add_location("shop")
    await store.inventory.add_item("tea", "Tea")
    for new in (
        NewMovement(MovementKind.RECEIVE, "tea", 9, target="shelf"),
        NewMovement(MovementKind.MOVE, "tea", 4, source="shelf", target="shop"),
        NewMovement(MovementKind.USE, "tea", 2, source="shelf"),
        NewMovement(MovementKind.WRITE_OFF, "tea", 1, source="shelf"),
    ):
        await store.inventory.move(new)

    moves = (await store.inventory.why("tea", "shelf")).moves

    assert [(move.source, move.target, move.quantity) for move in moves] == [
        ("shelf", "~lost", 1),
        ("shelf", "~consumed", 2),
        ("shelf", "shop", 4),
        ("~supplier", "shelf", 9),
    ]


async def test_more_than_there_is_cannot_be_used_unless_said_so(
    store: Store, quantities: Quantities
) -> None:
    await store.inventory.add_location("shelf")
    await store.inventory.add_item("tea", "Tea")

    with pytest.raises(Conflict, match="'shelf' has 0 of 'tea', not 2"):
        await store.inventory.move(NewMovement(MovementKind.USE, "tea", 2, source="shelf"))
    assert await quantities() == {}

    new = NewMovement(MovementKind.USE, "tea", 2, source="shelf", may_go_negative=True)
    await store.inventory.move(new)
    assert await quantities() == {("tea", "shelf"): -2}


async def test_a_key_names_one_movement(store: Store) -> None:
    await store.inventory.add_location("shelf")
    await store.inventory.add_item("tea", "Tea")
    first = NewMovement(MovementKind.RECEIVE, "tea", 2, target="shelf", key="k")
    movement, changes = await store.inventory.move(first)
    assert [change.after for change in changes] == [2]

    assert await store.inventory.move(first) == (movement, [])
    with pytest.raises(Conflict, match="'k' names a receive already"):
        await store.inventory.move(
            NewMovement(MovementKind.COUNT, "tea", 2, target="shelf", key="k")
        )
    with pytest.raises(Conflict, match="'k' names a receive already"):
        await store.inventory.move(
            NewMovement(MovementKind.RECEIVE, "tea", 3, target="shelf", key="k")
        )


@pytest.mark.parametrize(
    ("kind", "source", "target", "quantity"),
    [
        (MovementKind.USE, None, "shelf", 1),
        (MovementKind.MOVE, "shelf", "shelf", 1),
        (MovementKind.RECEIVE, None, "shelf", 0),
        (MovementKind.COUNT, None, "shelf", -1),
        (MovementKind.COUNT, None, "shelf", 10**9 + 1),
    ],
)
def test_a_movement_that_makes_no_sense_is_refused(
    kind: MovementKind, source: str | None, target: str | None, quantity: int
) -> None:
    with pytest.raises(ValueError, match=f"a {kind} "):
        NewMovement(kind, "tea", quantity, source, target)


async def test_movements_of_unknown_things_and_to_come_are_refused(store: Store) -> None:
    await store.inventory.add_location("shelf")
    receive = NewMovement(MovementKind.RECEIVE, "tea", 1, target="shelf")
    with pytest.raises(Unknown, match="item"):
        await store.inventory.move(receive)

    await store.inventory.add_item("tea", "Tea")
    with pytest.raises(Unknown, match="location"):
        await store.inventory.move(NewMovement(MovementKind.RECEIVE, "tea", 1, target="attic"))
    with pytest.raises(ValueError, match="future"):
        await store.inventory.move(
            NewMovement(MovementKind.RECEIVE, "tea", 1, target="shelf", at=1_301.0)
        )
    with pytest.raises(Unknown, match="movement"):
        await store.inventory.void("none")


async def test_an_unknown_code_becomes_an_item_until_it_is_assigned(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam")
    await photograph("cam", "1", 100.0, [read("4006381333931", 2)])
    await store.inventory.move(
        NewMovement(MovementKind.USE, "4006381333931", 1, source="cam", at=150.0)
    )
    await store.inventory.add_item("pens", "Pens", "piece")

    await store.inventory.assign_code("4006381333931", "pens", 10)

    assert await quantities() == {("pens", "cam"): 10}
    (row,) = (await store.inventory.stock(text="4006381333931")).rows
    assert (row.name, row.unit, row.codes) == ("Pens", "piece", ("4006381333931",))


async def test_a_code_can_be_given_back(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam")
    await photograph("cam", "1", 100.0, [read("123", 2)])
    await store.inventory.add_item("pens", "Pens")
    await store.inventory.assign_code("123", "pens", 10)

    await store.inventory.assign_code("123", "123")

    assert await quantities() == {("123", "cam"): 2}


async def test_codes_are_assigned_to_known_items_in_sane_numbers(store: Store) -> None:
    with pytest.raises(Unknown, match="item"):
        await store.inventory.assign_code("123", "pens")
    with pytest.raises(ValueError, match="1 to 1,000,000"):
        await store.inventory.assign_code("123", "pens", 0)


async def test_a_quantity_beyond_belief_is_a_proposal(
    store: Store, photograph: Photograph, quantities: Quantities
) -> None:
    await store.devices.add("cam")

    await photograph("cam", "1", 100.0, [read("tea", 10**9 + 1)])

    assert await quantities() == {}
    assert (await store.inventory.counts()).proposals == 1


async def test_an_item_can_be_renamed(store: Store) -> None:
    await store.inventory.add_item("tea", "Tea", "box")

    assert (await store.inventory.rename("tea", "Green tea")).unit == "box"
    assert (await store.inventory.rename("tea", "Green tea", "bag")).unit == "bag"
    with pytest.raises(Unknown, match="item"):
        await store.inventory.rename("none", "None")


@pytest.mark.parametrize("sort", StockSort)
async def test_pages_of_stock_hold_every_row_once(
    store: Store, photograph: Photograph, sort: StockSort
) -> None:
    await store.devices.add("cam")
    seen = [read(f"item {number}", number % 3) for number in range(1, 8)]
    await photograph("cam", "1", 100.0, seen)
    whole = (await store.inventory.stock(sort=sort)).rows

    found: list[StockRow] = []
    cursor: str | None = None
    while True:
        page = await store.inventory.stock(sort=sort, cursor=cursor, limit=2)
        found += page.rows
        cursor = page.next
        if cursor is None:
            break

    assert tuple(found) == whole
    assert len(whole) == 5  # Those of which there never was one are not in stock.


async def test_a_cursor_of_another_list_is_refused(store: Store) -> None:
    for cursor in ("!!", "W10", "e30"):
        with pytest.raises(ValueError, match="not a cursor"):
            await store.inventory.stock(cursor=cursor)


async def test_a_location_holds_what_is_in_its_children(
    store: Store, photograph: Photograph
) -> None:
    await store.devices.add("cam")
    await photograph("cam", "1", 100.0, [read("tea", 3), read("tea", 2, location="left bin")])
    await store.inventory.add_location("attic")

    assert [one.quantity for one in await store.inventory.sums("cam")] == [5]
    assert [one.quantity for one in await store.inventory.sums()] == [5]
    assert not await store.inventory.sums("attic")
    assert [place.id for place in await store.inventory.locations()] == [
        "attic",
        "cam",
        "left bin",
    ]


async def test_locations_are_made_once_and_below_known_ones(store: Store) -> None:
    await store.inventory.add_location("shelf", "The shelf")

    with pytest.raises(Conflict, match="location 'shelf'"):
        await store.inventory.add_location("shelf")
    with pytest.raises(Unknown, match="location"):
        await store.inventory.add_location("bin", parent="attic")
    with pytest.raises(ValueError, match="~lost"):
        await store.inventory.add_location("~lost")


async def test_the_row_that_others_read_has_this_shape(
    store: Store, photograph: Photograph
) -> None:
    await store.devices.add("cam")
    await photograph("cam", "1", 100.0, [read("123", 2)])

    page = await store.inventory.stock()

    assert [row.as_json() for row in page.rows] == [
        {
            "item_id": "123",
            "name": "123",
            "quantity": 2,
            "unit": None,
            "location": "cam",
            "confidence": 1.0,
            "last_seen_at": "1970-01-01T00:01:40.000Z",
            "codes": ["123"],
        }
    ]
    assert (page.next, page.updated_at) == (None, 1_000.0)


async def test_choosing_a_run_that_was_never_made_is_refused(
    store: Store, photograph: Photograph
) -> None:
    await store.devices.add("cam")
    capture = await photograph("cam", "1", 100.0)

    with pytest.raises(Unknown, match="v9"):
        await store.inventory.choose_run(capture.id, "v9")
