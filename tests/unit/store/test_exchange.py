from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capturekit.database import Database
from capturekit.errors import ImportRefused
from capturekit.frame import Observation
from capturekit.store import Capture, ItemCode, MovementKind, NewMovement, Store
from capturekit.store.exchange import ExchangeFormat, parse, written
from capturekit.store.exchange.catalogue import MAX_IMPORT_BYTES, Catalogue, CodeRow, ItemRow

pytestmark = pytest.mark.anyio

Photograph = Callable[..., Awaitable[Capture]]

SHEET = """\
item,name,unit,code,pack_size,location,location_name,parent,minimum,restock_at,min_confidence,count
,,,,,room,The room,,,,,
,,,,,shelf,,room,,,,
beer,Beer,bottle,111,,shelf,,,6,12,0.8,24
beer,,,666,6,,,,,,,
tea,"Tea, green",,,,,,,,,,
"""

DOCUMENT = """
{
  "locations": [{"id": "room", "name": "The room"}, {"id": "shelf", "parent": "room"}],
  "items": [
    {"id": "beer", "name": "Beer", "unit": "bottle",
     "codes": [{"code": "111"}, {"code": "666", "quantity": 6}]},
    {"id": "tea", "name": "Tea, green"}
  ],
  "par_levels": [
    {"item": "beer", "location": "shelf", "minimum": 6, "restock_at": 12, "min_confidence": 0.8}
  ],
  "counts": [{"item": "beer", "location": "shelf", "quantity": 24}]
}
"""


@pytest.mark.parametrize(("form", "content"), [("csv", SHEET), ("json", DOCUMENT)])
async def test_a_file_brings_items_codes_places_levels_and_counts(
    store: Store, form: str, content: str
) -> None:
    inventory = store.inventory

    report = await inventory.import_items(content.encode(), form, by="ana")

    assert (report.locations_added, report.items_added, report.codes_assigned) == (2, 2, 2)
    assert (report.par_levels_set, report.counts_recorded) == (1, 1)
    places = {one.id: (one.name, one.parent_id) for one in await inventory.locations()}
    assert places == {"room": ("The room", None), "shelf": ("shelf", "room")}
    beer = await inventory.item("beer")
    assert (beer.name, beer.unit) == ("Beer", "bottle")
    assert beer.codes == (ItemCode("111", 1), ItemCode("666", 6))
    (level,) = (await inventory.par_levels()).rows
    assert (level.minimum, level.restock_at, level.min_confidence) == (6, 12, 0.8)
    (line,) = (await inventory.history()).rows
    assert (line.origin.by, line.origin.kind, line.ends[0].after) == ("ana", "import", 24)
    assert [one.quantity for one in await inventory.sums("room")] == [24]


@pytest.mark.parametrize(("form", "content"), [("csv", SHEET), ("json", DOCUMENT)])
async def test_the_same_file_again_changes_nothing(store: Store, form: str, content: str) -> None:
    await store.inventory.import_items(content.encode(), form)
    await store.inventory.move(NewMovement(MovementKind.USE, "beer", 4, source="shelf"))
    before = await store.inventory.export_items()

    report = await store.inventory.import_items(content.encode(), form)

    assert await store.inventory.export_items() == before
    assert not any((report.items_added, report.items_changed, report.codes_assigned))
    assert not any((report.locations_changed, report.par_levels_set, report.counts_recorded))


@pytest.mark.parametrize("form", ExchangeFormat)
async def test_what_is_exported_and_imported_elsewhere_is_exported_the_same(
    store: Store,
    sqlite_database: Database,
    template: bytes,
    form: ExchangeFormat,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    del sqlite_database
    await store.inventory.import_items(SHEET.encode())
    await store.inventory.add_item("=1+1", "-'=x", "@")
    file = await store.inventory.export_items(form)
    other = tmp_path_factory.mktemp("other") / "store.db"
    other.write_bytes(template)

    async with Database(f"sqlite:///{other}") as elsewhere:
        inventory = Store(elsewhere).inventory
        await inventory.import_items(file, form)
        assert await inventory.export_items(form) == file


async def test_a_dry_run_tells_what_would_be_and_does_nothing(store: Store) -> None:
    report = await store.inventory.import_items(SHEET.encode(), dry_run=True)

    assert report.is_dry_run
    assert (report.items_added, report.counts_recorded) == (2, 1)
    assert (await store.inventory.items()).rows == ()
    assert await store.inventory.locations() == []


async def test_what_a_file_counts_was_never_low(store: Store) -> None:
    sheet = "item,name,location,location_name,count,minimum\ntea,Tea,shelf,Shelf,7,2\n"

    await store.inventory.import_items(sheet.encode())

    assert (await store.inventory.alerts(is_open=False)).rows == ()


async def test_a_code_that_pictures_came_under_takes_them_along(
    store: Store, photograph: Photograph
) -> None:
    await store.devices.add("cam")
    await photograph("cam", "1", 100.0, [Observation(analyser="made", code="666", confidence=1.0)])

    await store.inventory.import_items(b"item,name,code,pack_size\nbeer,Beer,666,6\n")

    assert [(one.item_id, one.quantity) for one in await store.inventory.sums()] == [("beer", 6)]


async def test_what_is_there_is_changed_where_the_file_says_so(store: Store) -> None:
    await store.inventory.import_items(SHEET.encode())

    report = await store.inventory.import_items(
        b"item;name;unit;location;location_name;parent\nbeer;Ale;;;;\n;;;shelf;Shelf;\n"
    )

    assert (report.items_changed, report.locations_changed) == (1, 1)
    beer = await store.inventory.item("beer")
    assert (beer.name, beer.unit, len(beer.codes)) == ("Ale", "bottle", 2)


FAULTS = [
    ("nme,item\n", 1, "nme", "did you mean 'name'"),
    ("item,item\n", 1, "item", "twice"),
    ("", 1, "", "names the columns"),
    ("item,name\nx\n", 2, "item", "no such item: name it"),
    ("item,name\nx,X,Y\n", 2, "", "3 cells under 2 headings"),
    ("name\nX\n", 2, "name", "needs item"),
    ("item,count\nx,5\n", 2, "count", "needs item and location|needs location"),
    ("item,name,code,pack_size\nx,X,1,six\n", 2, "pack_size", "whole number"),
    ("item,name,code,pack_size\nx,X,1,0\n", 2, "code", "1 to 1,000,000"),
    ("item,name,code\nx,X,4.00638E+12\n", 2, "code", "rounded by a spreadsheet"),
    ("item,name,code\nx,X,1\ny,Y,1\n", 3, "code", "row 2 says '1 of x'"),
    ("item,name\nx,X\nx,Y\n", 3, "name", "row 2 says 'X'"),
    ("item,name,location,count\nx,X,attic,5\n", 2, "count", "no location 'attic'"),
    ("item,name,location,minimum\nx,X,attic,5\n", 2, "minimum", "no location"),
    ("location,parent\na,b\nb,a\n", 3, "parent", "cannot be within itself"),
    ("location,parent\na,b\n", 2, "parent", "no location with id 'b'"),
    ("location\n~lost\n", 2, "location", "use 1 to 100 letters"),
    (
        "item,name,location,minimum,restock_at\nx,X,l,5,5\n,,l,,\n",
        2,
        "minimum",
        "restock_at is over",
    ),
    ('item,name,location,minimum,min_confidence\nx,X,l,5,"0,8"\n', 2, "min_confidence", "0 to 1"),
    ('item,name\nx,"X\n', 2, "", "look at its quotes"),
    ('item,name\nx,X\ny,"Y"Z\n', 3, "", "look at its quotes"),
    ("item,name\nx,X\0\n", 2, "", "NUL"),
    ('item,name\nx,"a\nb"\n', 2, "name", "line breaks"),
    (f"item,name\nx,{'y' * 201}\n", 2, "name", "201 characters"),
    ("item,name\n" + "x" * 200_000 + ",X\n", 2, "", "field larger than field limit"),
    ("," * 40 + "\n", 1, "", "names the columns"),
    ("a," * 1_000_000 + "\n", 1, "", "1,000,001 columns"),
    ("item,name\nx" + "," * 1_000_000 + "\n", 2, "", "1,000,001 cells"),
    ("item,name\n" + "\n" * 10_001, 10_002, "", "at most 10,000 rows"),
]


@pytest.mark.parametrize(
    ("content", "row", "column", "message"), FAULTS, ids=[str(n) for n in range(len(FAULTS))]
)
async def test_what_is_wrong_is_told_by_row_and_nothing_is_done(
    sqlite_database: Database, content: str, row: int, column: str, message: str
) -> None:
    inventory = Store(sqlite_database).inventory

    with pytest.raises(ImportRefused, match=message) as refused:
        await inventory.import_items(content.encode())

    (fault,) = refused.value.faults
    assert (fault.row, fault.column) == (row, column)
    assert len(fault.given) <= 41
    assert (await inventory.items()).rows == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item,name\nx,Tee\n".encode("utf-16"), "UTF-16"),
        ("item,name\nx,Käse\n".encode("latin-1"), "row 2: the file is not UTF-8"),
        (b"x" * (MAX_IMPORT_BYTES + 1), "split it"),
    ],
)
def test_bytes_that_are_no_sheet_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ImportRefused, match=message):
        parse(content, ExchangeFormat.CSV)


@pytest.mark.parametrize(
    ("content", "column"),
    [
        (b"", ""),
        (b"[]", ""),
        (b'{"itms": []}', "itms"),
        (b'{"items": [{"id": "x", "name": 5}]}', "items.name"),
        (b'{"items": [{"id": "", "name": "X"}]}', "items.id"),
        (
            b'{"items": [{"id": "x", "codes": [{"code": "1", "quantity": true}]}]}',
            "items.codes.quantity",
        ),
        (b'{"items": [{"id": "x", "name": "a\\u0000"}]}', "items.name"),
        (b'{"par_levels": [{"item": "x", "location": "y", "minimum": -1}]}', "par_levels.minimum"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_document_that_is_none_is_refused(content: bytes, column: str) -> None:
    with pytest.raises(ImportRefused) as refused:
        parse(content, ExchangeFormat.JSON)

    assert [(fault.row, fault.column) for fault in refused.value.faults] == [(1, column)]


def test_all_faults_are_told_up_to_a_hundred() -> None:
    rows = "".join(f"x{number},X,1,no\n" for number in range(150))

    with pytest.raises(ImportRefused, match="and 99 more") as refused:
        parse(f"item,name,code,pack_size\n{rows}".encode(), ExchangeFormat.CSV)

    assert refused.value.faults[99].row == 101


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_sheet_of_any_spreadsheet_is_understood(start: str) -> None:
    for delimiter in ",;\t":
        sheet = f"{start}Item;NAME;Unit;;\r\nbeer;Beer;;;\r\n\r\n".replace(";", delimiter)
        (row,) = parse(sheet.encode(), ExchangeFormat.CSV).items
        assert (row.id, row.name, row.unit) == ("beer", "Beer", None)


async def test_no_cell_of_an_export_is_a_formula(store: Store) -> None:
    for name in ("=1+1", "+1", "-1", "@x", "'=x", "'t Hooft", "plain"):
        await store.inventory.add_item(f"i{name}", name)

    rows = (await store.inventory.export_items()).decode().splitlines()[1:]

    names = [row.split(",")[1] for row in rows]
    assert sorted(names) == sorted(["'=1+1", "'+1", "'-1", "'@x", "''=x", "'t Hooft", "plain"])


_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda text: text.strip() and text.isprintable()
)


@pytest.mark.parametrize("form", ExchangeFormat)
@given(items=st.lists(st.tuples(_texts, _texts, st.none() | _texts), max_size=4))
def test_every_name_comes_back_as_it_went(
    form: ExchangeFormat, items: list[tuple[str, str, str | None]]
) -> None:
    rows = [ItemRow(0, *item) for item in items]
    codes = [CodeRow(0, name, item, 6) for item, name, _ in items]

    back = parse(written(Catalogue(items=rows, codes=codes), form), form)

    found = [(row.id, row.name, row.unit) for row in back.items if row.name is not None]
    assert found == items
    assert (
        sorted((row.code, row.item) for row in back.codes)
        == sorted((row.code, row.item) for row in codes)
        or form is ExchangeFormat.JSON
    )
